// SPDX-License-Identifier: Apache-2.0
// Phi 1 to 2: attention and feed-forward side by side with one norm, RoPE of a part of a head.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  auto f = with_biases("model.layers.{}.");
  f.output = Need::InGguf;
  auto modules = embedding(f, "model.embed_tokens", "model.final_layernorm", "lm_head");
  for (auto& module : modules)
    if (module.name == "output") module.bias = Need::Required;
  return modules + Modules{norm(f, "attn_norm", "input_layernorm")} +
         attention(f, "self_attn.dense") + plain_mlp(f, "mlp.fc1", "mlp.fc2") +
         optional_head_norms(f, "self_attn.q_layernorm", "self_attn.k_layernorm");
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::GeluTanh);
  reader.flag(nullptr, {"qk_layernorm"});
  reader.number(nullptr, {"partial_rotary_factor"});
}

size_t add_layer(PlanBuilder& plan, size_t input) {
  const size_t normed = plan.norm("attn.norm", "attn_norm", input);
  return add_parallel_layer(plan, input, normed, normed);
}

}  // namespace

const Architecture& phi2_architecture() {
  static const Architecture architecture{"phi2", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
