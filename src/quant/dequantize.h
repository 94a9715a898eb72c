// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

#include "core/dtype.h"

namespace plumb {

// Turns `count` weights of type `dtype` into float, bit for bit as ggml's reference code does: each
// product and sum is one float operation, none is fused. `count` must be a whole number of blocks
// and `is_weight_type(dtype)` must hold, or `dtype` be an F8 type. `source` needs no alignment.
void dequantize(DType dtype, const std::byte* source, size_t count, float* out);

// One type each; `blocks` blocks are read, of one value for the float types.
void dequantize_f16(const std::byte* source, size_t count, float* out);
void dequantize_bf16(const std::byte* source, size_t count, float* out);
void dequantize_f8_e4m3(const std::byte* source, size_t count, float* out);
void dequantize_f8_e5m2(const std::byte* source, size_t count, float* out);
void dequantize_q4_0(const std::byte* source, size_t blocks, float* out);
void dequantize_q4_1(const std::byte* source, size_t blocks, float* out);
void dequantize_q5_0(const std::byte* source, size_t blocks, float* out);
void dequantize_q5_1(const std::byte* source, size_t blocks, float* out);
void dequantize_q8_0(const std::byte* source, size_t blocks, float* out);
void dequantize_q8_1(const std::byte* source, size_t blocks, float* out);
void dequantize_q2_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q3_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q4_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q5_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q6_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q8_k(const std::byte* source, size_t blocks, float* out);
void dequantize_iq1_s(const std::byte* source, size_t blocks, float* out);
void dequantize_iq1_m(const std::byte* source, size_t blocks, float* out);
void dequantize_iq2_xxs(const std::byte* source, size_t blocks, float* out);
void dequantize_iq2_xs(const std::byte* source, size_t blocks, float* out);
void dequantize_iq2_s(const std::byte* source, size_t blocks, float* out);
void dequantize_iq3_xxs(const std::byte* source, size_t blocks, float* out);
void dequantize_iq3_s(const std::byte* source, size_t blocks, float* out);
void dequantize_iq4_nl(const std::byte* source, size_t blocks, float* out);
void dequantize_iq4_xs(const std::byte* source, size_t blocks, float* out);
void dequantize_tq1_0(const std::byte* source, size_t blocks, float* out);
void dequantize_tq2_0(const std::byte* source, size_t blocks, float* out);
void dequantize_mxfp4(const std::byte* source, size_t blocks, float* out);
void dequantize_nvfp4(const std::byte* source, size_t blocks, float* out);

}  // namespace plumb
