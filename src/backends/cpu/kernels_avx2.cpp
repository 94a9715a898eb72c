// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu {

Kernels avx2_kernels() {
  Kernels k = scalar_kernels();
  k.name = "avx2";
  k.quantize_int8 = avx2::quantize_int8;
  k.matmul_q4_0 = avx2::matmul_q4_0;
  k.matmul_q4_1 = avx2::matmul_q4_1;
  k.matmul_q5_0 = avx2::matmul_q5_0;
  k.matmul_q5_1 = avx2::matmul_q5_1;
  k.matmul_q8_0 = avx2::matmul_q8_0;
  k.matmul_q2_k = avx2::matmul_q2_k;
  k.matmul_q3_k = avx2::matmul_q3_k;
  k.matmul_q4_k = avx2::matmul_q4_k;
  k.matmul_q5_k = avx2::matmul_q5_k;
  k.matmul_q6_k = avx2::matmul_q6_k;
  k.matmul_iq4_nl = avx2::matmul_iq4_nl;
  k.matmul_iq4_xs = avx2::matmul_iq4_xs;
  k.matmul_f32 = avx2::matmul_f32;
  k.matmul_f16 = avx2::matmul_f16;
  k.matmul_bf16 = avx2::matmul_bf16;
  k.rmsnorm = avx2::rmsnorm;
  k.layernorm = avx2::layernorm;
  k.attention_scores = avx2::attention_scores;
  k.attention_scores_f16 = avx2::attention_scores_f16;
  k.attention_scores_q8_0 = avx2::attention_scores_q8_0;
  k.attention_scores_group = avx2::attention_scores_group;
  k.attention_scores_group_f16 = avx2::attention_scores_group_f16;
  k.attention_scores_group_q8_0 = avx2::attention_scores_group_q8_0;
  k.attention_mix = avx2::attention_mix;
  k.attention_mix_f16 = avx2::attention_mix_f16;
  k.attention_mix_q8_0 = avx2::attention_mix_q8_0;
  k.attention_mix_group = avx2::attention_mix_group;
  k.attention_mix_group_f16 = avx2::attention_mix_group_f16;
  k.attention_mix_group_q8_0 = avx2::attention_mix_group_q8_0;
  k.store_f16 = avx2::store_f16;
  k.store_q8_0 = avx2::store_q8_0;
  k.softmax = avx2::softmax;
  k.silu = avx2::silu;
  k.gelu_tanh = avx2::gelu_tanh;
  k.gelu_erf = avx2::gelu_erf;
  k.sigmoid = avx2::sigmoid;
  k.softcap = avx2::softcap;
  k.scale = avx2::scale;
  k.add = avx2::add;
  k.multiply = avx2::multiply;
  return k;
}

}  // namespace plumb::cpu
