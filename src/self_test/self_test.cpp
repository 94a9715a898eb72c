// SPDX-License-Identifier: Apache-2.0
#include "self_test/self_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <mutex>
#include <set>

#include "backends/referee/referee_backend.h"
#include "core/yaml.h"

namespace plumb {
namespace {

const StepChoice kEverything{{"*"}};

// A run of the model under a plan, recorded in memory.
Result<Trace> run_recorded(const SelfTestSetup& setup, const Backend& backend, const Plan& plan,
                           std::span<const Token> tokens, size_t prompt, const StepChoice& steps,
                           size_t part, Threads& threads) {
  const RunSetup run{*setup.model, plan, backend, threads};
  const std::vector<Token> fed(tokens.begin(), tokens.end());
  TRY_ASSIGN(auto layout, plan_trace(run, fed, prompt, steps, {}));
  TRY_ASSIGN(auto writer, TraceWriter::to_memory("run", std::move(layout)));
  TRY(record(run, tokens, prompt, *writer, part));
  return writer->finish_in_memory();
}

double largest_of(const TraceStep* step) {
  if (step == nullptr) return 0;
  double largest = 0;
  std::vector<double> row(step->width());
  for (size_t r = 0; r < step->positions.size(); ++r) {
    read_row(*step, r, row);
    for (const double x : row) largest = std::max(largest, std::fabs(x));
  }
  return largest;
}

// What every trial needs and none changes.
struct Bench {
  const SelfTestSetup& setup;
  Plan plan;
  std::vector<Token> tokens;
  Trace some, all;  // the right run, without and with scores and weights

