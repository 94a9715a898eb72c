// SPDX-License-Identifier: Apache-2.0
#include "quant/dequantize.h"

#include <cstdint>
#include <cstring>

#include "core/half.h"

namespace plumb {
namespace {

template <float (*kToFloat)(uint16_t)>
void widen(const std::byte* source, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, source + i * sizeof(bits), sizeof(bits));
    out[i] = kToFloat(bits);
  }
}

}  // namespace

void dequantize(DType dtype, const std::byte* source, size_t count, float* out) {
  const size_t blocks = count / info(dtype).block_elements;
  switch (dtype) {
    case DType::F32:
      if (count > 0) std::memcpy(out, source, count * sizeof(float));
      return;
    case DType::F16: return widen<f16_to_f32>(source, count, out);
    case DType::BF16: return widen<bf16_to_f32>(source, count, out);
    case DType::Q4_0: return dequantize_q4_0(source, blocks, out);
    case DType::Q4_1: return dequantize_q4_1(source, blocks, out);
    case DType::Q8_0: return dequantize_q8_0(source, blocks, out);
    case DType::Q4_K: return dequantize_q4_k(source, blocks, out);
    case DType::Q6_K: return dequantize_q6_k(source, blocks, out);
    default: return;  // Not a weight type: the caller has checked is_weight_type().
  }
}

}  // namespace plumb
