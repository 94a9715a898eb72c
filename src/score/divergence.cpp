// SPDX-License-Identifier: Apache-2.0
#include "score/divergence.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/log_softmax.h"

namespace plumb {
namespace {

size_t count_shared(std::span<const std::pair<float, int32_t>> a,
                    std::span<const std::pair<float, int32_t>> b) {
  return static_cast<size_t>(std::ranges::count_if(a, [&](const auto& mine) {
    return std::ranges::any_of(b, [&](const auto& other) { return other.second == mine.second; });
  }));
}

// KL = Σ pA (a - b) - lnΣe^a + lnΣe^b: one exponential for each token, and exactly 0 for equal
// rows.
double divergence_of(std::span<const float> a, std::span<const float> b, double total_a,
                     double total_b) {
  const double top = *std::ranges::max_element(a);
  double sum = 0;
  double weighted = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double weight = std::exp(a[i] - top);
    sum += weight;
    // A token that A rules out adds nothing, whatever B says.
    if (weight > 0) weighted += weight * (static_cast<double>(a[i]) - b[i]);
  }
  const double kl = weighted / sum - total_a + total_b;
  return kl < 0 ? 0 : kl;  // below zero by rounding only; NaN stays
}

}  // namespace

PairRow compare_rows(std::span<const float> a, std::span<const float> b,
                     std::optional<int32_t> right, std::span<const size_t> top_k) {
  CHECK(a.size() == b.size() && !a.empty());
  PairRow row;
  const double total_a = log_sum_exp(a);
  const double total_b = log_sum_exp(b);
  row.kl = divergence_of(a, b, total_a, total_b);
  size_t most = 1;
  for (const size_t k : top_k) most = std::max(most, k);
  const auto best_a = best_logits(a, most);
  const auto best_b = best_logits(b, most);
  row.same_top = !best_a.empty() && !best_b.empty() && best_a[0].second == best_b[0].second;
  for (const size_t k : top_k)
    row.shared.push_back(count_shared(std::span(best_a).first(std::min(k, best_a.size())),
                                      std::span(best_b).first(std::min(k, best_b.size()))));
  if (!right) return row;
  row.nll_a = total_a - a[static_cast<size_t>(*right)];
  row.nll_b = total_b - b[static_cast<size_t>(*right)];
  return row;
}

void Divergence::add(const PairRow& row) {
  kl_.add(row.kl);
  kl_values_.push_back(row.kl);
  same_top_ += row.same_top ? 1 : 0;
  for (size_t i = 0; i < top_k_.size(); ++i)
    shared_[i].add(static_cast<double>(row.shared[i]) / static_cast<double>(top_k_[i]));
  if (!row.nll_a || !row.nll_b) return;
  nll_a_.add(*row.nll_a);
  nll_b_.add(*row.nll_b);
  nll_products_ += *row.nll_a * *row.nll_b;
  const double change = std::exp(-*row.nll_b) - std::exp(-*row.nll_a);
  change_.add(change);
  squared_change_.add(change * change);
}

double Divergence::kl_quantile(double share) const {
  CHECK(!kl_values_.empty());
  auto sorted = kl_values_;
  std::ranges::sort(sorted);
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(below);
  // The test keeps an infinite neighbour out where it has no part.
  return part == 0 ? sorted[below] : (1 - part) * sorted[below] + part * sorted[above];
}

Estimate Divergence::same_top() const {
  const auto n = static_cast<double>(count());
  const double share = n > 0 ? static_cast<double>(same_top_) / n : 0;
  return {share, n > 1 ? std::sqrt(share * (1 - share) / (n - 1)) : 0};
}

// The two runs see the same tokens: what they share of the error cancels, by their covariance.
Estimate Divergence::log_ratio() const {
  const auto a = nll_a_.estimate();
  const auto b = nll_b_.estimate();
  const auto n = static_cast<double>(nll_a_.count());
  if (n < 2) return {b.value - a.value, 0};
  const double covariance = (nll_products_ / n - a.value * b.value) / (n - 1);
  const double variance = a.error * a.error + b.error * b.error - 2 * covariance;
  return {b.value - a.value, variance > 0 ? std::sqrt(variance) : 0};
}

Estimate Divergence::ratio() const {
  const auto log = log_ratio();
  const double value = std::exp(log.value);
  return {value, value * log.error};
}

Estimate Divergence::rms_change() const {
  const auto square = squared_change_.estimate();
  const double rms = std::sqrt(square.value);
  return {rms, rms > 0 ? square.error / (2 * rms) : 0};
}

}  // namespace plumb
