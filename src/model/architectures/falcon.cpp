// SPDX-License-Identifier: Apache-2.0
// Falcon: attention and feed-forward side by side, with one norm (7B) or two (40B); the first ones
// had them one behind the other.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  auto f = with_biases("transformer.h.{}.");
  f.qkv_bias = f.out_bias = Need::IfAttentionBias;
  f.mlp_bias = Need::IfMlpBias;
  auto first = norm(f, "attn_norm", "input_layernorm");
  first.hf.push_back({f.layer + "ln_mlp"});
  auto second = norm(f, "attn_norm_2", "ln_attn");  // of the block of Falcon 40B
  second.weight = second.bias = Need::Optional;
  second.group = 3;
  auto third = norm(f, "ffn_norm", "post_attention_layernorm");  // one behind the other
  third.weight = third.bias = Need::Optional;
  third.group = 4;
  return embedding(f, "transformer.word_embeddings", "transformer.ln_f", "lm_head") +
         Modules{first, second, third} +
         fused_attention(f, "self_attention.query_key_value", Form::QkvByGroup,
                         "self_attention.dense") +
         plain_mlp(f, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h");
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"activation"}, Activation::GeluErf);
  if (reader.flag(nullptr, {"alibi"}).value_or(false))
    reader.problem("alibi is true: falcon with ALiBi is not done here");
}

size_t add_layer(PlanBuilder& plan, size_t input) {
  if (plan.weight("ffn_norm.weight")) return add_pre_norm_layer(plan, input);
  const bool two = plan.weight("attn_norm_2.weight") != nullptr;
  const size_t normed = plan.norm("attn.norm", two ? "attn_norm_2" : "attn_norm", input);
  const size_t ffn_normed = two ? plan.norm("ffn.norm", "attn_norm", input) : normed;
  return add_parallel_layer(plan, input, normed, ffn_normed);
}

}  // namespace

const Architecture& falcon_architecture() {
  static const Architecture architecture{"falcon", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
