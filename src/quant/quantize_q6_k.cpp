// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "quant/blocks.h"
#include "quant/quantize.h"
#include "quant/quantize_rounding.h"

// Sums run in the order of the values and products from left to right, as in quantize_q4_k.cpp.
namespace plumb {
namespace {

constexpr size_t kSub = 16;
constexpr size_t kSubs = 16;
constexpr int kHalfRange = 32;  // Codes are -32 to 31, stored as 0 to 63.
constexpr float kNothing = 1e-15F;
using Codes = std::array<uint8_t, kSub>;

int32_t code_of(float value) { return std::clamp(nearest_int(value), -kHalfRange, kHalfRange - 1); }

Codes codes_for(const float* x, float inverse_scale) {
  Codes codes;
  for (size_t i = 0; i < kSub; ++i)
    codes[i] = static_cast<uint8_t>(code_of(inverse_scale * x[i]) + kHalfRange);
  return codes;
}

// Sums of w * x * code and w * code^2 with weight w = x^2. Their quotient is the best scale for the
// codes, and the squared first over the second what it gains.
struct Sums {
  float lx = 0;
  float ll = 0;
};

Sums sums_for(const float* x, float inverse_scale) {
  Sums sums;
  for (size_t i = 0; i < kSub; ++i) {
    const auto code = static_cast<float>(code_of(inverse_scale * x[i]));
    const float weight = x[i] * x[i];
    sums.lx += weight * x[i] * code;
    sums.ll += weight * code * code;
  }
  return sums;
}

float value_of_largest_magnitude(const float* x) {
  float magnitude = 0;
  float value = 0;
  for (size_t i = 0; i < kSub; ++i) {
    if (!(std::fabs(x[i]) > magnitude)) continue;
    magnitude = std::fabs(x[i]);
    value = x[i];
  }
  return value;
}

// The value of largest magnitude gets the code -32, or what 18 other spreads from 31.1 to 32.9
// give it: the scale that gains most wins, the first of equals.
float fit(const float* x, Codes& codes) {
  codes = {};
  const float extreme = value_of_largest_magnitude(x);
  if (std::fabs(extreme) < kNothing) return 0;
  float inverse = -static_cast<float>(kHalfRange) / extreme;
  codes = codes_for(x, inverse);
  Sums sums = sums_for(x, inverse);
  float scale = sums.ll != 0 ? sums.lx / sums.ll : 0.0F;
  float best = scale * sums.lx;
  for (int step = -9; step <= 9; ++step) {
    if (step == 0) continue;
    inverse = -(static_cast<float>(kHalfRange) + 0.1F * static_cast<float>(step)) / extreme;
    sums = sums_for(x, inverse);
    if (!(sums.ll > 0 && sums.lx * sums.lx > best * sums.ll)) continue;
    codes = codes_for(x, inverse);
    scale = sums.lx / sums.ll;
    best = scale * sums.lx;
  }
  return scale;
}

// The layout of blocks.h.
void store_codes(const std::array<Codes, kSubs>& codes, BlockQ6_K& block) {
  for (size_t i = 0; i < kSub * kSubs; ++i) {
    const uint8_t code = codes[i / kSub][i % kSub];
    const size_t half = i / 128;
    const size_t quarter = i % 128 / 32;
    const size_t l = i % 32;
    block.low[half * 64 + quarter % 2 * 32 + l] |=
        static_cast<uint8_t>((code & 15) << (quarter / 2 * 4));
    block.high[half * 32 + l] |= static_cast<uint8_t>((code >> 4) << (quarter * 2));
  }
}

BlockQ6_K quantize_block(const float* x) {
  BlockQ6_K block = {};
  std::array<Codes, kSubs> codes;
  std::array<float, kSubs> scales;
  float extreme = 0;
  for (size_t j = 0; j < kSubs; ++j) {
    scales[j] = fit(x + j * kSub, codes[j]);
    if (std::fabs(scales[j]) > std::fabs(extreme)) extreme = scales[j];
  }
  if (std::fabs(extreme) < kNothing) return block;  // Codes 0 mean -32, but d is 0.
  const float inverse = -128.0F / extreme;
  block.d = f32_to_f16(1 / inverse);
  for (size_t j = 0; j < kSubs; ++j) {
    block.scales[j] = static_cast<int8_t>(std::min(127, nearest_int(inverse * scales[j])));
    // The final codes are those of the scale as stored; a scale of zero keeps the search's.
    const float d = f16_to_f32(block.d) * static_cast<float>(block.scales[j]);
    if (d == 0) continue;
    for (size_t i = 0; i < kSub; ++i)
      codes[j][i] = static_cast<uint8_t>(code_of(x[j * kSub + i] / d) + kHalfRange);
  }
  store_codes(codes, block);
  return block;
}

}  // namespace

void quantize_q6_k(const float* source, size_t blocks, std::byte* out) {
  for (size_t b = 0; b < blocks; ++b) {
    const BlockQ6_K block = quantize_block(source + b * kSub * kSubs);
    std::memcpy(out + b * sizeof(block), &block, sizeof(block));
  }
}

}  // namespace plumb
