// SPDX-License-Identifier: Apache-2.0
// Every CPU kernel, one line each. Plain functions on plain pointers: no allocation, no error, no
// thread. The plan has checked the shapes; the caller splits rows over threads. Only C headers are
// included, so that a level file compiled for a newer CPU cannot leak an inline function into code
// for older ones.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace plumb::cpu {

// Activations rounded to int8, one scale for each 32 values ("int8/32"):
//   scale = max|x| / 127, value = round-half-even(x / scale) as x * (127 / max|x|), all in float;
//   a block of zeros has scale 0 and values 0.
// Rows lie one after the other: values n, scales n/32, sums n/16 apart. n is a multiple of 32.
struct Int8Rows {
  const int8_t* values;
  const float* scales;
  const float*
      sums;  // scale * (sum of 16 neighbouring int8 values), for the offsets of block types
};

// out[t * out_stride + r] = sum_i W[r][i] * x[t][i], for r in [row_begin, row_end), t in [0,
// tokens). `weight` is the first byte of row 0; rows are n values long, in the block layout of the
// type. One (r, t) has the same bits whatever the other rows and tokens of the call: batch =
// serial.
using MatMulInt8 = void (*)(float* out, size_t out_stride, const void* weight, size_t row_begin,
                            size_t row_end, size_t n, Int8Rows x, size_t tokens);
using MatMulFloat = void (*)(float* out, size_t out_stride, const void* weight, size_t row_begin,
                             size_t row_end, size_t n, const float* x, size_t tokens);

// Rows of a key-value cache in f16 or q8_0; k_stride and v_stride in bytes.
using AttentionScoresCache = void (*)(float* out, const float* q, const void* k, size_t k_stride,
                                      size_t keys, size_t head_dim, float scale);
using AttentionMixCache = void (*)(float* out, const float* weights, const void* v, size_t v_stride,
                                   size_t keys, size_t head_dim);
using AttentionScoresGroupCache = void (*)(float* out, size_t out_stride, const float* q,
                                           size_t q_stride, size_t queries, const void* k,
                                           size_t k_stride, size_t keys, size_t head_dim,
                                           float scale);
using AttentionMixGroupCache = void (*)(float* out, size_t out_stride, const float* weights,
                                        size_t weights_stride, size_t queries, const void* v,
                                        size_t v_stride, size_t keys, size_t head_dim);

struct Kernels {
  const char* name;  // "scalar", "avx2", …

  // One row of n values to int8/32; n is a multiple of 32. The same bits on every level.
  void (*quantize_int8)(int8_t* values, float* scales, float* sums, const float* x, size_t n);

  MatMulInt8 matmul_q4_0, matmul_q4_1, matmul_q5_0, matmul_q5_1, matmul_q8_0;
  MatMulInt8 matmul_q2_k, matmul_q3_k, matmul_q4_k, matmul_q5_k, matmul_q6_k;
  MatMulInt8 matmul_iq4_nl, matmul_iq4_xs;
  MatMulFloat matmul_f32, matmul_f16, matmul_bf16;

  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon)
  void (*rmsnorm)(float* out, const float* x, const float* weight, size_t n, float epsilon);
  // out[i] = (x[i] - mean) / sqrt(mean((x - mean)^2) + epsilon) * weight[i] + bias[i], rounded
  // once; `weight` may be null for 1, `bias` for 0
  void (*layernorm)(float* out, const float* x, const float* weight, const float* bias, size_t n,
                    float epsilon);
  // out[j] = scale * sum_i q[i] * k[j * k_stride + i], for j in [0, keys), i in [0, head_dim)
  void (*attention_scores)(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                           size_t head_dim, float scale);
  // out[i] = sum_j weights[j] * v[j * v_stride + i]
  void (*attention_mix)(float* out, const float* weights, const float* v, size_t v_stride,
                        size_t keys, size_t head_dim);
  // The same for rows of a cache in f16 or q8_0 (head_dim a multiple of 32); strides in bytes. The
  // bits are those of the float kernel on the dequantized rows.
  AttentionScoresCache attention_scores_f16, attention_scores_q8_0;
  AttentionMixCache attention_mix_f16, attention_mix_q8_0;
  // The same for `queries` queries of one kv head, each with the bits that it has alone; every row
  // is read from memory once. Query g: q + g * q_stride, out + g * out_stride; for the mix weights
  // + g * weights_stride.
  void (*attention_scores_group)(float* out, size_t out_stride, const float* q, size_t q_stride,
                                 size_t queries, const float* k, size_t k_stride, size_t keys,
                                 size_t head_dim, float scale);
  void (*attention_mix_group)(float* out, size_t out_stride, const float* weights,
                              size_t weights_stride, size_t queries, const float* v,
                              size_t v_stride, size_t keys, size_t head_dim);
  AttentionScoresGroupCache attention_scores_group_f16, attention_scores_group_q8_0;
  AttentionMixGroupCache attention_mix_group_f16, attention_mix_group_q8_0;
  // One row into a cache. The same bits on every level.
  void (*store_f16)(uint16_t* out, const float* x, size_t n);  // round to nearest, ties to even
  // n / 32 blocks as quantize_q8_0() gives them; but a block with a NaN becomes NaN as a whole.
  void (*store_q8_0)(void* out, const float* x, size_t n);
  // x[j] = exp(x[j] - max) / sum; entries of -infinity become 0. n >= 1, at least one entry is
  // finite.
  void (*softmax)(float* x, size_t n);
  void (*silu)(float* out, const float* x, size_t n);  // x / (1 + exp(-x))
  // These four are computed in double and rounded once.
  // gelu_tanh: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  void (*gelu_tanh)(float* out, const float* x, size_t n);
  void (*gelu_erf)(float* out, const float* x, size_t n);            // 0.5 x (1 + erf(x / sqrt(2)))
  void (*sigmoid)(float* out, const float* x, size_t n);             // 1 / (1 + exp(-x))
  void (*softcap)(float* out, const float* x, size_t n, float cap);  // cap * tanh(x / cap)
  void (*scale)(float* out, const float* x, size_t n, float factor);
  void (*add)(float* out, const float* a, const float* b, size_t n);
  void (*multiply)(float* out, const float* a, const float* b, size_t n);
};

// A level starts as a copy of the one below and replaces what it does better.
Kernels scalar_kernels();
Kernels avx2_kernels();

}  // namespace plumb::cpu
