// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "core/result.h"
#include "core/tensor.h"

namespace plumb {

// All values of a tensor of floats or whole numbers, in its order, exactly.
Result<std::vector<double>> values_of(const TensorView& view);

}  // namespace plumb
