// SPDX-License-Identifier: Apache-2.0
// Parameters of faults, read off the values of a wrong step.
#pragma once
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

}  // namespace plumb
