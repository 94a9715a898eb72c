// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_rows.h"

#include <array>
#include <map>

namespace plumb {
namespace {

// The names that the APR importer gives to the tensors of most architectures (without ".weight").
constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kAprNames = {{
    {"token_embd", "model.embed_tokens"},
    {"position_embd", "model.position_embedding"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.{}.attn_norm", "model.layers.{}.input_layernorm"},
    {"blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"},
    {"blk.{}.attn_q", "model.layers.{}.self_attn.q_proj"},
    {"blk.{}.attn_k", "model.layers.{}.self_attn.k_proj"},
    {"blk.{}.attn_v", "model.layers.{}.self_attn.v_proj"},
    {"blk.{}.attn_output", "model.layers.{}.self_attn.o_proj"},
    {"blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_norm"},
    {"blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_norm"},
    {"blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj"},
    {"blk.{}.ffn_up", "model.layers.{}.mlp.up_proj"},
    {"blk.{}.ffn_down", "model.layers.{}.mlp.down_proj"},
    {"blk.{}.attn_qkv", "model.layers.{}.self_attn.*_proj"},
}};

// How a bias comes from its source if the weight comes from it by `form`.
Form bias_form(Form form) {
  switch (form) {
    case Form::Transposed:
    case Form::MinusOne: return Form::Whole;
    case Form::JoinedTransposed: return Form::JoinedQkv;
    default: return form;
  }
}

Form part_form(std::string_view name) {
  if (name == "blk.{}.attn_q") return Form::QueryPart;
  return name == "blk.{}.attn_k" ? Form::KeyPart : Form::ValuePart;
}

// llama.cpp takes q, k and v as one tensor or as three, and an old Mixtral with its experts apart.
std::vector<Source> gguf_sources(const std::string& name) {
  if (name == "blk.{}.attn_q" || name == "blk.{}.attn_k" || name == "blk.{}.attn_v")
    return {{name}, {"blk.{}.attn_qkv", part_form(name)}};
  if (name == "blk.{}.attn_qkv") return {{name}, {"blk.{}.attn_*", Form::JoinedQkv}};
  if (name.ends_with("_exps"))
    return {{name}, {name.substr(0, name.size() - 5) + ".[]", Form::Stacked}};
  return {{name}};
}

std::vector<Source> apr_sources(const Module& module) {
  std::vector<Source> sources;
  const Form form = module.hf.empty() ? Form::Whole : module.hf.front().form;
  for (const auto& [gguf, apr] : kAprNames) {
    if (gguf != module.name) continue;
    if (module.name != "blk.{}.attn_qkv") sources.push_back({std::string(apr), form});
    else if (form == Form::Transposed)
      sources.push_back({std::string(apr), Form::JoinedTransposed});
    else sources.push_back({std::string(apr), Form::JoinedQkv});
  }
  if (module.name == "token_embd") sources.push_back({"tok_embeddings"});
  if (module.name == "blk.{}.attn_q" || module.name == "blk.{}.attn_k" ||
      module.name == "blk.{}.attn_v")
    sources.push_back({"model.layers.{}.self_attn.qkv_proj", part_form(module.name)});
  return sources;
}

std::vector<Source> with_suffix(const std::vector<Source>& sources, bool bias) {
  std::vector<Source> result;
  for (const auto& source : sources) {
    if (!source.pattern.starts_with('='))
      result.push_back({source.pattern + (bias ? ".bias" : ".weight"),
                        bias ? bias_form(source.form) : source.form});
    else if (!bias) result.push_back({source.pattern.substr(1), source.form});
  }
  return result;
}

// A module that names one tensor itself.
TensorRow single_row(const Module& module) {
  TensorRow row{module.name, module.shape, module.weight, module.where, module.group, {}, {}, {}};
  row.gguf = {{module.name}};
  for (const auto& source : module.hf)
    row.hf.push_back({source.pattern.substr(source.pattern.starts_with('=') ? 1 : 0), source.form});
  if (module.name == "position_embd.weight")
    row.apr = {{"model.position_embedding.weight", Form::Whole}};
  return row;
}

int bias_group(const Module& module) {
  if (module.group != 0) return module.group;
  const auto& name = module.name;
  if (name == "blk.{}.attn_q" || name == "blk.{}.attn_k" || name == "blk.{}.attn_v") return 1;
  return name == "blk.{}.ffn_gate" || name == "blk.{}.ffn_up" || name == "blk.{}.ffn_down" ? 5 : 0;
}

}  // namespace

std::vector<TensorRow> rows_of(const std::vector<Module>& modules) {
  std::vector<TensorRow> rows;
  for (const auto& module : modules) {
    if (module.name.ends_with(".weight") || module.name.ends_with(".bias")) {
      rows.push_back(single_row(module));
      continue;
    }
    const auto gguf = gguf_sources(module.name);
    const auto apr = apr_sources(module);
    const auto add = [&](bool bias) {
      auto shape = module.shape;
      if (bias && shape.size() > 1) shape.pop_back();
      const auto need = bias ? module.bias : module.weight;
      const int group = bias ? bias_group(module) : module.group;
      rows.push_back({module.name + (bias ? ".bias" : ".weight"), shape, need, module.where, group,
                      with_suffix(gguf, bias), with_suffix(module.hf, bias),
                      with_suffix(apr, bias)});
    };
    add(false);
    if (module.bias != Need::Never) add(true);
  }
  return rows;
}

Modules operator+(Modules left, const Modules& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Modules embedding(const Family& f, const std::string& tokens, const std::string& norm,
                  const std::string& output) {
  return {{"token_embd", {Size::Vocabulary, Size::Width}, Need::Required, Need::Never, {{tokens}}},
          {"output_norm", {Size::Width}, Need::Required, f.norm_bias, {{norm, f.norm}}},
          {"output", {Size::Vocabulary, Size::Width}, f.output, Need::Never, {{output}}}};
}

Module norm(const Family& f, const std::string& name, const std::string& source) {
  return {
      "blk.{}." + name, {Size::Width}, Need::Required, f.norm_bias, {{f.layer + source, f.norm}}};
}

Modules attention(const Family& f, const std::string& output) {
  const auto a = f.layer + "self_attn.";
  return {{"blk.{}.attn_q",
           {Size::QueryRows, Size::Width},
           Need::Required,
           f.qkv_bias,
           {{a + "q_proj", f.qk}}},
          {"blk.{}.attn_k",
           {Size::KeyRows, Size::Width},
           Need::Required,
           f.qkv_bias,
           {{a + "k_proj", f.qk}}},
          {"blk.{}.attn_v",
           {Size::ValueRows, Size::Width},
           Need::Required,
           f.qkv_bias,
           {{a + "v_proj"}}},
          {"blk.{}.attn_output",
           {Size::Width, Size::MixedWidth},
           Need::Required,
           f.out_bias,
           {{f.layer + output}}}};
}

Modules gated_mlp(const Family& f, Where where) {
  const auto m = f.layer + "mlp.";
  return {{"blk.{}.ffn_gate",
           {Size::Ffn, Size::Width},
           Need::Required,
           f.mlp_bias,
           {{m + "gate_proj"}},
           where},
          {"blk.{}.ffn_up",
           {Size::Ffn, Size::Width},
           Need::Required,
           f.mlp_bias,
           {{m + "up_proj"}},
           where},
          {"blk.{}.ffn_down",
           {Size::Width, Size::Ffn},
           Need::Required,
           f.mlp_bias,
           {{m + "down_proj"}},
           where}};
}

// transformers has each expert's three matrices, or since version 5 all experts in two tensors.
Modules experts(const Family& f, const std::string& router) {
  const auto e = f.layer + "mlp.experts.";
  const auto module = [&](const std::string& name, std::vector<Size> shape,
                          std::vector<Source> sources) {
    return Module{"blk.{}." + name, std::move(shape),   Need::Required,
                  Need::Never,      std::move(sources), Where::Experts};
  };
  return {
      module("ffn_gate_inp", {Size::Experts, Size::Width}, {{f.layer + router}}),
      module("ffn_gate_exps", {Size::Experts, Size::ExpertFfn, Size::Width},
             {{e + "[].gate_proj", Form::Stacked}, {"=" + e + "gate_up_proj", Form::FirstHalf}}),
      module("ffn_up_exps", {Size::Experts, Size::ExpertFfn, Size::Width},
             {{e + "[].up_proj", Form::Stacked}, {"=" + e + "gate_up_proj", Form::SecondHalf}}),
      module("ffn_down_exps", {Size::Experts, Size::Width, Size::ExpertFfn},
             {{e + "[].down_proj", Form::Stacked}, {"=" + e + "down_proj"}})};
}

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

Modules head_norms(const Family& f) {
  auto q = norm(f, "attn_q_norm", "self_attn.q_norm");
  auto k = norm(f, "attn_k_norm", "self_attn.k_norm");
  q.shape = k.shape = {Size::HeadDim};
  return {q, k};
}

// Norms behind the sub-layers only.
Modules post_norm_block(const Family& f) {
  return attention(f) +
         Modules{norm(f, "post_attention_norm", "post_attention_layernorm"),
                 norm(f, "post_ffw_norm", "post_feedforward_layernorm")} +
         gated_mlp(f);
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

Module linear(const std::string& name, std::vector<Size> shape, Need bias,
              std::vector<Source> sources) {
  return {"blk.{}." + name, std::move(shape), Need::Required, bias, std::move(sources)};
}

Modules plain_mlp(const Family& f, const std::string& up, const std::string& down, Form form) {
  return {linear("ffn_up", {Size::Ffn, Size::Width}, f.mlp_bias, {{f.layer + up, form}}),
          linear("ffn_down", {Size::Width, Size::Ffn}, f.mlp_bias, {{f.layer + down, form}})};
}

Modules fused_attention(const Family& f, const std::string& qkv, Form form,
                        const std::string& output, Form output_form) {
  return {linear("attn_qkv", {Size::QkvRows, Size::Width}, f.qkv_bias, {{f.layer + qkv, form}}),
          linear("attn_output", {Size::Width, Size::MixedWidth}, f.out_bias,
                 {{f.layer + output, output_form}})};
}

Family with_biases(const std::string& layer) {
  Family f;
  f.layer = layer;
  f.norm_bias = f.qkv_bias = f.out_bias = f.mlp_bias = Need::Required;
  return f;
}

// Norms of q and k with weights of their own for each head.
Modules norms_by_head(const Family& f, const std::string& q, const std::string& k, Form form) {
  return {{"blk.{}.attn_q_norm",
           {Size::Heads, Size::HeadDim},
           Need::Optional,
           Need::Never,
           {{f.layer + q, form}},
           Where::All,
           2},
          {"blk.{}.attn_k_norm",
           {Size::KvHeads, Size::HeadDim},
           Need::Optional,
           Need::Never,
           {{f.layer + k, form}},
           Where::All,
           2}};
}

Modules experts_start(const Family& f) {
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

Modules optional_head_norms(const Family& f, const std::string& q, const std::string& k) {
  return {{"blk.{}.attn_q_norm",
           {Size::HeadDim},
           Need::Optional,
           Need::Optional,
           {{f.layer + q}},
           Where::All,
           2},
          {"blk.{}.attn_k_norm",
           {Size::HeadDim},
           Need::Optional,
           Need::Optional,
           {{f.layer + k}},
           Where::All,
           2}};
}

}  // namespace plumb
