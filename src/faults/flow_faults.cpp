// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "faults/build.h"

namespace plumb::faults {
namespace {

Variants positions_missing(const FaultContext& c) {
  if (step_of(c).op != Op::Positions) return {};
  return {
      variant(passed_on(step_of(c), 0), step_of(c).weight->name, "none",
              fmt::format("the row of the position in {} is not added", step_of(c).weight->name))};
}

Variants residual_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Add) return {};
  Variants all;
  for (const size_t kept : {size_t{1}, size_t{0}}) {
    const auto& other = c.plan.steps[right.inputs[1 - kept]].name;
    all.push_back(variant(passed_on(right, kept), "the sum", c.plan.steps[right.inputs[kept]].name,
                          fmt::format("{} is not added", other)));
  }
  return all;
}

Variants residual_twice(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Add) return {};
  Variants all;
  for (const size_t which : {size_t{1}, size_t{0}}) {
    Step step = right;  // the first variant adds the part in place of the stream: 2 f
    step.inputs[1 - which] = right.inputs[which];
    const auto& name = c.plan.steps[right.inputs[which]].name;
    all.push_back(variant(step, "the sum", "twice " + name,
                          fmt::format("{} is added to itself, not to {}", name,
                                      c.plan.steps[right.inputs[1 - which]].name)));
  }
  return all;
}

// One part of the sum times a factor: as it was read off the values, or half of what is added.
Variants residual_scaled(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Add || right.inputs.size() != 2) return {};
  auto shares = c.fitted_shares;
  if (shares.empty()) shares = {{1, candidates(c, 1, {0.5})}};
  Variants all;
  for (const auto& [input, factors] : shares)
    for (const double factor : factors) {
      Step step = right;
      step.inputs = {right.inputs[1 - input], right.inputs[input]};
      step.factor = factor;
      all.push_back(variant(step, "1", number(factor),
                            fmt::format("{} is multiplied by {} before it is added",
                                        c.plan.steps[right.inputs[input]].name, number(factor))));
    }
  return all;
}

// The normed values in place of the stream, or the stream of another place.
Variants residual_source(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Add) return {};
  Variants all;
  for (const size_t input : {size_t{0}, size_t{1}})
    for (auto& one : read_elsewhere(c, input, [](const Step&) { return true; }))
      all.push_back(std::move(one));
  return all;
}

// A projection of other values than it should be: not normed, or normed for another part.
Variants projection_source(const FaultContext& c) {
  if (step_of(c).op != Op::MatMul) return {};
  return read_elsewhere(c, 0, [](const Step&) { return true; });
}

// A scale that is left out, inverted or applied twice: of the embedding, the residual, the logits.
Variants scale_value(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::Scale) return {};
  Variants all;
  for (const double factor :
       candidates(c, right.factor, {1, 1 / right.factor, right.factor * right.factor})) {
    Step step = right;
    step.factor = factor;
    all.push_back(variant(step, number(right.factor), number(factor),
                          factor == 1
                              ? fmt::format("the scale {} is not applied", number(right.factor))
                              : fmt::format("the scale is {}; the model asks for {}",
                                            number(factor), number(right.factor))));
  }
  return all;
}

Variants embedding_row(const FaultContext& c) {
  if (step_of(c).op != Op::Embedding) return {};
  Variants all;
  for (const double shift : candidates(c, 0, {1, -1})) {
    Step step = step_of(c);
    step.token_shift = static_cast<int32_t>(shift);
    all.push_back(variant(step, "0", number(shift),
                          fmt::format("the row of token t {} {} is taken for token t",
                                      shift < 0 ? "-" : "+", number(std::fabs(shift)))));
  }
  return all;
}

Variants logits_row(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.name != "logits") return {};
  const size_t width = right.width;
  Variants all;
  for (const bool up : {true, false}) {
    Step step = right;
    step.quirk = std::make_shared<const Quirk>(Quirk{.channel = [=](size_t at) {
      return std::optional(up ? (at + width - 1) % width : (at + 1) % width);
    }});
    all.push_back(variant(
        step, "0", up ? "1" : "-1",
        fmt::format("the logits stand at the token {} their own", up ? "behind" : "before")));
  }
  return all;
}

}  // namespace

std::vector<Fault> flow_faults() {
  return {
      {"embedding.row", "the row of another token (parameter: how far)",
       "embedding embedding_lookup", embedding_row},
      {"positions.missing", "learned positions are not added", "embedding", positions_missing},
      {"scale.value", "a scale left out, inverted or applied twice (parameter: the scale)",
       "embedding attn.out_scaled ffn.out_scaled logits", scale_value},
      {"residual.missing", "one part of the sum is not added", "residuals", residual_missing},
      {"residual.twice", "one part of the sum is added to itself", "residuals", residual_twice},
      {"residual.scaled", "one part of the sum is multiplied (parameter: the factor)", "residuals",
       residual_scaled},
      {"residual.source", "another value is added", "residuals", residual_source},
      {"projection.source", "other values are projected: not normed, or of another norm",
       "projections", projection_source},
      {"logits.row", "logits stand at the token beside their own", "logits", logits_row},
  };
}

}  // namespace plumb::faults
