// SPDX-License-Identifier: Apache-2.0
// Architectures with LayerNorm: GPT-2, GPT-NeoX, BLOOM, Falcon, and newer ones that kept it.
#include "model/tensor_rows.h"

namespace plumb {
namespace {

Module linear(const std::string& name, std::vector<Size> shape, Need bias,
              std::vector<Source> sources) {
  return {"blk.{}." + name, std::move(shape), Need::Required, bias, std::move(sources)};
}

Modules plain_mlp(const Family& f, const std::string& up, const std::string& down,
                  Form form = Form::Whole) {
  return {linear("ffn_up", {Size::Ffn, Size::Width}, f.mlp_bias, {{f.layer + up, form}}),
          linear("ffn_down", {Size::Width, Size::Ffn}, f.mlp_bias, {{f.layer + down, form}})};
}

Modules fused_attention(const Family& f, const std::string& qkv, Form form,
                        const std::string& output, Form output_form = Form::Whole) {
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

Modules gpt2() {
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

Modules gptneox() {
  auto f = with_biases("gpt_neox.layers.{}.");
  f.output = Need::InGguf;
  f.qkv_bias = f.out_bias = Need::IfAttentionBias;
  return embedding(f, "gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")} +
         fused_attention(f, "attention.query_key_value", Form::QkvByHead, "attention.dense") +
         plain_mlp(f, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h");
}

Modules bloom() {
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

Modules falcon() {
  auto f = with_biases("transformer.h.{}.");
  f.qkv_bias = f.out_bias = Need::IfAttentionBias;
  f.mlp_bias = Need::IfMlpBias;
  auto first = norm(f, "attn_norm", "input_layernorm");
  first.hf.push_back({f.layer + "ln_mlp"});
  auto second = norm(f, "attn_norm_2", "ln_attn");  // of the block of Falcon 40B
  second.weight = second.bias = Need::Optional;
  second.group = 3;
  return embedding(f, "transformer.word_embeddings", "transformer.ln_f", "lm_head") +
         Modules{first, second} +
         fused_attention(f, "self_attention.query_key_value", Form::QkvByGroup,
                         "self_attention.dense") +
         plain_mlp(f, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h");
}

Modules starcoder2() {
  Family f;
  f.norm_bias = Need::Required;
  f.mlp_bias = Need::IfMlpBias;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"),
                 norm(f, "ffn_norm", "post_attention_layernorm")} +
         attention(f) + plain_mlp(f, "mlp.c_fc", "mlp.c_proj");
}

Modules phi2() {
  auto f = with_biases("model.layers.{}.");
  f.output = Need::InGguf;
  auto modules = embedding(f, "model.embed_tokens", "model.final_layernorm", "lm_head");
  for (auto& module : modules)
    if (module.name == "output") module.bias = Need::Required;
  return modules + Modules{norm(f, "attn_norm", "input_layernorm")} +
         attention(f, "self_attn.dense") + plain_mlp(f, "mlp.fc1", "mlp.fc2");
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

Modules stablelm() {
  Family f;
  f.norm_bias = Need::Required;
  f.out_bias = Need::Never;
  f.output = Need::InGguf;
  auto second = norm(f, "ffn_norm", "post_attention_layernorm");  // absent in parallel blocks
  second.weight = second.bias = Need::Optional;
  second.group = 4;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm"), second} + attention(f) +
         norms_by_head(f, "self_attn.q_layernorm.norms.[]", "self_attn.k_layernorm.norms.[]",
                       Form::Stacked) +
         gated_mlp(f);
}

// Command R: LayerNorm without biases, one norm for both parallel parts.
Modules command_r() {
  const Family f;
  return embedding(f, "model.embed_tokens", "model.norm", "lm_head") +
         Modules{norm(f, "attn_norm", "input_layernorm")} + attention(f) +
         norms_by_head(f, "self_attn.q_norm", "self_attn.k_norm", Form::Whole) + gated_mlp(f);
}

}  // namespace

std::vector<std::pair<std::string, Modules>> gpt_architectures() {
  return {{"gpt2", gpt2()},         {"gptneox", gptneox()},       {"bloom", bloom()},
          {"falcon", falcon()},     {"starcoder2", starcoder2()}, {"phi2", phi2()},
          {"stablelm", stablelm()}, {"command-r", command_r()}};
}

}  // namespace plumb
