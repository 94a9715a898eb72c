// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "parity/parity.h"
#include "parity/side_judge.h"
#include "replay/clues.h"

namespace plumb {
namespace {

int layer_of(const std::string& step) {
  return step.starts_with("layer.") ? std::atoi(step.c_str() + 6) : -1;
}
std::string kind_of_step(const std::string& step) {
  return layer_of(step) < 0 ? step : step.substr(step.find('.', 6) + 1);
}

double l2_distance(std::span<const double> a, std::span<const double> b) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) error += (a[i] - b[i]) * (a[i] - b[i]);
    size += a[i] * a[i];
  }
  if (error == 0) return 0;
  if (!std::isfinite(error)) return INFINITY;
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

// The relative L2 distance of each position that both sides have.
std::vector<double> distances(const std::vector<int32_t>& positions_a, std::span<const double> a,
                              const std::vector<int32_t>& positions_b, std::span<const double> b,
                              size_t width, const std::vector<bool>& unknown_a = {},
                              const std::vector<bool>& unknown_b = {}) {
  std::vector<double> result;
  std::vector<double> row_a(width);
  std::vector<double> row_b(width);
  for (size_t r = 0; r < positions_a.size(); ++r) {
    const auto other = std::ranges::lower_bound(positions_b, positions_a[r]);
    if (other == positions_b.end() || *other != positions_a[r]) continue;
    const size_t at_a = r * width;
    const size_t at_b = static_cast<size_t>(other - positions_b.begin()) * width;
    for (size_t i = 0; i < width;
         ++i) {  // A value that one side did not write down is not compared.
      const bool known = (unknown_a.empty() || !unknown_a[at_a + i]) &&
                         (unknown_b.empty() || !unknown_b[at_b + i]);
      row_a[i] = known ? a[at_a + i] : 0;
      row_b[i] = known ? b[at_b + i] : 0;
    }
    result.push_back(l2_distance(row_a, row_b));
  }
  return result;
}

std::optional<double> largest(const std::vector<double>& values) {
  if (values.empty()) return {};
  return *std::ranges::max_element(values);
}

bool same_bytes(const TraceStep* a, const TraceStep* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->view.dtype == b->view.dtype && a->view.shape == b->view.shape &&
         a->positions == b->positions &&
         std::memcmp(a->view.bytes.data(), b->view.bytes.data(), a->view.bytes.size()) == 0;
}

std::string phase_of(const std::vector<int32_t>& positions, size_t prompt) {
  const bool prefill =
      std::ranges::any_of(positions, [&](int32_t p) { return static_cast<size_t>(p) < prompt; });
  const bool decode =
      std::ranges::any_of(positions, [&](int32_t p) { return static_cast<size_t>(p) >= prompt; });
  return prefill && decode ? "both" : decode ? "decode" : "prefill";
}

// What the recorded values of a wrong step are more than the right ones.
class RecordedDifference {
 public:
  explicit RecordedDifference(const ReplayedStep& wrong)
      : width_(wrong.width), positions_(wrong.check.positions), values_(wrong.recorded) {
    for (size_t i = 0; i < values_.size(); ++i)
      values_[i] = values_[i] == wrong.referee[i] ? 0 : values_[i] - wrong.referee[i];
  }
  // 0 where nothing was recorded.
  double at(int32_t position, size_t channel) const {
    const auto row = std::ranges::lower_bound(positions_, position);
    if (row == positions_.end() || *row != position || channel >= width_) return 0;
    return values_[static_cast<size_t>(row - positions_.begin()) * width_ + channel];
  }

 private:
  size_t width_;
  std::vector<int32_t> positions_;
  std::vector<double> values_;
};

// Where no fault explains a step, the difference stands for it: added to a right run it makes that
// run wrong in the same way, whatever its inputs are.
std::pair<size_t, Step> with_recorded_difference(const Replayer& replayer,
                                                 const ReplayedStep& wrong) {
  Step step = replayer.plan().steps[wrong.check.step];
  const auto difference = std::make_shared<const RecordedDifference>(wrong);
  if (!is_on_request(step.op)) {
    step.quirk = std::make_shared<const Quirk>(
        Quirk{.value = [difference](int32_t position, size_t channel, double value) {
          return value + difference->at(position, channel);
        }});
    return {wrong.check.step, step};
  }
  // A row of the trace has a value for each of its tokens; in a run rows grow.
  const auto add = [difference, keys = wrong.width / step.attention.heads](
                       size_t query, size_t head, size_t key, double value) {
    if (key >= keys) return value;
    return value + difference->at(static_cast<int32_t>(query), head * keys + key);
  };
  step.attention.quirk = std::make_shared<const AttentionQuirk>(AttentionQuirk{.value = add});
  return {wrong.check.step, step};
}

