// SPDX-License-Identifier: Apache-2.0
#include "replay/hypotheses.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "quant/dequantize.h"
#include "replay/clues.h"
#include "replay/fits.h"

namespace plumb {
namespace {

// The factor that brings the referee's values closest to the recorded ones.
double best_ratio(const ReplayedStep& wrong) {
  double cross = 0;
  double own = 0;
  for (size_t i = 0; i < wrong.recorded.size(); ++i) {
    if (!std::isfinite(wrong.recorded[i]) || !std::isfinite(wrong.referee[i])) continue;
    cross += wrong.recorded[i] * wrong.referee[i];
    own += wrong.referee[i] * wrong.referee[i];
  }
  return own > 0 ? cross / own : NAN;
}

double largest_of(const std::vector<double>& values) {
  double largest = 0;
  for (const double x : values)
    if (std::isfinite(x)) largest = std::max(largest, std::fabs(x));
  return largest;
}

struct Search {
  const Replayer& replayer;
  const ReplayedStep& wrong;
  const std::set<std::string>& without;
  StepCheck way;  // the wrong step under the arithmetic that is tried
  Explanation best = {};
  std::optional<int32_t> first_wrong = {};  // under that arithmetic

  // True if the variant reproduces what was recorded.
  bool try_variant(size_t replaced, const FaultVariant& variant, const std::string& name) {
    const auto& check = way;
    const Step step = variant.step();
    // Most guesses fail at the first wrong position already; only one that does not is tried on
    // all.
    if (check.positions.size() > 2) {
      const auto look = replayer.check_as(check, replaced, step, {check.worst_position});
      if (look.check.times_bound > 1) return false;
    }
    const auto replay = replayer.check_as(check, replaced, step, {});
    // Values that are not finite on both sides prove nothing; some finite ones must be reproduced.
    if (replay.check.times_bound > 1 || replay.check.non_finite >= replay.check.values)
      return false;
    best.reason = name;
    best.at = replayer.plan().steps[replaced].name;
    best.parameters = variant.parameters;
    best.text = variant.text;
    best.reproduced_to = replay.check.local;
    best.variant = std::pair(replaced, step);
    return true;
  }

  bool try_catalogue(size_t replaced) {
    FaultContext context{.model = replayer.model(),
                         .plan = replayer.plan(),
                         .step = replaced,
                         .prompt = replayer.prompt()};
    context.first_position = first_wrong;
    if (replaced == wrong.check.step) {
      context.largest = largest_of(wrong.recorded);
      context.zero_channels = fit_zero_channels(wrong);
    }
    if (try_each(replaced, context)) return true;
    // What is read off the values comes last: it fits the values of other faults too, as a base
    // fits those of frequencies that were made from another width.
    const auto& step = replayer.plan().steps[replaced];
    if (replaced == wrong.check.step && (is_norm(step.op) || step.op == Op::Rope)) {
      context.fitted_epsilons = fit_epsilons(replayer, wrong, step);
      context.fitted_rope = fit_rope(replayer, wrong);
      if (try_each(replaced, context)) return true;
    }
    // A bias may stand between the product and what was recorded.
    if (step.op == Op::MatMul && try_parts(replaced, context)) return true;
    if (replaced == wrong.check.step) context.fitted_shares = fit_shares(replayer, wrong);
    if (!context.fitted_shares.empty() &&
        try_fault(fault_named("residual.scaled"), replaced, context))
      return true;
    return try_order(replaced, context) || try_pairs(replaced, context);
  }

  // Right values at other channels; those of a product before a bias is added to them.
  bool try_order(size_t replaced, FaultContext context) {
    const size_t recorded = wrong.check.step;
    const Step& step = replayer.plan().steps[recorded];
    const bool before_bias =
        replaced != recorded && step.op == Op::Bias && step.inputs[0] == replaced;
    if (replaced != recorded && !before_bias) return false;
    const size_t head_dim = replayer.model().config.head_dim;
    context.fitted_order = fit_order(before_bias ? without_bias(step) : wrong, head_dim);
    if (!context.fitted_order) return false;
    return try_fault(fault_named("weights.heads"), replaced, context) ||
           try_fault(fault_named("value.order"), replaced, context);
  }

