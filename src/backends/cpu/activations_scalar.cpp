// SPDX-License-Identifier: Apache-2.0
// All in double, rounded once: the error of a result is that of its last rounding. Only e^-|t| is
// taken, so that nothing overflows and no difference of near equals appears.
#include <math.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

// 0.5 (1 + tanh(z)) = 1 / (1 + e^-2z)
void gelu_tanh(float* out, const float* x, size_t n) {
  const double factor = 2.0 * 0.7978845608028654;  // 2 sqrt(2 / pi)
  for (size_t i = 0; i < n; ++i) {
    const double v = x[i];
    const double e = exp(-fabs(factor * (v + 0.044715 * v * v * v)));
    out[i] = static_cast<float>((v < 0.0 ? v * e : v) / (1.0 + e));
  }
}

// 1 + erf(a) = erfc(-a), which keeps its relative accuracy where erf is near -1.
void gelu_erf(float* out, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const double v = x[i];
    out[i] = static_cast<float>(0.5 * v * erfc(v * -0.7071067811865476));  // 1 / sqrt(2)
  }
}

void sigmoid(float* out, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const double v = x[i];
    const double e = exp(-fabs(v));
    out[i] = static_cast<float>((v < 0.0 ? e : 1.0) / (1.0 + e));
  }
}

void softcap(float* out, const float* x, size_t n, float cap) {
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(cap * tanh(double{x[i]} / cap));
}

}  // namespace plumb::cpu::scalar
