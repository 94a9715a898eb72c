// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "model/plan.h"

namespace plumb {

// Appends steps; each function gives the index of the value that it adds. The parts that layers are
// made of look at the tensors that there are: a bias, a norm of the heads or a gate is there or
// not.
class PlanBuilder {
 public:
  PlanBuilder(const Model& model, size_t tokens)
      : model_(model), c_(model.config), tokens_(tokens) {}

  Plan build();

  const Config& config() const { return c_; }
  size_t layer() const { return layer_; }
  // A tensor of the layer: "attn_norm.weight".
  WeightPtr weight(const std::string& tensor) const;

  // `step` and `tensor` lack the layer: norm("attn.norm", "attn_norm", x).
  size_t norm(const std::string& step, const std::string& tensor, size_t input);
  size_t project(const std::string& step, const std::string& tensor, size_t input);
  // From what the queries, keys and values are made of to the output projection.
  size_t attention(size_t input);
  // Gate, up and down, up and down alone, or experts.
  size_t feed_forward(size_t input);
  // stream + the scaled output of a part: "attn.residual".
  size_t residual(const std::string& step, size_t stream, const std::string& part, size_t output);

 private:
  struct Heads;

  size_t add(Step step);
  size_t scale(const std::string& step, double factor, size_t input);
  std::string step_name(const std::string& step) const;
  size_t embed();
  size_t head(size_t stream);
  size_t norm_of(const std::string& step, const WeightPtr& weight, const WeightPtr& bias,
                 size_t input, size_t group);
  size_t product(const std::string& step, const WeightPtr& weight, const WeightPtr& bias,
                 size_t input);
  size_t project_heads(const Heads& heads, size_t input);
  size_t norm_heads(const std::string& which, size_t input);
  size_t rotate(const std::string& which, size_t input);
  Rope rope() const;
  size_t attend(size_t q, size_t k, size_t v);
  size_t activate(const std::string& step, size_t input);
  size_t gated(const std::string& prefix, size_t gate, size_t up);
  size_t dense(size_t input);
  size_t experts(size_t input);
  size_t expert_product(const std::string& step, const std::string& tensor, size_t input,
                        size_t chosen);
  size_t shared_expert(size_t input);

  const Model& model_;
  const Config& c_;
  size_t tokens_, layer_ = 0;
  bool in_layer_ = false;
  Plan plan_;
};

}  // namespace plumb
