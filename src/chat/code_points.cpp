// SPDX-License-Identifier: Apache-2.0
#include "chat/code_points.h"

#include <algorithm>
#include <iterator>

namespace plumb {
namespace {

// Every `step`-th code point from `first` to `last` maps to itself plus `delta`.
struct CaseRun {
  char32_t first, last;
  uint32_t step;
  int32_t delta;
};
struct CaseSpecial {
  char32_t code_point;
  const char* mapped;
};
struct CodePointRange {
  char32_t first, last;
};

#include "chat/unicode_tables.inc"

constexpr char32_t kCapitalSigma = 0x3A3;

template <size_t R, size_t S>
void append_mapped(std::string& out, char32_t c, const CaseRun (&runs)[R],
                   const CaseSpecial (&specials)[S]) {
  const auto* special = std::lower_bound(
      std::begin(specials), std::end(specials), c,
      [](const CaseSpecial& entry, char32_t value) { return entry.code_point < value; });
  if (special != std::end(specials) && special->code_point == c) {
    out += special->mapped;
    return;
  }
  // Runs are in order of their first code point, and runs of step 2 may lie within each other.
  const auto* after =
      std::upper_bound(std::begin(runs), std::end(runs), c,
                       [](char32_t value, const CaseRun& run) { return value < run.first; });
  for (int back = 0; back < 3 && after != std::begin(runs); ++back) {
    --after;
    if (c <= after->last && (c - after->first) % after->step == 0) {
      append_code_point(out, static_cast<char32_t>(static_cast<int32_t>(c) + after->delta));
      return;
    }
  }
  append_code_point(out, c);
}

}  // namespace

bool is_utf8(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<uint8_t>(bytes[i]);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xC2 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                          : lead < 0xF5 ? 4
                                        : 0;
    if (length == 0 || bytes.size() - i < length) return false;
    for (size_t k = 1; k < length; ++k)
      if ((static_cast<uint8_t>(bytes[i + k]) & 0xC0) != 0x80) return false;
    const auto second = length > 1 ? static_cast<uint8_t>(bytes[i + 1]) : 0;
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
        (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F))
      return false;
    i += length;
  }
  return true;
}

char32_t next_code_point(std::string_view text, size_t& at) {
  const auto lead = static_cast<uint8_t>(text[at++]);
  if (lead < 0x80) return lead;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t value = lead & (0x3F >> more);
  for (int k = 0; k < more && at < text.size(); ++k)
    value = (value << 6) | (static_cast<uint8_t>(text[at++]) & 0x3F);
  return value;
}

void append_code_point(std::string& text, char32_t c) {
  const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      put(0xE0 | (c >> 12));
    } else {
      put(0xF0 | (c >> 18));
      put(0x80 | ((c >> 12) & 0x3F));
    }
    put(0x80 | ((c >> 6) & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

size_t code_point_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; at < text.size(); ++at)
    if ((static_cast<uint8_t>(text[at]) & 0xC0) != 0x80 && index-- == 0) return at;
  return at;
}

std::vector<std::string_view> split_code_points(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    next_code_point(text, at);
    out.push_back(text.substr(start, at - start));
  }
  return out;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  const auto* after = std::upper_bound(
      std::begin(kNotPrintable), std::end(kNotPrintable), c,
      [](char32_t value, const CodePointRange& range) { return value < range.first; });
  return after == std::begin(kNotPrintable) || c > std::prev(after)->last;
}

std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> characters) {
  const auto goes = [&](std::string_view one) {
    size_t at = 0;
    if (characters) return characters->find(one) != std::string_view::npos;
    return is_space(next_code_point(one, at));
  };
  size_t begin = 0, end = text.size();
  while (side != Side::Right && begin < end) {
    size_t next = begin;
    next_code_point(text, next);
    if (!goes(text.substr(begin, next - begin))) break;
    begin = next;
  }
  while (side != Side::Left && begin < end) {
    size_t last = end - 1;
    while (last > begin && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (!goes(text.substr(last, end - last))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::string to_upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();)
    append_mapped(out, next_code_point(text, at), kUpperRuns, kUpperSpecials);
  return out;
}

std::optional<std::string> to_lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c == kCapitalSigma) return std::nullopt;
    append_mapped(out, c, kLowerRuns, kLowerSpecials);
  }
  return out;
}

std::string to_title_case(char32_t code_point) {
  std::string out;
  append_mapped(out, code_point, kTitleRuns, kTitleSpecials);
  return out;
}

}  // namespace plumb
