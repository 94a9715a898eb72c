// SPDX-License-Identifier: Apache-2.0
#include "quant/dequantize.h"

#include <cstring>

namespace plumb {

void dequantize(DType dtype, const std::byte* source, size_t count, float* out) {
  const size_t blocks = count / info(dtype).block_elements;
  switch (dtype) {
    case DType::F32:
      if (count > 0) std::memcpy(out, source, count * sizeof(float));
      return;
    case DType::F16: return dequantize_f16(source, blocks, out);
    case DType::BF16: return dequantize_bf16(source, blocks, out);
    case DType::F8_E4M3: return dequantize_f8_e4m3(source, blocks, out);
    case DType::F8_E5M2: return dequantize_f8_e5m2(source, blocks, out);
    case DType::Q4_0: return dequantize_q4_0(source, blocks, out);
    case DType::Q4_1: return dequantize_q4_1(source, blocks, out);
    case DType::Q5_0: return dequantize_q5_0(source, blocks, out);
    case DType::Q5_1: return dequantize_q5_1(source, blocks, out);
    case DType::Q8_0: return dequantize_q8_0(source, blocks, out);
    case DType::Q8_1: return dequantize_q8_1(source, blocks, out);
    case DType::Q2_K: return dequantize_q2_k(source, blocks, out);
    case DType::Q3_K: return dequantize_q3_k(source, blocks, out);
    case DType::Q4_K: return dequantize_q4_k(source, blocks, out);
    case DType::Q5_K: return dequantize_q5_k(source, blocks, out);
    case DType::Q6_K: return dequantize_q6_k(source, blocks, out);
    case DType::Q8_K: return dequantize_q8_k(source, blocks, out);
    case DType::IQ1_S: return dequantize_iq1_s(source, blocks, out);
    case DType::IQ1_M: return dequantize_iq1_m(source, blocks, out);
    case DType::IQ2_XXS: return dequantize_iq2_xxs(source, blocks, out);
    case DType::IQ2_XS: return dequantize_iq2_xs(source, blocks, out);
    case DType::IQ2_S: return dequantize_iq2_s(source, blocks, out);
    case DType::IQ3_XXS: return dequantize_iq3_xxs(source, blocks, out);
    case DType::IQ3_S: return dequantize_iq3_s(source, blocks, out);
    case DType::IQ4_NL: return dequantize_iq4_nl(source, blocks, out);
    case DType::IQ4_XS: return dequantize_iq4_xs(source, blocks, out);
    case DType::TQ1_0: return dequantize_tq1_0(source, blocks, out);
    case DType::TQ2_0: return dequantize_tq2_0(source, blocks, out);
    case DType::MXFP4: return dequantize_mxfp4(source, blocks, out);
    case DType::NVFP4: return dequantize_nvfp4(source, blocks, out);
    default: return;  // The caller has checked the type.
  }
}

}  // namespace plumb
