// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu {

Kernels scalar_kernels() {
  Kernels k = {};
  k.name = "scalar";
  k.quantize_int8 = scalar::quantize_int8;
  k.matmul_q4_0 = scalar::matmul_q4_0;
  k.matmul_q4_1 = scalar::matmul_q4_1;
  k.matmul_q8_0 = scalar::matmul_q8_0;
  k.matmul_q4_k = scalar::matmul_q4_k;
  k.matmul_q6_k = scalar::matmul_q6_k;
  k.matmul_f32 = scalar::matmul_f32;
  k.matmul_f16 = scalar::matmul_f16;
  k.matmul_bf16 = scalar::matmul_bf16;
  k.rmsnorm = scalar::rmsnorm;
  k.attention_scores = scalar::attention_scores;
  k.attention_mix = scalar::attention_mix;
  k.softmax = scalar::softmax;
  k.silu = scalar::silu;
  k.add = scalar::add;
  k.multiply = scalar::multiply;
  return k;
}

}  // namespace plumb::cpu
