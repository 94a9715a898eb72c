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

#include "quant/dequantize.h"
#include "quant/quantize.h"

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

double bits_per_weight(DType dtype) {
  return 8.0 * static_cast<double>(info(dtype).block_bytes) /
         static_cast<double>(info(dtype).block_elements);
}

// The largest error that storing x in `type` can make, for a block whose largest magnitude is
// `largest`. Floats: half a unit in the last place. Blocks: a symmetric type with 2^b codes has
// steps of largest/2^(b-1), an asymmetric one of at most 2 largest/(2^b - 1); one whole step is
// granted, for the code at the end of the range that some types lack and for rounded scales.
double rounding_limit(DType type, double x, double largest) {
  switch (type) {
    case DType::F64:
    case DType::F32: return 0;
    case DType::F16: return std::max(std::fabs(x) * 0x1p-11, 0x1p-25);
    case DType::BF16: return std::fabs(x) * 0x1p-8;
    case DType::F8_E4M3: return std::max(std::fabs(x) * 0x1p-4, 0x1p-10);
    case DType::F8_E5M2: return std::max(std::fabs(x) * 0x1p-3, 0x1p-17);
    case DType::Q8_0:
    case DType::Q8_1:
    case DType::Q8_K:
    case DType::AprQ8: return largest / 127;
    case DType::Q6_K: return largest / 31 * 1.5;
    case DType::Q5_0:
    case DType::Q5_1:
    case DType::Q5_K: return largest / 15;
    default: break;
  }
  if (bits_per_weight(type) >= 4) return largest / 7;
  if (bits_per_weight(type) >= 3) return largest / 3;
  return largest;  // two bits and less: the codes are a few points of the range
}

const StoredValues& coarser_of(const StoredValues& a, const StoredValues& b) {
  return bits_per_weight(a.dtype) <= bits_per_weight(b.dtype) ? a : b;
}

// Whether every value differs by no more than the coarser of the two types rounds.
bool within_rounding(const StoredValues& a, const StoredValues& b) {
  if (a.dtype == b.dtype) return false;  // stored alike, the values themselves differ
  const DType type = coarser_of(a, b).dtype;
  const size_t block = std::max<size_t>(info(type).block_elements, 1);
  for (size_t begin = 0; begin < a.values.size(); begin += block) {
    double largest = 0;
    const size_t end = std::min(a.values.size(), begin + block);
    for (size_t i = begin; i < end; ++i)
      largest = std::max({largest, std::fabs(static_cast<double>(a.values[i])),
                          std::fabs(static_cast<double>(b.values[i]))});
    for (size_t i = begin; i < end; ++i)
      if (!(std::fabs(static_cast<double>(a.values[i]) - static_cast<double>(b.values[i])) <=
            rounding_limit(type, static_cast<double>(a.values[i]), largest)))
        return false;
  }
  return true;
}

// Whether the coarser side is, to the bit, what the reference quantization makes of the finer one.
bool is_reference_rounding(const StoredValues& a, const StoredValues& b) {
  const auto& coarse = coarser_of(a, b);
  const auto& fine = &coarse == &a ? b : a;
  if (a.dtype == b.dtype || !can_quantize(coarse.dtype) || is_apr_type(coarse.dtype) ||
      coarse.columns % info(coarse.dtype).block_elements != 0)
    return false;
  std::vector<std::byte> bytes(bytes_of(coarse.dtype, coarse.columns));
  std::vector<float> row(coarse.columns);
  for (size_t r = 0; r < coarse.rows; ++r) {
    quantize(coarse.dtype, fine.values.data() + r * coarse.columns, coarse.columns, bytes.data());
    dequantize(coarse.dtype, bytes.data(), coarse.columns, row.data());
    if (std::memcmp(row.data(), coarse.values.data() + r * coarse.columns,
                    row.size() * sizeof(float)) != 0)
      return false;
  }
  return true;
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
  if (a.rows > 1 && a.rows == b.columns && a.columns == b.rows && is_transposed(a, b))
    return {"weights.transposed", "the matrix is transposed", {}};
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
  if (a.rows > 1) {
    if (const auto order = row_permutation(a, b)) {
      const auto moved = std::ranges::count_if(std::views::iota(size_t{0}, order->size()),
                                               [&](size_t r) { return (*order)[r] != r; });
      return {"weights.rows_permuted",
              fmt::format("the same rows in another order ({} of {} moved; row 1 was row {})",
                          moved, order->size(), order->size() > 1 ? (*order)[1] : 0),
              {}};
    }
  }
  return few_or_unrelated(a, b);
}

}  // namespace plumb