  ReplayedStep without_bias(const Step& step) const {
    auto values = wrong;
    const auto bias = step.weight->values();
    for (auto* of : {&values.recorded, &values.referee})
      for (size_t at = 0; at < of->size(); ++at)
        (*of)[at] -= static_cast<double>(bias[at % wrong.width]);
    return values;
  }

  // Rows of a product that were not computed, or one element of its matrix.
  bool try_parts(size_t replaced, FaultContext& context) {
    const size_t recorded = wrong.check.step;
    const auto as_tried = replayer.check_as(way, recorded, replayer.plan().steps[recorded], {});
    if (replaced != recorded) {
      context.zero_channels = fit_constant_channels(as_tried);
      if (context.zero_channels && try_each(replaced, context)) return true;
    }
    context.fitted_element = fit_element(replayer, as_tried, replayer.plan().steps[replaced]);
    return context.fitted_element && try_each(replaced, context);
  }

  bool try_each(size_t replaced, const FaultContext& context) {
    return std::ranges::any_of(
        fault_catalogue(), [&](const Fault& fault) { return try_fault(fault, replaced, context); });
  }

  bool try_fault(const Fault& fault, size_t replaced, const FaultContext& context) {
    if (without.contains(fault.name)) return false;
    for (const auto& variant : fault.variants(context))
      if (try_variant(replaced, variant, fault.name)) return true;
    return false;
  }

  // Two faults of one step, the second on top of the first. Of a rotation any two: a port that
  // pairs the wrong way often leaves the scaling out too. Of a norm any one with an epsilon.
  bool try_pairs(size_t replaced, const FaultContext& context) {
    const Op op = replayer.plan().steps[replaced].op;
    const std::string kind = op == Op::Rope ? "rope." : is_norm(op) ? "norm." : "none";
    for (const auto& first : fault_catalogue()) {
      if (!first.name.starts_with(kind) || without.contains(first.name)) continue;
      for (const auto& one : first.variants(context))
        if (try_seconds(replaced, context, first, one)) return true;
    }
    return false;
  }

  bool is_second(const Fault& first, const Fault& second) const {
    if (without.contains(second.name)) return false;
    // norm.mean is made with an epsilon that is not the file's: nothing can be said of another.
    if (first.name.starts_with("norm."))
      return second.name == "norm.epsilon" && first.name != second.name &&
             first.name != "norm.mean";
    return second.name.starts_with("rope.") && second.name > first.name;
  }

  bool try_seconds(size_t replaced, const FaultContext& context, const Fault& first,
                   const FaultVariant& one) {
    Plan plan = replayer.plan();
    plan.steps[replaced] = one.step();
    const Step& step = plan.steps[replaced];
    FaultContext changed = {.model = context.model,
                            .plan = plan,
                            .step = replaced,
                            .first_position = context.first_position,
                            .prompt = context.prompt};
    if (is_norm(step.op) && replaced == wrong.check.step)
      changed.fitted_epsilons =
          fit_epsilons(replayer, replayer.check_as(way, replaced, step, {}), step);
    for (const auto& second : fault_catalogue()) {
      if (!is_second(first, second)) continue;
      for (const auto& two : second.variants(changed)) {
        FaultVariant both{two.step, one.parameters, one.text + ", and " + two.text};
        for (const auto& [key, value] : two.parameters) both.parameters["second_" + key] = value;
        both.parameters["second"] = second.name;
        if (try_variant(replaced, both, first.name)) return true;
      }
    }
    return false;
  }

  // The scale of scores that were not recorded, found by what it does to the mix: a scan, then a
  // narrowing search.
  bool try_scale(size_t scores) {
    const auto& step = replayer.plan().steps[scores];
    const auto distance = [&](double log_scale) {
      Step variant = step;
      variant.attention.scale = std::exp(log_scale);
      const double local =
          replayer.check_as(way, scores, variant, {way.worst_position}).check.local;
      return std::isfinite(local) ? local : INFINITY;
    };
    const double right = std::log(step.attention.scale);
    double best_at = right;
    double best_distance = INFINITY;
    for (double offset = -3.0; offset <= 3.0; offset += 0.1)
      if (const double d = distance(right + offset); d < best_distance) {
        best_distance = d;
        best_at = right + offset;
      }
    double low = best_at - 0.1;
    double high = best_at + 0.1;
    for (int i = 0; i < 60; ++i) {
      const double third = (high - low) / 3;
      if (distance(low + third) < distance(high - third)) high -= third;
      else low += third;
    }
    FaultContext context{.model = replayer.model(),
                         .plan = replayer.plan(),
                         .step = scores,
                         .parameter = std::exp((low + high) / 2)};
    if (without.contains("attention.scale")) return false;
    const auto& fault = fault_named("attention.scale");
    for (const auto& variant : fault.variants(context))
      if (try_variant(scores, variant, fault.name)) return true;
    return false;
  }

