// SPDX-License-Identifier: Apache-2.0
// EXAONE 3: Llama with other names; RoPE turns halves.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.layer = "transformer.h.{}.";
  f.qkv_bias = f.out_bias = Need::Never;
  const auto& l = f.layer;
  const std::string a = l + "attn.attention.";
  return embedding(f, "transformer.wte", "transformer.ln_f", "lm_head") + rope_factors() +
         Modules{norm(f, "attn_norm", "ln_1"),
                 norm(f, "ffn_norm", "ln_2"),
                 {"blk.{}.attn_q",
                  {Size::QueryRows, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{a + "q_proj"}}},
                 {"blk.{}.attn_k",
                  {Size::KeyRows, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{a + "k_proj"}}},
                 {"blk.{}.attn_v",
                  {Size::ValueRows, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{a + "v_proj"}}},
                 {"blk.{}.attn_output",
                  {Size::Width, Size::MixedWidth},
                  Need::Required,
                  Need::Never,
                  {{a + "out_proj"}}},
                 {"blk.{}.ffn_gate",
                  {Size::Ffn, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{l + "mlp.c_fc_0"}}},
                 {"blk.{}.ffn_up",
                  {Size::Ffn, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{l + "mlp.c_fc_1"}}},
                 {"blk.{}.ffn_down",
                  {Size::Width, Size::Ffn},
                  Need::Required,
                  Need::Never,
                  {{l + "mlp.c_proj"}}}};
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Halves;
  c.activation = reader.activation({"activation_function", "hidden_act"}, Activation::Silu);
}

}  // namespace

const Architecture& exaone_architecture() {
  static const Architecture architecture{"exaone", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
