// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "quant/blocks.h"
#include "quant/quantize.h"
#include "quant/quantize_rounding.h"

// Every sum runs in the order of the values and every product from left to right: another order
// would round differently, and the search below would then choose another scale now and then.
namespace plumb {
namespace {

constexpr size_t kSub = 32;
constexpr size_t kSubs = 8;
constexpr int kMaxCode = 15;
using Codes = std::array<uint8_t, kSub>;

// x = scale * code - min, with min >= 0.
struct Fit {
  float scale = 0;
  float min = 0;
};

// What a sub-block of 32 values is fitted to: sums of w and w * x, and the range with 0 in it.
struct SubBlock {
  const float* x;
  std::array<float, kSub> weight;
  float sum_w, sum_wx, low, high;
};

// A value weighs the root mean square of its sub-block plus its own magnitude.
SubBlock weigh(const float* x) {
  SubBlock sub = {.x = x, .weight = {}, .sum_w = 0, .sum_wx = 0, .low = x[0], .high = x[0]};
  float squares = 0;
  for (size_t i = 0; i < kSub; ++i) squares += x[i] * x[i];
  const float rms = std::sqrt(squares / static_cast<float>(kSub));
  for (size_t i = 0; i < kSub; ++i) {
    const float w = rms + std::fabs(x[i]);
    sub.weight[i] = w;
    if (x[i] < sub.low) sub.low = x[i];
    if (x[i] > sub.high) sub.high = x[i];
    sub.sum_w += w;
    sub.sum_wx += w * x[i];
  }
  if (sub.low > 0) sub.low = 0;
  return sub;
}

// The codes that spread the values from `low` to the highest one over `steps` steps.
Codes codes_for(const SubBlock& sub, float low, float steps) {
  const float inverse_scale = steps / (sub.high - low);
  Codes codes;
  for (size_t i = 0; i < kSub; ++i) {
    const int32_t code = nearest_int(inverse_scale * (sub.x[i] - low));
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0, kMaxCode));
  }
  return codes;
}

// Weighted squared error of scale * code + offset.
float error_of(const SubBlock& sub, const Codes& codes, float scale, float offset) {
  float error = 0;
  for (size_t i = 0; i < kSub; ++i) {
    const float difference = scale * static_cast<float>(codes[i]) + offset - sub.x[i];
    error += sub.weight[i] * (difference * difference);
  }
  return error;
}

// Weighted least squares for scale and offset at given codes. An offset above 0 cannot be stored:
// then it is 0 and the scale alone is fitted. False: the codes are all alike.
bool least_squares(const SubBlock& sub, const Codes& codes, float& scale, float& offset) {
  float sum_l = 0;
  float sum_ll = 0;
  float sum_lx = 0;
  for (size_t i = 0; i < kSub; ++i) {
    const auto code = static_cast<float>(codes[i]);
    const float weighted = sub.weight[i] * code;
    sum_l += weighted;
    sum_ll += weighted * code;
    sum_lx += weighted * sub.x[i];
  }
  const float determinant = sub.sum_w * sum_ll - sum_l * sum_l;
  if (!(determinant > 0)) return false;
  scale = (sub.sum_w * sum_lx - sub.sum_wx * sum_l) / determinant;
  offset = (sum_ll * sub.sum_wx - sum_l * sum_lx) / determinant;
  if (offset > 0) {
    offset = 0;
    scale = sum_lx / sum_ll;
  }
  return true;
}

// The codes that spread the range over 15 steps, then those of 21 other spreads from 14 to 16
// steps, each with the scale and offset that fit them best: the least error wins, the first of
// equals. A better offset becomes the low end of the spreads that are tried after it.
Fit fit(const SubBlock& sub, Codes& codes) {
  codes = {};
  if (sub.high == sub.low) return {0, -sub.low};
  const auto all_steps = static_cast<float>(kMaxCode);
  float scale = 1 / (all_steps / (sub.high - sub.low));
  float offset = sub.low;
  codes = codes_for(sub, offset, all_steps);
  float best = error_of(sub, codes, scale, offset);
  for (int step = 0; step <= 20; ++step) {
    const float steps = -1.0F + 0.1F * static_cast<float>(step) + all_steps;
    const Codes tried = codes_for(sub, offset, steps);
    float tried_scale = 0;
    float tried_offset = 0;
    if (!least_squares(sub, tried, tried_scale, tried_offset)) continue;
    const float error = error_of(sub, tried, tried_scale, tried_offset);
    if (!(error < best)) continue;
    best = error;
    codes = tried;
    scale = tried_scale;
    offset = tried_offset;
  }
  return {scale, -offset};
}

uint8_t six_bits(float value) {
  return std::min<uint8_t>(63, static_cast<uint8_t>(nearest_int(value)));
}

// The layout of blocks.h: the upper two bits of sub-blocks 4 to 7 go where the first four leave
// room.
void store_scale(uint8_t* packed, size_t j, uint8_t scale, uint8_t min) {
  if (j < 4) {
    packed[j] = scale;
    packed[j + 4] = min;
    return;
  }
  packed[j + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
  packed[j - 4] |= static_cast<uint8_t>(scale >> 4 << 6);
  packed[j] |= static_cast<uint8_t>(min >> 4 << 6);
}

// The final codes are those of the scales as stored. A scale of zero keeps the codes of the search.
void recode(const float* x, float scale, float min, Codes& codes) {
  if (scale == 0) return;
  for (size_t i = 0; i < kSub; ++i)
    codes[i] =
        static_cast<uint8_t>(std::clamp(nearest_int((x[i] + min) / scale), int32_t{0}, kMaxCode));
}

BlockQ4_K quantize_block(const float* x) {
  std::array<Codes, kSubs> codes;
  std::array<Fit, kSubs> fits;
  Fit largest;
  for (size_t j = 0; j < kSubs; ++j) {
    fits[j] = fit(weigh(x + j * kSub), codes[j]);
    if (fits[j].scale > largest.scale) largest.scale = fits[j].scale;
    if (fits[j].min > largest.min) largest.min = fits[j].min;
  }
  BlockQ4_K block = {.d = f32_to_f16(largest.scale / 63),
                     .dmin = f32_to_f16(largest.min / 63),
                     .scales = {},
                     .nibbles = {}};
  const float inverse_scale = largest.scale > 0 ? 63 / largest.scale : 0.0F;
  const float inverse_min = largest.min > 0 ? 63 / largest.min : 0.0F;
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (size_t j = 0; j < kSubs; ++j) {
    const uint8_t scale = six_bits(inverse_scale * fits[j].scale);
    const uint8_t min = six_bits(inverse_min * fits[j].min);
    store_scale(block.scales, j, scale, min);
    recode(x + j * kSub, d * static_cast<float>(scale), dmin * static_cast<float>(min), codes[j]);
  }
  for (size_t i = 0; i < sizeof(block.nibbles); ++i) {
    const size_t pair = i / kSub * 2;
    const uint8_t high = codes[pair + 1][i % kSub];
    block.nibbles[i] = static_cast<uint8_t>(codes[pair][i % kSub] | high << 4);
  }
  return block;
}

}  // namespace

void quantize_q4_k(const float* source, size_t blocks, std::byte* out) {
  for (size_t b = 0; b < blocks; ++b) {
    const BlockQ4_K block = quantize_block(source + b * kSub * kSubs);
    std::memcpy(out + b * sizeof(block), &block, sizeof(block));
  }
}

}  // namespace plumb
