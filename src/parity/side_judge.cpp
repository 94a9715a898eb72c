// SPDX-License-Identifier: Apache-2.0
#include "parity/side_judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace plumb {
namespace {

std::string layer_prefix(const std::string& step) {
  return step.starts_with("layer.") ? step.substr(0, step.find('.', 6)) : std::string();
}

}  // namespace

SideJudge::SideJudge(const Model& model, const Plan& plan, const Trace& trace, Threads& threads)
    : model_(model),
      plan_(plan),
      threads_(threads),
      trace_(std::make_unique<Trace>(trace)),
      replayer_(std::make_unique<Replayer>(model, plan, *trace_, threads)) {}

ReplayedStep SideJudge::check(size_t step) {
  if (auto known = ahead_.extract(step)) return std::move(known.mapped());
  return replayer_->check(step);
}

void SideJudge::leave_out(size_t step) {
  ahead_.clear();
  auto without = std::make_unique<Trace>(*trace_);
  without->steps.erase(plan_.steps[step].name);
  replayer_ = std::make_unique<Replayer>(model_, plan_, *without, threads_);
  trace_ = std::move(without);
}

// Recorded steps that are computed from the step, by itself or through steps that were not.
std::vector<size_t> SideJudge::readers_of(size_t step) const {
  std::vector<bool> reached(plan_.steps.size(), false);
  reached[step] = true;
  std::vector<size_t> readers;
  for (size_t at = step + 1; at < plan_.steps.size(); ++at) {
    const auto& inputs = plan_.steps[at].inputs;
    if (std::ranges::none_of(inputs, [&](size_t input) { return reached[input]; })) continue;
    if (trace_->find(plan_.steps[at].name) != nullptr) readers.push_back(at);
    else reached[at] = true;
  }
  return readers;
}

// The step whose values were recorded in place of the right ones, of the layer or of what reads it;
// empty: none.
std::string SideJudge::step_of_values(size_t wrong, const std::vector<size_t>& readers) const {
  const auto& name = plan_.steps[wrong].name;
  std::set<std::string> layers = {layer_prefix(name)};
  for (const size_t reader : readers) layers.insert(layer_prefix(plan_.steps[reader].name));
  for (size_t at = 0; at < plan_.steps.size(); ++at) {
    const auto& other = plan_.steps[at];
    if (at == wrong || other.width != plan_.steps[wrong].width ||
        !layers.contains(layer_prefix(other.name)))
      continue;
    Trace renamed = *trace_;
    renamed.steps.erase(other.name);
    auto values = renamed.steps.extract(name);
    values.key() = other.name;
    renamed.steps.insert(std::move(values));
    const auto as_other = Replayer(model_, plan_, renamed, threads_).check(at).check;
    if (as_other.measured() && !as_other.wrong()) return other.name;
  }
  return {};
}

std::optional<WrongRecording> SideJudge::take_for_recording(const ReplayedStep& wrong) {
  // A fault of the run is in what follows too. How much closer a reader must come to the right
  // values when it is computed without these.
  constexpr double kMuchCloser = 10;
  const size_t step = wrong.check.step;
  if (wrong.check.non_finite > 0) return {};  // a value that is no number is excused by nothing
  const auto readers = readers_of(step);
  std::optional<Trace> trace;
  std::optional<Replayer> without;
  std::string proven;
  for (const size_t reader : readers) {
    auto& as_recorded = ahead_[reader];
    as_recorded = replayer_->check(reader);
    if (!as_recorded.check.measured()) continue;
    if (!as_recorded.check.wrong()) return {};
    if (!trace) {
      trace = *trace_;
      trace->steps.erase(plan_.steps[step].name);
      without.emplace(model_, plan_, *trace, threads_);
    }
    const auto check = without->check(reader).check;
    if (!check.measured()) continue;
    if (check.wrong() || !(as_recorded.check.local > kMuchCloser * check.local)) return {};
    if (proven.empty()) proven = plan_.steps[reader].name;
  }
  if (proven.empty()) return {};
  const auto of = step_of_values(step, readers);
  leave_out(step);
  const auto went_on = fmt::format(
      "the run went on with the right ones, from which {} follows: the recording is at fault "
      "there, "
      "not the run",
      proven);
  if (!of.empty())
    return WrongRecording{"capture.point",
                          fmt::format("what was recorded as {} are the values of {}; {}",
                                      wrong.check.name, of, went_on)};
  return WrongRecording{
      "capture.values",
      fmt::format("what was recorded as {} is not what the run computed there; {}",
                  wrong.check.name, went_on)};
}

}  // namespace plumb
