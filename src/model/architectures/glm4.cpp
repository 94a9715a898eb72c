// SPDX-License-Identifier: Apache-2.0
// GLM 4: norms before and behind each part; RoPE turns neighbours of half of a head.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.out_bias = Need::Never;
  return text_embedding(f) +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "post_attention_norm", "post_self_attn_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm"),
                 norm(f, "post_ffw_norm", "post_mlp_layernorm")} +
         attention(f) + fused_mlp(f);
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Neighbours;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  reader.number(nullptr, {"partial_rotary_factor"});
}

}  // namespace

const Architecture& glm4_architecture() {
  static const Architecture architecture{"glm4", tensors, configure, add_double_norm_layer};
  return architecture;
}

}  // namespace plumb
