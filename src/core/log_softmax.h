// SPDX-License-Identifier: Apache-2.0
// What a row of logits says of each token, in double.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace plumb {

// ln Σ e^x over the row; a token's log-probability is its logit less this. NaN where the row is
// empty or holds a NaN, or +infinity.
double log_sum_exp(std::span<const float> logits);

// The `count` largest logits with their ids, the largest first, the lowest id on ties; fewer where
// the row has fewer. A NaN is never among them.
std::vector<std::pair<float, int32_t>> best_logits(std::span<const float> logits, size_t count);

}  // namespace plumb
