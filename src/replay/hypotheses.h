// SPDX-License-Identifier: Apache-2.0
#pragma once
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
};

// `wrong` is what Replayer::check gave for a step that is wrong.
Explanation explain(const Replayer& replayer, const ReplayedStep& wrong);

}  // namespace plumb
