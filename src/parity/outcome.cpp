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

// Adds up what two sides make of each position.
class PriceMeter {
 public:
  PriceMeter(size_t prompt, const std::optional<NoiseFloor>& floor)
      : prompt_(prompt), floor_(floor) {}

  void add(int32_t position, const std::vector<double>& x, const std::vector<double>& y) {
    const auto finite = [](double v) { return std::isfinite(v); };
    if (!std::ranges::all_of(x, finite) || !std::ranges::all_of(y, finite)) {
      divergences_.push_back(INFINITY);
      ++price_.not_finite;
      return;
    }
    divergences_.push_back(kl_divergence(log_softmax(x), log_softmax(y)));
    const auto top_a = std::ranges::max_element(x) - x.begin();
    const auto top_b = std::ranges::max_element(y) - y.begin();
    if (top_a == top_b) return;
    ++price_.argmax_changes;
    const double margin = x[static_cast<size_t>(top_a)] - x[static_cast<size_t>(top_b)];
    const auto at = static_cast<size_t>(position);
    const double tie = floor_ && at < floor_->ties.size() ? floor_->ties[at] : 0;
    if (margin <= tie) ++price_.ties;
    if (price_.first_token_changed || at + 1 < prompt_) return;
    price_.first_token_changed = at + 1 - prompt_;
    price_.first_from = static_cast<Token>(top_a);
    price_.first_to = static_cast<Token>(top_b);
    price_.first_margin = margin;
    if (floor_) price_.first_tie = tie;
  }

  std::optional<Price> price() {
    if (divergences_.empty()) return {};
    price_.positions = divergences_.size();
    for (const double kl : divergences_)
      price_.kl_mean += kl / static_cast<double>(divergences_.size());
    std::ranges::sort(divergences_);
    price_.kl_median = quantile(divergences_, 0.5);
    price_.kl_p99 = quantile(divergences_, 0.99);
    price_.kl_max = divergences_.back();
    return price_;
  }

 private:
  size_t prompt_;
  const std::optional<NoiseFloor>& floor_;
  std::vector<double> divergences_;
  Price price_;
};

}  // namespace

std::optional<Price> price_of(const Side& baseline, const Side& candidate,
                              const std::optional<NoiseFloor>& floor) {
  const auto* a = baseline.trace.find("logits");
  const auto* b = candidate.trace.find("logits");
  if (a == nullptr || b == nullptr || a->width() != b->width() || a->width() == 0) return {};
  PriceMeter meter(baseline.trace.prompt, floor);
  std::vector<double> x(a->width());
  std::vector<double> y(a->width());
  for (size_t r = 0; r < a->positions.size(); ++r) {
    const int32_t position = a->positions[r];
    const auto other = std::ranges::lower_bound(b->positions, position);
    if (other == b->positions.end() || *other != position) continue;
    read_row(*a, r, x);
    read_row(*b, static_cast<size_t>(other - b->positions.begin()), y);
    meter.add(position, x, y);
  }
  return meter.price();
}

std::optional<Price> price_of_logits(std::span<const float> a, std::span<const float> b,
                                     size_t width, size_t prompt) {
  const std::optional<NoiseFloor> no_floor;
  PriceMeter meter(prompt, no_floor);
  for (size_t at = 0; at + width <= std::min(a.size(), b.size()); at += width)
    meter.add(
        static_cast<int32_t>(at / width),
        {a.begin() + static_cast<ptrdiff_t>(at), a.begin() + static_cast<ptrdiff_t>(at + width)},
        {b.begin() + static_cast<ptrdiff_t>(at), b.begin() + static_cast<ptrdiff_t>(at + width)});
  return meter.price();
}

}  // namespace plumb
