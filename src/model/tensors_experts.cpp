// SPDX-License-Identifier: Apache-2.0
// Architectures whose layers are mixtures of experts. Mixtral is with Llama.
#include "model/tensor_rows.h"

namespace plumb {
namespace {

Modules start(const Family& f) {
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")};
}

Modules shared_expert(const Family& f, const std::string& source) {
  return {{"blk.{}.ffn_gate_shexp",
           {Size::SharedFfn, Size::Width},
           Need::Required,
           Need::Never,
           {{f.layer + source + "gate_proj"}},
           Where::Experts},
          {"blk.{}.ffn_up_shexp",
           {Size::SharedFfn, Size::Width},
           Need::Required,
           Need::Never,
           {{f.layer + source + "up_proj"}},
           Where::Experts},
          {"blk.{}.ffn_down_shexp",
           {Size::Width, Size::SharedFfn},
           Need::Required,
           Need::Never,
           {{f.layer + source + "down_proj"}},
           Where::Experts}};
}

Modules qwen2moe() {
  Family f;
  f.qkv_bias = Need::Required;
  f.out_bias = Need::Never;
  f.output = Need::InGguf;
  // A matrix of one row in transformers, a vector in GGUF.
  const Module gate = {"blk.{}.ffn_gate_inp_shexp",
                       {Size::Width},
                       Need::Required,
                       Need::Never,
                       {{f.layer + "mlp.shared_expert_gate"}},
                       Where::Experts};
  return start(f) + attention(f) + experts(f, "mlp.gate") + Modules{gate} +
         shared_expert(f, "mlp.shared_expert.");
}

Modules qwen3moe() {
  const Family f;
  auto q = norm(f, "attn_q_norm", "self_attn.q_norm");
  auto k = norm(f, "attn_k_norm", "self_attn.k_norm");
  q.shape = k.shape = {Size::HeadDim};
  return start(f) + attention(f) + Modules{q, k} + experts(f, "mlp.gate");
}

// The experts of gpt-oss are [experts, in, out] with gate and up in turn, or MXFP4 in two tensors.
Modules gpt_oss_experts(const Family& f) {
  const std::string e = "=" + f.layer + "mlp.experts.";
  const std::vector<Size> wide = {Size::Experts, Size::ExpertFfn, Size::Width};
  const std::vector<Size> narrow = {Size::Experts, Size::Width, Size::ExpertFfn};
  const auto bias = Need::Required;
  const auto module = [&](const char* name, const std::vector<Size>& shape,
                          std::vector<Source> sources) {
    return Module{name, shape, Need::Required, Need::Never, std::move(sources), Where::Experts};
  };
  return {
      {"blk.{}.ffn_gate_inp",
       {Size::Experts, Size::Width},
       Need::Required,
       bias,
       {{f.layer + "mlp.router"}},
       Where::Experts},
      module("blk.{}.ffn_gate_exps.weight", wide,
             {{e + "gate_up_proj", Form::EvenTransposed}, {e + "gate_up_proj_*", Form::Fp4Even}}),
      module("blk.{}.ffn_up_exps.weight", wide,
             {{e + "gate_up_proj", Form::OddTransposed}, {e + "gate_up_proj_*", Form::Fp4Odd}}),
      module("blk.{}.ffn_down_exps.weight", narrow,
             {{e + "down_proj", Form::EachTransposed}, {e + "down_proj_*", Form::Fp4}}),
      module("blk.{}.ffn_gate_exps.bias", {Size::Experts, Size::ExpertFfn},
             {{e + "gate_up_proj_bias", Form::Even}}),
      module("blk.{}.ffn_up_exps.bias", {Size::Experts, Size::ExpertFfn},
             {{e + "gate_up_proj_bias", Form::Odd}}),
      module("blk.{}.ffn_down_exps.bias", {Size::Experts, Size::Width}, {{e + "down_proj_bias"}}),
  };
}

Modules gpt_oss() {
  Family f;
  f.output = Need::InGguf;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "post_attention_norm", "post_attention_layernorm"),
                 {"blk.{}.attn_sinks.weight",
                  {Size::Heads},
                  Need::Required,
                  Need::Never,
                  {{"=" + f.layer + "self_attn.sinks"}}}} +
         attention(f) + gpt_oss_experts(f);
}

Modules low_rank_attention(const Family& f) {
  const auto a = f.layer + "self_attn.";
  const auto need = Need::Required;
  const auto none = Need::Never;
  return {
      {"blk.{}.attn_q",
       {Size::QueryRows, Size::Width},
       need,
       none,
       {{a + "q_proj"}},
       Where::FullQuery},
      {"blk.{}.attn_q_a",
       {Size::QueryRank, Size::Width},
       need,
       none,
       {{a + "q_a_proj"}},
       Where::LowRankQuery},
      {"blk.{}.attn_q_a_norm",
       {Size::QueryRank},
       need,
       none,
       {{a + "q_a_layernorm"}},
       Where::LowRankQuery},
      {"blk.{}.attn_q_b",
       {Size::QueryRows, Size::QueryRank},
       need,
       none,
       {{a + "q_b_proj"}},
       Where::LowRankQuery},
      {"blk.{}.attn_kv_a_mqa",
       {Size::KvRankRope, Size::Width},
       need,
       none,
       {{a + "kv_a_proj_with_mqa"}}},
      {"blk.{}.attn_kv_a_norm", {Size::KvRank}, need, none, {{a + "kv_a_layernorm"}}},
      {"blk.{}.attn_k_b",
       {Size::Heads, Size::KvRank, Size::PlainDim},
       need,
       none,
       {{a + "kv_b_proj", Form::AbsorbedKey}},
       Where::Absorbed},
      {"blk.{}.attn_v_b",
       {Size::Heads, Size::ValueDim, Size::KvRank},
       need,
       none,
       {{a + "kv_b_proj", Form::AbsorbedValue}},
       Where::Absorbed},
      {"blk.{}.attn_kv_b",
       {Size::KeyValueRows, Size::KvRank},
       need,
       none,
       {{a + "kv_b_proj"}},
       Where::Joined},
      {"blk.{}.attn_output", {Size::Width, Size::MixedWidth}, need, none, {{a + "o_proj"}}},
  };
}

Modules deepseek2() {
  const Family f;
  return start(f) + low_rank_attention(f) + gated_mlp(f, Where::Dense) + experts(f, "mlp.gate") +
         Modules{{"blk.{}.exp_probs_b.bias",
                  {Size::Experts},
                  Need::Optional,
                  Need::Never,
                  {{"=" + f.layer + "mlp.gate.e_score_correction_bias"}},
                  Where::Experts}} +
         shared_expert(f, "mlp.shared_experts.");
}

}  // namespace

std::vector<std::pair<std::string, Modules>> expert_architectures() {
  return {{"qwen2moe", qwen2moe()},
          {"qwen3moe", qwen3moe()},
          {"gpt-oss", gpt_oss()},
          {"deepseek2", deepseek2()}};
}

}  // namespace plumb
