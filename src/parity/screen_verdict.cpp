// SPDX-License-Identifier: Apache-2.0
// What may be concluded where runs were screened and no step was judged.
#include <fmt/format.h>

#include <algorithm>

#include "parity/parity.h"

namespace plumb {
namespace {

// Of all steps that could have been judged none was.
void add_unmeasured(Comparison& result, size_t steps) {
  const auto& screened = *result.screen;
  Finding finding;
  finding.kind = "unmeasured";
  finding.side = "undecided";
  finding.reason = "steps.statistics_only";
  if (!screened.ranked.empty()) {
    finding.step = screened.ranked.front().step;
    finding.first_position = screened.ranked.front().position;
    if (const auto layer = step_order(finding.step).layer; layer >= 0) finding.layers = {layer};
  }
  finding.text = fmt::format("statistics say where to look, and prove nothing about a step; {}",
                             screened.summary);
  result.findings.push_back(std::move(finding));
  result.of = steps;
  result.measured = 0;
}

void conclude(Comparison& result) {
  const auto find = [&](auto fits) { return std::ranges::find_if(result.findings, fits); };
  const auto end = result.findings.end();
  const auto refused = find([](const Finding& f) { return f.kind == "not_comparable"; });
  const auto different =
      find([](const Finding& f) { return f.kind == "static" && f.reason != "weights.rounding"; });
  const auto unmeasured = find([](const Finding& f) { return f.kind == "unmeasured"; });
  if (refused != end) {
    result.verdict = Verdict::NotComparable;
    result.why = refused->text;
  } else if (different != end) {
    result.verdict = Verdict::Different;
    result.why = fmt::format("the models differ: {}", different->text);
  } else {
    result.verdict = Verdict::Unmeasured;
    result.why = unmeasured->text;
  }
}

}  // namespace

bool is_screening(const Side& baseline, const Side& candidate) {
  return baseline.trace.has_only_statistics() || candidate.trace.has_only_statistics() ||
         !baseline.model || !candidate.model;
}

void conclude_screen(Comparison& result, Threads& threads) {
  const auto& a = result.sides[0];
  const auto& b = result.sides[1];
  if (a.model && b.model) result.findings = compare_models(a, b, threads);
  const auto* planned = a.model ? &a : b.model ? &b : nullptr;
  add_unmeasured(result,
                 planned != nullptr ? planned->plan.steps.size() : result.screen->rows.size());
  conclude(result);
}

Result<Comparison> screen_audit(Side side, const std::function<Result<Trace>()>& run_referee) {
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
    TRY_ASSIGN(const auto referee, run_referee());
    result.screen = screen(referee, only.trace, &only.plan, {"referee", "run"});
    add_unmeasured(result, only.plan.steps.size());
  }
  conclude(result);
  return result;
}

}  // namespace plumb
