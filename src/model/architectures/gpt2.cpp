// SPDX-License-Identifier: Apache-2.0
// GPT-2: learned positions, LayerNorm, one matrix for q, k, v, GELU.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  const auto f = with_biases("transformer.h.{}.");
  return embedding(f, "transformer.wte", "transformer.ln_f", "lm_head") +
         Modules{{"position_embd.weight",
                  {Size::Context, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{"transformer.wpe.weight"}}},
                 norm(f, "attn_norm", "ln_1"),
                 norm(f, "ffn_norm", "ln_2")} +
         fused_attention(f, "attn.c_attn", Form::Transposed, "attn.c_proj", Form::Transposed) +
         plain_mlp(f, "mlp.c_fc", "mlp.c_proj", Form::Transposed);
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.activation = reader.activation({"activation_function"}, Activation::GeluTanh);
  c.scale_by_layer = reader.flag(nullptr, {"scale_attn_by_inverse_layer_idx"}).value_or(false);
  if (!reader.flag(nullptr, {"scale_attn_weights"}).value_or(true)) c.attention_scale = 1;
  reader.refuse_flag(nullptr, {"add_cross_attention"});
}

}  // namespace

const Architecture& gpt2_architecture() {
  static const Architecture architecture{"gpt2", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
