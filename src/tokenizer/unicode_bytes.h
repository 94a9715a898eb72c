// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace plumb {

using CodePoint = uint32_t;

inline constexpr CodePoint kReplacementPoint = 0xFFFD;
inline constexpr CodePoint kMaxPoint = 0x10FFFF;

// Reads UTF-8 as llama.cpp does, so that odd bytes give the same ids: a stray byte and each byte of
// a truncated sequence become U+FFFD; overlong forms and surrogates are read as they stand. A point
// above U+10FFFF is an error that names its byte, counted from `base`.
Result<std::vector<CodePoint>> decode_utf8_loosely(std::string_view bytes, size_t base);

// The same into `points`, which it replaces. True: the bytes are exactly what append_utf8() writes
// for the points.
Result<bool> decode_utf8_loosely(std::string_view bytes, size_t base,
                                 std::vector<CodePoint>& points);

// Bytes that append_utf8() writes for the point.
constexpr size_t utf8_size(CodePoint point) {
  return point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
}

// Needs point <= kMaxPoint. A surrogate is written in three bytes like any other point.
void append_utf8(CodePoint point, std::string& out);

// How many bytes at the end begin a UTF-8 sequence that is not finished: 0 to 3.
size_t unfinished_utf8_tail(std::string_view bytes);

// Byte-level vocabularies write each byte as one printable character (GPT-2's table): this is that
// character, in UTF-8.
std::string to_byte_alphabet(uint8_t byte);
std::string to_byte_alphabet(std::string_view bytes);

// The bytes that a vocabulary entry stands for. What is outside the alphabet stays as it is.
std::string from_byte_alphabet(std::string_view text);

}  // namespace plumb
