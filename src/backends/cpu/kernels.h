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

struct Kernels {
  const char* name;  // "scalar", "avx2", …

  // One row of n values to int8/32; n is a multiple of 32. The same bits on every level.
  void (*quantize_int8)(int8_t* values, float* scales, float* sums, const float* x, size_t n);

  MatMulInt8 matmul_q4_0, matmul_q4_1, matmul_q8_0, matmul_q4_k, matmul_q6_k;
  MatMulFloat matmul_f32, matmul_f16, matmul_bf16;

  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon)
  void (*rmsnorm)(float* out, const float* x, const float* weight, size_t n, float epsilon);
  // out[j] = scale * sum_i q[i] * k[j * k_stride + i], for j in [0, keys), i in [0, head_dim)
  void (*attention_scores)(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                           size_t head_dim, float scale);
  // out[i] = sum_j weights[j] * v[j * v_stride + i]
  void (*attention_mix)(float* out, const float* weights, const float* v, size_t v_stride,
                        size_t keys, size_t head_dim);
  // x[j] = exp(x[j] - max) / sum; entries of -infinity become 0. n >= 1, at least one entry is
  // finite.
  void (*softmax)(float* x, size_t n);
  void (*silu)(float* out, const float* x, size_t n);  // x / (1 + exp(-x))
  void (*add)(float* out, const float* a, const float* b, size_t n);
  void (*multiply)(float* out, const float* a, const float* b, size_t n);
};

// A level starts as a copy of the one below and replaces what it does better.
Kernels scalar_kernels();
Kernels avx2_kernels();

}  // namespace plumb::cpu
