// SPDX-License-Identifier: Apache-2.0
// Massive values and first tokens of the residual stream, shown apart from the rest: a few values
// that outweigh their row would hide every other difference in its distance, and be hidden in a
// mean. They decide where a difference is shown, never a verdict. docs/outcome.md derives them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "replay/replay.h"

namespace plumb {

// The difference inside one part of the values of a step.
struct StratumDifference {
  size_t values = 0;  // of all rows
  // Largest relative L2 distance of a row, over this part of it only. Absent where there are no
  // values, or no such side.
  std::optional<double> total, local_baseline, local_candidate;
  // Of the summed squared difference that `total` is made of (in an audit: the local one), the
  // part that lies here; absent where there is no difference, or one that is not finite.
  std::optional<double> share;
};

struct StepStrata {
  // Massive: a value whose square alone exceeds the sum of squares of the 99 % smallest values of
  // its row, on any side. So it has no scale, and at most 1 % of a row is massive.
  std::vector<size_t> channels;            // that have a massive value, ascending
  std::vector<int32_t> massive_positions;  // where, ascending
  double times_median = 0;                 // the largest of them, in medians of its row
  // Position 0, and every row whose norm is 5 times the median norm of the rows.
  std::vector<int32_t> first_positions;
  StratumDifference massive;  // massive values, wherever they are
  StratumDifference first;    // the other values of the first tokens
  StratumDifference rest;
};

// Of a step of the residual stream; nothing of other steps, or where a side was not measured.
// `candidate` is null in an audit. A side without the referee's values has no local differences.
// Nothing where the widths differ.
std::optional<StepStrata> strata_of(const ReplayedStep& baseline, const ReplayedStep* candidate);

// The same of recorded rows alone, (positions, width): two traces without a model.
struct RecordedRows {
  std::vector<int32_t> positions;
  std::vector<double> values;
};
std::optional<StepStrata> strata_of_recorded(const std::string& step, RecordedRows baseline,
                                             RecordedRows candidate, size_t width);

// A channel of a wrong step and its part of the squared difference to the referee.
struct ChannelShare {
  size_t channel = 0;
  double share = 0;
};
// The largest ones first, at most `most`, none below a ten-thousandth; none at all where a
// difference is not finite or nothing differs.
std::vector<ChannelShare> channel_shares(const ReplayedStep& step, size_t most);

}  // namespace plumb
