// SPDX-License-Identifier: Apache-2.0
#include "model/plan_builder.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "model/architecture.h"

namespace plumb {

// Queries, keys or values: which rows of a fused matrix, and the tensors if they are apart.
struct PlanBuilder::Heads {
  std::string name;  // "q"
  size_t first = 0, rows = 0;
};

Plan PlanBuilder::build() {
  size_t stream = embed();
  const auto* architecture = find_architecture(c_.architecture);
  CHECK(architecture != nullptr);
  in_layer_ = true;
  for (layer_ = 0; layer_ < c_.layers; ++layer_) stream = architecture->add_layer(*this, stream);
  in_layer_ = false;
  head(stream);
  return std::move(plan_);
}

size_t PlanBuilder::add(Step step) {
  plan_.steps.push_back(std::move(step));
  return plan_.steps.size() - 1;
}

std::string PlanBuilder::step_name(const std::string& step) const {
  return in_layer_ ? fmt::format("layer.{}.{}", layer_, step) : step;
}

WeightPtr PlanBuilder::weight(const std::string& tensor) const {
  return model_.find(in_layer_ ? fmt::format("blk.{}.{}", layer_, tensor) : tensor);
}

// What enters the first layer is "embedding": after a scale, learned positions or a norm.
size_t PlanBuilder::embed() {
  const auto positions = weight("position_embd.weight");
  const auto norm_weight = weight("token_embd_norm.weight");
  const bool more = positions || norm_weight || c_.embedding_scale != 1;
  size_t value = add({.op = Op::Embedding,
                      .name = more ? "embedding_lookup" : "embedding",
                      .width = c_.width,
                      .weight = weight("token_embd.weight")});
  if (c_.embedding_scale != 1) value = scale("embedding", c_.embedding_scale, value);
  if (positions)
    value = add({.op = Op::Positions,
                 .name = "embedding",
                 .inputs = {value},
                 .width = c_.width,
                 .weight = positions});
  if (norm_weight)
    value = norm_of("embedding", norm_weight, weight("token_embd_norm.bias"), value, c_.width);
  return value;
}

// The logits after the head's bias, a scale and a soft cap; what is before has its own name.
size_t PlanBuilder::head(size_t stream) {
  const size_t normed = norm("final.norm", "output_norm", stream);
  auto matrix = weight("output.weight");
  if (!matrix) matrix = weight("token_embd.weight");
  const bool scaled = c_.logit_scale != 1;
  const bool capped = c_.final_softcap != 0;
  size_t value =
      product(scaled || capped ? "logits_matmul" : "logits", matrix, weight("output.bias"), normed);
  if (scaled) value = scale(capped ? "logits_scaled" : "logits", c_.logit_scale, value);
  if (capped)
    value = add({.op = Op::SoftCap,
                 .name = "logits",
                 .inputs = {value},
                 .width = c_.vocabulary,
                 .factor = c_.final_softcap});
  return value;
}

size_t PlanBuilder::scale(const std::string& step, double factor, size_t input) {
  return add({.op = Op::Scale,
              .name = step_name(step),
              .inputs = {input},
              .width = plan_.steps[input].width,
              .factor = factor});
}

size_t PlanBuilder::norm(const std::string& step, const std::string& tensor, size_t input) {
  return norm_of(step, weight(tensor + ".weight"), weight(tensor + ".bias"), input, c_.width);
}

size_t PlanBuilder::norm_of(const std::string& step, const WeightPtr& gamma, const WeightPtr& beta,
                            size_t input, size_t group) {
  return add({.op = c_.layer_norm ? Op::LayerNorm : Op::RmsNorm,
              .name = step_name(step),
              .inputs = {input},
              .width = plan_.steps[input].width,
              .weight = gamma,
              .bias = beta,
              .epsilon = c_.epsilon,
              .group = group});
}

size_t PlanBuilder::product(const std::string& step, const WeightPtr& matrix, const WeightPtr& bias,
                            size_t input) {
  return add({.op = Op::MatMul,
              .name = step_name(step),
              .inputs = {input},
              .width = matrix->rows,
              .weight = matrix,
              .bias = bias});
}

size_t PlanBuilder::project(const std::string& step, const std::string& tensor, size_t input) {
  return product(step, weight(tensor + ".weight"), weight(tensor + ".bias"), input);
}

// Where there is a bias, the product before it has a name of its own.
size_t PlanBuilder::project_heads(const Heads& heads, size_t input) {
  auto matrix = weight(fmt::format("attn_{}.weight", heads.name));
  auto bias = weight(fmt::format("attn_{}.bias", heads.name));
  if (!matrix) {
    matrix = rows_of(weight("attn_qkv.weight"), heads.first, heads.rows);
    bias = rows_of(weight("attn_qkv.bias"), heads.first, heads.rows);
  }
  const auto name = fmt::format("attn.{}", heads.name);
  const size_t value = product(bias ? name + "_matmul" : name, matrix, nullptr, input);
  if (!bias) return value;
  return add({.op = Op::Bias,
              .name = step_name(name),
              .inputs = {value},
              .width = heads.rows,
              .weight = bias});
}

// Norms of q and k: of each head with one weight for all, with its own, or of all heads at once.
size_t PlanBuilder::norm_heads(const std::string& which, size_t input) {
  const auto gamma = weight(fmt::format("attn_{}_norm.weight", which));
  if (!gamma) return input;
  const size_t width = plan_.steps[input].width;
  const bool at_once = gamma->is_vector() && gamma->columns == width && width != c_.head_dim;
  return norm_of(fmt::format("attn.{}_norm", which), gamma,
                 weight(fmt::format("attn_{}_norm.bias", which)), input,
                 at_once ? width : c_.head_dim);
}

Rope PlanBuilder::rope() const {
  const bool local = c_.windowed[layer_] && c_.window != 0;
  Rope rope{.base = local && c_.rope_base_local != 0 ? c_.rope_base_local : c_.rope_base,
            .dimensions = c_.rope_dimensions,
            .pairing = c_.rope_pairing};
  if (local && !c_.scale_local_rope) return rope;
  rope.factors = model_.find("rope_freqs.weight");
  const auto& s = c_.rope_scaling;
  rope.magnitude = s.magnitude;
  if (s.type == "linear") rope.linear_factor = s.factor;
  if (s.type == "yarn")
    rope.yarn = Yarn{.factor = s.factor,
                     .beta_fast = s.beta_fast,
                     .beta_slow = s.beta_slow,
                     .original_context = static_cast<double>(s.original_context),
                     .truncate = s.truncate};
  if (s.type == "longrope")
    rope.factors = model_.find(tokens_ > s.original_context ? "rope_factors_long.weight"
                                                            : "rope_factors_short.weight");
  if (s.type == "dynamic" && tokens_ > s.original_context) {
    const auto n = static_cast<double>(c_.rope_dimensions);
    const double ratio = static_cast<double>(tokens_) / static_cast<double>(s.original_context);
    rope.base *= std::pow(s.factor * ratio - (s.factor - 1), n / (n - 2));
  }
  return rope;
}

size_t PlanBuilder::rotate(const std::string& which, size_t input) {
  if (c_.rope_dimensions == 0 || !c_.rotated[layer_]) return input;
  return add({.op = Op::Rope,
              .name = step_name(fmt::format("attn.{}_rope", which)),
              .inputs = {input},
              .width = plan_.steps[input].width,
              .head_dim = c_.head_dim,
              .rope = rope()});
}

size_t PlanBuilder::attention(size_t input) {
  const size_t q_rows = c_.heads * c_.head_dim;
  const size_t kv_rows = c_.kv_heads * c_.head_dim;
  size_t q = project_heads({"q", 0, q_rows}, input);
  size_t k = project_heads({"k", q_rows, kv_rows}, input);
  const size_t v = project_heads({"v", q_rows + kv_rows, kv_rows}, input);
  q = norm_heads("q", q);
  k = norm_heads("k", k);
  q = rotate("q", q);
  k = rotate("k", k);
  return project("attn.out", "attn_output", attend(q, k, v));
}

size_t PlanBuilder::attend(size_t q, size_t k, size_t v) {
  const Attention attention{.heads = c_.heads,
                            .kv_heads = c_.kv_heads,
                            .head_dim = c_.head_dim,
                            .scale = c_.scale_by_layer
                                         ? c_.attention_scale / static_cast<double>(layer_ + 1)
                                         : c_.attention_scale,
                            .window = c_.window_of(layer_),
                            .softcap = c_.attention_softcap,
                            .alibi_max_bias = c_.alibi_max_bias,
                            .temperature_beta = c_.temperature_beta,
                            .temperature_length = c_.temperature_length};
  const size_t scores = add({.op = Op::Scores,
                             .name = step_name("attn.scores"),
                             .inputs = {q, k},
                             .attention = attention});
  const size_t weights = add({.op = Op::Softmax,
                              .name = step_name("attn.weights"),
                              .inputs = {scores},
                              .attention = attention});
  return add({.op = Op::Mix,
              .name = step_name("attn.mix"),
              .inputs = {weights, v},
              .width = c_.heads * c_.head_dim,
              .attention = attention});
}

size_t PlanBuilder::activate(const std::string& step, size_t input) {
  const Op op = c_.activation == Activation::Silu       ? Op::Silu
                : c_.activation == Activation::GeluTanh ? Op::GeluTanh
                                                        : Op::GeluErf;
  return add(
      {.op = op, .name = step_name(step), .inputs = {input}, .width = plan_.steps[input].width});
}

size_t PlanBuilder::gated(const std::string& prefix, size_t gate, size_t up) {
  const size_t act = activate(prefix + "act", gate);
  return add({.op = Op::Multiply,
              .name = step_name(prefix + "glu"),
              .inputs = {act, up},
              .width = plan_.steps[act].width});
}

size_t PlanBuilder::feed_forward(size_t input) {
  return c_.expert_layer[layer_] ? experts(input) : dense(input);
}

size_t PlanBuilder::dense(size_t input) {
  const auto up = weight("ffn_up.weight");
  if (up->rows == 2 * c_.ffn) {  // gate and up in one matrix, gate first
    const auto bias = weight("ffn_up.bias");
    const size_t gate =
        product("ffn.gate", rows_of(up, 0, c_.ffn), rows_of(bias, 0, c_.ffn), input);
    const size_t wide =
        product("ffn.up", rows_of(up, c_.ffn, c_.ffn), rows_of(bias, c_.ffn, c_.ffn), input);
    return project("ffn.out", "ffn_down", gated("ffn.", gate, wide));
  }
  if (!weight("ffn_gate.weight"))
    return project("ffn.out", "ffn_down", activate("ffn.act", project("ffn.up", "ffn_up", input)));
  const size_t gate = project("ffn.gate", "ffn_gate", input);
  return project("ffn.out", "ffn_down", gated("ffn.", gate, project("ffn.up", "ffn_up", input)));
}

size_t PlanBuilder::expert_product(const std::string& step, const std::string& tensor, size_t input,
                                   size_t chosen) {
  const auto matrices = weight(tensor + ".weight");
  return add({.op = Op::ExpertMatMul,
              .name = step_name(step),
              .inputs = {input, chosen},
              .width = c_.experts_used * matrices->rows,
              .weight = matrices,
              .experts = {c_.experts, c_.experts_used, c_.normalize_experts}});
}

size_t PlanBuilder::experts(size_t input) {
  const Experts experts{c_.experts, c_.experts_used, c_.normalize_experts};
  const size_t router = project("ffn.router", "ffn_gate_inp", input);
  const size_t chosen = add({.op = Op::TopExperts,
                             .name = step_name("ffn.experts"),
                             .inputs = {router},
                             .width = c_.experts_used,
                             .experts = experts});
  const size_t weights = add({.op = Op::ExpertWeights,
                              .name = step_name("ffn.expert_weights"),
                              .inputs = {router, chosen},
                              .width = c_.experts_used,
                              .experts = experts});
  const size_t gate = expert_product("ffn.gate", "ffn_gate_exps", input, chosen);
  const size_t up = expert_product("ffn.up", "ffn_up_exps", input, chosen);
  const size_t down = expert_product("ffn.down", "ffn_down_exps", gated("ffn.", gate, up), chosen);
  const bool shared = weight("ffn_up_shexp.weight") != nullptr;
  const size_t sum = add({.op = Op::ExpertSum,
                          .name = step_name(shared ? "ffn.routed" : "ffn.out"),
                          .inputs = {down, weights},
                          .width = c_.width,
                          .experts = experts});
  if (!shared) return sum;
  return add({.op = Op::Add,
              .name = step_name("ffn.out"),
              .inputs = {sum, shared_expert(input)},
              .width = c_.width});
}

// An expert that every token goes through, weighted by a gate of its own where there is one.
size_t PlanBuilder::shared_expert(size_t input) {
  const size_t gate = project("ffn.shared_gate", "ffn_gate_shexp", input);
  const size_t up = project("ffn.shared_up", "ffn_up_shexp", input);
  const size_t out = project("ffn.shared_out", "ffn_down_shexp", gated("ffn.shared_", gate, up));
  if (!weight("ffn_gate_inp_shexp.weight")) return out;
  const size_t router = project("ffn.shared_router", "ffn_gate_inp_shexp", input);
  const size_t share = add(
      {.op = Op::Sigmoid, .name = step_name("ffn.shared_weight"), .inputs = {router}, .width = 1});
  return add({.op = Op::MultiplyRow,
              .name = step_name("ffn.shared"),
              .inputs = {out, share},
              .width = c_.width});
}

size_t PlanBuilder::residual(const std::string& step, size_t stream, const std::string& part,
                             size_t output) {
  if (c_.residual_scale != 1) output = scale(part + "_scaled", c_.residual_scale, output);
  return add(
      {.op = Op::Add, .name = step_name(step), .inputs = {stream, output}, .width = c_.width});
}

Plan make_plan(const Model& model, size_t tokens) { return PlanBuilder(model, tokens).build(); }

}  // namespace plumb
