// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {
namespace {

constexpr uint32_t kInfinity = 0x7F800000U;  // bits; NaNs lie above
constexpr float kSmallest = 0x1p-119F;       // below it 127 / max could overflow: rounds to zeros

// The largest |x| as bits, whose order is that of the magnitudes with NaN on top.
float largest_magnitude(const float* x) {
  uint32_t largest = 0;
  for (size_t i = 0; i < 32; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7FFFFFFFU;
    largest = bits > largest ? bits : largest;
  }
  float max;
  memcpy(&max, &largest, sizeof(max));
  return max;
}

bool is_finite(float magnitude) {
  uint32_t bits;
  memcpy(&bits, &magnitude, sizeof(bits));
  return bits < kInfinity;
}

}  // namespace

void quantize_int8(int8_t* values, float* scales, float* sums, const float* x, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, x += 32, values += 32, sums += 2) {
    const float max = largest_magnitude(x);
    // Values stay 0 if an input is NaN or infinite; the scale then makes every result NaN.
    const bool usable = is_finite(max) && max >= kSmallest;
    const float scale = usable || !is_finite(max) ? max / 127.0F : 0.0F;
    const float inverse = usable ? 127.0F / max : 0.0F;
    scales[b] = scale;
    int sum[2] = {0, 0};
    for (size_t i = 0; i < 32; ++i) {
      values[i] = usable ? static_cast<int8_t>(lrintf(x[i] * inverse)) : int8_t{0};
      sum[i / 16] += values[i];
    }
    sums[0] = scale * static_cast<float>(sum[0]);
    sums[1] = scale * static_cast<float>(sum[1]);
  }
}

}  // namespace plumb::cpu::scalar
