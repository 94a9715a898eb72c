// SPDX-License-Identifier: Apache-2.0
#include "outcome/prompt_set.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace plumb {
namespace {

// A statistic of each position as a series for the bootstrap.
template <class F>
Series series_of(const std::vector<PromptOutcome>& prompts, const F& observe) {
  Series series;
  for (const auto& prompt : prompts) {
    auto& group = series.emplace_back();
    for (const auto& position : prompt.positions) group.push_back(observe(position));
  }
  return series;
}

PromptShare share_of(size_t events, size_t count, const BootstrapOptions& options) {
  PromptShare share{.events = events,
                    .count = count,
                    .interval = binomial_interval(events, count, options.confidence),
                    .detectable = zero_event_bound(count, options.confidence)};
  if (events == 0 || events == count || count < 2) return share;
  // Of zeros and ones the standard error of the bootstrap needs no drawing.
  const auto n = static_cast<double>(count);
  const double p = static_cast<double>(events) / n;
  share.detectable =
      detectable_errors(n, options.confidence, options.power) * std::sqrt(p * (1 - p) / n);
  return share;
}

void count_events(SetOutcome& set) {
  size_t parted = 0;
  size_t touched = 0;
  size_t changed_prompts = 0;
  for (const auto& prompt : set.prompts) {
    set.positions += prompt.positions.size();
    set.changes += prompt.changes();
    set.ties += prompt.ties();
    set.not_finite +=
        static_cast<size_t>(std::ranges::count(prompt.positions, false, &PositionOutcome::finite));
    parted += prompt.parting() ? 1 : 0;
    touched += prompt.identical ? 0 : 1;
    changed_prompts += prompt.changes() > 0 ? 1 : 0;
  }
  set.parted = share_of(parted, set.prompts.size(), set.options);
  set.touched = share_of(touched, set.prompts.size(), set.options);
  if (changed_prompts > 0) return;
  set.unseen_by_positions = zero_event_bound(set.positions, set.options.confidence);
  set.unseen_by_prompts = zero_event_bound(set.prompts.size(), set.options.confidence);
}

}  // namespace

double PromptOutcome::kl_mean() const {
  double sum = 0;
  for (const auto& position : positions) sum += position.kl;
  return sum / static_cast<double>(positions.size());
}

double PromptOutcome::kl_max() const {
  double most = 0;
  for (const auto& position : positions) most = std::max(most, position.kl);
  return most;
}

size_t PromptOutcome::changes() const {
  return static_cast<size_t>(std::ranges::count(positions, true, &PositionOutcome::changed));
}

size_t PromptOutcome::ties() const {
  return static_cast<size_t>(std::ranges::count(positions, true, &PositionOutcome::is_tie));
}

std::optional<size_t> PromptOutcome::parting_position() const {
  for (size_t at = prompt - 1; at < positions.size(); ++at)
    if (positions[at].changed) return at;
  return {};
}

std::optional<size_t> PromptOutcome::parting() const {
  const auto at = parting_position();
  return at ? std::optional(*at + 1 - prompt) : std::nullopt;
}

SetOutcome summarize(std::vector<PromptOutcome> prompts, size_t decode,
                     const BootstrapOptions& options) {
  CHECK(!prompts.empty());
  SetOutcome set;
  set.prompts = std::move(prompts);
  set.decode = decode;
  set.options = options;
  count_events(set);
  const std::vector<Series> statistics = {
      series_of(set.prompts, [](const PositionOutcome& p) { return Observation{p.kl, 1}; }),
      series_of(set.prompts,
                [](const PositionOutcome& p) { return Observation{p.changed ? 1.0 : 0.0, 1}; }),
      series_of(set.prompts, [](const PositionOutcome& p) {
        return p.log_ratio ? Observation{*p.log_ratio, 1} : Observation{};
      })};
  set.blocks = choose_blocks(statistics);
  const auto estimates = bootstrap(statistics, set.blocks, options);
  set.kl = estimates[0];
  set.changed = estimates[1];
  set.log_ratio = estimates[2];
  const auto first = std::ranges::find_if(set.prompts, &PromptOutcome::above_floor);
  set.chosen_differs = first != set.prompts.end();
  set.chosen = set.chosen_differs ? static_cast<size_t>(first - set.prompts.begin()) : 0;
  return set;
}

}  // namespace plumb
