// SPDX-License-Identifier: Apache-2.0
// Qwen 1.5 and 2 with experts: one of them, with a gate of its own, for every token.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.qkv_bias = Need::Required;
  f.out_bias = Need::Never;
  f.output = Need::InGguf;
  // A matrix of one row in transformers, a vector in GGUF.
  const Module gate = {"blk.{}.ffn_gate_inp_shexp",
                       {Size::Width},
                       Need::Required,
                       Need::Never,
                       {{f.layer + "mlp.shared_expert_gate"}},
                       Where::Experts};
  return experts_start(f) + attention(f) + experts(f, "mlp.gate") + Modules{gate} +
         shared_expert(f, "mlp.shared_expert.") + gated_mlp(f, Where::Dense);
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  // llama.cpp never makes the weights of this architecture sum to 1.
  c.normalize_experts = reader.flag("expert_weights_norm", {"norm_topk_prob"}).value_or(false);
  configure_qwen_windows(
      reader, c, [](size_t layer, size_t bound) { return layer % 2 == 0 && layer < bound; });
}

}  // namespace

const Architecture& qwen2moe_architecture() {
  static const Architecture architecture{"qwen2moe", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
