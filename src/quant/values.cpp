// SPDX-License-Identifier: Apache-2.0
#include "quant/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/check.h"
#include "core/half.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

constexpr size_t kLongestBlock = 256;

template <class T>
void convert(const std::byte* source, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, source + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

void read_bools(const std::byte* source, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = source[i] != std::byte{0} ? 1.0F : 0.0F;
}

// 32 values: a half scale, then 16 bytes with values 2k (low nibble) and 2k + 1. x = (q - 8) *
// scale.
void dequantize_apr_q4(const std::byte* source, size_t blocks, float* out) {
  for (size_t b = 0; b < blocks; ++b, source += 18, out += 32) {
    uint16_t half = 0;
    std::memcpy(&half, source, sizeof(half));
    const float stored = f16_to_f32(half);
    // APR readers take a scale that no writer makes (NaN, infinity, subnormal) for 0.
    const float scale = std::isfinite(stored) && std::abs(stored) >= 0x1p-14F ? stored : 0.0F;
    for (size_t k = 0; k < 16; ++k) {
      const auto byte = std::to_integer<int>(source[2 + k]);
      out[2 * k] = static_cast<float>((byte & 15) - 8) * scale;
      out[2 * k + 1] = static_cast<float>((byte >> 4) - 8) * scale;
    }
  }
}

// One float scale for the whole tensor stands in front of the bytes. x = q * scale.
void read_apr_q8(const std::byte* tensor, uint64_t first, size_t count, float* out) {
  float scale = 0;
  std::memcpy(&scale, tensor, sizeof(scale));
  convert<int8_t>(tensor + sizeof(scale) + first, count, out);
  for (size_t i = 0; i < count; ++i) out[i] *= scale;
}

void decode(DType dtype, const std::byte* source, size_t count, float* out) {
  switch (dtype) {
    case DType::F64: return convert<double>(source, count, out);
    case DType::I64: return convert<int64_t>(source, count, out);
    case DType::I32: return convert<int32_t>(source, count, out);
    case DType::I16: return convert<int16_t>(source, count, out);
    case DType::I8: return convert<int8_t>(source, count, out);
    case DType::U64: return convert<uint64_t>(source, count, out);
    case DType::U32: return convert<uint32_t>(source, count, out);
    case DType::U16: return convert<uint16_t>(source, count, out);
    case DType::U8: return convert<uint8_t>(source, count, out);
    case DType::Bool: return read_bools(source, count, out);
    case DType::AprQ4: return dequantize_apr_q4(source, count / 32, out);
    default: return dequantize(dtype, source, count, out);
  }
}

}  // namespace

void read_values(const TensorView& view, uint64_t first, size_t count, float* out) {
  const std::optional<uint64_t> elements = element_count(view.shape);
  CHECK(elements && first <= *elements && count <= *elements - first);
  CHECK(tensor_bytes(view.dtype, *elements) == view.bytes.size());
  if (count == 0) return;
  if (view.dtype == DType::AprQ8) return read_apr_q8(view.bytes.data(), first, count, out);

  const size_t length = info(view.dtype).block_elements;
  const size_t block_bytes = info(view.dtype).block_bytes;
  const std::byte* source = view.bytes.data() + first / length * block_bytes;
  size_t skip = first % length;
  while (count > 0) {
    if (skip == 0 && count >= length) {
      const size_t blocks = count / length;
      decode(view.dtype, source, blocks * length, out);
      source += blocks * block_bytes;
      out += blocks * length;
      count -= blocks * length;
      continue;
    }
    // The range begins or ends inside this block.
    float block[kLongestBlock];
    decode(view.dtype, source, length, block);
    const size_t taken = std::min(count, length - skip);
    std::copy_n(block + skip, taken, out);
    source += block_bytes;
    out += taken;
    count -= taken;
    skip = 0;
  }
}

}  // namespace plumb
