// SPDX-License-Identifier: Apache-2.0
#include "parity/weight_rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "quant/dequantize.h"
#include "quant/quantize.h"

namespace plumb {
namespace {

double bits_per_weight(DType dtype) {
  return 8.0 * static_cast<double>(info(dtype).block_bytes) /
         static_cast<double>(info(dtype).block_elements);
}

bool block_differs(const StoredValues& a, const StoredValues& b, DType type, size_t begin,
                   size_t end) {
  if (a.dtype == b.dtype)
    return std::memcmp(&a.values[begin], &b.values[begin], (end - begin) * sizeof(float)) != 0;
  double largest = 0;
  for (size_t i = begin; i < end; ++i)
    largest = std::max({largest, std::fabs(static_cast<double>(a.values[i])),
                        std::fabs(static_cast<double>(b.values[i]))});
  for (size_t i = begin; i < end; ++i)
    if (!(std::fabs(static_cast<double>(a.values[i]) - static_cast<double>(b.values[i])) <=
          rounding_limit(type, static_cast<double>(a.values[i]), largest)))
      return true;
  return false;
}

}  // namespace

// Floats: half a unit in the last place. Blocks: a symmetric type with 2^b codes has
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

std::vector<size_t> blocks_that_differ(const StoredValues& a, const StoredValues& b, size_t most) {
  const DType type = coarser_of(a, b).dtype;
  const size_t block = std::max<size_t>(info(type).block_elements, 1);
  std::vector<size_t> differ;
  for (size_t begin = 0; begin < a.values.size() && differ.size() < most; begin += block)
    if (block_differs(a, b, type, begin, std::min(a.values.size(), begin + block)))
      differ.push_back(begin / block);
  return differ;
}

bool within_rounding(const StoredValues& a, const StoredValues& b) {
  return a.dtype != b.dtype && blocks_that_differ(a, b, 1).empty();
}

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

}  // namespace plumb