Finding finding_of(const Replayer& replayer, const ReplayedStep& wrong, const std::string& side) {
  const auto& check = wrong.check;
  const auto explanation = explain(replayer, wrong);
  Finding finding;
  finding.kind = explanation.reason == "unexplained" ? "unexplained" : "fault";
  finding.step = check.name;
  finding.side = side;
  finding.reason = explanation.reason;
  finding.parameters = explanation.parameters;
  if (explanation.at != check.name) finding.parameters["at"] = explanation.at;
  finding.text = explanation.text;
  finding.reproduced_to = explanation.reproduced_to;
  finding.clues = explanation.clues;
  if (layer_of(check.name) >= 0) finding.layers = {layer_of(check.name)};
  if (!check.wrong_positions.empty()) finding.first_position = check.wrong_positions.front();
  finding.position_count = check.wrong_positions.size();
  finding.phase = phase_of(check.wrong_positions, replayer.prompt());
  finding.local = check.local;
  finding.bound = check.bound;
  finding.times_bound = check.times_bound;
  if (check.segment.size() > 1) finding.segment = check.segment;
  finding.edits.push_back(explanation.variant ? *explanation.variant
                                              : with_recorded_difference(replayer, wrong));
  finding.channels = channel_shares(wrong, 8);
  return finding;
}

constexpr std::string_view kWrongRecording = "its recording is not what the run computed";

// A step that the run computed right and whose recording is wrong: it has no verdict.
Finding wrong_recording_of(const Replayer& replayer, ReplayedStep& wrong, const std::string& side,
                           const WrongRecording& recording) {
  Finding finding;
  finding.kind = "unmeasured";
  finding.step = wrong.check.name;
  finding.side = side;
  finding.reason = recording.reason;
  finding.text = recording.text;
  if (recording.reason == "capture.values") finding.clues = find_clues(replayer, wrong);
  if (layer_of(finding.step) >= 0) finding.layers = {layer_of(finding.step)};
  wrong.check.unmeasured = kWrongRecording;
  return finding;
}

// The same fault of the same kind of step in several layers is one finding, named by its first
// step.
void add_fault(std::vector<Finding>& findings, Finding finding) {
  for (auto& known : findings) {
    if (known.reason != finding.reason || known.side != finding.side || known.kind != finding.kind)
      continue;
    if (layer_of(known.step) < 0 || kind_of_step(known.step) != kind_of_step(finding.step))
      continue;
    known.layers.insert(known.layers.end(), finding.layers.begin(), finding.layers.end());
    known.edits.insert(known.edits.end(), finding.edits.begin(), finding.edits.end());
    return;
  }
  findings.push_back(std::move(finding));
}

// "int8/256" as "int8_per_256", "fp8e4m3" as it is.
std::string per_what(std::string kind) {
  if (kind.starts_with("tf32")) return "tf32";
  const size_t slash = kind.find('/');
  if (slash == std::string::npos) return kind;
  return kind.substr(0, slash) + "_per_" +
         kind.substr(slash + 1, kind.find('/', slash + 1) - slash - 1);
}

constexpr std::string_view kWeights = "weights ";
constexpr std::string_view kAttention = "attention ";

std::string arithmetic_reason(const std::string& kind) {
  if (kind == "f16/table") return "arithmetic.gelu_f16_table";
  if (kind == "silu f16/table") return "arithmetic.silu_f16_table";
  if (kind == "fast") return "arithmetic.functions_fast";
  if (kind == "attention f16/flash") return "arithmetic.attention_f16_flash";
  if (kind.starts_with(kAttention)) {
    const auto type = kind.substr(kAttention.size());
    return "arithmetic.attention_" + type.substr(0, type.find('/')) +
           (type.ends_with("/hadamard") ? "_turned" : "");
  }
  if (kind.starts_with(kWeights))
    return "arithmetic.weights_" + per_what(kind.substr(kWeights.size()));
  return "arithmetic." + per_what(kind.substr(0, kind.find(',')));
}