  bool try_ratio() {
    const double ratio = best_ratio(wrong);
    if (!std::isfinite(ratio) || std::fabs(ratio - 1) < 1e-7) return false;
    if (without.contains("value.scaled")) return false;
    Step step = replayer.plan().steps[wrong.check.step];
    step.gain = ratio;
    const FaultVariant variant{[step] { return step; },
                               {{"expected", "1"}, {"found", fmt::format("{:.7g}", ratio)}},
                               fmt::format("every value is {:.7g} times the right one", ratio)};
    return try_variant(wrong.check.step, variant,
                       step.op == Op::Scores ? "attention.scale" : "value.scaled");
  }
};

// The largest half is 65504; a partial sum above it becomes infinite, in some order at least, only
// where the terms together are that large.
constexpr double kLargestHalf = 65504;

struct Overflows {
  std::set<int32_t> positions;
  std::set<size_t> channels;
  bool possible = true;
};

Overflows find_overflows(const Replayer& replayer, const ReplayedStep& wrong, const Step& step) {
  Overflows found;
  const auto& input = *replayer.trace().find(replayer.plan().steps[step.inputs[0]].name);
  std::vector<double> x(input.width());
  std::vector<float> row(step.weight->columns);
  for (size_t at = 0; at < wrong.recorded.size(); ++at) {
    if (std::isfinite(wrong.recorded[at])) continue;
    const int32_t position = wrong.check.positions[at / wrong.width];
    const auto from = std::ranges::lower_bound(input.positions, position) - input.positions.begin();
    read_row(input, static_cast<size_t>(from), x);
    dequantize(step.weight->dtype, step.weight->row(at % wrong.width), row.size(), row.data());
    double size = 0;
    for (size_t i = 0; i < row.size(); ++i) size += std::fabs(static_cast<double>(row[i]) * x[i]);
    found.possible = found.possible && size > kLargestHalf;
    found.positions.insert(position);
    found.channels.insert(at % wrong.width);
  }
  return found;
}

template <class T>
std::string listed(const std::set<T>& numbers) {
  std::string text;
  size_t shown = 0;
  for (const T number : numbers) {
    if (shown++ == 8) return text + ", …";
    text += fmt::format("{}{}", text.empty() ? "" : ", ", number);
  }
  return text;
}

// Rounding happens in every channel: one in four at least shows a value outside of the bound.
bool in_many_channels(const ReplayedStep& wrong) {
  std::set<size_t> channels;
  for (size_t at = 0; at < wrong.outside.size(); ++at)
    if (wrong.outside[at]) channels.insert(at % wrong.width);
  return 4 * channels.size() >= wrong.width;
}

// Rounding errors neither follow the values, as a factor does, nor are they the same at every
// position, as a bias is, nor alike in neighbouring channels. The share of their square that the
// best factor, the mean over the positions, or the error of the channel before accounts for.
bool look_random(const ReplayedStep& wrong) {
  constexpr double kMostOfIt = 0.5;
  const size_t rows = wrong.check.positions.size();
  double all = 0;
  double cross = 0;
  double own = 0;
  double constant = 0;
  double alike = 0;
  std::vector<double> before(rows);
  for (size_t i = 0; i < wrong.width; ++i) {
    double sum = 0;
    for (size_t r = 0; r < rows; ++r) {
      const double right = wrong.referee[r * wrong.width + i];
      const double error = wrong.recorded[r * wrong.width + i] - right;
      if (!std::isfinite(error)) continue;
      all += error * error;
      cross += error * right;
      own += right * right;
      sum += error;
      alike += error * before[r];
      before[r] = error;
    }
    constant += sum * sum / static_cast<double>(rows);
  }
  constexpr size_t kManyValues = 64;  // of fewer, errors may look alike by chance
  if (wrong.width * rows >= kManyValues && std::fabs(alike) > kMostOfIt * all) return false;
  const bool follows = own > 0 && cross * cross / own > kMostOfIt * all;
  return !follows && (rows < 4 || constant <= kMostOfIt * all);
}

// A product that is summed up in half precision: within the bound of that, but for sums that passed
// the largest half.
std::optional<Explanation> short_accumulator(const Replayer& replayer, const ReplayedStep& wrong) {
  const auto& step = replayer.plan().steps[wrong.check.step];
  if (step.op != Op::MatMul || wrong.check.segment.size() != 1) return {};
  StepCheck way = wrong.check;
  way.arithmetic.accumulate = "f16";
  way.activations_by = "exact";
  const auto replay = replayer.check_as(way, wrong.check.step, step, {});
  if (replay.check.wrong_values > replay.check.non_finite || !in_many_channels(wrong) ||
      !look_random(wrong))
    return {};
  const auto overflows = find_overflows(replayer, wrong, step);
  if (!overflows.possible) return {};
  // Errors of halves come near their bound (six deviations); much smaller ones have another cause.
  constexpr double kOfTheBound = 0.1;
  if (overflows.positions.empty() && !(replay.check.times_bound > kOfTheBound)) return {};
  Explanation out;
  out.reason = "arithmetic.f16_accumulate";
  out.at = wrong.check.name;
  out.parameters = {{"expected", wrong.check.arithmetic.accumulate}, {"found", "f16"}};
  out.text = "the sums are kept in half precision (f16 accumulation)";
  double local = 0;
  for (size_t r = 0; r < replay.check.positions.size(); ++r)
    if (std::isfinite(replay.check.local_by_position[r]))
      local = std::max(local, replay.check.local_by_position[r]);
  out.reproduced_to = local;
  if (overflows.positions.empty()) return out;
  out.parameters["channels"] = listed(overflows.channels);
  out.parameters["positions"] = listed(overflows.positions);
  out.text += fmt::format("; they overflow 65504 in channel {} at position {}",
                          listed(overflows.channels), listed(overflows.positions));
  return out;
}

// A trace that declares what the run did not do: plain float gives its values.
std::optional<Explanation> declared_otherwise(const Replayer& replayer, const ReplayedStep& wrong) {
  const auto& said = wrong.check.arithmetic;
  if (!wrong.check.declared || said == Arithmetic{}) return {};
  StepCheck plain = wrong.check;
  plain.arithmetic = {};
  plain.activations_by = "exact";
  const size_t step = wrong.check.step;
  const auto replay = replayer.check_as(plain, step, replayer.plan().steps[step], {});
  if (replay.check.wrong()) return {};
  const auto words = fmt::format("weights {}, activations {}, accumulate {}, output {}",
                                 said.weights, said.activations, said.accumulate, said.output);
  return Explanation{
      .reason = "arithmetic.declared",
      .at = wrong.check.name,
      .parameters = {{"expected", words}, {"found", "f32"}},
      .text = fmt::format("the trace declares {}; its values are those of plain f32, "
                          "with the weights as the file has them",
                          words),
      .reproduced_to = replay.check.local,
      .clues = {},
      .variant = {}};
}

// Nothing was computed, or nothing was written down.
bool is_all_zero(const ReplayedStep& wrong) {
  return std::ranges::all_of(wrong.recorded, [](double x) { return x == 0; });
}

// The first wrong position if it is judged by `way`: what a short type rounds is wrong from the
// start for a stricter one, while a window shows where it ends.
std::optional<int32_t> first_wrong_of(const Replayer& replayer, const ReplayedStep& wrong,
                                      const StepCheck& way) {
  const auto& step = replayer.plan().steps[wrong.check.step];
  auto positions = wrong.check.wrong_positions;
  const bool attention = step.op == Op::Scores || step.op == Op::Softmax || step.op == Op::Mix ||
                         wrong.check.segment.size() > 1;
  if (attention && !(way.arithmetic == wrong.check.arithmetic))
    positions = replayer.check_as(way, wrong.check.step, step, {}).check.wrong_positions;
  return positions.empty() ? std::nullopt : std::optional(positions.front());
}

// Everything that is known to go wrong, for each step of the segment; then a constant factor, then
// a scale that has to be searched.
bool search_all(Search& search) {
  const auto& plan = search.replayer.plan();
  const auto& check = search.wrong.check;
  for (const auto& name : check.segment)
    if (search.try_catalogue(*plan.find(name))) return true;
  if (search.try_ratio()) return true;
  for (const auto& name : check.segment) {
    const size_t at = *plan.find(name);
    if (plan.steps[at].op == Op::Scores && at != check.step && search.try_scale(at)) return true;
  }
  return false;
}

// What the values show by themselves, without a replay.
std::optional<Explanation> seen_in_values(const ReplayedStep& wrong,
                                          const std::set<std::string>& without) {
  const auto& check = wrong.check;
  if (is_all_zero(wrong) && !without.contains("value.zero"))
    return Explanation{.reason = "value.zero",
                       .at = check.name,
                       .parameters = {{"found", "0"}},
                       .text = "every value is 0: the step was not computed",
                       .reproduced_to = 0.0,
                       .clues = {},
                       .variant = {}};
  return {};
}

// One wrong value stands for itself where its row and the other positions are right, and no limit
// explains it: a value that was cut off is the largest of what was recorded.
bool is_single_value(const ReplayedStep& wrong) {
  const auto& check = wrong.check;
  if (check.wrong_values != 1 || check.non_finite > 0) return false;
  if (wrong.width < 2 || check.positions.size() < 2) return false;
  const auto row = std::ranges::find(check.positions, check.worst_position);
  const size_t at =
      static_cast<size_t>(row - check.positions.begin()) * wrong.width + check.worst_channel;
  const double recorded = wrong.recorded[at];
  const double right = wrong.referee[at];
  return std::fabs(recorded) < largest_of(wrong.recorded) || recorded * right < 0 ||
         std::fabs(right) < std::fabs(recorded);
}

// One value, or those that are no numbers, among values that are all right.
std::optional<Explanation> few_values(const ReplayedStep& wrong,
                                      const std::set<std::string>& without) {
  const auto& check = wrong.check;
  const int32_t first =
      check.wrong_positions.empty() ? check.worst_position : check.wrong_positions.front();
  if (check.non_finite > 0 && check.wrong_values == check.non_finite &&
      !without.contains("value.not_finite"))
    return Explanation{
        .reason = "value.not_finite",
        .at = check.name,
        .parameters = {{"expected", "numbers"}, {"found", "NaN or infinite"}},
        .text = fmt::format("{} of {} values are not numbers, first at position {}; all others are "
                            "right",
                            check.non_finite, check.values, first),
        .reproduced_to = {},
        .clues = {},
        .variant = {}};
  if (is_single_value(wrong) && !without.contains("value.element"))
    return Explanation{.reason = "value.element",
                       .at = check.name,
                       .parameters = {},
                       .text = fmt::format(
                           "one value is wrong: channel {} at position {}; all {} others are right",
                           check.worst_channel, check.worst_position, check.values - 1),
                       .reproduced_to = {},
                       .clues = {},
                       .variant = {}};
  return {};
}

}  // namespace

Explanation explain(const Replayer& replayer, const ReplayedStep& wrong,
                    const std::set<std::string>& without) {
  const auto& check = wrong.check;
  Search search{replayer, wrong, without, check};
  auto found = seen_in_values(wrong, without);
  for (const auto& way : replayer.ways_to_judge(check)) {
    if (found || way.activations_by == "deviation") continue;  // too wide to prove anything
    search.way = way;
    search.first_wrong = first_wrong_of(replayer, wrong, way);
    if (search_all(search)) found = search.best;
  }
  if (!found) found = declared_otherwise(replayer, wrong);
  if (!found && check.wrong_values > 1) found = short_accumulator(replayer, wrong);
  if (!found) found = few_values(wrong, without);
  if (!found)
    found = Explanation{
        .at = check.name,
        .parameters = {},
        .text = fmt::format(
            "wrong, unexplained: {} of {} values lie outside their bound, first at position {}",
            check.wrong_values, check.values,
            check.wrong_positions.empty() ? check.worst_position : check.wrong_positions.front()),
        .reproduced_to = {},
        .clues = {},
        .variant = {}};
  found->clues = find_clues(replayer, wrong);
  return *found;
}

}  // namespace plumb
