// SPDX-License-Identifier: Apache-2.0
#include "report/outcome_json.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

Json finite(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }
Json finite(const std::optional<double>& x) { return x ? finite(*x) : Json(nullptr); }

Json estimate_json(const BootstrapEstimate& e) {
  return {{"value", finite(e.value)},
          {"low", e.interval ? finite(e.interval->low) : Json(nullptr)},
          {"high", e.interval ? finite(e.interval->high) : Json(nullptr)},
          {"error", finite(e.error)},
          {"detectable", finite(e.detectable)},
          {"of", e.count}};
}

Json share_json(const PromptShare& s) {
  return {{"value", static_cast<double>(s.events) / static_cast<double>(s.count)},
          {"low", s.interval.low},
          {"high", s.interval.high},
          {"detectable", s.detectable},
          {"events", s.events},
          {"of", s.count}};
}

Json prompt_json(const PromptOutcome& p) {
  Json out = {{"line", p.line},
              {"prompt", p.prompt},
              {"positions", p.positions.size()},
              {"identical", p.identical},
              {"kl_mean", finite(p.kl_mean())},
              {"kl_max", finite(p.kl_max())},
              {"argmax_changes", p.changes()},
              {"ties", p.ties()},
              {"logits_distance", finite(p.distance)},
              {"floor", finite(p.floor)},
              {"first_token_changed", nullptr}};
  const auto at = p.parting_position();
  if (!at) return out;
  const auto& position = p.positions[*at];
  out["first_token_changed"] = *p.parting();
  if (position.finite)
    out["first_change"] = {{"from", position.from},
                           {"to", position.to},
                           {"margin", position.margin},
                           {"tie_floor", finite(position.tie)}};
  return out;
}

}  // namespace

Json outcome_json(const SetOutcome& set) {
  Json changed = estimate_json(set.changed);
  changed["events"] = set.changes;
  changed["ties"] = set.ties;
  // Only where nothing changed is there a largest share that went unseen.
  const bool none = set.changes == 0;
  changed["unseen_if_independent"] = none ? Json(set.unseen_by_positions) : Json(nullptr);
  changed["unseen_if_by_prompt"] = none ? Json(set.unseen_by_prompts) : Json(nullptr);
  Json parted = share_json(set.parted);
  parted["within"] = set.decode + 1;
  Json out = {
      {"file", set.file},
      {"prompts", set.prompts.size()},
      {"positions", set.positions},
      {"decode", set.decode},
      {"not_finite", set.not_finite},
      {"seed", set.options.seed},
      {"resamples", set.options.resamples},
      {"confidence", set.options.confidence},
      {"power", set.options.power},
      {"block",
       {{"kind", set.blocks.groups ? "prompt" : "positions"},
        {"length", set.blocks.groups ? Json(nullptr) : Json(set.blocks.length)},
        {"count", set.blocks.count}}},
      {"steps_of", {{"line", set.prompts[set.chosen].line}, {"above_floor", set.chosen_differs}}},
      {"kl_mean", estimate_json(set.kl)},
      {"argmax_changed", std::move(changed)},
      {"log_prob_difference", estimate_json(set.log_ratio)},
      {"parted", std::move(parted)},
      {"differing", share_json(set.touched)},
      {"per_prompt", Json::array()}};
  for (const auto& prompt : set.prompts) out["per_prompt"].push_back(prompt_json(prompt));
  return out;
}

}  // namespace plumb
