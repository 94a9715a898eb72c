// SPDX-License-Identifier: Apache-2.0
// Qwen 3: norms of each head of q and k, no biases.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  return text_embedding(Family()) + rope_factors() + llama_block(Family()) + head_norms(Family()) +
         gated_mlp(Family());
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  configure_qwen_windows(reader, c, [](size_t layer, size_t bound) { return layer >= bound; });
}

}  // namespace

const Architecture& qwen3_architecture() {
  static const Architecture architecture{"qwen3", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
