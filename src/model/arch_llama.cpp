// SPDX-License-Identifier: Apache-2.0
// Llama 1 to 3, SmolLM2, TinyLlama, Mistral: pre-norm, RoPE on neighbouring pairs (converters
// reorder the rows of q and k for it), grouped-query attention, SwiGLU; optional attention biases,
// tied head, rope_freqs.
#include <fmt/format.h>

#include <cmath>
#include <set>

#include "model/arch.h"

namespace plumb {
namespace {

Result<void> refuse_unsupported(const MetadataReader& metadata) {
  TRY_ASSIGN(const size_t experts, metadata.count_or("llama.expert_count", 0));
  if (experts > 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("llama.expert_count is {}: mixtures of experts are not supported yet",
                            experts));
  TRY_ASSIGN(const auto causal, metadata.flag("llama.attention.causal"));
  if (causal && !*causal)
    return fail(ErrorCode::Unsupported,
                "llama.attention.causal is false: attention to later positions is not supported");
  TRY_ASSIGN(const auto scaling, metadata.text_or("llama.rope.scaling.type", "none"));
  if (scaling != "none" && scaling != "linear")
    return fail(ErrorCode::Unsupported,
                fmt::format("llama.rope.scaling.type is '{}': supported are none, linear and the "
                            "tensor rope_freqs.weight",
                            scaling));
  for (const char* key :
       {"llama.attn_logit_softcapping", "llama.final_logit_softcapping", "llama.attention.scale",
        "llama.logit_scale", "llama.embedding_scale", "llama.residual_scale",
        "llama.attention.clamp_kqv", "llama.attention.value_length_mla",
        "llama.rope.scaling.attn_factor", "llama.attention.max_alibi_bias"})
    if (metadata.has(key))
      return fail(
          ErrorCode::Unsupported,
          fmt::format("metadata '{}' asks for something that architecture llama does not do here",
                      key));
  return {};
}

Result<Config> read_config(const MetadataReader& metadata) {
  TRY(refuse_unsupported(metadata));
  Config config;
  TRY_ASSIGN(config.context, metadata.count("llama.context_length"));
  TRY_ASSIGN(config.width, metadata.count("llama.embedding_length"));
  TRY_ASSIGN(config.layers, metadata.count("llama.block_count"));
  TRY_ASSIGN(config.ffn, metadata.count("llama.feed_forward_length"));
  TRY_ASSIGN(config.heads, metadata.count("llama.attention.head_count"));
  TRY_ASSIGN(config.kv_heads, metadata.count_or("llama.attention.head_count_kv", config.heads));
  if (config.heads == 0 || config.kv_heads == 0 || config.heads % config.kv_heads != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("llama.attention.head_count {} must be a multiple of head_count_kv {}",
                            config.heads, config.kv_heads));
  if (config.width == 0 || config.ffn == 0 || config.context == 0 || config.layers == 0)
    return fail(ErrorCode::Corrupt,
                "llama.embedding_length, feed_forward_length, context_length and block_count must "
                "not be 0");
  TRY_ASSIGN(config.head_dim,
             metadata.count_or("llama.attention.key_length", config.width / config.heads));
  TRY_ASSIGN(const size_t value_length,
             metadata.count_or("llama.attention.value_length", config.head_dim));
  if (config.head_dim == 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("llama.embedding_length {} gives no value to each of {} heads",
                            config.width, config.heads));
  if (value_length != config.head_dim)
    return fail(ErrorCode::Unsupported,
                fmt::format("llama.attention.value_length {} differs from key_length {}",
                            value_length, config.head_dim));
  TRY_ASSIGN(config.epsilon, metadata.number("llama.attention.layer_norm_rms_epsilon"));
  TRY_ASSIGN(config.rope_base, metadata.number_or("llama.rope.freq_base", 10000));
  TRY_ASSIGN(config.rope_dimensions,
             metadata.count_or("llama.rope.dimension_count", config.head_dim));
  if (config.rope_dimensions % 2 != 0 || config.rope_dimensions > config.head_dim ||
      config.rope_dimensions == 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("llama.rope.dimension_count {} must be even and at most {}",
                            config.rope_dimensions, config.head_dim));
  if (config.rope_base <= 0 || config.epsilon < 0)
    return fail(
        ErrorCode::Corrupt,
        fmt::format(
            "llama.rope.freq_base {} must be above 0 and layer_norm_rms_epsilon {} at least 0",
            config.rope_base, config.epsilon));
  // As llama.cpp has it: a factor without a type is linear, the type "none" makes any factor void.
  TRY_ASSIGN(const auto scaling, metadata.text_or("llama.rope.scaling.type", "linear"));
  if (scaling == "linear") {
    TRY_ASSIGN(const double old_key, metadata.number_or("llama.rope.scale_linear", 1));
    TRY_ASSIGN(config.rope_linear_factor, metadata.number_or("llama.rope.scaling.factor", old_key));
  }
  if (config.rope_linear_factor <= 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("llama.rope.scaling.factor must be above 0, found {}",
                            config.rope_linear_factor));
  TRY_ASSIGN(config.window, metadata.count_or("llama.attention.sliding_window", 0));
  config.rope_pairing = RopePairing::Neighbours;
  return config;
}

Result<void> check_layer(const Model& model, size_t layer) {
  const auto& c = model.config;
  const auto name = [&](const char* part) { return fmt::format("blk.{}.{}", layer, part); };
  TRY(require_weight(model, name("attn_norm.weight"), 1, c.width));
  TRY(require_weight(model, name("attn_q.weight"), c.heads * c.head_dim, c.width));
  TRY(require_weight(model, name("attn_k.weight"), c.kv_heads * c.head_dim, c.width));
  TRY(require_weight(model, name("attn_v.weight"), c.kv_heads * c.head_dim, c.width));
  TRY(require_weight(model, name("attn_output.weight"), c.width, c.heads * c.head_dim));
  TRY(require_weight(model, name("ffn_norm.weight"), 1, c.width));
  TRY(require_weight(model, name("ffn_gate.weight"), c.ffn, c.width));
  TRY(require_weight(model, name("ffn_up.weight"), c.ffn, c.width));
  TRY(require_weight(model, name("ffn_down.weight"), c.width, c.ffn));
  if (model.find(name("attn_q.bias")))
    TRY(require_weight(model, name("attn_q.bias"), 1, c.heads * c.head_dim));
  for (const char* part : {"attn_k.bias", "attn_v.bias"})
    if (model.find(name(part))) TRY(require_weight(model, name(part), 1, c.kv_heads * c.head_dim));
  for (const char* part : {"attn_output.bias", "ffn_down.bias"})
    if (model.find(name(part))) TRY(require_weight(model, name(part), 1, c.width));
  for (const char* part : {"ffn_gate.bias", "ffn_up.bias"})
    if (model.find(name(part))) TRY(require_weight(model, name(part), 1, c.ffn));
  return {};
}

Result<void> check_weights(const Model& model) {
  const auto& c = model.config;
  TRY(require_weight(model, "token_embd.weight", c.vocabulary, c.width));
  TRY(require_weight(model, "output_norm.weight", 1, c.width));
  if (model.find("output.weight"))
    TRY(require_weight(model, "output.weight", c.vocabulary, c.width));
  if (model.find("rope_freqs.weight"))
    TRY(require_weight(model, "rope_freqs.weight", 1, c.rope_dimensions / 2));
  for (size_t layer = 0; layer < c.layers; ++layer) TRY(check_layer(model, layer));
  // A tensor without a place in the plan would be a part of the model that we silently leave out.
  std::set<std::string> used;
  for (const auto& step : make_plan(model).steps) {
    if (step.weight) used.insert(step.weight->name);
    if (step.bias) used.insert(step.bias->name);
    if (step.rope.factors) used.insert(step.rope.factors->name);
  }
  for (const auto& [name, weight] : model.weights)
    if (!used.contains(name))
      return fail(
          ErrorCode::Unsupported,
          fmt::format("tensor '{}' {}x{} has no place in architecture llama as it is known here",
                      name, weight->rows, weight->columns));
  return {};
}

// Appends steps; each returns the index of its value.
class Builder {
 public:
  explicit Builder(const Model& model) : model_(model), c_(model.config) {}

