// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

#include "core/dtype.h"

namespace plumb {

// Turns `count` weights of type `dtype` into float, bit for bit as ggml's reference code does: each
// product and sum is one float operation, none is fused. `count` must be a whole number of blocks
// and `is_weight_type(dtype)` must hold. `source` needs no alignment.
void dequantize(DType dtype, const std::byte* source, size_t count, float* out);

// One block family each; `blocks` blocks are read. Layouts stand beside each definition.
void dequantize_q4_0(const std::byte* source, size_t blocks, float* out);
void dequantize_q4_1(const std::byte* source, size_t blocks, float* out);
void dequantize_q8_0(const std::byte* source, size_t blocks, float* out);
void dequantize_q4_k(const std::byte* source, size_t blocks, float* out);
void dequantize_q6_k(const std::byte* source, size_t blocks, float* out);

}  // namespace plumb
