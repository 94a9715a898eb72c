// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu {

Kernels avx2_kernels() {
  Kernels k = scalar_kernels();
  k.name = "avx2";
  k.quantize_int8 = avx2::quantize_int8;
  k.matmul_q4_0 = avx2::matmul_q4_0;
  k.matmul_q4_1 = avx2::matmul_q4_1;
  k.matmul_q8_0 = avx2::matmul_q8_0;
  k.matmul_q4_k = avx2::matmul_q4_k;
  k.matmul_q6_k = avx2::matmul_q6_k;
  k.matmul_f32 = avx2::matmul_f32;
  k.matmul_f16 = avx2::matmul_f16;
  k.matmul_bf16 = avx2::matmul_bf16;
  k.rmsnorm = avx2::rmsnorm;
  k.attention_scores = avx2::attention_scores;
  k.attention_mix = avx2::attention_mix;
  k.softmax = avx2::softmax;
  k.silu = avx2::silu;
  k.add = avx2::add;
  k.multiply = avx2::multiply;
  return k;
}

}  // namespace plumb::cpu
