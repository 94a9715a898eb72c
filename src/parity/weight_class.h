// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "core/dtype.h"

namespace plumb {

// A tensor's values with the type that they are stored in. Vectors have one row.
struct StoredValues {
  DType dtype = DType::F32;
  size_t rows = 0, columns = 0;
  std::span<const float> values;
};

// How two tensors that should be the same differ.
struct WeightClass {
  // Empty: the same values. Else one of weights.rounding, .transposed, .rows_permuted, .offset,
  // .scaled, .shape, .block, .blocks_permuted, .elements, .different, .unrelated, .missing
  std::string reason;
  std::string text;  // for a person
  std::map<std::string, std::string> parameters;
};

WeightClass classify_weights(const StoredValues& a, const StoredValues& b);

}  // namespace plumb
