// SPDX-License-Identifier: Apache-2.0
#include "replay/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "backends/referee/rounding.h"
#include "core/check.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

// A segment whose bound is larger than this share of its values can hide almost anything: it is not
// measured.
constexpr double kWidestBound = 0.1;

std::vector<int32_t> intersect(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> both;
  std::ranges::set_intersection(a, b, std::back_inserter(both));
  return both;
}

// Scores and Mix read their second input at every earlier position, all others at their own.
bool reads_history(const Step& step, size_t input) {
  return (step.op == Op::Scores || step.op == Op::Mix) && input == 1;
}

size_t row_width(const Step& step, size_t keys) {
  return is_on_request(step.op) ? step.attention.heads * keys : step.width;
}

// The positions from 0 on without a gap.
std::vector<int32_t> unbroken(std::vector<int32_t> positions) {
  size_t whole = 0;
  while (whole < positions.size() && positions[whole] == static_cast<int32_t>(whole)) ++whole;
  positions.resize(whole);
  return positions;
}

double l2(std::span<const double> values) {
  return std::sqrt(std::transform_reduce(values.begin(), values.end(), 0.0, std::plus{},
                                         [](double x) { return x * x; }));
}

}  // namespace

// How one evaluation is made, and what it computed on the way.
struct Replayer::Evaluation {
  Attempt attempt;
  std::optional<std::pair<size_t, Step>> variant;
  bool want_bounds = true;
  std::vector<size_t> computed;
};

Replayer::Replayer(const Model& model, const Plan& plan, const Trace& trace, Threads& threads)
    : model_(model), plan_(plan), trace_(trace), threads_(threads) {
  for (const auto& step : plan.steps) recorded_.push_back(trace.find(step.name));
  kv_cache_ = trace.provenance.kv_cache == "q8_0" ? "int8/32/f16scale" : trace.provenance.kv_cache;
}

// The positions at which a value can be had: recorded, or computed from what is.
std::vector<int32_t> Replayer::supported(size_t index) const {
  if (recorded_[index] != nullptr) return recorded_[index]->positions;
  const auto& step = plan_.steps[index];
  std::vector<int32_t> positions(trace_.tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    auto have = supported(step.inputs[i]);
    positions = intersect(positions, reads_history(step, i) ? unbroken(std::move(have)) : have);
  }
  return positions;
}

std::vector<int32_t> Replayer::judged_positions(size_t index) const {
  const auto& step = plan_.steps[index];
  auto positions = recorded_[index]->positions;
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    auto have = supported(step.inputs[i]);
    positions = intersect(positions, reads_history(step, i) ? unbroken(std::move(have)) : have);
  }
  return positions;
}

BoundedValue Replayer::read(size_t index, const std::vector<int32_t>& positions) const {
  const auto& recorded = *recorded_[index];
  BoundedValue value{.value = {}, .bound = {}, .rows = positions.size(), .width = recorded.width()};
  value.value.resize(value.rows * value.width);
  for (size_t r = 0; r < positions.size(); ++r) {
    const auto at =
        std::ranges::lower_bound(recorded.positions, positions[r]) - recorded.positions.begin();
    read_row(recorded, static_cast<size_t>(at),
             std::span(value.value).subspan(r * value.width, value.width));
  }
  if (plan_.steps[index].op == Op::Softmax)
    ignore_unseen(plan_.steps[index].attention, positions, value);
  return value;
}

// What a trace holds for keys that a query may not see means nothing, unless the run did attend to
// them: then it is with them that the weights sum to 1.
void Replayer::ignore_unseen(const Attention& attention, const std::vector<int32_t>& positions,
                             BoundedValue& weights) const {
  const size_t keys = trace_.tokens.size();
  for (size_t line = 0; line < positions.size() * attention.heads; ++line) {
    const int32_t position = positions[line / attention.heads];
    const auto row = std::span(weights.value).subspan(line * keys, keys);
    double seen = 0;
    double all = 0;
    for (size_t key = 0; key < keys; ++key) {
      all += row[key];
      if (referee::sees(attention, position, 0, key)) seen += row[key];
    }
    if (std::fabs(all - 1) < std::fabs(seen - 1)) continue;
    for (size_t key = 0; key < keys; ++key)
      if (!referee::sees(attention, position, 0, key)) row[key] = 0;
  }
}

