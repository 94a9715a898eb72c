// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void softmax(float* x, size_t n) {
  float max = x[0];
  for (size_t j = 1; j < n; ++j) max = x[j] > max ? x[j] : max;
  float sum = 0.0F;
  for (size_t j = 0; j < n; ++j) {
    x[j] = expf(x[j] - max);
    sum += x[j];
  }
  for (size_t j = 0; j < n; ++j) x[j] /= sum;
}

}  // namespace plumb::cpu::scalar
