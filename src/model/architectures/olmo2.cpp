// SPDX-License-Identifier: Apache-2.0
// OLMo 2: norms behind each part, none before; norms of q and k over all heads at once.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  auto norms = head_norms(Family());  // over all heads at once
  norms[0].shape = {Size::QueryRows};
  norms[1].shape = {Size::KeyRows};
  Family f;
  f.output = Need::InGguf;
  return text_embedding(f) + post_norm_block(f) + norms;
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  if (c.window != 0) reader.problem("sliding_window of olmo2 (OLMo 3) is not done here");
}

}  // namespace

const Architecture& olmo2_architecture() {
  static const Architecture architecture{"olmo2", tensors, configure, add_post_norm_layer};
  return architecture;
}

}  // namespace plumb