BoundedValue Replayer::evaluate(size_t index, const std::vector<int32_t>& positions,
                                bool recorded_ok, Evaluation& how) const {
  if (recorded_ok && recorded_[index] != nullptr) return read(index, positions);
  const bool replaced = how.variant && how.variant->first == index;
  const Step& step = replaced ? how.variant->second : plan_.steps[index];
  std::vector<BoundedValue> inputs;
  std::vector<referee::Matrix> matrices;
  for (size_t i = 0; i < step.inputs.size(); ++i)
    inputs.push_back(evaluate(
        step.inputs[i], reads_history(step, i) ? unbroken(supported(step.inputs[i])) : positions,
        true, how));
  for (const auto& input : inputs) matrices.push_back(input.matrix());

  std::vector<Token> tokens;
  std::vector<size_t> visible;
  for (const int32_t p : positions) {
    tokens.push_back(trace_.tokens[static_cast<size_t>(p)]);
    visible.push_back(static_cast<size_t>(p) < trace_.prompt ? trace_.prompt
                                                             : static_cast<size_t>(p) + 1);
  }
  // Rows of Scores and Softmax are as long as the trace's, so that recorded and computed ones fit.
  const referee::Rows rows{positions, tokens, visible, trace_.tokens.size()};
  const bool history = step.op == Op::Scores || step.op == Op::Mix;
  if (history &&
      inputs[1].rows < rows.keys) {  // keys that were not recorded: no judged query sees them
    inputs[1].value.resize(rows.keys * inputs[1].width, 0.0);
    if (!inputs[1].bound.empty()) inputs[1].bound.resize(rows.keys * inputs[1].width, 0.0);
    inputs[1].rows = rows.keys;
    matrices[1] = inputs[1].matrix();
  }
  BoundedValue out{
      .value = {}, .bound = {}, .rows = positions.size(), .width = row_width(step, rows.keys)};
  out.value.resize(out.rows * out.width);
  const auto& arithmetic = how.attempt.arithmetic;
  referee::evaluate(step, matrices, rows, step.op == Op::MatMul ? arithmetic.activations : "f32",
                    kv_cache_, threads_, out.value);
  how.computed.push_back(index);
  if (how.want_bounds) {
    // Inputs that are only known within a bound may round to a neighbouring step: the deviation
    // covers it.
    const bool deviation = how.attempt.deviation || (!inputs.empty() && !inputs[0].bound.empty());
    out.bound = error_bound(step, inputs, rows, out.value, arithmetic, deviation, threads_);
  }
  return out;
}

std::vector<Replayer::Attempt> Replayer::attempts(size_t index) const {
  const auto& step = plan_.steps[index];
  std::vector<Attempt> list;
  if (const auto declared = trace_.arithmetic_of(step.name)) {
    list.push_back({*declared, false, true});
    // Others than we may have their own form of int8/32: the scale in half precision, or only its
    // size is known.
    const auto engine = trace_.provenance.engine.find("name");
    const bool own = engine != trace_.provenance.engine.end() && engine->second == "plumb";
    if (!own && step.op == Op::MatMul && declared->activations.starts_with("int8")) {
      Arithmetic other = *declared;
      if (other.activations == "int8/32") {
        other.activations = "int8/32/f16scale";
        list.push_back({other, false, true});
      }
      list.push_back({*declared, true, true});
    }
    return list;
  }
  const std::string weights =
      step.weight ? std::string(info(step.weight->dtype).short_name) : "f32";
  list.push_back({{weights, "f32", "f32", "f32"}, false, false});
  list.push_back({{weights, "f16", "f32", "f16"}, false, false});
  if (step.op == Op::MatMul && is_quantized(step.weight->dtype)) {
    for (const char* kind : {"int8/32", "int8/32/f16scale", "int8/256"})
      list.push_back({{weights, kind, "f32", "f32"}, false, false});
    for (const char* kind : {"int8/32", "int8/256"})
      list.push_back({{weights, kind, "f32", "f32"}, true, false});
  }
  list.push_back({{weights, "bf16", "f32", "bf16"}, false, false});
  return list;
}

