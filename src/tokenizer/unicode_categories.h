// SPDX-License-Identifier: Apache-2.0
// What the splitting patterns of tokenizers ask of a code point.
#pragma once
#include <cstdint>

#include "tokenizer/unicode_bytes.h"

namespace plumb {

enum class Category : uint8_t {
  Lu,
  Ll,
  Lt,
  Lm,
  Lo,
  Mn,
  Mc,
  Me,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Ps,
  Pe,
  Pi,
  Pf,
  Po,
  Sm,
  Sc,
  Sk,
  So,
  Zs,
  Zl,
  Zp,
  Cc,
  Cf,
  Cs,
  Co,
  Cn
};

// Which points are assigned differs between engines: llama.cpp's tables are those of Unicode 15.1,
// the tokenizers library has 16.0.
enum class UnicodeVersion : uint8_t { V15_1, V16_0 };

namespace trait {
// Bits of one point. The letters of neither case (Lm, Lo) have kLetter alone.
inline constexpr uint8_t kLetter = 1;
inline constexpr uint8_t kNumber = 2;
inline constexpr uint8_t kMark = 4;
inline constexpr uint8_t kPunctuation = 8;
inline constexpr uint8_t kSymbol = 16;
inline constexpr uint8_t kSpace = 32;   // White_Space, what \s means to Rust, Python and llama.cpp
inline constexpr uint8_t kUpper = 64;   // Lu, Lt
inline constexpr uint8_t kLower = 128;  // Ll
}  // namespace trait

Category category(CodePoint point, UnicodeVersion version);

// The traits of all points, indexed by point; kMaxPoint + 1 bytes.
const uint8_t* trait_table(UnicodeVersion version);

// A point of the same category that every version of Unicode since 6.0 has, where older tables may
// not know this one (or newer ones may have assigned it); else the point itself.
CodePoint stable_point(CodePoint point, UnicodeVersion version);

}  // namespace plumb
