// SPDX-License-Identifier: Apache-2.0
// Parameters of faults, read off the values of a wrong step.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "faults/catalogue.h"
#include "replay/replay.h"

namespace plumb {

// Epsilons of a norm that give the recorded values: the one that fits, and what somebody would
// have typed. `step` is what `wrong.referee` was computed by: the plan's, or one with a fault
// already. Empty for other steps, and where the inputs were not recorded.
std::vector<double> fit_epsilons(const Replayer& replayer, const ReplayedStep& wrong,
                                 const Step& step);

// Bases, divisors and shifts of a rotation that give the recorded values. Empty for other steps,
// and where the inputs were not recorded.
FittedRope fit_rope(const Replayer& replayer, const ReplayedStep& wrong);

// Channels that were recorded as zeros at every position and should not be, if they stand side by
// side: the first and how many. fit_constant_channels: as the same value, such as a bias.
std::optional<std::pair<size_t, size_t>> fit_zero_channels(const ReplayedStep& wrong);
std::optional<std::pair<size_t, size_t>> fit_constant_channels(const ReplayedStep& wrong);

// Channels that hold right values of others, where all that are wrong do.
std::optional<FittedOrder> fit_order(const ReplayedStep& wrong, size_t head_dim);

// Factors that one input of a sum was multiplied by. Nothing for other steps.
std::vector<FittedShare> fit_shares(const Replayer& replayer, const ReplayedStep& wrong);

// The element of the matrix of `product` that is not the file's, if one explains why one channel is
// wrong. Nothing where the inputs were not recorded.
std::optional<FittedElement> fit_element(const Replayer& replayer, const ReplayedStep& wrong,
                                         const Step& product);

}  // namespace plumb
