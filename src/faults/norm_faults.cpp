// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "faults/build.h"

namespace plumb::faults {
namespace {

Variants norm_epsilon(const FaultContext& c) {
  if (!is_norm(step_of(c).op)) return {};
  std::vector<double> usual = {1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 0, 1e-3, 1e-4};
  usual.insert(usual.end(), c.fitted_epsilons.begin(), c.fitted_epsilons.end());
  Variants all;
  for (const double epsilon : candidates(c, step_of(c).epsilon, usual)) {
    if (!(epsilon >= 0)) continue;
    Step step = step_of(c);
    step.epsilon = epsilon;
    all.push_back(variant(step, number(step_of(c).epsilon), number(epsilon),
                          fmt::format("epsilon is {}; the file says {}", number(epsilon),
                                      number(step_of(c).epsilon))));
  }
  return all;
}

Variants norm_gamma_skipped(const FaultContext& c) {
  if (!is_norm(step_of(c).op) || !step_of(c).weight) return {};
  Step step = step_of(c);
  step.use_gamma = false;
  return {variant(step, step.weight->name, "none",
                  fmt::format("the norm's weight {} is not applied", step.weight->name))};
}

// Mean and variance where the model has the root mean square alone, or the other way round.
Variants norm_kind(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op)) return {};
  const bool layer = right.op == Op::LayerNorm;
  Step step = right;
  step.op = layer ? Op::RmsNorm : Op::LayerNorm;
  Variants all = {
      variant(step, layer ? "layer norm" : "RMS norm", layer ? "RMS norm" : "layer norm",
              fmt::format("the mean is {} the values", layer ? "not taken from" : "taken from"))};
  if (!layer || !right.bias) return all;
  step.bias = nullptr;
  all.push_back(variant(step, "layer norm", "RMS norm without bias",
                        "the mean is not taken from the values, and the bias not added"));
  return all;
}

// Weights of Gemma are stored less 1 in checkpoints, whole in a GGUF.
Variants norm_offset(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op) || !right.weight) return {};
  Variants all;
  for (const double offset : candidates(c, 0, {1, -1})) {
    auto values = right.weight->values();
    for (auto& value : values) value += static_cast<float>(offset);
    Step step = right;
    step.weight = weight_of_floats(*right.weight, values);
    all.push_back(variant(step, "w", offset > 0 ? "1 + w" : "w - 1",
                          fmt::format("the norm multiplies by {}; the file's weight is {} as it is",
                                      offset > 0 ? "1 + w" : "w - 1", right.weight->name)));
  }
  return all;
}

// A weight of one head for `count` values: each head has the same. One that is as long already
// stays.
WeightPtr for_each_head(const WeightPtr& weight, size_t count) {
  if (!weight || weight->count() >= count) return weight;
  const auto head_values = weight->values();
  std::vector<float> values;
  while (values.size() < count) values.insert(values.end(), head_values.begin(), head_values.end());
  auto whole = weight_of_floats(*weight, values);
  whole->columns = values.size();
  return whole;
}

// All values of a row in place of each head, or each head in place of the row.
Variants norm_group_size(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op) || !right.weight) return {};
  const size_t head = c.model.config.head_dim;
  const size_t have = norm_group(right);
  const size_t other = have == right.width ? head : right.width;
  if (other == have || other == 0 || right.width % other != 0) return {};
  if (right.weight->count() != have && right.weight->count() != right.width) return {};
  Step step = right;
  step.group = other;
  step.weight = for_each_head(right.weight, other);
  step.bias = for_each_head(right.bias, other);
  return {variant(step, number(static_cast<double>(have)), number(static_cast<double>(other)),
                  fmt::format("it norms {} values together; the model {}", other, have))};
}

Variants norm_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op)) return {};
  return {
      variant(passed_on(right, 0), "normed", "not normed", "the values are those before the norm")};
}

Variants norm_epsilon_outside(const FaultContext& c) {
  if (!is_norm(step_of(c).op)) return {};
  Step step = step_of(c);
  step.epsilon_outside = true;
  return {variant(step, "sqrt(m + e)", "sqrt(m) + e",
                  "epsilon is added to the root; the model adds it under the root")};
}

// x / sqrt(S/m + e) for another m in place of n is sqrt(m/n) · x / sqrt(S/n + e·m/n).
FaultVariant divided_by(const Step& right, double m, const std::string& found,
                        const std::string& text) {
  const double share = m / static_cast<double>(norm_group(right));
  const auto make = [right, share] {
    Step step = right;
    step.epsilon *= share;
    auto values = right.weight->values();
    for (auto& value : values) value = static_cast<float>(value * std::sqrt(share));
    step.weight = weight_of_floats(*right.weight, values);
    return step;
  };
  return variant(make, "n", found, text);
}

Variants norm_mean(const FaultContext& c) {
  const Step& right = step_of(c);
  const size_t n = norm_group(right);
  if (!is_norm(right.op) || !right.weight || n < 2) return {};
  return {divided_by(right, static_cast<double>(n - 1), "n - 1",
                     "the sum of squares is divided by n - 1 (an unbiased variance), not by n"),
          divided_by(right, 1, "1", "the sum of squares is not divided by n")};
}

Variants norm_gamma_twice(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op) || !right.weight) return {};
  const auto make = [right] {
    Step step = right;
    auto values = right.weight->values();
    for (auto& value : values) value *= value;
    step.weight = weight_of_floats(*right.weight, values);
    return step;
  };
  return {variant(make, "once", "twice",
                  fmt::format("the norm's weight {} is applied twice", right.weight->name))};
}

// Another stream: the layer's input in place of that behind the attention, or the reverse.
Variants norm_source(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_norm(right.op)) return {};
  return read_elsewhere(c, 0, [](const Step&) { return true; });
}

}  // namespace

std::vector<Fault> norm_faults() {
  return {
      {"norm.epsilon", "another epsilon (parameter: its value)", "norms", norm_epsilon},
      {"norm.epsilon_outside", "epsilon added to the root, not under it", "norms",
       norm_epsilon_outside},
      {"norm.gamma_skipped", "the norm's weight is not applied", "norms", norm_gamma_skipped},
      {"norm.gamma_twice", "the norm's weight is applied twice", "norms", norm_gamma_twice},
      {"norm.kind", "layer norm for RMS norm or the other way", "norms", norm_kind},
      {"norm.offset", "1 + w for w, or w - 1 (parameter: the offset)", "norms", norm_offset},
      {"norm.group", "the row is normed for each head or the other way", "norms of whole heads",
       norm_group_size},
      {"norm.mean", "squares summed and divided by n - 1, or not divided", "norms", norm_mean},
      {"norm.missing", "the values pass without the norm", "norms", norm_missing},
      {"norm.source", "another stream is normed", "norms", norm_source},
  };
}

}  // namespace plumb::faults
