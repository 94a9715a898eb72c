// SPDX-License-Identifier: Apache-2.0
#include "generate/penalties.h"

#include <fmt/format.h>

#include <cmath>

namespace plumb {

// Written so that NaN fails.
Result<void> check(const PenaltyOptions& options) {
  if (!(options.repeat > 0) || std::isinf(options.repeat))
    return fail(ErrorCode::Usage, fmt::format("repeat-penalty must be 1 (none) or another positive "
                                              "number, not {}",
                                              options.repeat));
  for (const auto& [name, value] : {std::pair("presence-penalty", options.presence),
                                    std::pair("frequency-penalty", options.frequency)})
    if (!std::isfinite(value))
      return fail(ErrorCode::Usage, fmt::format("{} must be a number, not {}", name, value));
  if (options.last < -1)
    return fail(
        ErrorCode::Usage,
        fmt::format("repeat-last-n must be 0 (none), -1 (all) or a number of tokens, not {}",
                    options.last));
  return {};
}

void Penalties::add(Token token) {
  if (!options_.active()) return;
  last_.push_back(token);
  ++counts_[token];
  if (options_.last < 0 || last_.size() <= static_cast<size_t>(options_.last)) return;
  const auto oldest = counts_.find(last_.front());
  if (--oldest->second == 0) counts_.erase(oldest);
  last_.pop_front();
}

void Penalties::apply(std::span<float> logits) const {
  const auto repeat = static_cast<float>(options_.repeat);
  for (const auto& [token, count] : counts_) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / repeat : logit * repeat;
    logit -= static_cast<float>(count) * static_cast<float>(options_.frequency) +
             static_cast<float>(options_.presence);
  }
}

}  // namespace plumb
