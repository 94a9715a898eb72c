// SPDX-License-Identifier: Apache-2.0
// All in double, rounded once.
#include <math.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void layernorm(float* out, const float* x, const float* weight, const float* bias, size_t n,
               float epsilon) {
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  double squares = 0.0;
  for (size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / sqrt(squares / static_cast<double>(n) + epsilon);
  for (size_t i = 0; i < n; ++i) {
    double y = (x[i] - mean) * scale;
    if (weight != nullptr) y *= weight[i];
    if (bias != nullptr) y += bias[i];
    out[i] = static_cast<float>(y);
  }
}

}  // namespace plumb::cpu::scalar
