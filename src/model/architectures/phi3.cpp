// SPDX-License-Identifier: Apache-2.0
// Phi 3 and 4: Llama with q, k, v in one matrix and gate, up in another; two sets of RoPE factors.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  const auto& l = Family().layer;
  return text_embedding({}) + rope_factors() +
         Modules{norm({}, "attn_norm", "input_layernorm"),
                 {"blk.{}.attn_qkv",
                  {Size::QkvRows, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{l + "self_attn.qkv_proj"}}},
                 {"blk.{}.attn_output",
                  {Size::Width, Size::MixedWidth},
                  Need::Required,
                  Need::Never,
                  {{l + "self_attn.o_proj"}}},
                 norm({}, "ffn_norm", "post_attention_layernorm")} +
         fused_mlp({});
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  reader.whole("attention.sliding_window", {"sliding_window"});
  reader.number(nullptr, {"partial_rotary_factor"});
}

}  // namespace

const Architecture& phi3_architecture() {
  static const Architecture architecture{"phi3", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
