// SPDX-License-Identifier: Apache-2.0
// Architectures with RMSNorm and gated layers: Llama and what came from it.
#include "model/tensor_rows.h"

namespace plumb {
namespace {

const Family kPlain;

Modules text_embedding(const Family& f) {
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head");
}

// Factors of RoPE's angles that a GGUF holds as tensors and config.json as numbers.
Modules rope_factors() {
  const auto row = [](const char* name, int group) {
    return Module{name, {Size::HalfRope}, Need::Optional, Need::Never, {}, Where::All, group};
  };
  return {row("rope_freqs.weight", 0), row("rope_factors_long.weight", 6),
          row("rope_factors_short.weight", 6)};
}

Modules llama_block(const Family& f) {
  return Modules{norm(f, "attn_norm", "input_layernorm")} + attention(f) +
         Modules{norm(f, "ffn_norm", "post_attention_layernorm")};
}

// Llama 1 to 3, Mistral, SmolLM2, and Mixtral with experts.
Modules llama() {
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

Modules smollm3() {
  Family f;
  f.qk = Form::Halves;
  f.mlp_bias = Need::IfMlpBias;
  return text_embedding(f) + llama_block(f) + gated_mlp(f);
}

Modules qwen2() {
  Family f;
  f.qkv_bias = Need::Required;
  f.out_bias = Need::Never;
  auto ends = text_embedding(f);
  for (auto& module : ends)
    if (module.name == "output") module.bias = Need::Optional;  // llama.cpp adds it if it is there
  return ends + rope_factors() + llama_block(f) + gated_mlp(f);
}

Modules head_norms(const Family& f) {
  auto q = norm(f, "attn_q_norm", "self_attn.q_norm");
  auto k = norm(f, "attn_k_norm", "self_attn.k_norm");
  q.shape = k.shape = {Size::HeadDim};
  return {q, k};
}

Modules qwen3() {
  return text_embedding(kPlain) + rope_factors() + llama_block(kPlain) + head_norms(kPlain) +
         gated_mlp(kPlain);
}

Modules gemma(bool post_norms, bool qk_norms) {
  Family f;
  f.norm = Form::MinusOne;
  auto modules = text_embedding(f) + Modules{norm(f, "attn_norm", "input_layernorm")} +
                 attention(f) + gated_mlp(f);
  if (post_norms)
    modules = modules + Modules{norm(f, "post_attention_norm", "post_attention_layernorm"),
                                norm(f, "ffn_norm", "pre_feedforward_layernorm"),
                                norm(f, "post_ffw_norm", "post_feedforward_layernorm")};
  else modules = modules + Modules{norm(f, "ffn_norm", "post_attention_layernorm")};
  return qk_norms ? modules + head_norms(f) : modules;
}

// Norms behind the sub-layers only.
Modules post_norm_block(const Family& f) {
  return attention(f) +
         Modules{norm(f, "post_attention_norm", "post_attention_layernorm"),
                 norm(f, "post_ffw_norm", "post_feedforward_layernorm")} +
         gated_mlp(f);
}

Modules olmo2() {
  auto norms = head_norms(kPlain);  // over all heads at once
  norms[0].shape = {Size::QueryRows};
  norms[1].shape = {Size::KeyRows};
  Family f;
  f.output = Need::InGguf;
  return text_embedding(f) + post_norm_block(f) + norms;
}

Modules exaone4() {
  return text_embedding(kPlain) + rope_factors() + post_norm_block(kPlain) + head_norms(kPlain);
}

Modules exaone() {
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

// The gate and the up matrix are one, gate first.
Modules fused_mlp(const Family& f) {
  return {{"blk.{}.ffn_up",
           {Size::TwoFfn, Size::Width},
           Need::Required,
           Need::Never,
           {{f.layer + "mlp.gate_up_proj"}}},
          {"blk.{}.ffn_down",
           {Size::Width, Size::Ffn},
           Need::Required,
           Need::Never,
           {{f.layer + "mlp.down_proj"}}}};
}

Modules phi3() {
  const auto& l = kPlain.layer;
  return text_embedding(kPlain) + rope_factors() +
         Modules{norm(kPlain, "attn_norm", "input_layernorm"),
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
                 norm(kPlain, "ffn_norm", "post_attention_layernorm")} +
         fused_mlp(kPlain);
}

Modules glm4() {
  Family f;
  f.out_bias = Need::Never;
  return text_embedding(f) +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "post_attention_norm", "post_self_attn_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm"),
                 norm(f, "post_ffw_norm", "post_mlp_layernorm")} +
         attention(f) + fused_mlp(f);
}

}  // namespace

std::vector<std::pair<std::string, Modules>> llama_architectures() {
  Family granite;
  granite.qk = Form::Halves;
  granite.mlp_bias = Need::IfMlpBias;
  return {{"llama", llama()},
          {"mistral3", llama()},
          {"granite",
           text_embedding(granite) + rope_factors() + llama_block(granite) + gated_mlp(granite)},
          {"smollm3", smollm3()},
          {"qwen2", qwen2()},
          {"qwen3", qwen3()},
          {"gemma", gemma(false, false)},
          {"gemma2", gemma(true, false)},
          {"gemma3", gemma(true, true)},
          {"olmo2", olmo2()},
          {"exaone", exaone()},
          {"exaone4", exaone4()},
          {"phi3", phi3()},
          {"glm4", glm4()}};
}

}  // namespace plumb
