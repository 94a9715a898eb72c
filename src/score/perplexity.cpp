// SPDX-License-Identifier: Apache-2.0
#include "score/perplexity.h"

#include <cmath>

namespace plumb {

Estimate Mean::estimate() const {
  if (count_ == 0) return {};
  const auto n = static_cast<double>(count_);
  const double mean = sum_ / n;
  const double variance = squares_ / n - mean * mean;
  // Rounding can leave a variance of zero below zero.
  return {mean, variance > 0 && count_ > 1 ? std::sqrt(variance / (n - 1)) : 0};
}

Estimate perplexity(const Mean& nll) {
  const auto mean = nll.estimate();
  const double value = std::exp(mean.value);
  return {value, value * mean.error};
}

}  // namespace plumb
