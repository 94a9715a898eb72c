// SPDX-License-Identifier: Apache-2.0
// GPT-NeoX and Pythia: attention and feed-forward side by side, each with its norm.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  auto f = with_biases("gpt_neox.layers.{}.");
  f.output = Need::InGguf;
  f.qkv_bias = f.out_bias = Need::IfAttentionBias;
  return embedding(f, "gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")} +
         fused_attention(f, "attention.query_key_value", Form::QkvByHead, "attention.dense") +
         plain_mlp(f, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h");
}

void configure(ConfigReader& reader, Config& c) {
  c.layer_norm = true;
  c.rope_pairing = RopePairing::Halves;
  // A GGUF does not name the activation; the published models have the exact form.
  c.activation = reader.activation({"hidden_act"}, Activation::GeluErf);
  c.parallel = reader.flag("use_parallel_residual", {"use_parallel_residual"}).value_or(true);
}

size_t add_layer(PlanBuilder& plan, size_t input) {
  const size_t attention = plan.attention(plan.norm("attn.norm", "attn_norm", input));
  const size_t stream = plan.residual("attn.residual", input, "attn.out", attention);
  const size_t ffn_input = plan.config().parallel ? input : stream;
  const size_t out = plan.feed_forward(plan.norm("ffn.norm", "ffn_norm", ffn_input));
  return plan.residual("residual", stream, "ffn.out", out);
}

}  // namespace

const Architecture& gptneox_architecture() {
  static const Architecture architecture{"gptneox", tensors, configure, add_layer};
  return architecture;
}

}  // namespace plumb