std::string kind_text(const std::string& kind) {
  if (kind == "f16/table") return "half precision in GELU, as a table of halves does";
  if (kind == "silu f16/table") return "half precision in SiLU, as a table of halves does";
  if (kind == "fast") return "a GPU's fast exponentials, tanh and quotients";
  if (kind == "attention f16/flash")
    return "half precision in attention: queries, keys, values, and the sum of the mix (flash "
           "attention)";
  if (kind.ends_with("/hadamard"))
    return kind.substr(kAttention.size(), kind.find('/') - kAttention.size()) +
           " in attention: queries, keys and values turned by a Hadamard matrix, one scale per 32";
  if (kind == "tf32/cut") return "tf32, by cutting bits off";
  if (kind.starts_with("attention fp8")) return kind.substr(kAttention.size()) + " keys and values";
  if (kind.starts_with(kAttention))
    return kind.substr(kAttention.size()) + " in attention: queries, keys, values";
  return kind;
}

// What a step loses: the rounding of its inputs, which only products have, or of its result.
std::string lossy_kind(const StepCheck& check, const Plan& plan) {
  const auto& a = check.arithmetic;
  const auto is_short = [](const std::string& type) { return type != "f32" && type != "f64"; };
  const auto holds = [&](auto op) {
    return std::ranges::any_of(check.segment, [&](const std::string& name) {
      return op(plan.steps[*plan.find(name)].op);
    });
  };
  const bool product = holds([](Op op) { return is_product(op); });
  const auto& made = check.made_weights;
  const auto weights = made.empty() ? made : std::string(kWeights) + made;
  if (product && is_scaled(a.activations))
    return a.activations + (made.empty() ? made : ", " + weights);
  if (is_scaled(made)) return weights;
  if (is_short(a.inside)) return a.inside;
  if (is_short(a.attention) && holds([](Op op) { return op == Op::Scores || op == Op::Mix; }))
    return "attention " + a.attention;
  const auto is_function = [](Op op) {
    return op == Op::GeluTanh || op == Op::GeluErf || op == Op::Silu || op == Op::Softmax ||
           op == Op::Sigmoid || op == Op::SoftCap || op == Op::QuickGelu;
  };
  const bool silu = a.functions == "f16/table" && holds([](Op op) { return op == Op::Silu; });
  if (silu) return "silu f16/table";
  if (is_short(a.functions) && holds(is_function)) return a.functions;
  if (product && is_short(a.activations)) return a.activations;
  if (!made.empty()) return weights;
  return is_short(a.output) ? a.output : std::string();
}

// Steps that are right, in an arithmetic that loses something: one finding for each kind of it. In
// a comparison only what the sides do not share needs to be explained.
void add_arithmetic(Comparison& result, const Plan& plan) {
  struct Seen {
    std::string first_step;
    size_t steps = 0;
    bool declared = true, by_size = false;
  };
  std::map<std::pair<std::string, std::string>, Seen> seen;  // kind and side
  for (const auto& row : result.steps) {
    const auto* a = row.baseline && row.baseline->measured() ? &*row.baseline : nullptr;
    const auto* b = row.candidate && row.candidate->measured() ? &*row.candidate : nullptr;
    if ((a != nullptr && a->wrong()) || (b != nullptr && b->wrong())) continue;
    if (a != nullptr && b != nullptr && lossy_kind(*a, plan) == lossy_kind(*b, plan)) continue;
    for (const auto& [check, side] : {std::pair(a, "baseline"), std::pair(b, "candidate")}) {
      if (check == nullptr || lossy_kind(*check, plan).empty()) continue;
      auto& entry = seen[{lossy_kind(*check, plan), side}];
      if (entry.steps++ == 0) entry.first_step = row.name;
      entry.declared = entry.declared && check->declared;
      entry.by_size = entry.by_size || check->activations_by == "deviation";
    }
  }
  for (const auto& [key, entry] : seen) {
    Finding finding;
    finding.kind = "arithmetic";
    finding.step = entry.first_step;
    finding.side = key.second;
    finding.reason = arithmetic_reason(key.first);
    finding.text =
        fmt::format("{} round to {} ({}); with that they are right{}",
                    result.audit ? fmt::format("{} of its steps", entry.steps)
                                 : fmt::format("{} steps of the {}", entry.steps, key.second),
                    kind_text(key.first),
                    entry.declared ? "declared" : "the tightest arithmetic that explains them",
                    entry.by_size ? ", as far as the size of that rounding lets one see" : "");
    finding.parameters = {{"steps", fmt::format("{}", entry.steps)}};
    result.findings.push_back(std::move(finding));
  }
}

