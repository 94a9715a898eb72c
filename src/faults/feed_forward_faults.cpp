// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "faults/build.h"

namespace plumb::faults {
namespace {

bool is_activation(Op op) {
  return op == Op::Silu || op == Op::GeluTanh || op == Op::GeluErf || op == Op::Sigmoid;
}

const char* activation_name(Op op) {
  switch (op) {
    case Op::Silu: return "SiLU";
    case Op::GeluTanh: return "GELU (tanh)";
    case Op::GeluErf: return "GELU (erf)";
    case Op::Relu: return "ReLU";
    case Op::QuickGelu: return "quick GELU (x · sigmoid(1.702 x))";
    default: return "sigmoid";
  }
}

// Another function than the one that the model names; the two GELUs are told apart.
Variants activation_function(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_activation(right.op)) return {};
  Variants all;
  for (const Op op : {Op::Silu, Op::GeluTanh, Op::GeluErf, Op::Relu, Op::QuickGelu, Op::Sigmoid}) {
    if (op == right.op) continue;
    Step step = right;
    step.op = op;
    all.push_back(variant(step, activation_name(right.op), activation_name(op),
                          fmt::format("the activation is {}; the model asks for {}",
                                      activation_name(op), activation_name(right.op))));
  }
  return all;
}

Variants activation_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_activation(right.op)) return {};
  return {variant(passed_on(right, 0), activation_name(right.op), "none",
                  "the values pass without the activation")};
}

// The activation of the other projection.
Variants activation_source(const FaultContext& c) {
  if (!is_activation(step_of(c).op)) return {};
  return read_elsewhere(c, 0, [](const Step& step) {
    return step.op == Op::MatMul || step.op == Op::ExpertMatMul || step.op == Op::Bias;
  });
}

// gate · up without the activation, or its square.
Variants glu_source(const FaultContext& c) {
  if (step_of(c).op != Op::Multiply) return {};
  Variants all;
  for (const size_t input : {size_t{0}, size_t{1}})
    for (auto& one : read_elsewhere(c, input, [](const Step&) { return true; }))
      all.push_back(std::move(one));
  return all;
}

Variants glu_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Multiply) return {};
  Variants all;
  for (const size_t kept : {size_t{0}, size_t{1}})
    all.push_back(variant(
        passed_on(right, kept), "the product", c.plan.steps[right.inputs[kept]].name,
        fmt::format("{} passes without the product with {}", c.plan.steps[right.inputs[kept]].name,
                    c.plan.steps[right.inputs[1 - kept]].name)));
  return all;
}

Variants experts_normalize(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::ExpertWeights) return {};
  const bool right = step.experts.normalize;
  step.experts.normalize = !right;
  return {variant(
      step, right ? "sum 1" : "as they are", right ? "as they are" : "sum 1",
      right ? "the weights of the chosen experts are not brought to the sum 1"
            : "the weights of the chosen experts are brought to the sum 1; the model leaves them")};
}

Variants experts_used(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::ExpertWeights) return {};
  Variants all;
  for (const size_t used : whole_candidates(c, {right.experts.used - 1, 1}, 1)) {
    if (used >= right.experts.used) continue;
    Step step = right;
    step.experts.dropped = right.experts.used - used;
    all.push_back(variant(
        step, number(right.experts.used), number(used),
        fmt::format("only {} of the {} chosen experts have a weight", used, right.experts.used)));
  }
  return all;
}

Variants experts_number(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::TopExperts) return {};
  Variants all;
  for (const size_t shift : {size_t{1}, right.experts.count - 1}) {
    Step step = right;
    step.experts.shift = shift;
    all.push_back(variant(step, "e", shift == 1 ? "e + 1" : "e - 1",
                          "the numbers of the experts are off by one"));
  }
  return all;
}

Variants experts_order(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t used = right.experts.used;
  if (right.op != Op::ExpertWeights || used < 2) return {};
  Step step = right;
  step.quirk = std::make_shared<const Quirk>(
      Quirk{.channel = [used](size_t slot) { return std::optional(used - 1 - slot); }});
  return {variant(step, "the largest first", "the smallest first",
                  "the weights of the experts are given to the others of the chosen ones")};
}

Variants experts_uniform(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::ExpertWeights) return {};
  step.experts.uniform = true;
  return {variant(step, "by the router", "all the same",
                  "every chosen expert has the same weight: the router's are not used")};
}

Variants experts_sigmoid(const FaultContext& c) {
  Step step = step_of(c);
  if (step.op != Op::ExpertWeights) return {};
  step.experts.sigmoid = true;
  return {variant(step, "softmax", "sigmoid",
                  "the weights of the experts are made by a sigmoid, not a softmax")};
}

}  // namespace

std::vector<Fault> feed_forward_faults() {
  const char* activations = "ffn.act ffn.shared_act ffn.shared_weight";
  const char* products = "ffn.glu ffn.shared_glu";
  return {
      {"activation.function", "another activation function, or the other GELU", activations,
       activation_function},
      {"activation.missing", "no activation", activations, activation_missing},
      {"activation.source", "the activation of the other projection", "ffn.act ffn.shared_act",
       activation_source},
      {"glu.source", "the product of other factors", products, glu_source},
      {"glu.missing", "one factor passes without the product", products, glu_missing},
      {"experts.normalize", "weights of experts normalized or not", "ffn.expert_weights",
       experts_normalize},
      {"experts.used", "fewer experts have a weight (parameter: how many)", "ffn.expert_weights",
       experts_used},
      {"experts.order", "weights of experts in the reverse order", "ffn.expert_weights",
       experts_order},
      {"experts.uniform", "all experts have the same weight", "ffn.expert_weights",
       experts_uniform},
      {"experts.sigmoid", "weights of experts by a sigmoid", "ffn.expert_weights", experts_sigmoid},
      {"experts.number", "numbers of experts off by one", "ffn.experts", experts_number},
  };
}

}  // namespace plumb::faults
