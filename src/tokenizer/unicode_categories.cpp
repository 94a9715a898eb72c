// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode_categories.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "core/check.h"

namespace plumb {
namespace {

// A run of points up to the next row. `added`: 0 in Unicode 14.0 or before, 1 in 15.0 or 15.1, 2 in
// 16.0.
struct Run {
  CodePoint first;
  Category category;
  uint8_t added;
};

using enum Category;
constexpr Run kRuns[] = {
#include "tokenizer/unicode_categories.inc"
};

const Run& run_of(CodePoint point) {
  CHECK(point <= kMaxPoint);
  const auto* after = std::upper_bound(std::begin(kRuns), std::end(kRuns), point,
                                       [](CodePoint p, const Run& run) { return p < run.first; });
  return *(after - 1);
}

Category category_in(const Run& run, UnicodeVersion version) {
  return run.added == 2 && version == UnicodeVersion::V15_1 ? Cn : run.category;
}

constexpr uint8_t traits_of(Category category) {
  switch (category) {
    case Lu:
    case Lt: return trait::kLetter | trait::kUpper;
    case Ll: return trait::kLetter | trait::kLower;
    case Lm:
    case Lo: return trait::kLetter;
    case Mn:
    case Mc:
    case Me: return trait::kMark;
    case Nd:
    case Nl:
    case No: return trait::kNumber;
    case Pc:
    case Pd:
    case Ps:
    case Pe:
    case Pi:
    case Pf:
    case Po: return trait::kPunctuation;
    case Sm:
    case Sc:
    case Sk:
    case So: return trait::kSymbol;
    case Zs:
    case Zl:
    case Zp: return trait::kSpace;
    default: return 0;
  }
}

std::vector<uint8_t> make_table(UnicodeVersion version) {
  std::vector<uint8_t> table(kMaxPoint + 1);
  for (size_t i = 0; i < std::size(kRuns); ++i) {
    const size_t end = i + 1 < std::size(kRuns) ? kRuns[i + 1].first : kMaxPoint + 1;
    std::fill(table.begin() + kRuns[i].first, table.begin() + static_cast<ptrdiff_t>(end),
              traits_of(category_in(kRuns[i], version)));
  }
  // The controls that are White_Space.
  for (CodePoint point = 0x09; point <= 0x0D; ++point) table[point] = trait::kSpace;
  table[0x85] = trait::kSpace;
  return table;
}

// One point of each category, in the order of the enumerators.
constexpr std::array<CodePoint, 30> kStablePoints = {
    0xC9, 0xE9,   0x1C5,  0x2B0,  0x5D0,  0x301, 0x903,  0x488,  0x661,  0x2160,
    0xB2, 0x203F, 0x2010, 0x2045, 0x2046, 0xAB,  0xBB,   0xA7,   0xB1,   0x20AC,
    0xB8, 0xA9,   0x2003, 0x2028, 0x2029, 0x81,  0x200B, 0xD800, 0xE000, 0xFFFF};

}  // namespace

Category category(CodePoint point, UnicodeVersion version) {
  return category_in(run_of(point), version);
}

const uint8_t* trait_table(UnicodeVersion version) {
  if (version == UnicodeVersion::V15_1) {
    static const std::vector<uint8_t> table = make_table(UnicodeVersion::V15_1);
    return table.data();
  }
  static const std::vector<uint8_t> table = make_table(UnicodeVersion::V16_0);
  return table.data();
}

CodePoint stable_point(CodePoint point, UnicodeVersion version) {
  if (point < 0x300) return point;
  const Run& run = run_of(point);
  const Category found = category_in(run, version);
  if (run.added == 0 && found != Cn) return point;
  return kStablePoints[static_cast<size_t>(found)];
}

}  // namespace plumb