std::string verdict_of(const StepRow& row, bool audit) {
  const bool wrong_a = row.baseline && row.baseline->wrong();
  const bool wrong_b = row.candidate && row.candidate->wrong();
  if (wrong_a && wrong_b) return "WRONG (both)";
  if (audit && (wrong_a || wrong_b)) return "WRONG";
  if (wrong_a) return "WRONG (baseline)";
  if (wrong_b) return "WRONG (candidate)";
  for (const auto* check : {&row.baseline, &row.candidate})
    if (*check && !(*check)->measured()) return "unmeasured: " + (*check)->unmeasured;
  // What the inputs alone bring is larger than what the step itself adds: it passes a difference
  // on.
  const double own =
      std::max(row.baseline ? row.baseline->local : 0, row.candidate ? row.candidate->local : 0);
  if (row.inherited && *row.inherited > 2 * own) return "ok, inherits";
  return "ok";
}

// The steps that one side was judged at: by themselves or inside a segment, at every position.
// Behind the last attention nothing reaches another position, and engines compute only the last one
// there: that one must be.
std::set<std::string> covered_by(const Comparison& result, const Plan& plan,
                                 std::optional<StepCheck> StepRow::* side) {
  size_t last_mix = 0;
  for (size_t i = 0; i < plan.steps.size(); ++i)
    if (plan.steps[i].op == Op::Mix) last_mix = i;
  std::set<std::string> covered;
  for (const auto& row : result.steps) {
    const auto& check = row.*side;
    if (!check || !check->measured()) continue;
    const bool all = check->positions.size() == result.positions;
    const bool last = !check->positions.empty() &&
                      static_cast<size_t>(check->positions.back()) + 1 == result.positions;
    for (const auto& name : check->segment)
      if (all || (last && *plan.find(name) > last_mix)) covered.insert(name);
  }
  // What was recorded is not judged where it is another step's value.
  for (const auto& row : result.steps)
    if (row.*side && (row.*side)->unmeasured == kWrongRecording) covered.erase(row.name);
  return covered;
}

void count_coverage(Comparison& result, const Plan& plan) {
  auto covered = covered_by(result, plan, &StepRow::baseline);
  if (!result.audit) {
    const auto other = covered_by(result, plan, &StepRow::candidate);
    std::erase_if(covered, [&](const std::string& name) { return !other.contains(name); });
  }
  for (auto& row : result.steps) {
    const bool judged = covered.contains(row.name);
    if (row.verdict.starts_with("unmeasured") && judged) row.verdict = "judged inside a segment";
    if (row.verdict.starts_with("ok") && !judged)
      row.verdict = "unmeasured: not judged at every position";
  }
  result.of = plan.steps.size();
  result.measured = covered.size();
}

void judge_coverage(Comparison& result) {
  if (result.measured == result.of) return;
  Finding finding;
  finding.kind = "unmeasured";
  finding.side = "undecided";
  finding.reason = "steps.unmeasured";
  const std::string_view kPrefix = "unmeasured: ";
  std::string recorded;  // what is said of the first step that has values
  for (const auto& row : result.steps) {
    if (!row.verdict.starts_with("unmeasured")) continue;
    const auto reason = row.verdict.substr(std::min(kPrefix.size(), row.verdict.size()));
    if (finding.step.empty()) {
      finding.step = row.name;
      finding.text = fmt::format("{} of {} steps could not be judged; the first is {}: {}",
                                 result.of - result.measured, result.of, row.name, reason);
      if (reason != "not recorded") break;
    } else if (reason != "not recorded") {
      recorded = fmt::format("; of those that were recorded {}: {}", row.name, reason);
      break;
    }
  }
  finding.text += recorded;
  if (finding.text.empty())
    finding.text =
        fmt::format("{} of {} steps could not be judged", result.of - result.measured, result.of);
  result.findings.push_back(std::move(finding));
}

bool has(const Comparison& result, std::initializer_list<const char*> kinds) {
  return std::ranges::any_of(result.findings, [&](const Finding& finding) {
    return std::ranges::any_of(kinds, [&](const char* kind) { return finding.kind == kind; });
  });
}