std::string Replayer::cannot_judge(size_t index) const {
  const auto& step = plan_.steps[index];
  if (recorded_[index] == nullptr) return "not recorded";
  const auto& recorded = *recorded_[index];
  const size_t width = row_width(step, trace_.tokens.size());
  if (recorded.width() != width)
    return fmt::format("recorded with {} values a row, the model has {}", recorded.width(), width);
  if (const auto declared = trace_.arithmetic_of(step.name);
      declared && !referee::is_known_rounding(declared->activations))
    return fmt::format("its declared arithmetic '{}' is not known here", declared->activations);
  if ((step.op == Op::Scores || step.op == Op::Mix || step.op == Op::Softmax) &&
      !referee::is_known_rounding(kv_cache_))
    return fmt::format("the declared KV cache type '{}' is not known here", kv_cache_);
  for (const size_t input : step.inputs)
    if (recorded_[input] != nullptr &&
        recorded_[input]->width() != row_width(plan_.steps[input], trace_.tokens.size()))
      return fmt::format("its input {} has {} values a row, the model has {}",
                         plan_.steps[input].name, recorded_[input]->width(),
                         row_width(plan_.steps[input], trace_.tokens.size()));
  if (judged_positions(index).empty())
    return "its inputs were not recorded at any of its positions";
  return {};
}

bool Replayer::is_seen(const Step& step, int32_t position, size_t channel) const {
  if (!is_on_request(step.op)) return true;
  const size_t visible = static_cast<size_t>(position) < trace_.prompt
                             ? trace_.prompt
                             : static_cast<size_t>(position) + 1;
  return referee::sees(step.attention, position, visible, channel % trace_.tokens.size());
}

// The bounds of those values of a MatMul that its cheap lower limit does not clear, in the order of
// the values.
std::vector<double> Replayer::lazy_matmul_bounds(const Step& step, const ReplayedStep& result,
                                                 const BoundedValue& input,
                                                 const Attempt& attempt) const {
  const size_t rows = result.check.positions.size();
  const size_t width = result.width;
  const size_t n = step.weight->columns;
  std::vector<double> rounded = input.value;
  for (size_t r = 0; r < rows; ++r)
    referee::round_row(attempt.arithmetic.activations, std::span(rounded).subspan(r * n, n));
  std::vector<double> bounds(rows * width);
  threads_.run(width, 1, [&](size_t begin, size_t end) {
    std::vector<float> weight(n);
    for (size_t j = begin; j < end; ++j) {
      bool unpacked = false;
      for (size_t r = 0; r < rows; ++r) {
        const size_t at = r * width + j;
        const double y = result.referee[at];
        bounds[at] = cheap_matmul_bound(step, y, attempt.arithmetic);
        if (std::fabs(result.recorded[at] - y) <= bounds[at]) continue;
        if (!unpacked) dequantize(step.weight->dtype, step.weight->row(j), n, weight.data());
        unpacked = true;
        // The unrounded inputs give the size of the rounding, the rounded ones the size of the sum.
        const auto x =
            std::span<const double>(attempt.deviation ? input.value : rounded).subspan(r * n, n);
        bounds[at] = matmul_bound(step, weight, x, y, attempt.arithmetic, attempt.deviation);
      }
    }
  });
  return bounds;
}

