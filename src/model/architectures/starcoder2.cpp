// SPDX-License-Identifier: Apache-2.0
// StarCoder 2: LayerNorm and biases, GELU without a gate, RoPE of halves.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.norm_bias = Need::Required;
  f.mlp_bias = Need::IfMlpBias;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")} +
         attention(f) + plain_mlp(f, "mlp.c_fc", "mlp.c_proj");
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::GeluTanh);
  reader.whole("attention.sliding_window", {"sliding_window"});
}

}  // namespace

const Architecture& starcoder2_architecture() {
  static const Architecture architecture{"starcoder2", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
