// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void add(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void multiply(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

}  // namespace plumb::cpu::scalar