const Finding* first_of(const Comparison& result, std::initializer_list<const char*> kinds) {
  for (const auto& finding : result.findings)
    if (std::ranges::any_of(kinds, [&](const char* kind) { return finding.kind == kind; }))
      return &finding;
  return nullptr;
}

bool is_rounding(const Finding& finding) {
  return finding.kind == "static" && finding.reason == "weights.rounding";
}

void conclude(Comparison& result) {
  const auto different_model = std::ranges::find_if(
      result.findings, [](const Finding& f) { return f.kind == "static" && !is_rounding(f); });
  const auto* fault = first_of(result, {"fault", "unexplained"});
  if (const auto* finding = first_of(result, {"not_comparable"})) {
    result.verdict = Verdict::NotComparable;
    result.why = finding->text;
  } else if (fault != nullptr) {
    result.verdict = Verdict::Different;
    const auto where = result.audit ? std::string() : finding_side_text(fault->side);
    result.why = fmt::format("{} is wrong{}: {}", fault->step, where, fault->text);
  } else if (different_model != result.findings.end()) {
    result.verdict = Verdict::Different;
    const bool follow = result.measured == result.of && result.of > 0;
    result.why = fmt::format("the models differ: {}{}", different_model->text,
                             follow ? "; both runs follow their own file" : "");
  } else if (result.measured == 0 || has(result, {"unmeasured"})) {
    result.verdict = Verdict::Unmeasured;
    const auto* finding = first_of(result, {"unmeasured"});
    result.why = finding != nullptr ? finding->text : "no step could be judged";
  } else if (has(result, {"arithmetic", "static"})) {
    result.verdict = Verdict::Explained;
    const auto* finding = first_of(result, {"static", "arithmetic"});
    result.why =
        fmt::format("{}: {}",
                    result.audit ? "every step does what the model file asks for, with a named loss"
                                 : "the same function; the difference is explained",
                    finding->text);
  } else {
    result.verdict = Verdict::Same;
    result.why = result.audit ? "every step does what the model file asks for"
                              : "both runs compute the same function of the same weights";
  }
}

// Two traces without their model: equal bits are equal, anything else cannot be blamed on a step.
void compare_blind(Comparison& result) {
  const auto& a = result.sides[0].trace;
  const auto& b = result.sides[1].trace;
  bool equal = !a.steps.empty();
  std::string not_finite;  // the first step with values that are no numbers
  std::set<std::string> names;
  for (const auto* trace : {&a, &b})
    for (const auto& [name, step] : trace->steps) names.insert(name);
  for (const auto& name : names) {
    StepRow row{.name = name,
                .baseline = {},
                .candidate = {},
                .inherited = {},
                .total = {},
                .total_by_position = {},
                .verdict = "unmeasured: no model to replay it with"};
    const auto* x = a.find(name);
    const auto* y = b.find(name);
    if (!same_bytes(x, y)) equal = false;
    if (x != nullptr && y != nullptr && x->width() == y->width()) {
      std::vector<double> values_a(x->positions.size() * x->width());
      std::vector<double> values_b(y->positions.size() * y->width());
      for (size_t r = 0; r < x->positions.size(); ++r)
        read_row(*x, r, std::span(values_a).subspan(r * x->width(), x->width()));
      for (size_t r = 0; r < y->positions.size(); ++r)
        read_row(*y, r, std::span(values_b).subspan(r * y->width(), y->width()));
      row.total_by_position = distances(x->positions, values_a, y->positions, values_b, x->width());
      row.total = largest(row.total_by_position);
      const auto finite = [](double v) { return std::isfinite(v); };
      const bool first = not_finite.empty() || step_order(name) < step_order(not_finite);
      if (first && !x->elided && !y->elided &&
          !(std::ranges::all_of(values_a, finite) && std::ranges::all_of(values_b, finite)))
        not_finite = name;
      row.strata = strata_of_recorded(name, {x->positions, std::move(values_a)},
                                      {y->positions, std::move(values_b)}, x->width());
    }
    result.steps.push_back(std::move(row));
  }
  result.of = names.size();
  if (equal && not_finite.empty()) {
    result.verdict = Verdict::Same;
    result.measured = names.size();
    for (auto& row : result.steps) row.verdict = "same bits";
    result.why =
        "every recorded value has the same bits on both sides (nothing was replayed: no model was "
        "given)";
    return;
  }
  Finding finding;
  finding.kind = "unmeasured";
  finding.side = "undecided";
  finding.reason = "model.missing";
  finding.text =
      equal
          ? fmt::format(
                "every recorded value has the same bits on both sides, but {} has values "
                "that are no numbers: give the model with --model FILE",
                not_finite)
          : "the values differ, and without the model nobody can say which side is right: give it "
            "with --model FILE";
  result.findings.push_back(finding);
  result.verdict = Verdict::Unmeasured;
  result.why = finding.text;
}

