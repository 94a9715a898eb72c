// SPDX-License-Identifier: Apache-2.0
#include "parity/weight_class.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <ranges>
#include <string_view>
#include <vector>

#include "parity/weight_rounding.h"

namespace plumb {
namespace {

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(a[i]), 2);
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

// Each row of b as a row of a: the permutation, or nothing if some row has no exact partner.
std::optional<std::vector<size_t>> row_permutation(const StoredValues& a, const StoredValues& b) {
  const size_t n = a.columns;
  const auto row = [n](const StoredValues& of, size_t r) {
    return std::string_view(reinterpret_cast<const char*>(of.values.data() + r * n),
                            n * sizeof(float));
  };
  std::multimap<std::string_view, size_t> rows;
  for (size_t r = 0; r < a.rows; ++r) rows.emplace(row(a, r), r);
  std::vector<size_t> order;
  for (size_t r = 0; r < a.rows; ++r) {
    const auto found = rows.find(row(b, r));
    if (found == rows.end()) return {};
    order.push_back(found->second);
    rows.erase(found);
  }
  return order;
}

bool is_transposed(const StoredValues& a, const StoredValues& b) {
  for (size_t r = 0; r < a.rows; ++r)
    for (size_t c = 0; c < a.columns; ++c)
      if (a.values[r * a.columns + c] != b.values[c * a.rows + r]) return false;
  return true;
}

// The factor between the two, if it is one for all values.
std::optional<double> common_factor(const StoredValues& a, const StoredValues& b) {
  const auto largest = std::ranges::max_element(a.values, {}, [](float v) { return std::fabs(v); });
  if (largest == a.values.end() || *largest == 0 || !std::isfinite(*largest)) return {};
  const float ratio = b.values[static_cast<size_t>(largest - a.values.begin())] / *largest;
  if (ratio == 0 || !std::isfinite(ratio)) return {};
  for (size_t i = 0; i < a.values.size(); ++i)
    if (!(std::fabs(b.values[i] - ratio * a.values[i]) <= 4e-7F * std::fabs(b.values[i]) + 1e-37F))
      return {};
  return static_cast<double>(ratio);
}

bool is_off_by_one(const StoredValues& a, const StoredValues& b) {
  return a.rows == 1 && std::ranges::all_of(std::views::iota(size_t{0}, a.columns), [&](size_t i) {
           const double x = static_cast<double>(a.values[i]);
           const double y = static_cast<double>(b.values[i]);
           const double unit = std::max(rounding_limit(a.dtype, x, std::fabs(x)),
                                        rounding_limit(b.dtype, y, std::fabs(y)));
           return std::fabs(std::fabs(x - y) - 1.0) <= 1e-6 * (2 + std::fabs(x)) + unit;
         });
}

WeightClass few_or_unrelated(const StoredValues& a, const StoredValues& b) {
  size_t different = 0;
  size_t first = a.values.size();
  double cross = 0;
  double xx = 0;
  double yy = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double x = static_cast<double>(a.values[i]);
    const double y = static_cast<double>(b.values[i]);
    // A NaN is compared by its bits: it differs from a number, not from itself.
    if (std::memcmp(&a.values[i], &b.values[i], sizeof(float)) != 0 && different++ == 0) first = i;
    cross += x * y;
    xx += x * x;
    yy += y * y;
  }
  const double cosine = xx > 0 && yy > 0 ? cross / std::sqrt(xx * yy) : 0;
  const auto place = fmt::format("first at row {}, column {}: {:.6g} and {:.6g}", first / a.columns,
                                 first % a.columns, static_cast<double>(a.values[first]),
                                 static_cast<double>(b.values[first]));
  if (different * 100 <= a.values.size())
    return {"weights.elements",
            fmt::format("{} of {} values differ, {}", different, a.values.size(), place),
            {{"count", fmt::format("{}", different)}}};
  if (cosine > 0.9)
    return {"weights.different",
            fmt::format("{} of {} values differ by more than rounding, relative L2 {:.3g}, {}",
                        different, a.values.size(), relative_l2(a.values, b.values), place),
            {}};
  return {"weights.unrelated", fmt::format("the values are unrelated (cosine {:.3g})", cosine), {}};
}