void Replayer::judge_values(ReplayedStep& result, const Step& step, const BoundedValue& value,
                            const BoundedValue* input, const Attempt& attempt) const {
  auto& check = result.check;
  const auto bounds =
      value.bound.empty() ? lazy_matmul_bounds(step, result, *input, attempt) : value.bound;
  check.local_by_position.assign(check.positions.size(), 0.0);
  for (size_t r = 0; r < check.positions.size(); ++r) {
    double error = 0;
    double size = 0;
    double worst = 0;
    size_t worst_at = 0;
    bool wrong = false;
    for (size_t i = 0; i < result.width; ++i) {
      const size_t at = r * result.width + i;
      if (!is_seen(step, check.positions[r],
                   i)) {  // Means nothing; nobody after this may look at it.
        result.recorded[at] = result.referee[at] = 0;
        continue;
      }
      const double a = result.recorded[at];
      const double b = result.referee[at];
      ++check.values;
      double ratio = 0;
      if (!std::isfinite(a)) {
        ++check.non_finite;
        ratio = std::isfinite(b) ? INFINITY : 0;  // Non-finite on both: it came with the inputs.
      } else {
        ratio = a == b ? 0 : std::fabs(a - b) / bounds[at];
        if (std::isnan(ratio)) ratio = INFINITY;
        error += (a - b) * (a - b);
      }
      if (std::isfinite(b)) size += b * b;
      if (ratio > 1) {
        ++check.wrong_values;
        wrong = true;
      }
      if (ratio > worst) {
        worst = ratio;
        worst_at = i;
      }
      if (std::isinf(ratio)) error = INFINITY;
    }
    check.local_by_position[r] = error == 0 ? 0
                                 : size > 0 ? std::sqrt(error / size)
                                            : std::sqrt(error);
    check.local = std::max(check.local, check.local_by_position[r]);
    if (wrong) check.wrong_positions.push_back(check.positions[r]);
    if (worst > check.times_bound) {
      check.times_bound = worst;
      check.worst_position = check.positions[r];
      check.worst_channel = worst_at;
      const double rms = std::sqrt(size / static_cast<double>(result.width));
      check.bound =
          rms > 0 ? bounds[r * result.width + worst_at] / rms : bounds[r * result.width + worst_at];
    }
  }
}

ReplayedStep Replayer::judge(size_t index, const Attempt& attempt, std::vector<int32_t> positions,
                             std::optional<std::pair<size_t, Step>> variant) const {
  ReplayedStep result;
  auto& check = result.check;
  check.step = index;
  check.name = plan_.steps[index].name;
  check.arithmetic = attempt.arithmetic;
  check.declared = attempt.declared;
  check.activations_by = attempt.deviation ? "deviation" : "exact";
  check.positions = std::move(positions);
  const auto& plain = plan_.steps[index];
  const bool inputs_exact =
      std::ranges::all_of(plain.inputs, [&](size_t i) { return recorded_[i] != nullptr; });
  const bool lazy = plain.op == Op::MatMul && inputs_exact;
  Evaluation how{attempt, std::move(variant), !lazy, {}};
  const auto value = evaluate(index, check.positions, false, how);
  for (const size_t computed : how.computed)
    if (std::ranges::find(check.segment, plan_.steps[computed].name) == check.segment.end())
      check.segment.push_back(plan_.steps[computed].name);
  result.width = value.width;
  result.referee = value.value;
  result.recorded = read(index, check.positions).value;
  const Step& judged = how.variant && how.variant->first == index ? how.variant->second : plain;
  std::optional<BoundedValue> input;
  if (lazy) input = read(plain.inputs[0], check.positions);
  judge_values(result, judged, value, input ? &*input : nullptr, attempt);
  if (check.segment.size() > 1 && check.times_bound <= 1 &&
      l2(value.bound) > kWidestBound * l2(value.value))
    check.unmeasured = fmt::format(
        "the {} steps from its recorded inputs to it allow errors of {:.0f} % of its values: too "
        "wide to judge",
        check.segment.size(), 100 * l2(value.bound) / l2(value.value));
  return result;
}

ReplayedStep Replayer::check(size_t index) const {
  if (const auto reason = cannot_judge(index); !reason.empty()) {
    ReplayedStep result;
    result.check.step = index;
    result.check.name = plan_.steps[index].name;
    result.check.unmeasured = reason;
    return result;
  }
  std::optional<ReplayedStep> best;
  for (const auto& attempt : attempts(index)) {
    auto result = judge(index, attempt, judged_positions(index), {});
    if (!result.check.wrong()) return result;
    if (!best || result.check.times_bound < best->check.times_bound) best = std::move(result);
  }
  return std::move(*best);
}

ReplayedStep Replayer::check_as(const StepCheck& wrong, size_t replaced, const Step& variant,
                                const std::vector<int32_t>& positions) const {
  const Attempt attempt{wrong.arithmetic, wrong.activations_by == "deviation", wrong.declared};
  return judge(wrong.step, attempt, positions.empty() ? wrong.positions : positions,
               std::pair(replaced, variant));
}

}  // namespace plumb