  Side side(const std::string& role, Trace trace) const {
    return {role, role, setup.model, plan, std::move(trace)};
  }
};

// Scores and weights show at the mix unless they are recorded.
std::string visible_step(const Step& step, bool everything) {
  if (everything || !is_on_request(step.op)) return step.name;
  return step.name.substr(0, step.name.rfind('.')) + ".mix";
}

const Finding* first_fault(const Comparison& result) {
  for (const auto& finding : result.findings)
    if (finding.kind == "fault" || finding.kind == "unexplained") return &finding;
  return nullptr;
}

// Another fault of the same values: what is left is next to nothing of what the fault changed.
bool gives_the_same(std::optional<double> reproduced_to, double effect) {
  return reproduced_to && *reproduced_to <= 0.01 * effect;
}

void judge_pair(const Bench& bench, const Trace& faulty, Trial& trial, Threads& threads) {
  const Trace& right = trial.everything ? bench.all : bench.some;
  const bool exchanged = trial.side == "baseline";
  const auto result = compare(bench.side("baseline", exchanged ? faulty : right),
                              bench.side("candidate", exchanged ? right : faulty), {}, threads,
                              [](size_t, size_t) {});
  for (const auto& row : result.steps) {
    if (row.name == trial.visible) trial.effect = row.total.value_or(INFINITY);
    if (row.name != trial.visible && row.verdict.starts_with("WRONG"))
      trial.others.push_back(row.name);
  }
  const auto* finding = first_fault(result);
  if (finding == nullptr) return;
  trial.found = true;
  trial.found_step = finding->step;
  trial.found_side = finding->side;
  trial.found_reason = finding->reason;
  trial.found_text = finding->text;
  trial.same_values = finding->kind == "fault" && finding->reason != trial.fault &&
                      gives_the_same(finding->reproduced_to, trial.effect);
}

// The faulty run alone, and with its fault taken out of the catalogue.
void judge_alone(const Bench& bench, const Trace& faulty, Trial& trial, Threads& threads) {
  const Replayer replayer(*bench.setup.model, bench.plan, faulty, threads);
  for (size_t at = 0; at < bench.plan.steps.size(); ++at) {
    const auto checked = replayer.check(at);
    if (!checked.check.wrong()) continue;
    trial.audit_step = checked.check.name;
    trial.audit_reason = explain(replayer, checked).reason;
    const auto held_out = explain(replayer, checked, {trial.fault});
    trial.held_out_reason = held_out.reason;
    trial.held_out_same_values = gives_the_same(held_out.reproduced_to, trial.effect);
    return;
  }
}

Result<void> run_trial(const Bench& bench, const Place& place, Trial& trial) {
  Threads threads(1);
  Plan faulty = bench.plan;
  faulty.steps[place.step] = place.variant.step();
  const StepChoice steps = trial.everything ? kEverything : StepChoice{};
  TRY_ASSIGN(const auto trace, run_recorded(bench.setup, *bench.setup.backend, faulty, bench.tokens,
                                            bench.setup.prompt.size(), steps, 0, threads));
  judge_pair(bench, trace, trial, threads);
  if (trial.counts()) judge_alone(bench, trace, trial, threads);
  return {};
}

Trial trial_of(const Bench& bench, const Place& place, size_t number) {
  Trial trial;
  trial.fault = place.fault->name;
  trial.step = bench.plan.steps[place.step].name;
  if (const auto found = place.variant.parameters.find("found");
      found != place.variant.parameters.end())
    trial.parameter = found->second;
  trial.everything = number % 2 == 0;
  trial.side = number % 4 < 2 ? "candidate" : "baseline";
  trial.visible = visible_step(bench.plan.steps[place.step], trial.everything);
  return trial;
}

// At most `most` places, spread evenly over the catalogue.
std::vector<Place> chosen_places(const Bench& bench) {
  std::vector<double> largest;
  for (const auto& step : bench.plan.steps)
    largest.push_back(largest_of(bench.all.find(step.name)));
  auto places = places_of(*bench.setup.model, bench.plan, bench.setup.prompt.size(),
                          bench.tokens.size(), largest);
  std::erase_if(
      places, [&](const Place& place) { return !place.fault->name.starts_with(bench.setup.only); });
  const size_t most = bench.setup.most;
  if (most == 0 || places.size() <= most) return places;
  std::vector<Place> some;
  for (size_t i = 0; i < most; ++i) some.push_back(std::move(places[i * places.size() / most]));
  return some;
}

// Runs body(0) … body(count - 1), several at a time, each on one thread.
Result<void> for_each(size_t count, size_t threads,
                      const std::function<Result<void>(size_t)>& body) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  Result<void> first_error;
  Threads team(threads);
  team.run(threads, 1, [&](size_t, size_t) {
    for (size_t i = next++; i < count; i = next++)
      if (auto done = body(i); !done) {
        const std::scoped_lock lock(mutex);
        if (first_error) first_error = done;
      }
  });
  return first_error;
}

// The n-th equivalent run: other levels, threads, splits of the prefill, and noise of one unit in
// the last place at one step.
struct RewritePlan {
  std::string what;
  const Backend* backend;
  size_t part, threads;
  std::optional<size_t> noisy_step;
};
// Embeddings, numbers of experts and values that are not rotated are copies, and a learned position
// is one addition, which has no other order: a right engine changes nothing there.
bool rounds_every_value(const Step& step) {
  if (step.op == Op::Rope) return step.rope.dimensions == step.head_dim;
  return !is_on_request(step.op) && step.op != Op::TopExperts && step.op != Op::Embedding &&
         step.op != Op::Positions;
}
RewritePlan rewrite_of(const Bench& bench, size_t number) {
  const auto& setup = bench.setup;
  const auto& [level, backend] = setup.levels[number % setup.levels.size()];
  RewritePlan plan{level, backend, 0, 1 + number % 3, {}};
  const size_t parts = number / setup.levels.size() % (setup.prompt.size() + 1);
  plan.part = parts;
  plan.what += parts == 0 ? ", prefill at once" : fmt::format(", prefill by {}", parts);
  plan.what += fmt::format(", {} threads", plan.threads);
  const size_t step = 1 + number * 7 % (bench.plan.steps.size() - 1);
  if (number % 2 == 1 && rounds_every_value(bench.plan.steps[step])) {
    plan.noisy_step = step;
    plan.what += ", an ulp at " + bench.plan.steps[step].name;
  }
  return plan;
}

Result<void> run_rewrite(const Bench& bench, size_t number, Rewrite& rewrite) {
  const auto how = rewrite_of(bench, number);
  rewrite.what = how.what;
  Plan plan = bench.plan;
  // Half a unit: what another order of a sum may change.
  const auto output = how.backend->arithmetic(plan.steps.back()).output;
  if (how.noisy_step) plan.steps[*how.noisy_step].gain = 1 + (output == "f64" ? 0x1p-52 : 0x1p-24);
  Threads threads(how.threads);
  TRY_ASSIGN(auto trace, run_recorded(bench.setup, *how.backend, plan, bench.tokens,
                                      bench.setup.prompt.size(), {}, how.part, threads));
  Threads one(1);
  const auto result =
      compare(bench.side("baseline", bench.some), bench.side("candidate", std::move(trace)), {},
              one, [](size_t, size_t) {});
  rewrite.verdict = result.verdict;
  rewrite.why = result.why;
  return {};
}

// Steps of the middle layer, and the last ones: one for each kind of what a step does.
std::vector<size_t> curve_steps(const Bench& bench) {
  const auto layer = fmt::format("layer.{}.", (bench.setup.model->config.layers - 1) / 2);
  std::vector<size_t> steps;
  for (size_t i = 0; i < bench.plan.steps.size(); ++i) {
    const auto& step = bench.plan.steps[i];
    if (is_on_request(step.op) || step.op == Op::TopExperts) continue;
    if (step.name.starts_with(layer) || step.name == "final.norm" || step.name == "logits")
      steps.push_back(i);
  }
  return steps;
}

Result<void> run_curve(const Bench& bench, CurvePoint& point) {
  Threads threads(1);
  for (const size_t step : curve_steps(bench)) {
    Plan plan = bench.plan;
    plan.steps[step].gain = 1 + std::ldexp(1.0, point.exponent);
    TRY_ASSIGN(const auto trace, run_recorded(bench.setup, *bench.setup.backend, plan, bench.tokens,
                                              bench.setup.prompt.size(), {}, 0, threads));
    const Replayer replayer(*bench.setup.model, bench.plan, trace, threads);
    ++point.of;
    if (replayer.check(step).check.wrong()) ++point.found;
  }
  return {};
}

using Progress3 = std::function<void(const std::string&, size_t, size_t)>;

Result<void> run_all(const Bench& bench, const Progress3& progress, SelfTestResult& result) {
  const size_t threads = bench.setup.threads;
  std::atomic<size_t> done = 0;
  std::mutex mutex;
  const auto counted = [&](const char* what, size_t count, const auto& body) {
    done = 0;
    return for_each(count, threads, [&, what, count](size_t i) -> Result<void> {
      TRY(body(i));
      const std::scoped_lock lock(mutex);
      progress(what, ++done, count);
      return {};
    });
  };
  const auto places = chosen_places(bench);
  for (size_t i = 0; i < places.size(); ++i) result.trials.push_back(trial_of(bench, places[i], i));
  TRY(counted("faults", places.size(),
              [&](size_t i) { return run_trial(bench, places[i], result.trials[i]); }));
  result.rewrites.resize(bench.setup.rewrites);
  TRY(counted("equivalent runs", result.rewrites.size(),
              [&](size_t i) { return run_rewrite(bench, i, result.rewrites[i]); }));
  if (bench.setup.rewrites == 0) return {};
  for (int exponent = -4; exponent >= -24; exponent -= 2) result.curve.push_back({exponent});
  return counted("detection curve", result.curve.size(),
                 [&](size_t i) { return run_curve(bench, result.curve[i]); });
}

double percent(size_t part, size_t of) {
  return of == 0 ? 100 : 100 * static_cast<double>(part) / static_cast<double>(of);
}

}  // namespace

