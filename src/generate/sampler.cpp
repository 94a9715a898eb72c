// SPDX-License-Identifier: Apache-2.0
#include "generate/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace plumb {
namespace {

uint64_t splitmix64(uint64_t& state) {
  state += 0x9E3779B97F4A7C15;
  uint64_t z = state;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

uint64_t xoshiro256ss(std::array<uint64_t, 4>& s) {
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const uint64_t shifted = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= shifted;
  s[3] = std::rotl(s[3], 45);
  return result;
}

// e^x for x <= 0, from operations that IEEE 754 rounds in one way only. Within 1e-15 relative.
double portable_exp(double x) {
  if (x < -745) return 0;
  // ln 2 in two parts, so that n times the first is exact.
  constexpr double kLn2High = 0x1.62e42feep-1;
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  const double n = std::floor(x / std::numbers::ln2 + 0.5);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  // |r| <= 0.35: the first term left out, r^14 / 14!, is below 5e-18.
  double sum = 1;
  for (int k = 13; k >= 1; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

Token greedy(std::span<const float> logits) {
  Token best = Sampler::kNoToken;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    if (best < 0 || logits[i] > logits[static_cast<size_t>(best)]) best = static_cast<Token>(i);
  }
  return best;
}

}  // namespace

// Written so that NaN fails.
Result<void> check(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    return fail(ErrorCode::Usage,
                fmt::format("temperature must be 0 (greedy) or a positive number, not {}",
                            options.temperature));
  }
  if (options.top_k < 0) {
    return fail(ErrorCode::Usage,
                fmt::format("top-k must be 0 (all) or more, not {}", options.top_k));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return fail(ErrorCode::Usage,
                fmt::format("top-p must be above 0 and at most 1, not {}", options.top_p));
  }
  if (!(options.min_p >= 0 && options.min_p <= 1)) {
    return fail(ErrorCode::Usage, fmt::format("min-p must be from 0 to 1, not {}", options.min_p));
  }
  return {};
}

Sampler::Sampler(SamplingOptions options) : options_(options) {
  CHECK(check(options).has_value());
  uint64_t seed = options.seed;
  for (uint64_t& word : state_) word = splitmix64(seed);
}

double Sampler::uniform() { return static_cast<double>(xoshiro256ss(state_) >> 11) * 0x1p-53; }

Token Sampler::sample(std::span<const float> logits) {
  if (options_.temperature == 0) return greedy(logits);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) candidates_.emplace_back(logits[i], static_cast<Token>(i));
  }
  if (candidates_.empty()) return kNoToken;
  size_t kept = candidates_.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<size_t>(options_.top_k));
  const auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (kept < candidates_.size()) {
    const auto middle = candidates_.begin() + static_cast<ptrdiff_t>(kept);
    std::nth_element(candidates_.begin(), middle, candidates_.end(), before);
    candidates_.resize(kept);
  }
  std::ranges::sort(candidates_, before);

  const double top = candidates_[0].first;
  double total = 0;
  weights_.clear();
  for (size_t i = 0; i < kept; ++i) {
    const double logit = candidates_[i].first;
    // The test keeps infinite logits from meeting their own kind in a subtraction.
    const double weight = logit == top ? 1 : portable_exp((logit - top) / options_.temperature);
    weights_.push_back(weight);
    total += weight;
  }
  double reached = 0;
  for (size_t i = 0; options_.top_p < 1 && i < kept; ++i) {
    reached += weights_[i];
    if (reached >= options_.top_p * total) kept = i + 1;
  }
  // The first weight is 1 and they only fall.
  while (weights_[kept - 1] < options_.min_p || weights_[kept - 1] == 0) --kept;
  total = 0;
  for (size_t i = 0; i < kept; ++i) total += weights_[i];
  const double drawn = uniform() * total;
  double passed = 0;
  for (size_t i = 0; i + 1 < kept; ++i) {
    passed += weights_[i];
    if (drawn < passed) return candidates_[i].second;
  }
  return candidates_[kept - 1].second;
}

}  // namespace plumb
