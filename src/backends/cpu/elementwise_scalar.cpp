// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void add(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void multiply(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

void scale(float* out, const float* x, size_t n, float factor) {
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

}  // namespace plumb::cpu::scalar
