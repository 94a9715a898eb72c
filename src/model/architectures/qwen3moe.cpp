// SPDX-License-Identifier: Apache-2.0
// Qwen 3 with experts.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  const Family f;
  auto q = norm(f, "attn_q_norm", "self_attn.q_norm");
  auto k = norm(f, "attn_k_norm", "self_attn.k_norm");
  q.shape = k.shape = {Size::HeadDim};
  return experts_start(f) + attention(f) + Modules{q, k} + experts(f, "mlp.gate") +
         gated_mlp(f, Where::Dense);
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  // llama.cpp always makes the weights of this architecture sum to 1; transformers' class does not
  // where config.json is silent.
  c.normalize_experts =
      reader.flag("expert_weights_norm", {"norm_topk_prob"}).value_or(reader.is_gguf());
  configure_qwen_windows(reader, c, [](size_t, size_t) { return true; });
}

}  // namespace

const Architecture& qwen3moe_architecture() {
  static const Architecture architecture{"qwen3moe", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
