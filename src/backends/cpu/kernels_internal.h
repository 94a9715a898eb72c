// SPDX-License-Identifier: Apache-2.0
// The kernels of each level, for the tables in kernels_<level>.cpp.
#pragma once
#include "backends/cpu/kernels.h"

#define PLUMB_DECLARE_MATMUL(name, input)                                                        \
  void name(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end, \
            size_t n, input x, size_t tokens)

#define PLUMB_DECLARE_ATTENTION(suffix, rows)                                                      \
  void attention_scores##suffix(float* out, const float* q, rows k, size_t k_stride, size_t keys,  \
                                size_t head_dim, float scale);                                     \
  void attention_mix##suffix(float* out, const float* weights, rows v, size_t v_stride,            \
                             size_t keys, size_t head_dim);                                        \
  void attention_scores_group##suffix(float* out, size_t out_stride, const float* q,               \
                                      size_t q_stride, size_t queries, rows k, size_t k_stride,    \
                                      size_t keys, size_t head_dim, float scale);                  \
  void attention_mix_group##suffix(float* out, size_t out_stride, const float* weights,            \
                                   size_t weights_stride, size_t queries, rows v, size_t v_stride, \
                                   size_t keys, size_t head_dim)

#define PLUMB_DECLARE_LEVEL(level)                                                             \
  namespace plumb::cpu::level {                                                                \
  void quantize_int8(int8_t* values, float* scales, float* sums, const float* x, size_t n);    \
  PLUMB_DECLARE_MATMUL(matmul_q4_0, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q4_1, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q5_0, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q5_1, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q8_0, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q2_k, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q3_k, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q4_k, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q5_k, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_q6_k, Int8Rows);                                                 \
  PLUMB_DECLARE_MATMUL(matmul_iq4_nl, Int8Rows);                                               \
  PLUMB_DECLARE_MATMUL(matmul_iq4_xs, Int8Rows);                                               \
  PLUMB_DECLARE_MATMUL(matmul_f32, const float*);                                              \
  PLUMB_DECLARE_MATMUL(matmul_f16, const float*);                                              \
  PLUMB_DECLARE_MATMUL(matmul_bf16, const float*);                                             \
  void rmsnorm(float* out, const float* x, const float* weight, size_t n, float epsilon);      \
  void layernorm(float* out, const float* x, const float* weight, const float* bias, size_t n, \
                 float epsilon);                                                               \
  PLUMB_DECLARE_ATTENTION(, const float*);                                                     \
  PLUMB_DECLARE_ATTENTION(_f16, const void*);                                                  \
  PLUMB_DECLARE_ATTENTION(_q8_0, const void*);                                                 \
  void store_f16(uint16_t* out, const float* x, size_t n);                                     \
  void store_q8_0(void* out, const float* x, size_t n);                                        \
  void softmax(float* x, size_t n);                                                            \
  void silu(float* out, const float* x, size_t n);                                             \
  void gelu_tanh(float* out, const float* x, size_t n);                                        \
  void gelu_erf(float* out, const float* x, size_t n);                                         \
  void sigmoid(float* out, const float* x, size_t n);                                          \
  void softcap(float* out, const float* x, size_t n, float cap);                               \
  void scale(float* out, const float* x, size_t n, float factor);                              \
  void add(float* out, const float* a, const float* b, size_t n);                              \
  void multiply(float* out, const float* a, const float* b, size_t n);                         \
  }

PLUMB_DECLARE_LEVEL(scalar)
PLUMB_DECLARE_LEVEL(avx2)

#undef PLUMB_DECLARE_LEVEL
#undef PLUMB_DECLARE_ATTENTION
#undef PLUMB_DECLARE_MATMUL
