// SPDX-License-Identifier: Apache-2.0
// SmolLM 3: Llama without positions in every fourth layer.
#include <fmt/format.h>

#include <algorithm>

#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.qk = Form::Halves;
  f.mlp_bias = Need::IfMlpBias;
  return text_embedding(f) + llama_block(f) + gated_mlp(f);
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Neighbours;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  if (const auto sliding = reader.sliding_layers()) c.windowed = *sliding;
  reader.flag(nullptr, {"use_sliding_window"});
  reader.whole("attention.sliding_window", {"sliding_window"});
  const size_t interval = reader.whole(nullptr, {"no_rope_layer_interval"}).value_or(4);
  const auto listed = reader.numbers(nullptr, {"no_rope_layers"});  // 1: the layer has RoPE
  for (size_t layer = 0; layer < c.layers; ++layer) c.rotated[layer] = (layer + 1) % interval != 0;
  if (!listed) return;
  if (listed->size() != c.layers)
    reader.problem(
        fmt::format("no_rope_layers has {} entries, for {} layers", listed->size(), c.layers));
  for (size_t layer = 0; layer < std::min(c.layers, listed->size()); ++layer)
    c.rotated[layer] = (*listed)[layer] != 0;
}

}  // namespace

const Architecture& smollm3_architecture() {
  static const Architecture architecture{"smollm3", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
