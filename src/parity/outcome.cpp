// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "parity/parity.h"

namespace plumb {
namespace {

std::vector<double> log_softmax(std::vector<double> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const double x : logits) sum += std::exp(x - max);
  const double shift = max + std::log(sum);
  for (double& x : logits) x -= shift;
  return logits;
}

double kl_divergence(const std::vector<double>& log_a, const std::vector<double>& log_b) {
  double sum = 0;
  for (size_t i = 0; i < log_a.size(); ++i) sum += std::exp(log_a[i]) * (log_a[i] - log_b[i]);
  return std::max(sum, 0.0);  // Rounding can take it a hair below.
}

double quantile(const std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size() - 1)))];
}

}  // namespace

std::optional<Price> price_of(const Side& baseline, const Side& candidate,
                              const std::optional<NoiseFloor>& floor) {
  const auto* a = baseline.trace.find("logits");
  const auto* b = candidate.trace.find("logits");
  if (a == nullptr || b == nullptr || a->width() != b->width() || a->width() == 0) return {};
  Price price;
  std::vector<double> divergences;
  std::vector<double> x(a->width());
  std::vector<double> y(a->width());
  for (size_t r = 0; r < a->positions.size(); ++r) {
    const int32_t position = a->positions[r];
    const auto other = std::ranges::lower_bound(b->positions, position);
    if (other == b->positions.end() || *other != position) continue;
    read_row(*a, r, x);
    read_row(*b, static_cast<size_t>(other - b->positions.begin()), y);
    if (!std::ranges::all_of(x, [](double v) { return std::isfinite(v); }) ||
        !std::ranges::all_of(y, [](double v) { return std::isfinite(v); })) {
      divergences.push_back(INFINITY);
      ++price.not_finite;
      continue;
    }
    divergences.push_back(kl_divergence(log_softmax(x), log_softmax(y)));
    const auto top_a = std::ranges::max_element(x) - x.begin();
    const auto top_b = std::ranges::max_element(y) - y.begin();
    if (top_a == top_b) continue;
    ++price.argmax_changes;
    const double margin = x[static_cast<size_t>(top_a)] - x[static_cast<size_t>(top_b)];
    const auto at = static_cast<size_t>(position);
    const double tie = floor && at < floor->ties.size() ? floor->ties[at] : 0;
    if (margin <= tie) ++price.ties;
    if (price.first_token_changed || static_cast<size_t>(position) + 1 < baseline.trace.prompt)
      continue;
    price.first_token_changed = static_cast<size_t>(position) + 1 - baseline.trace.prompt;
    price.first_from = static_cast<Token>(top_a);
    price.first_to = static_cast<Token>(top_b);
    price.first_margin = margin;
    if (floor) price.first_tie = tie;
  }
  if (divergences.empty()) return {};
  price.positions = divergences.size();
  for (const double kl : divergences) price.kl_mean += kl / static_cast<double>(divergences.size());
  std::ranges::sort(divergences);
  price.kl_median = quantile(divergences, 0.5);
  price.kl_p99 = quantile(divergences, 0.99);
  price.kl_max = divergences.back();
  return price;
}

}  // namespace plumb
