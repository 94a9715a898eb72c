// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

// exp of -|x| only, so that nothing overflows: x / (1 + e^-x) = x * e^x / (1 + e^x) for x < 0.
void silu(float* out, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float z = expf(-fabsf(x[i]));
    out[i] = (x[i] < 0.0F ? x[i] * z : x[i]) / (1.0F + z);
  }
}

}  // namespace plumb::cpu::scalar
