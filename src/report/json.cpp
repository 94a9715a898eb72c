// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/outcome_json.h"
#include "report/report.h"
#include "report/screen_report.h"

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity: what is not finite becomes null, and non_finite says how many there are.
Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }
Json number(const std::optional<double>& x) { return x ? number(*x) : Json(nullptr); }
Json text(const std::string& x) { return x.empty() ? Json(nullptr) : Json(x); }

Json arithmetic_json(const Arithmetic& a) {
  return {{"weights", a.weights},
          {"activations", a.activations},
          {"accumulate", a.accumulate},
          {"output", a.output}};
}

Json side_json(const Side& side) {
  Json out = {{"file", side.label}, {"engine", side.trace.provenance.engine}, {"backend", nullptr}};
  if (const auto found = side.trace.provenance.engine.find("backend");
      found != side.trace.provenance.engine.end())
    out["backend"] = found->second;
  out["model"] = side.trace.provenance.model;
  if (side.model)
    out["model_file"] = {{"path", side.model->path},
                         {"sha256", side.model->sha256},
                         {"architecture", side.model->config.architecture},
                         {"layers", side.model->config.layers},
                         {"weights", side.model->weight_types}};
  out["tokens"] = side.trace.tokens;
  out["prompt"] = side.trace.prompt;
  Json arithmetic = Json::object();
  for (const auto& [pattern, row] : side.trace.provenance.arithmetic)
    arithmetic[pattern] = arithmetic_json(row);
  out["arithmetic"] = arithmetic;
  out["kv_cache"] = side.trace.provenance.kv_cache;
  if (!side.trace.unknown.empty()) out["not_compared"] = side.trace.unknown;
  return out;
}

Json price_json(const Price& p) {
  Json out = {{"positions", p.positions},           {"first_token_changed", nullptr},
              {"kl_mean", number(p.kl_mean)},       {"kl_median", number(p.kl_median)},
              {"kl_p99", number(p.kl_p99)},         {"kl_max", number(p.kl_max)},
              {"argmax_changes", p.argmax_changes}, {"ties", p.ties},
              {"not_finite", p.not_finite}};
  // How large a share can have gone unseen (95 %), where nothing was seen.
  out["argmax_unseen"] =
      p.argmax_changes == 0 ? Json(zero_event_bound(p.positions, 0.95)) : Json(nullptr);
  if (p.first_token_changed) {
    out["first_token_changed"] = *p.first_token_changed;
    out["first_change"] = {{"from", p.first_from},
                           {"to", p.first_to},
                           {"margin", number(p.first_margin)},
                           {"tie_floor", number(p.first_tie)}};
  }
  return out;
}

Json confirmation_json(const Confirmation& c) {
  return {{"control_is_exact", c.control},
          {"kl_alone", number(c.alone)},
          {"kl_all", number(c.all)},
          {"kl_healed", number(c.healed)},
          {"kl_left", number(c.account)}};
}

Json finding_json(const Finding& f, const std::optional<Price>& price) {
  Json out = {{"kind", f.kind},      {"step", text(f.step)},       {"tensor", text(f.tensor)},
              {"key", text(f.key)},  {"layers", f.layers},         {"side", f.side},
              {"reason", f.reason},  {"parameters", f.parameters}, {"text", f.text},
              {"positions", nullptr}};
  if (f.first_position)
    out["positions"] = {
        {"first", *f.first_position}, {"count", f.position_count}, {"phase", f.phase}};
  out["local"] = number(f.local);
  out["bound"] = number(f.bound);
  out["times_bound"] = number(f.times_bound);
  out["reproduced_to"] = number(f.reproduced_to);
  out["clues"] = f.clues;
  if (!f.segment.empty()) out["segment"] = f.segment;
  if (!f.channels.empty()) {
    out["channels"] = Json::array();
    for (const auto& c : f.channels)
      out["channels"].push_back({{"channel", c.channel}, {"share", c.share}});
  }
  // Of the fault alone, where the model could be run with it and without; else that of all findings
  // together, which is measured on the outcome of the two runs.
  out["price"] = f.confirmation ? price_json(f.confirmation->price)
                 : price        ? price_json(*price)
                                : Json(nullptr);
  out["confirmed"] = f.confirmation ? confirmation_json(*f.confirmation) : Json(nullptr);
  return out;
}

Json stratum_json(const StratumDifference& s) {
  Json out = {{"values", s.values}, {"total", number(s.total)}, {"local", nullptr}};
  if (s.local_baseline || s.local_candidate)  // not without the referee
    out["local"] = {{"baseline", number(s.local_baseline)},
                    {"candidate", number(s.local_candidate)}};
  out["share"] = number(s.share);
  return out;
}

Json strata_json(const StepStrata& s) {
  Json massive = stratum_json(s.massive);
  massive["channels"] = s.channels;
  massive["positions"] = s.massive_positions;
  massive["times_median"] = s.times_median;
  Json first = stratum_json(s.first);
  first["positions"] = s.first_positions;
  return {{"massive", massive}, {"first_tokens", first}, {"rest", stratum_json(s.rest)}};
}

Json check_json(const std::optional<StepCheck>& check) {
  if (!check) return nullptr;
  if (!check->measured()) return {{"unmeasured", check->unmeasured}};
  Json out = {{"times_bound", number(check->times_bound)},
              {"bound", number(check->bound)},
              {"values", check->values},
              {"wrong_values", check->wrong_values},
              {"non_finite", check->non_finite},
              {"positions", check->positions.size()},
              {"arithmetic", arithmetic_json(check->arithmetic)},
              {"declared", check->declared}};
  if (check->segment.size() > 1) out["segment"] = check->segment;
  Json local = Json::array();
  for (const double x : check->local_by_position) local.push_back(number(x));
  out["local_by_position"] = local;
  return out;
}

Json step_json(const StepRow& row) {
  const auto local = [](const std::optional<StepCheck>& check) {
    return check && check->measured() ? number(check->local) : Json(nullptr);
  };
  Json out = {{"step", row.name},
              {"local", {{"baseline", local(row.baseline)}, {"candidate", local(row.candidate)}}},
              {"inherited", number(row.inherited)},
              {"total", number(row.total)},
              {"verdict", row.verdict}};
  out["baseline"] = check_json(row.baseline);
  out["candidate"] = check_json(row.candidate);
  if (row.strata) out["strata"] = strata_json(*row.strata);
  return out;
}

}  // namespace

std::string to_json(const Comparison& c) {
  Json out = {{"plumb", c.audit ? "audit" : "compare"},
              {"version", 1},
              {"verdict", to_text(c.verdict)},
              {"why", c.why}};
  Json sides = Json::object();
  for (const auto& side : c.sides) sides[side.role] = side_json(side);
  out["sides"] = sides;
  out["findings"] = Json::array();
  for (const auto& finding : c.findings) out["findings"].push_back(finding_json(finding, c.price));
  out["price"] = c.price ? price_json(*c.price) : Json(nullptr);
  out["steps"] = Json::array();
  for (const auto& row : c.steps) out["steps"].push_back(step_json(row));
  out["measured"] = {{"steps", c.measured},
                     {"of", c.of},
                     {"positions", c.positions},
                     {"floor", c.floor ? number(c.floor->logits) : Json(nullptr)}};
  if (c.floor) out["measured"]["floor_runs"] = c.floor->runs;
  out["outcome"] = c.outcome ? outcome_json(*c.outcome) : Json(nullptr);
  out["notes"] = c.notes;
  if (c.screen) out["screen"] = screen_json(c);
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace plumb
