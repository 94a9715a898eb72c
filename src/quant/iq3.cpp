// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/iq_values.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_iq3_xxs(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ3_XXS), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ3_XXS*>(source);
    const float d = half_to_float(block.d);
    SignedGridValues values;
    float scales[8];
    for (size_t i = 0; i < 8; ++i) {
      const uint32_t word = block.signs_and_scale[i];
      scales[i] = d * (0.5F + static_cast<float>(word >> 28)) * 0.5F;
      for (size_t g = 0; g < 4; ++g)
        values.set_signs(i * 32 + g * 8, even_signs(word >> (7 * g) & 127));
    }
    for (size_t g = 0; g < 64; ++g) values.set_magnitudes(g * 4, kIq3XxsGrid[block.index[g]]);
    scale_values<32>(values, scales, out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_iq3_s(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ3_S), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ3_S*>(source);
    const float d = half_to_float(block.d);
    SignedGridValues values;
    float scales[8];
    for (size_t i = 0; i < 8; ++i) {
      const int bits = block.scales[i / 2] >> (i % 2 * 4) & 15;
      scales[i] = d * static_cast<float>(1 + 2 * bits);
    }
    for (size_t g = 0; g < 64; ++g) {
      const size_t upper = block.high[g / 8] >> (g % 8) & 1;
      values.set_magnitudes(g * 4, kIq3SGrid[block.index[g] | upper << 8]);
    }
    for (size_t g = 0; g < 32; ++g) values.set_signs(g * 8, block.signs[g]);
    scale_values<32>(values, scales, out);
  }
}

}  // namespace plumb