// A wrong step is a fault, or its recording is.
void add_wrong(std::vector<Finding>& findings, SideJudge& judge, ReplayedStep& wrong,
               const std::string& side) {
  if (const auto recording = judge.take_for_recording(wrong))
    add_fault(findings, wrong_recording_of(judge.replayer(), wrong, side, *recording));
  else add_fault(findings, finding_of(judge.replayer(), wrong, side));
}

// Steps of both sides in the order of the plan.
void replay_both(Comparison& result, Threads& threads, const Progress& progress) {
  const auto& a = result.sides[0];
  const auto& b = result.sides[1];
  SideJudge judge_a(*a.model, a.plan, a.trace, threads);
  SideJudge judge_b(*b.model, b.plan, b.trace, threads);
  // While everything so far has the same bits and is computed in the same way, one replay serves
  // both sides.
  bool identical = a.model->sha256 == b.model->sha256 && a.trace.tokens == b.trace.tokens &&
                   a.trace.prompt == b.trace.prompt &&
                   a.trace.provenance.kv_cache == b.trace.provenance.kv_cache;
  for (size_t i = 0; i < a.plan.steps.size(); ++i) {
    const auto& name = a.plan.steps[i].name;
    progress(i, a.plan.steps.size());
    identical = identical && same_bytes(a.trace.find(name), b.trace.find(name)) &&
                a.trace.arithmetic_of(name) == b.trace.arithmetic_of(name);
    auto checked_a = judge_a.check(i);
    auto other = identical ? ReplayedStep{} : judge_b.check(i);
    if (checked_a.check.wrong())
      add_wrong(result.findings, judge_a, checked_a, identical ? "both" : "baseline");
    if (identical && !checked_a.check.measured() && checked_a.check.unmeasured == kWrongRecording)
      judge_b.leave_out(i);
    if (!identical && other.check.wrong()) add_wrong(result.findings, judge_b, other, "candidate");
    const auto& checked_b = identical ? checked_a : other;
    StepRow row{.name = name,
                .baseline = checked_a.check,
                .candidate = checked_b.check,
                .inherited = {},
                .total = {},
                .total_by_position = {},
                .verdict = {}};
    if (checked_a.check.measured() && checked_b.check.measured() &&
        checked_a.width == checked_b.width) {
      row.total_by_position =
          distances(checked_a.check.positions, checked_a.recorded, checked_b.check.positions,
                    checked_b.recorded, checked_a.width, checked_a.left_out, checked_b.left_out);
      row.total = largest(row.total_by_position);
      row.inherited = largest(distances(checked_a.check.positions, checked_a.referee,
                                        checked_b.check.positions, checked_b.referee,
                                        checked_a.width, checked_a.left_out, checked_b.left_out));
    }
    row.strata = strata_of(checked_a, &checked_b);
    row.verdict = verdict_of(row, false);
    result.steps.push_back(std::move(row));
  }
}

// Where a difference between two files shows: the positions at which its first step differs.
void find_positions(Comparison& result) {
  for (auto& finding : result.findings) {
    if (finding.kind != "static" || finding.step.empty()) continue;
    const auto row = std::ranges::find(result.steps, finding.step, &StepRow::name);
    if (row == result.steps.end() || !row->baseline || !row->baseline->measured()) continue;
    std::vector<int32_t> differ;
    for (size_t r = 0; r < std::min(row->total_by_position.size(), row->baseline->positions.size());
         ++r)
      if (row->total_by_position[r] != 0) differ.push_back(row->baseline->positions[r]);
    if (differ.empty()) continue;
    finding.first_position = differ.front();
    finding.position_count = differ.size();
    finding.phase = phase_of(differ, result.sides[0].trace.prompt);
  }
}

