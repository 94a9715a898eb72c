// SPDX-License-Identifier: Apache-2.0
// Screening: where two runs part, as far as statistics and sketches in place of values can say it.
// It ranks steps and says which to record next; it judges none, since a statistic proves nothing
// about a step.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "model/plan.h"
#include "trace/trace.h"

namespace plumb {

// One step at one position: A is the baseline, B the candidate. Distances are |a - b| / |a|; where
// |a| is 0 they are not divided.
struct ScreenCell {
  int32_t position = 0;
  RowStatistics baseline, candidate;
  bool equal = false;              // the same bits in all figures, and in the sketches
  std::optional<double> distance;  // estimated; nothing without two sketches that go together
  double at_least = 0;             // from the norms alone: the distance is not smaller
  double resolution = 0;           // a distance below this is rounding of the sketches
  bool one_channel = false;        // it holds more than half of the baseline's squared length
  bool one_channel_input = false;  // an input is such a row: what it hides may appear behind it
  // The largest distance that the step's inputs have here; nothing if they were not recorded.
  std::optional<double> before;
  bool equal_inputs = false;  // all of them have the same bits on both sides

  double after() const;  // the larger of estimate and lower limit; 0 below the resolution
  double rise() const;   // the part of `after` that `before` does not account for
};

struct ScreenRow {
  std::string step;
  size_t positions_baseline = 0, positions_candidate = 0;  // recorded
  std::vector<ScreenCell> cells;                           // positions of both, ascending
  std::string not_screened;                                // why there is no cell; empty: there is
  size_t equal_positions() const;
  const ScreenCell* worst() const;              // of all positions, by after(); null without cells
  const ScreenCell* last(size_t tokens) const;  // of the run's last position, if it has that
};

// A step at which the difference rises, at the position where it does most.
struct Suspect {
  std::string step;
  int32_t position = 0;
  std::optional<double> before;
  double after = 0, rise = 0;
  std::string why;
};

struct Screen {
  std::vector<ScreenRow> rows;  // in the order of the steps
  std::vector<Suspect> ranked;  // the ones to look at first come first
  std::vector<std::string>
      record;  // patterns of --steps: the suspects, and what they are computed from
  std::vector<std::string> notes;
  size_t screened = 0, equal = 0;  // steps with common positions; of them with the same bits at all
  size_t positions = 0;            // most that a step has on both sides
  std::string summary;             // one sentence
};

// A step whose distance is less than this many times that of its inputs is taken to pass it on. The
// standard error of such a ratio is 0.125: twice as much is hardly ever an error of the estimates.
constexpr double kScreenRise = 2;

// What the two sides are called in sentences.
struct ScreenRoles {
  const char* baseline = "baseline";
  const char* candidate = "candidate";
};

// Both runs were fed the same tokens (handshake). Values are summarized where a side has them. The
// plan says what each step is computed from; without one the steps before it in its layer are
// taken for it.
Screen screen(const Trace& baseline, const Trace& candidate, const Plan* plan,
              ScreenRoles roles = {});

}  // namespace plumb
