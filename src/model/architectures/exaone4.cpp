// SPDX-License-Identifier: Apache-2.0
// EXAONE 4: norms behind each part and of each head of q and k; where some layers have a window,
// the others have no positions.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  return text_embedding(Family()) + rope_factors() + post_norm_block(Family()) +
         head_norms(Family());
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  reader.whole("attention.sliding_window", {"sliding_window"});
  const auto sliding = reader.sliding_layers();
  // A number, or a text such as LLLG; llama.cpp has 4 for the only model with windows.
  size_t pattern = 4;
  if (reader.is_gguf() && !sliding)
    pattern = reader.whole("attention.sliding_window_pattern", {}).value_or(4);
  const auto* found =
      reader.is_gguf() ? nullptr : find_value(reader.file(), "sliding_window_pattern");
  if (found != nullptr && std::holds_alternative<std::string>(*found))
    pattern = std::get<std::string>(*found).size();
  else if (!reader.is_gguf())
    pattern = reader.whole(nullptr, {"sliding_window_pattern"}).value_or(4);
  for (size_t layer = 0; layer < c.layers; ++layer) {
    const bool by_pattern = pattern != 0 && (layer + 1) % pattern != 0;
    c.windowed[layer] = c.window != 0 && (sliding ? (*sliding)[layer] : by_pattern);
    c.rotated[layer] = c.window == 0 || c.windowed[layer];
  }
}

}  // namespace

const Architecture& exaone4_architecture() {
  static const Architecture architecture{"exaone4", tensors, configure, add_post_norm_layer};
  return architecture;
}

}  // namespace plumb
