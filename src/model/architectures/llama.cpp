// SPDX-License-Identifier: Apache-2.0
// Llama 1 to 3, Mistral, SmolLM2, TinyLlama, and Mixtral with experts: pre-norm, grouped queries,
// SwiGLU. Converters to GGUF reorder the rows of q and k, so that RoPE turns neighbours.
#include "model/architectures/architectures.h"

namespace plumb {
namespace {

Modules tensors() {
  Family f;
  f.qk = Form::Halves;
  f.mlp_bias = Need::IfMlpBias;
  const auto& l = f.layer;
  const std::string old = l + "block_sparse_moe.experts.[].";
  const std::string fused = "=" + l + "mlp.experts.";
  Modules moe = {{"blk.{}.ffn_gate_inp",
                  {Size::Experts, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{l + "block_sparse_moe.gate"}, {l + "mlp.gate"}},
                  Where::Experts},
                 {"blk.{}.ffn_gate_exps",
                  {Size::Experts, Size::ExpertFfn, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{old + "w1", Form::Stacked},
                   {l + "mlp.experts.[].gate_proj", Form::Stacked},
                   {fused + "gate_up_proj", Form::FirstHalf}},
                  Where::Experts},
                 {"blk.{}.ffn_up_exps",
                  {Size::Experts, Size::ExpertFfn, Size::Width},
                  Need::Required,
                  Need::Never,
                  {{old + "w3", Form::Stacked},
                   {l + "mlp.experts.[].up_proj", Form::Stacked},
                   {fused + "gate_up_proj", Form::SecondHalf}},
                  Where::Experts},
                 {"blk.{}.ffn_down_exps",
                  {Size::Experts, Size::Width, Size::ExpertFfn},
                  Need::Required,
                  Need::Never,
                  {{old + "w2", Form::Stacked},
                   {l + "mlp.experts.[].down_proj", Form::Stacked},
                   {fused + "down_proj"}},
                  Where::Experts}};
  return text_embedding(f) + rope_factors() + llama_block(f) + gated_mlp(f, Where::Dense) + moe;
}

void configure(ConfigReader& reader, Config& c) {
  c.rope_pairing = RopePairing::Neighbours;
  c.activation = reader.activation({"hidden_act"}, Activation::Silu);
  if (const auto sliding = reader.sliding_layers()) c.windowed = *sliding;
  reader.whole("attention.sliding_window", {"sliding_window"});
  if (const auto scale = reader.number("attention.scale", {})) c.attention_scale = *scale;
  reader.refuse_flag("attention.causal", {}, true);
}

// Ministral 3: queries beyond the original context are made longer (Llama 4's temperature).
void configure_mistral3(ConfigReader& reader, Config& c) {
  configure(reader, c);
  c.temperature_beta = reader
                           .number("attention.temperature_scale",
                                   {"rope_parameters.llama_4_scaling_beta", "llama_4_scaling_beta"})
                           .value_or(0);
  c.temperature_length = c.rope_scaling.original_context;
}

}  // namespace

const Architecture& llama_architecture() {
  static const Architecture architecture{"llama", tensors, configure, add_pre_norm_layer};
  return architecture;
}

const Architecture& mistral3_architecture() {
  static const Architecture architecture{"mistral3", tensors, configure_mistral3,
                                         add_pre_norm_layer};
  return architecture;
}

}  // namespace plumb
