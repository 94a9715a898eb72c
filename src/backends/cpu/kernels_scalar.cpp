// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu {

Kernels scalar_kernels() {
  Kernels k = {};
  k.name = "scalar";
  k.quantize_int8 = scalar::quantize_int8;
  k.matmul_q4_0 = scalar::matmul_q4_0;
  k.matmul_q4_1 = scalar::matmul_q4_1;
  k.matmul_q5_0 = scalar::matmul_q5_0;
  k.matmul_q5_1 = scalar::matmul_q5_1;
  k.matmul_q8_0 = scalar::matmul_q8_0;
  k.matmul_q2_k = scalar::matmul_q2_k;
  k.matmul_q3_k = scalar::matmul_q3_k;
  k.matmul_q4_k = scalar::matmul_q4_k;
  k.matmul_q5_k = scalar::matmul_q5_k;
  k.matmul_q6_k = scalar::matmul_q6_k;
  k.matmul_iq4_nl = scalar::matmul_iq4_nl;
  k.matmul_iq4_xs = scalar::matmul_iq4_xs;
  k.matmul_f32 = scalar::matmul_f32;
  k.matmul_f16 = scalar::matmul_f16;
  k.matmul_bf16 = scalar::matmul_bf16;
  k.rmsnorm = scalar::rmsnorm;
  k.layernorm = scalar::layernorm;
  k.attention_scores = scalar::attention_scores;
  k.attention_scores_f16 = scalar::attention_scores_f16;
  k.attention_scores_q8_0 = scalar::attention_scores_q8_0;
  k.attention_scores_group = scalar::attention_scores_group;
  k.attention_scores_group_f16 = scalar::attention_scores_group_f16;
  k.attention_scores_group_q8_0 = scalar::attention_scores_group_q8_0;
  k.attention_mix = scalar::attention_mix;
  k.attention_mix_f16 = scalar::attention_mix_f16;
  k.attention_mix_q8_0 = scalar::attention_mix_q8_0;
  k.attention_mix_group = scalar::attention_mix_group;
  k.attention_mix_group_f16 = scalar::attention_mix_group_f16;
  k.attention_mix_group_q8_0 = scalar::attention_mix_group_q8_0;
  k.store_f16 = scalar::store_f16;
  k.store_q8_0 = scalar::store_q8_0;
  k.softmax = scalar::softmax;
  k.silu = scalar::silu;
  k.gelu_tanh = scalar::gelu_tanh;
  k.gelu_erf = scalar::gelu_erf;
  k.sigmoid = scalar::sigmoid;
  k.softcap = scalar::softcap;
  k.scale = scalar::scale;
  k.add = scalar::add;
  k.multiply = scalar::multiply;
  return k;
}

}  // namespace plumb::cpu
