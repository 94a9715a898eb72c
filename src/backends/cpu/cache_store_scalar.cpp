// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels_internal.h"
#include "core/half.h"
#include "quant/blocks.h"

namespace plumb::cpu::scalar {
namespace {

// The largest |x| of 32, or a NaN if one is among them: the bits of magnitudes have their order,
// with NaN on top.
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

}  // namespace

void store_f16(uint16_t* out, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = f32_to_f16(x[i]);
}

void store_q8_0(void* out, const float* x, size_t n) {
  auto* block = static_cast<BlockQ8_0*>(out);
  for (size_t b = 0; b < n / 32; ++b, ++block, x += 32) {
    const float max = largest_magnitude(x);
    const float d = max / 127.0F;
    const float inverse = 1.0F / d;
    // Zeros, and scales whose inverse is no finite number, have the values 0.
    const bool usable = max < INFINITY && inverse < INFINITY;
    block->d = f32_to_f16(d);
    for (size_t i = 0; i < 32; ++i)
      block->q[i] = usable ? static_cast<int8_t>(roundf(x[i] * inverse)) : int8_t{0};
  }
}

}  // namespace plumb::cpu::scalar
