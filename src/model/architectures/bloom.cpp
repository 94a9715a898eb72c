// SPDX-License-Identifier: Apache-2.0
// BLOOM: a norm of the embedding, no positions but ALiBi.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  const auto f = with_biases("transformer.h.{}.");
  auto first = norm(f, "token_embd_norm", "transformer.word_embeddings_layernorm");
  first.name = "token_embd_norm";
  first.hf = {{"transformer.word_embeddings_layernorm"}};
  return embedding(f, "transformer.word_embeddings", "transformer.ln_f", "lm_head") +
         Modules{first, norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")} +
         fused_attention(f, "self_attention.query_key_value", Form::QkvByHead,
                         "self_attention.dense") +
         plain_mlp(f, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h");
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.activation = Activation::GeluTanh;
  reader.number("attention.max_alibi_bias", {});
  c.alibi_max_bias = 8;
  c.residual_after_norm =
      reader.flag(nullptr, {"apply_residual_connection_post_layernorm"}).value_or(false);
}

// The residuals start at the input of each part, or behind its norm.
size_t add_layer(PlanBuilder& plan, size_t input) {
  if (!plan.config().residual_after_norm) return add_pre_norm_layer(plan, input);
  const size_t normed = plan.norm("attn.norm", "attn_norm", input);
  const size_t stream = plan.residual("attn.residual", normed, "attn.out", plan.attention(normed));
  const size_t ffn_normed = plan.norm("ffn.norm", "ffn_norm", stream);
  return plan.residual("residual", ffn_normed, "ffn.out", plan.feed_forward(ffn_normed));
}

}  // namespace

const Architecture& bloom_architecture() {
  static const Architecture architecture{"bloom", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