// A few blocks that are wrong among many that are right: damage, not another tensor.
std::optional<WeightClass> few_blocks(const StoredValues& a, const StoredValues& b) {
  const DType type = coarser_of(a, b).dtype;
  const size_t block = info(type).block_elements;
  if (block <= 1 || a.columns % block != 0) return {};
  const size_t count = a.values.size() / block;
  const size_t most = std::max<size_t>(count / 100, 1);
  const auto differ = blocks_that_differ(a, b, most + 1);
  if (differ.empty() || differ.size() > most) return {};
  const size_t in_row = a.columns / block;
  std::string places;
  for (size_t i = 0; i < std::min<size_t>(differ.size(), 4); ++i)
    places += fmt::format("{}block {} (row {}, columns {} to {})", i == 0 ? "" : ", ", differ[i],
                          differ[i] / in_row, differ[i] % in_row * block,
                          (differ[i] % in_row + 1) * block - 1);
  if (differ.size() > 4) places += ", …";
  return WeightClass{
      "weights.block",
      fmt::format("{} of {} {} blocks {}: {}; all others are the same{}", differ.size(), count,
                  info(type).name, differ.size() == 1 ? "differs" : "differ", places,
                  a.dtype == b.dtype ? "" : " up to rounding"),
      {{"count", fmt::format("{}", differ.size())}, {"first_block", fmt::format("{}", differ[0])}}};
}

// Values of a in another order or size, as if they had been stored that way.
StoredValues like(const StoredValues& a, const std::vector<float>& values) {
  return {a.dtype, a.rows, a.columns, values};
}

// Each row of b as a row of a, where rounding lies between them: rows are matched by sixteen sums
// with fixed signs, whose distance stands for theirs (Johnson and Lindenstrauss), and the order
// that is found is checked value by value.
std::optional<std::vector<size_t>> rounded_row_permutation(const StoredValues& a,
                                                           const StoredValues& b) {
  constexpr size_t kSums = 16;
  constexpr size_t kMostRows = 16384;
  if (a.dtype == b.dtype || a.rows > kMostRows) return {};
  const auto sums_of = [](const StoredValues& of) {
    std::vector<float> sums(of.rows * kSums);
    for (size_t r = 0; r < of.rows; ++r)
      for (size_t c = 0; c < of.columns; ++c) {
        const uint64_t signs = (c + 1) * 0x9E3779B97F4A7C15ULL;
        const float x = of.values[r * of.columns + c];
        for (size_t k = 0; k < kSums; ++k)
          sums[r * kSums + k] += (signs >> (20 + 2 * k) & 1) != 0 ? x : -x;
      }
    return sums;
  };
  const auto x = sums_of(a);
  const auto y = sums_of(b);
  std::vector<size_t> order;
  std::vector<bool> used(a.rows);
  for (size_t r = 0; r < b.rows; ++r) {
    size_t best = 0;
    double nearest = INFINITY;
    for (size_t other = 0; other < a.rows; ++other) {
      double distance = 0;
      for (size_t k = 0; k < kSums; ++k)
        distance += std::pow(static_cast<double>(x[other * kSums + k] - y[r * kSums + k]), 2);
      if (distance < nearest) {
        nearest = distance;
        best = other;
      }
    }
    if (!std::isfinite(nearest) || used[best]) return {};
    used[best] = true;
    order.push_back(best);
  }
  std::vector<float> moved(a.values.size());
  for (size_t r = 0; r < a.rows; ++r)
    std::copy_n(a.values.begin() + static_cast<ptrdiff_t>(order[r] * a.columns), a.columns,
                moved.begin() + static_cast<ptrdiff_t>(r * a.columns));
  if (!within_rounding(like(a, moved), b)) return {};
  return order;
}

WeightClass rows_permuted(const std::vector<size_t>& order, const char* how) {
  size_t moved = 0;
  for (size_t r = 0; r < order.size(); ++r) moved += order[r] != r;
  return {"weights.rows_permuted",
          fmt::format("the same rows in another order{} ({} of {} moved; row 1 was row {})", how,
                      moved, order.size(), order.size() > 1 ? order[1] : 0),
          {}};
}

// The same blocks in each other's place: a layout of another kernel.
std::optional<WeightClass> blocks_permuted(const StoredValues& a, const StoredValues& b) {
  const size_t block = info(a.dtype).block_elements;
  if (a.dtype != b.dtype || block <= 1 || a.columns % block != 0) return {};
  const size_t count = a.values.size() / block;
  const auto order =
      row_permutation({a.dtype, count, block, a.values}, {b.dtype, count, block, b.values});
  if (!order) return {};
  size_t moved = 0;
  for (size_t i = 0; i < count; ++i) moved += (*order)[i] != i;
  return WeightClass{"weights.blocks_permuted",
                     fmt::format("the same {} blocks in another order ({} of {} moved; block 1 was "
                                 "block {})",
                                 info(a.dtype).name, moved, count, (*order)[1]),
                     {}};
}

