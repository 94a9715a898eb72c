// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

#include "core/dtype.h"

namespace plumb {

// The types that quantize() writes: F32 (the identity), F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K,
// AprQ4, AprQ8.
bool can_quantize(DType dtype);

// Rounds `count` values to type `to` and writes tensor_bytes(to, count) bytes; `out` needs no
// alignment. It is for deciding whether the weights of one file are the rounding of another's.
//
// F16 and BF16 round to nearest even. The Q types give bit for bit the blocks of ggml's reference
// quantization, which is what llama-quantize writes without an importance matrix: each product and
// sum is one float operation. A build of ggml that fuses them (compilers for ARM do by default) may
// write K blocks that differ in a few bits. `count` must be a whole number of blocks. Blocks do not
// depend on each other, so rows may be quantized one by one.
//
// The APR types follow the writer of that format: `source` must be the whole tensor (AprQ8 has one
// scale, AprQ4 fills up its last block with zero bytes), and any count will do. Writers older than
// their use of IEEE halves stored some AprQ4 scales one unit off.
//
// NaN and infinite values, and blocks whose scale is no finite number, are never undefined
// behaviour here: where a value does not fit, it becomes what x86-64 builds of ggml store. The rest
// of such a block is not worth anything. What is undefined in ggml (a scale whose reciprocal
// overflows) gives the code 0. A NaN stays a NaN in F16 and BF16, with its upper payload bits (ggml
// drops them in F16).
void quantize(DType to, const float* source, size_t count, std::byte* out);

// One block family each; `blocks` blocks are written. AprQ4 and AprQ8 take values.
void quantize_q8_0(const float* source, size_t blocks, std::byte* out);
void quantize_q4_0(const float* source, size_t blocks, std::byte* out);
void quantize_q4_1(const float* source, size_t blocks, std::byte* out);
void quantize_q4_k(const float* source, size_t blocks, std::byte* out);
void quantize_q6_k(const float* source, size_t blocks, std::byte* out);
void quantize_apr_q4(const float* source, size_t count, std::byte* out);
void quantize_apr_q8(const float* source, size_t count, std::byte* out);

}  // namespace plumb