// The same name does not mean the same positions: a side may have the last one only.
void note_positions(Comparison& result) {
  const auto& a = result.sides[0].trace;
  const auto& b = result.sides[1].trace;
  size_t steps = 0;
  for (const auto& [name, step] : a.steps) {
    const auto* other = b.find(name);
    if (other != nullptr && other->positions != step.positions) ++steps;
  }
  if (steps > 0)
    result.notes.push_back(fmt::format(
        "the sides recorded other positions of {} steps: only common ones are compared", steps));
}

// A run of one token passes with faults that it cannot show.
void note_one_position(Comparison& result) {
  if (result.positions != 1 ||
      (result.verdict != Verdict::Same && result.verdict != Verdict::Explained))
    return;
  result.notes.emplace_back(
      "one position was run: at position 0 nothing is rotated and attention has one key, so a "
      "wrong "
      "rotation, scale, mask, query, key or cache cannot show");
}

bool same_steps(const Plan& a, const Plan& b) {
  return std::ranges::equal(a.steps, b.steps, [](const Step& x, const Step& y) {
    return x.name == y.name && x.width == y.width;
  });
}

}  // namespace

std::string finding_side_text(const std::string& side) {
  if (side == "both") return " on both sides";
  if (side == "baseline" || side == "candidate") return fmt::format(" on the {}'s side", side);
  return "";
}

Comparison compare(Side baseline, Side candidate, std::optional<NoiseFloor> floor, Threads& threads,
                   const Progress& progress) {
  Comparison result;
  result.floor = floor;
  result.sides.push_back(std::move(baseline));
  result.sides.push_back(std::move(candidate));
  const auto& a = result.sides[0];
  const auto& b = result.sides[1];
  result.positions = a.trace.tokens.size();
  result.findings = handshake(a, b);
  if (!result.findings.empty()) {
    conclude(result);
    return result;
  }
  if (!a.trace.statistics.empty() || !b.trace.statistics.empty()) {
    result.screen = screen(a.trace, b.trace, a.model ? &a.plan : b.model ? &b.plan : nullptr);
    if (is_screening(a, b)) {
      conclude_screen(result, threads);
      return result;
    }
  }
  note_positions(result);
  if (!a.model || !b.model) {
    compare_blind(result);
    result.price = price_of(a, b, floor);
    return result;
  }
  result.findings = compare_models(a, b, threads);
  if (same_steps(a.plan, b.plan)) {
    replay_both(result, threads, progress);
    find_positions(result);
    count_coverage(result, a.plan);
    add_arithmetic(result, a.plan);
    judge_coverage(result);
  } else if (std::ranges::none_of(result.findings, [](const Finding& f) {
               return f.kind == "static" && !is_rounding(f);
             })) {
    Finding finding;
    finding.kind = "static";
    finding.side = "undecided";
    finding.reason = "config.steps";
    finding.text = "the two models have different steps";
    result.findings.push_back(std::move(finding));
  }
  result.price = price_of(a, b, floor);
  conclude(result);
  note_one_position(result);
  return result;
}

Comparison audit(Side side, Threads& threads, const Progress& progress) {
  Comparison result;
  result.audit = true;
  result.sides.push_back(std::move(side));
  const auto& only = result.sides[0];
  result.positions = only.trace.tokens.size();
  result.findings = check_identity(only);
  if (only.trace.tokens.empty()) {
    Finding finding;
    finding.kind = "not_comparable";
    finding.side = only.role;
    finding.reason = "tokens.missing";
    finding.text = "the trace does not say which tokens were fed";
    result.findings.push_back(std::move(finding));
  }
  if (result.findings.empty()) {
    SideJudge judge(*only.model, only.plan, only.trace, threads);
    for (size_t i = 0; i < only.plan.steps.size(); ++i) {
      progress(i, only.plan.steps.size());
      auto checked = judge.check(i);
      if (checked.check.wrong()) add_wrong(result.findings, judge, checked, only.role);
      StepRow row{.name = only.plan.steps[i].name,
                  .baseline = checked.check,
                  .candidate = {},
                  .inherited = {},
                  .total = {},
                  .total_by_position = {},
                  .verdict = {}};
      row.strata = strata_of(checked, nullptr);
      row.verdict = verdict_of(row, true);
      result.steps.push_back(std::move(row));
    }
    count_coverage(result, only.plan);
    add_arithmetic(result, only.plan);
    judge_coverage(result);
  }
  conclude(result);
  note_one_position(result);
  return result;
}

}  // namespace plumb
