// SPDX-License-Identifier: Apache-2.0
// Right values that stand at other channels of their row.
#pragma once
#include <string>
#include <vector>

#include "replay/replay.h"

namespace plumb {

// For each channel the one of the referee whose values it has in all of the first `rows` rows, the
// closest of several; the width itself where there is none. Values are the same if they lie within
// `share` of the root mean square of their row.
std::vector<size_t> source_of_channels(const ReplayedStep& wrong, size_t rows, double share);

// What such an order is called: "in reverse", "heads in another order: 1 0 2 3". `head_dim` 0:
// no heads.
std::string name_order(const std::vector<size_t>& sources, size_t head_dim);

}  // namespace plumb