// The factor that fits best, where another type lies between the two.
std::optional<double> rounded_factor(const StoredValues& a, const StoredValues& b) {
  if (a.dtype == b.dtype) return {};
  double cross = 0;
  double own = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    cross += static_cast<double>(a.values[i]) * static_cast<double>(b.values[i]);
    own += static_cast<double>(a.values[i]) * static_cast<double>(a.values[i]);
  }
  const double factor = own > 0 ? cross / own : 0;
  if (!std::isfinite(factor) || std::fabs(factor) < 1e-6) return {};
  std::vector<float> scaled(a.values.begin(), a.values.end());
  for (float& x : scaled) x = static_cast<float>(static_cast<double>(x) * factor);
  if (!within_rounding(like(a, scaled), b)) return {};
  return factor;
}

bool is_transposed_and_rounded(const StoredValues& a, const StoredValues& b) {
  if (a.dtype == b.dtype) return false;
  std::vector<float> turned(a.values.size());
  for (size_t r = 0; r < a.rows; ++r)
    for (size_t c = 0; c < a.columns; ++c) turned[c * a.rows + r] = a.values[r * a.columns + c];
  return within_rounding({a.dtype, a.columns, a.rows, turned}, b);
}

WeightClass rounding_class(const StoredValues& a, const StoredValues& b) {
  const auto name = [](const StoredValues& of) { return std::string(info(of.dtype).name); };
  const auto& coarse = coarser_of(a, b);
  const bool exact = is_reference_rounding(a, b);
  return {
      "weights.rounding",
      fmt::format("the same values up to rounding, {} against {}, relative L2 {:.3g}{}", name(a),
                  name(b), relative_l2(a.values, b.values),
                  exact ? fmt::format("; exactly the reference rounding to {}", name(coarse)) : ""),
      {{"baseline", name(a)},
       {"candidate", name(b)},
       {"reference_rounding", exact ? "true" : "false"}}};
}

}  // namespace

WeightClass classify_weights(const StoredValues& a, const StoredValues& b) {
  const auto shapes = fmt::format("{}x{} against {}x{}", a.rows, a.columns, b.rows, b.columns);
  if (a.values.size() != b.values.size()) return {"weights.shape", shapes, {}};
  const bool same_bits =
      std::memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(float)) == 0;
  if (same_bits && a.rows == b.rows) return {};
  if (a.rows > 1 && a.rows == b.columns && a.columns == b.rows) {
    if (is_transposed(a, b)) return {"weights.transposed", "the matrix is transposed", {}};
    if (is_transposed_and_rounded(a, b))
      return {"weights.transposed", "the matrix is transposed (and rounded)", {}};
  }
  if (a.rows != b.rows)
    return {"weights.shape", shapes + (same_bits ? ", the same bytes in a row" : ""), {}};
  if (within_rounding(a, b)) return rounding_class(a, b);
  if (is_off_by_one(a, b))
    return {"weights.offset",
            fmt::format("every value is off by {:g}", std::round(static_cast<double>(b.values[0]) -
                                                                 static_cast<double>(a.values[0]))),
            {}};
  if (const auto factor = common_factor(a, b))
    return {"weights.scaled",
            fmt::format("every value is {:.7g} times the other", *factor),
            {{"found", fmt::format("{:.7g}", *factor)}}};
  if (const auto damaged = few_blocks(a, b)) return *damaged;
  if (const auto factor = rounded_factor(a, b))
    return {"weights.scaled",
            fmt::format("every value is {:.4g} times the other, up to rounding", *factor),
            {{"found", fmt::format("{:.4g}", *factor)}}};
  if (a.rows > 1) {
    if (const auto order = row_permutation(a, b)) return rows_permuted(*order, "");
    if (const auto order = rounded_row_permutation(a, b))
      return rows_permuted(*order, ", up to rounding");
    if (const auto moved = blocks_permuted(a, b)) return *moved;
  }
  return few_or_unrelated(a, b);
}

}  // namespace plumb
