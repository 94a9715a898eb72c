// SPDX-License-Identifier: Apache-2.0
// The part of a report that shows a screening.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "parity/parity.h"

namespace plumb {

// Lines of the text report, with those of all steps if asked for; `screen` must be there.
std::string screen_text(const Comparison& comparison, bool all_steps);
nlohmann::ordered_json screen_json(const Comparison& comparison);
// What records the values that a screening asks for, one line for each side, and judges them.
std::vector<std::string> next_commands(const Comparison& comparison);

}  // namespace plumb
