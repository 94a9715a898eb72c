// SPDX-License-Identifier: Apache-2.0
// What a wrong step's values show where no known fault gives them: for who has to look on.
#pragma once
#include <map>
#include <string>

#include "replay/replay.h"

namespace plumb {

// Keys: docs/report.md. `step` is the step of the plan that is wrong; `head_dim` 0 where a row has
// no heads.
std::map<std::string, std::string> find_clues(const Step& step, const ReplayedStep& wrong,
                                              size_t head_dim);

std::map<std::string, std::string> find_clues(const Replayer& replayer, const ReplayedStep& wrong);

}  // namespace plumb
