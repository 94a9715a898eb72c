// SPDX-License-Identifier: Apache-2.0
// The kernels of each level, for the tables in kernels_<level>.cpp.
#pragma once
#include "backends/cpu/kernels.h"

#define PLUMB_DECLARE_MATMUL(name, input)                                                        \
  void name(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end, \
            size_t n, input x, size_t tokens)

#define PLUMB_DECLARE_LEVEL(level)                                                                \
  namespace plumb::cpu::level {                                                                   \
  void quantize_int8(int8_t* values, float* scales, float* sums, const float* x, size_t n);       \
  PLUMB_DECLARE_MATMUL(matmul_q4_0, Int8Rows);                                                    \
  PLUMB_DECLARE_MATMUL(matmul_q4_1, Int8Rows);                                                    \
  PLUMB_DECLARE_MATMUL(matmul_q8_0, Int8Rows);                                                    \
  PLUMB_DECLARE_MATMUL(matmul_q4_k, Int8Rows);                                                    \
  PLUMB_DECLARE_MATMUL(matmul_q6_k, Int8Rows);                                                    \
  PLUMB_DECLARE_MATMUL(matmul_f32, const float*);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_f16, const float*);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_bf16, const float*);                                                \
  void rmsnorm(float* out, const float* x, const float* weight, size_t n, float epsilon);         \
  void attention_scores(float* out, const float* q, const float* k, size_t k_stride, size_t keys, \
                        size_t head_dim, float scale);                                            \
  void attention_mix(float* out, const float* weights, const float* v, size_t v_stride,           \
                     size_t keys, size_t head_dim);                                               \
  void softmax(float* x, size_t n);                                                               \
  void silu(float* out, const float* x, size_t n);                                                \
  void add(float* out, const float* a, const float* b, size_t n);                                 \
  void multiply(float* out, const float* a, const float* b, size_t n);                            \
  }

PLUMB_DECLARE_LEVEL(scalar)
PLUMB_DECLARE_LEVEL(avx2)

#undef PLUMB_DECLARE_LEVEL
#undef PLUMB_DECLARE_MATMUL