  Plan build() {
    const size_t embedding = add({.op = Op::Embedding,
                                  .name = "embedding",
                                  .inputs = {},
                                  .width = c_.width,
                                  .weight = model_.find("token_embd.weight")});
    size_t stream = embedding;
    for (size_t layer = 0; layer < c_.layers; ++layer) stream = add_layer(layer, stream);
    const size_t normed = norm("final.norm", "output_norm.weight", stream);
    auto head = model_.find("output.weight");
    if (!head) head = model_.find("token_embd.weight");
    add({.op = Op::MatMul,
         .name = "logits",
         .inputs = {normed},
         .width = c_.vocabulary,
         .weight = head});
    return std::move(plan_);
  }

 private:
  size_t add(Step step) {
    plan_.steps.push_back(std::move(step));
    return plan_.steps.size() - 1;
  }
  size_t norm(const std::string& name, const std::string& weight, size_t input) {
    return add({.op = Op::RmsNorm,
                .name = name,
                .inputs = {input},
                .width = c_.width,
                .weight = model_.find(weight),
                .epsilon = c_.epsilon});
  }
  size_t project(const std::string& name, const std::string& tensor, size_t input) {
    const auto weight = model_.find(tensor + ".weight");
    return add({.op = Op::MatMul,
                .name = name,
                .inputs = {input},
                .width = weight->rows,
                .weight = weight,
                .bias = model_.find(tensor + ".bias")});
  }
  // q, k and v: where the file has a bias, the product before it has a name of its own.
  size_t project_qkv(const std::string& name, const std::string& tensor, size_t input) {
    const auto weight = model_.find(tensor + ".weight");
    const auto bias = model_.find(tensor + ".bias");
    const size_t product = add({.op = Op::MatMul,
                                .name = bias ? name + "_matmul" : name,
                                .inputs = {input},
                                .width = weight->rows,
                                .weight = weight});
    if (!bias) return product;
    return add(
        {.op = Op::Bias, .name = name, .inputs = {product}, .width = weight->rows, .weight = bias});
  }
  size_t rotate(const std::string& name, size_t input) {
    Step step{.op = Op::Rope,
              .name = name,
              .inputs = {input},
              .width = plan_.steps[input].width,
              .head_dim = c_.head_dim};
    step.rope = {.base = c_.rope_base,
                 .linear_factor = c_.rope_linear_factor,
                 .dimensions = c_.rope_dimensions,
                 .pairing = c_.rope_pairing,
                 .factors = model_.find("rope_freqs.weight")};
    return add(std::move(step));
  }
  size_t attend(const std::string& prefix, size_t q, size_t k, size_t v) {
    const Attention attention{.heads = c_.heads,
                              .kv_heads = c_.kv_heads,
                              .head_dim = c_.head_dim,
                              .scale = 1 / std::sqrt(static_cast<double>(c_.head_dim)),
                              .window = c_.window};
    const size_t scores = add(
        {.op = Op::Scores, .name = prefix + "scores", .inputs = {q, k}, .attention = attention});
    const size_t weights = add({.op = Op::Softmax,
                                .name = prefix + "weights",
                                .inputs = {scores},
                                .attention = attention});
    return add({.op = Op::Mix,
                .name = prefix + "mix",
                .inputs = {weights, v},
                .width = c_.heads * c_.head_dim,
                .attention = attention});
  }
  size_t add_layer(size_t layer, size_t input) {
    const auto attn = fmt::format("layer.{}.attn.", layer);
    const auto ffn = fmt::format("layer.{}.ffn.", layer);
    const auto block = fmt::format("blk.{}.", layer);
    const size_t attn_norm = norm(attn + "norm", block + "attn_norm.weight", input);
    const size_t q = project_qkv(attn + "q", block + "attn_q", attn_norm);
    const size_t k = project_qkv(attn + "k", block + "attn_k", attn_norm);
    const size_t v = project_qkv(attn + "v", block + "attn_v", attn_norm);
    const size_t q_rope = rotate(attn + "q_rope", q);
    const size_t k_rope = rotate(attn + "k_rope", k);
    const size_t mix = attend(attn, q_rope, k_rope, v);
    const size_t out = project(attn + "out", block + "attn_output", mix);
    const size_t residual =
        add({.op = Op::Add, .name = attn + "residual", .inputs = {input, out}, .width = c_.width});
    const size_t ffn_norm = norm(ffn + "norm", block + "ffn_norm.weight", residual);
    const size_t gate = project(ffn + "gate", block + "ffn_gate", ffn_norm);
    const size_t up = project(ffn + "up", block + "ffn_up", ffn_norm);
    const size_t act =
        add({.op = Op::Silu, .name = ffn + "act", .inputs = {gate}, .width = c_.ffn});
    const size_t glu =
        add({.op = Op::Multiply, .name = ffn + "glu", .inputs = {act, up}, .width = c_.ffn});
    const size_t down = project(ffn + "out", block + "ffn_down", glu);
    return add({.op = Op::Add,
                .name = fmt::format("layer.{}.residual", layer),
                .inputs = {residual, down},
                .width = c_.width});
  }

  const Model& model_;
  const Config& c_;
  Plan plan_;
};

Plan make_llama_plan(const Model& model) { return Builder(model).build(); }

}  // namespace

const Architecture& llama_architecture() {
  static const Architecture architecture{"llama", read_config, check_weights, make_llama_plan};
  return architecture;
}

}  // namespace plumb
