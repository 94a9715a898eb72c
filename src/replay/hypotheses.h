// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <set>

#include "faults/catalogue.h"
#include "replay/replay.h"

namespace plumb {

// Why a step is wrong: the fault whose replay gives the recorded values inside their bound, or
// nothing but clues.
struct Explanation {
  std::string reason = "unexplained";
  std::string at;  // the step of the segment that the fault is in
  std::map<std::string, std::string> parameters;
  std::string text;
  std::optional<double>
      reproduced_to;  // relative L2 distance of the recorded values to the fault's
  std::map<std::string, std::string> clues;
  // The step as the faulty engine computes it, where a fault of the catalogue explains it.
  std::optional<std::pair<size_t, Step>> variant;
};

// `wrong` is what Replayer::check gave for a step that is wrong. Faults named in `without` are not
// tried: what would be said of a fault that is in no catalogue.
Explanation explain(const Replayer& replayer, const ReplayedStep& wrong,
                    const std::set<std::string>& without = {});

}  // namespace plumb
