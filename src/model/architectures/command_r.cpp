// SPDX-License-Identifier: Apache-2.0
// Command R: LayerNorm without biases, both parts side by side with one norm, scaled logits.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  const Family f;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm")} + attention(f) +
         norms_by_head(f, "self_attn.q_norm", "self_attn.k_norm", Form::Whole) + gated_mlp(f);
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Neighbours;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  const auto scale = reader.number("logit_scale", {"logit_scale"});
  if (scale && *scale != 0) c.logit_scale = *scale;
  else if (!scale && !reader.is_gguf()) c.logit_scale = 0.0625;  // the class's default
  reader.flag(nullptr, {"use_qk_norm"});
}

size_t add_layer(PlanBuilder& plan, size_t input) {
  const size_t normed = plan.norm("attn.norm", "attn_norm", input);
  return add_parallel_layer(plan, input, normed, normed);
}

}  // namespace

const Architecture& command_r_architecture() {
  static const Architecture architecture{"command-r", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
