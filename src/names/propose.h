// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "names/map_names.h"

namespace plumb {

// A tensor without a row that could be a step: one for the user to confirm, never used by itself.
struct Proposal {
  size_t tensor = 0;  // in the dump
  std::string step;
  double distance = 0;  // relative L2 to the referee's value of that step
  std::string why;
};

// By value where `run` (the referee's run of the same tokens) is there: the nearest step within 5 %
// that has no values yet. Tensors that no row knows only.
Result<std::vector<Proposal>> propose_names(const Dump& dump, const Imported& imported,
                                            const Plan& plan, const Trace* run);

}  // namespace plumb
