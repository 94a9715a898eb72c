// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "backends/backend.h"

namespace plumb {

// The production path. `level`: "scalar", "avx2" or "best" (what this processor has). Quantized
// weights are multiplied with activations in int8/32, other weights in float; every step gives
// float. Any number of threads and any split of the tokens gives the same bits.
Result<std::unique_ptr<Backend>> make_cpu_backend(const std::string& level);

// The levels that this processor has, the best one last.
std::vector<std::string> cpu_levels();

}  // namespace plumb
