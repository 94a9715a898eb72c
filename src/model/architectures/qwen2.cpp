// SPDX-License-Identifier: Apache-2.0
// Qwen 2 and 2.5: Llama with biases of q, k and v; RoPE turns halves.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.qkv_bias = Need::Required;
  f.out_bias = Need::Never;
  auto ends = text_embedding(f);
  for (auto& module : ends)
    if (module.name == "output") module.bias = Need::Optional;  // llama.cpp adds it if it is there
  return ends + rope_factors() + llama_block(f) + gated_mlp(f);
}

// Layers from max_window_layers on have the window, where it is used at all.
void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  configure_qwen_windows(reader, c, [](size_t layer, size_t bound) { return layer >= bound; });
}

}  // namespace

const Architecture& qwen2_architecture() {
  static const Architecture architecture{"qwen2", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