bool Trial::counts() const { return !(effect < kSmallestEffect); }

Result<SelfTestResult> self_test(const SelfTestSetup& setup, const Progress3& progress) {
  const auto begin = std::chrono::steady_clock::now();
  Bench bench{setup, make_plan(*setup.model, setup.prompt.size() + setup.decode), {}, {}, {}};
  Threads threads(setup.threads);
  TRY_ASSIGN(const auto run, run_greedily({*setup.model, bench.plan, *setup.backend, threads},
                                          setup.prompt, setup.decode));
  bench.tokens = run.tokens;
  const auto recorded = [&](const StepChoice& steps) {
    return run_recorded(setup, *setup.backend, bench.plan, bench.tokens, setup.prompt.size(), steps,
                        0, threads);
  };
  TRY_ASSIGN(bench.some, recorded({}));
  TRY_ASSIGN(bench.all, recorded(kEverything));
  SelfTestResult result;
  if (setup.files) {
    progress("files", 0, 1);
    TRY_ASSIGN(result.files, test_files(setup.model, threads));
  }
  TRY(run_all(bench, progress, result));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

Shares shares_of(const std::vector<Trial>& trials, const std::string& kind) {
  Shares shares;
  size_t step = 0;
  size_t side = 0;
  size_t reason = 0;
  size_t same = 0;
  size_t audit = 0;
  size_t held_out = 0;
  std::set<std::string> faults;
  for (const auto& trial : trials) {
    if (!trial.fault.starts_with(kind)) continue;
    if (!trial.counts()) {
      ++shares.no_effect;
      continue;
    }
    faults.insert(trial.fault);
    ++shares.trials;
    step += trial.step_right();
    side += trial.side_right();
    reason += trial.reason_right();
    same += !trial.reason_right() && trial.same_values;
    audit += trial.audit_right();
    held_out += trial.held_out_right() && trial.audit_right();
  }
  shares.faults = faults.size();
  shares.step = percent(step, shares.trials);
  shares.side = percent(side, shares.trials);
  shares.reason = percent(reason, shares.trials);
  shares.same_values = percent(same, shares.trials);
  shares.audit = percent(audit, shares.trials);
  shares.held_out = percent(held_out, shares.trials);
  return shares;
}

Result<Floors> read_floors(const std::string& yaml) {
  TRY_ASSIGN(const auto root, parse_yaml(yaml, "self-test.yaml"));
  Floors floors;
  const auto number = [&](const char* key, auto& to) -> Result<void> {
    const auto* node = root.find(key);
    if (node == nullptr)
      return fail(ErrorCode::Corrupt, fmt::format("self-test.yaml: the key '{}' is missing", key));
    double value = 0;
    const auto& text = node->scalar;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      return fail(ErrorCode::Corrupt,
                  fmt::format("self-test.yaml, line {}: '{}' is not a number", node->line, text));
    to = static_cast<std::remove_reference_t<decltype(to)>>(value);
    return {};
  };
  TRY(number("step_percent", floors.step));
  TRY(number("side_percent", floors.side));
  TRY(number("reason_percent", floors.reason));
  TRY(number("audit_percent", floors.audit));
  TRY(number("held_out_percent", floors.held_out));
  TRY(number("false_alarms", floors.false_alarms));
  TRY(number("equivalent_runs", floors.rewrites));
  TRY(number("faults", floors.faults));
  TRY(number("gain_found_exponent", floors.curve_exponent));
  return floors;
}

std::vector<std::string> below_floor(const SelfTestResult& result, const Floors& floors,
                                     const SelfTestSetup& setup) {
  std::vector<std::string> missed;
  const auto shares = shares_of(result.trials);
  const auto at_least = [&](const char* what, double value, double floor) {
    if (value < floor)
      missed.push_back(fmt::format("{}: {:.1f} %, the floor is {:g} %", what, value, floor));
  };
  at_least("right step, alone", shares.step, floors.step);
  at_least("right side", shares.side, floors.side);
  at_least("right reason", shares.reason, floors.reason);
  at_least("right step by audit", shares.audit, floors.audit);
  at_least("held out, unexplained or by the same values", shares.held_out, floors.held_out);
  if (shares.faults < floors.faults)
    missed.push_back(
        fmt::format("faults with an effect: {}, the floor is {}", shares.faults, floors.faults));
  if (shares.trials == 0) missed.push_back("no fault had an effect: nothing was tested");
  for (const auto& file : result.files)
    if (!file.right && !file.refused)
      missed.push_back(fmt::format("a file with {}: {}", file.name,
                                   file.found ? "found as " + file.reason : "not found"));
  const auto alarms =
      static_cast<size_t>(std::ranges::count_if(result.rewrites, &Rewrite::false_alarm));
  if (alarms > floors.false_alarms)
    missed.push_back(
        fmt::format("false alarms: {} of {} equivalent runs", alarms, result.rewrites.size()));
  if (setup.rewrites > 0 && result.rewrites.size() < floors.rewrites)
    missed.push_back(fmt::format("equivalent runs: {}, the floor is {}", result.rewrites.size(),
                                 floors.rewrites));
  for (const auto& point : result.curve)
    if (point.exponent >= floors.curve_exponent && point.found < point.of)
      missed.push_back(fmt::format("a gain of 1 + 2^{} was found at {} of {} steps", point.exponent,
                                   point.found, point.of));
  return missed;
}

}  // namespace plumb
