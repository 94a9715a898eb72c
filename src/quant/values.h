// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace plumb {

// `count` values of a stored tensor from element `first` on, in row-major order, as float. Any
// dtype: wider types (F64, I32, I64…) are rounded to the nearest float, Bool is 0 or 1. The view's
// bytes must be tensor_bytes() long for its shape; the range must lie inside it.
void read_values(const TensorView& view, uint64_t first, size_t count, float* out);

}  // namespace plumb
