// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "outcome/prompt_set.h"

namespace plumb {

// "outcome" of the JSON report (docs/outcome.md has the keys). What is not finite is null.
nlohmann::ordered_json outcome_json(const SetOutcome& set);

}  // namespace plumb
