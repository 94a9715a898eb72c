// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void rmsnorm(float* out, const float* x, const float* weight, size_t n, float epsilon) {
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const auto scale = static_cast<float>(1.0 / sqrt(sum / static_cast<double>(n) + epsilon));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

}  // namespace plumb::cpu::scalar
