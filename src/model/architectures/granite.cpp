// SPDX-License-Identifier: Apache-2.0
// Granite 3: Llama with multipliers of the embedding, the scores, the residuals and the logits.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.qk = Form::Halves;
  f.mlp_bias = Need::IfMlpBias;
  return text_embedding(f) + rope_factors() + llama_block(f) + gated_mlp(f);
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Neighbours;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  c.embedding_scale = reader.number("embedding_scale", {"embedding_multiplier"}).value_or(1);
  c.residual_scale = reader.number("residual_scale", {"residual_multiplier"}).value_or(1);
  // transformers' class multiplies by 1 where config.json is silent, llama.cpp by 1/sqrt(head_dim).
  const auto scale = reader.number("attention.scale", {"attention_multiplier"});
  if (scale && *scale != 0) c.attention_scale = *scale;
  else if (!reader.is_gguf()) c.attention_scale = 1;
  // The logits are divided by it; a zero would say that there is none.
  const auto logits = reader.number("logit_scale", {"logits_scaling"});
  if (logits && *logits != 0) c.logit_scale = 1 / *logits;
}

}  // namespace

const Architecture& granite_architecture() {
  static const Architecture architecture{"granite", tensors, configure, add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
