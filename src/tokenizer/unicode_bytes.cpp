// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode_bytes.h"

#include <fmt/format.h>

#include <array>
#include <unordered_map>

#include "core/check.h"

namespace plumb {
namespace {

struct Sequence {
  CodePoint point = kReplacementPoint;
  size_t length = 0;  // 0: no sequence starts here
};

// How long the sequence is that this byte begins; 0 for a byte that begins none.
size_t announced_length(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC0) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF8 ? 4 : 0;
}

bool is_continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

Sequence read_sequence(std::string_view bytes, size_t at) {
  const auto lead = static_cast<uint8_t>(bytes[at]);
  const size_t length = announced_length(lead);
  if (length == 0 || length > bytes.size() - at) return {};
  CodePoint point = length == 1 ? lead : lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (!is_continuation(bytes[at + i])) return {};
    point = point << 6 | (static_cast<uint8_t>(bytes[at + i]) & 0x3F);
  }
  return {point, length};
}

struct ByteAlphabet {
  std::array<CodePoint, 256> points;
  std::unordered_map<CodePoint, uint8_t> bytes;
};

// Printable Latin-1 stands for itself; the rest takes the points from U+0100 on, in byte order.
ByteAlphabet make_byte_alphabet() {
  ByteAlphabet alphabet;
  CodePoint next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool itself =
        (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte < 0x100 && byte != 0xAD);
    alphabet.points[byte] = itself ? byte : next++;
    alphabet.bytes.emplace(alphabet.points[byte], static_cast<uint8_t>(byte));
  }
  return alphabet;
}

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet = make_byte_alphabet();
  return alphabet;
}

}  // namespace

Result<bool> decode_utf8_loosely(std::string_view bytes, size_t base,
                                 std::vector<CodePoint>& points) {
  points.resize(bytes.size());
  CodePoint* out = points.data();
  bool exact = true;
  for (size_t at = 0; at < bytes.size();) {
    const auto byte = static_cast<uint8_t>(bytes[at]);
    if (byte < 0x80) {
      *out++ = byte;
      ++at;
      continue;
    }
    const Sequence sequence = read_sequence(bytes, at);
    if (sequence.point > kMaxPoint) {
      return fail(ErrorCode::Corrupt, fmt::format("the text has a code point above U+10FFFF "
                                                  "(U+{:X}) at byte {}",
                                                  sequence.point, base + at));
    }
    exact = exact && sequence.length == utf8_size(sequence.point);
    *out++ = sequence.point;
    at += sequence.length == 0 ? 1 : sequence.length;
  }
  points.resize(static_cast<size_t>(out - points.data()));
  return exact;
}

Result<std::vector<CodePoint>> decode_utf8_loosely(std::string_view bytes, size_t base) {
  std::vector<CodePoint> points;
  TRY(decode_utf8_loosely(bytes, base, points));
  return points;
}

void append_utf8(CodePoint point, std::string& out) {
  CHECK(point <= kMaxPoint);
  const auto put = [&out](CodePoint byte) { out.push_back(static_cast<char>(byte)); };
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xC0 | point >> 6);
  } else {
    if (point < 0x10000) {
      put(0xE0 | point >> 12);
    } else {
      put(0xF0 | point >> 18);
      put(0x80 | (point >> 12 & 0x3F));
    }
    put(0x80 | (point >> 6 & 0x3F));
  }
  put(0x80 | (point & 0x3F));
}

size_t unfinished_utf8_tail(std::string_view bytes) {
  for (size_t tail = 1; tail <= 3 && tail <= bytes.size(); ++tail) {
    const char byte = bytes[bytes.size() - tail];
    if (is_continuation(byte)) continue;
    return announced_length(static_cast<uint8_t>(byte)) > tail ? tail : 0;
  }
  return 0;
}

std::string to_byte_alphabet(uint8_t byte) {
  std::string text;
  append_utf8(byte_alphabet().points[byte], text);
  return text;
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) append_utf8(byte_alphabet().points[static_cast<uint8_t>(c)], text);
  return text;
}

std::string from_byte_alphabet(std::string_view text) {
  const auto& known = byte_alphabet().bytes;
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const Sequence sequence = read_sequence(text, at);
    const size_t length = sequence.length == 0 ? 1 : sequence.length;
    const auto found = known.find(sequence.point);
    if (sequence.length != 0 && found != known.end()) {
      bytes.push_back(static_cast<char>(found->second));
    } else {
      bytes.append(text.substr(at, length));
    }
    at += length;
  }
  return bytes;
}

}  // namespace plumb
