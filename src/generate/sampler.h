// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/result.h"
#include "tokenizer/tokenizer.h"

namespace plumb {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy, and the rest is not used
  int top_k = 0;           // 0: all
  double top_p = 1;        // 1: all
  double min_p = 0;        // 0: all
  uint64_t seed = 0;
};

// Usage, saying which option is wrong and what it may be.
Result<void> check(const SamplingOptions& options);

// Picks the next token. Greedy: the largest logit, the lowest id on ties. Otherwise, in this order:
//   1. sort by logit, the largest first, the lowest id on ties
//   2. top-k: keep the first k
//   3. probabilities: softmax of logit / temperature, in double
//   4. top-p: keep the fewest leading tokens whose probabilities reach top_p
//   5. min-p: keep those with at least min_p of the first one's probability
//   6. draw one of what is left
// NaN never wins. The same options and logits give the same ids on every machine: xoshiro256**
// seeded by splitmix64, and an exponential of our own (libraries differ in the last bit). That
// holds where the compiler neither fuses nor reorders: -ffp-contract=off, no -ffast-math.
class Sampler {
 public:
  static constexpr Token kNoToken = -1;

  // Needs options that pass check().
  explicit Sampler(SamplingOptions options);

  // kNoToken where there is no logit that is a number.
  Token sample(std::span<const float> logits);

 private:
  double uniform();

  SamplingOptions options_;
  std::array<uint64_t, 4> state_;
  std::vector<std::pair<float, Token>> candidates_;
  std::vector<double> weights_;
};

}  // namespace plumb
