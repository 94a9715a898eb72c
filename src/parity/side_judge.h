// SPDX-License-Identifier: Apache-2.0
// The steps of one side, judged in the order of the plan. A step whose recording is not what the
// run computed there (the values before the bias or after the rotation, overwritten later, in
// another order) is not a wrong step: it is left out of what later steps are computed from.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "replay/replay.h"

namespace plumb {

struct WrongRecording {
  std::string reason;  // capture.point: the values of another step; capture.values: of none
  std::string text;
};

class SideJudge {
 public:
  SideJudge(const Model& model, const Plan& plan, const Trace& trace, Threads& threads);

  // Steps are asked for in order.
  ReplayedStep check(size_t step);
  // Of a wrong step that was just checked: whether all that the run computed from it follows from
  // the right values and not from those that were recorded. Then the step is left out from now on.
  std::optional<WrongRecording> take_for_recording(const ReplayedStep& wrong);
  void leave_out(size_t step);

  const Replayer& replayer() const { return *replayer_; }

 private:
  std::vector<size_t> readers_of(size_t step) const;
  std::string step_of_values(size_t wrong, const std::vector<size_t>& readers) const;

  const Model& model_;
  const Plan& plan_;
  Threads& threads_;
  std::unique_ptr<Trace> trace_;  // without what was left out
  std::unique_ptr<Replayer> replayer_;
  std::map<size_t, ReplayedStep> ahead_;  // checked before their turn
};

}  // namespace plumb
