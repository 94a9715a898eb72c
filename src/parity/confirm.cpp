// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "parity/parity.h"

namespace plumb {
namespace {

using Edits = std::vector<std::pair<size_t, Step>>;

Plan edited(const Plan& plan, const std::vector<const Edits*>& all) {
  Plan out = plan;
  for (const auto* edits : all)
    for (const auto& [at, step] : *edits) out.steps[at] = step;
  return out;
}

// The mean divergence of the side's recorded logits from those of a run; nothing where a position
// has none.
std::optional<double> distance_to_recorded(const Side& side, const std::vector<float>& logits) {
  const auto* recorded = side.trace.find("logits");
  if (recorded == nullptr || recorded->elided || recorded->precision > 0) return {};
  const size_t width = recorded->width();
  if (width * side.trace.tokens.size() != logits.size()) return {};
  std::vector<float> theirs;
  std::vector<float> ours;
  std::vector<double> row(width);
  for (size_t r = 0; r < recorded->positions.size(); ++r) {
    read_row(*recorded, r, row);
    for (const double x : row) theirs.push_back(static_cast<float>(x));
    const auto at = static_cast<ptrdiff_t>(static_cast<size_t>(recorded->positions[r]) * width);
    ours.insert(ours.end(), logits.begin() + at,
                logits.begin() + at + static_cast<ptrdiff_t>(width));
  }
  const auto price = price_of_logits(theirs, ours, width, side.trace.prompt);
  if (!price) return {};
  return price->kl_mean;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Result<void> confirm_side(Comparison& comparison, const Side& side, const RunLogits& run) {
  std::vector<Finding*> findings;
  for (auto& finding : comparison.findings) {
    const bool own = finding.side == side.role ||
                     (finding.side == "both" && side.role == comparison.sides[0].role);
    if (own && !finding.edits.empty() && findings.size() < kMostConfirmed)
      findings.push_back(&finding);
  }
  if (findings.empty()) return {};
  const auto logits_of = [&](const std::vector<const Edits*>& edits) {
    return run(*side.model, edited(side.plan, edits));
  };
  const size_t width = side.model->config.vocabulary;
  TRY_ASSIGN(const auto right, logits_of({}));
  TRY_ASSIGN(const auto again, logits_of({}));
  const auto price = [&](const std::vector<float>& logits) {
    return price_of_logits(right, logits, width, side.trace.prompt).value_or(Price{});
  };
  std::vector<const Edits*> all;
  for (const auto* finding : findings) all.push_back(&finding->edits);
  TRY_ASSIGN(const auto broken, logits_of(all));
  const double with_all = price(broken).kl_mean;
  const auto account = distance_to_recorded(side, broken);
  for (size_t i = 0; i < findings.size(); ++i) {
    Confirmation c{
        .control = same_bits(right, again), .all = with_all, .price = {}, .account = account};
    TRY_ASSIGN(const auto alone, logits_of({all[i]}));
    c.price = price(alone);
    c.alone = c.price.kl_mean;
    auto others = all;
    others.erase(others.begin() + static_cast<ptrdiff_t>(i));
    if (!others.empty()) {
      TRY_ASSIGN(const auto healed, logits_of(others));
      c.healed = price(healed).kl_mean;
    }
    findings[i]->confirmation = c;
  }
  return {};
}

}  // namespace

Result<void> confirm(Comparison& comparison, const RunLogits& run) {
  for (const auto& side : comparison.sides)
    if (side.model) TRY(confirm_side(comparison, side, run));
  return {};
}

}  // namespace plumb
