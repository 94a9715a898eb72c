// SPDX-License-Identifier: Apache-2.0
#include "core/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace plumb {

double log_sum_exp(std::span<const float> logits) {
  if (logits.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double top = *std::ranges::max_element(logits);
  if (std::isinf(top) && top < 0)
    return std::ranges::any_of(logits, [](float x) { return std::isnan(x); })
               ? std::numeric_limits<double>::quiet_NaN()
               : top;
  double sum = 0;  // a NaN of the row, or infinity less itself, makes it NaN
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return top + std::log(sum);
}

std::vector<std::pair<float, int32_t>> best_logits(std::span<const float> logits, size_t count) {
  const auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  std::vector<std::pair<float, int32_t>> best;  // in order; short, so that insertion is cheap
  if (count == 0) return best;
  best.reserve(std::min(count, logits.size()) + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const std::pair<float, int32_t> candidate(logits[i], static_cast<int32_t>(i));
    if (std::isnan(candidate.first)) continue;
    if (best.size() == count && !before(candidate, best.back())) continue;
    best.insert(std::ranges::upper_bound(best, candidate, before), candidate);
    if (best.size() > count) best.pop_back();
  }
  return best;
}

}  // namespace plumb
