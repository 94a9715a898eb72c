// SPDX-License-Identifier: Apache-2.0
// StableLM 2 and 1.6B: LayerNorm, RoPE of a quarter of a head, a gated feed-forward; StableLM 12B
// has both parts side by side with one norm, and norms of each head of q and k.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.norm_bias = Need::Required;
  f.out_bias = Need::Never;
  f.output = Need::InGguf;
  auto second = norm(f, "ffn_norm", "post_attention_layernorm");  // absent in parallel blocks
  second.weight = second.bias = Need::Optional;
  second.group = 4;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"), second} + attention(f) +
         norms_by_head(f, "self_attn.q_layernorm.norms.[]", "self_attn.k_layernorm.norms.[]",
                       Form::Stacked) +
         gated_mlp(f);
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  reader.flag("use_parallel_residual", {"use_parallel_residual"});
  reader.flag(nullptr, {"qk_layernorm"});
  reader.number(nullptr, {"partial_rotary_factor"});
}

size_t add_layer(PlanBuilder& plan, size_t input) {
  if (plan.weight("ffn_norm.weight")) return add_pre_norm_layer(plan, input);
  const size_t normed = plan.norm("attn.norm", "attn_norm", input);
  return add_parallel_layer(plan, input, normed, normed);
}

}  // namespace

const Architecture& stablelm_architecture() {
  static const Architecture architecture{"stablelm", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
