// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/iq_values.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_iq2_xxs(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ2_XXS), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ2_XXS*>(source);
    const float d = half_to_float(block.d);
    SignedGridValues values;
    float scales[8];
    for (size_t i = 0; i < 8; ++i) {
      const uint32_t word = block.groups[i].signs_and_scale;
      scales[i] = d * (0.5F + static_cast<float>(word >> 28)) * 0.25F;
      for (size_t g = 0; g < 4; ++g) {
        values.set_magnitudes(i * 32 + g * 8, kIq2XxsGrid[block.groups[i].index[g]]);
        values.set_signs(i * 32 + g * 8, even_signs(word >> (7 * g) & 127));
      }
    }
    scale_values<32>(values, scales, out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_iq2_xs(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ2_XS), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ2_XS*>(source);
    const float d = half_to_float(block.d);
    SignedGridValues values;
    float scales[16];
    for (size_t i = 0; i < 16; ++i) {
      const int bits = block.scales[i / 2] >> (i % 2 * 4) & 15;
      scales[i] = d * (0.5F + static_cast<float>(bits)) * 0.25F;
    }
    for (size_t g = 0; g < 32; ++g) {
      const uint32_t word = block.index_and_signs[g];
      values.set_magnitudes(g * 8, kIq2XsGrid[word & 511]);
      values.set_signs(g * 8, even_signs(word >> 9));
    }
    scale_values<16>(values, scales, out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_iq2_s(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ2_S), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ2_S*>(source);
    const float d = half_to_float(block.d);
    SignedGridValues values;
    float scales[16];
    for (size_t i = 0; i < 16; ++i) {
      const int bits = block.scales[i / 2] >> (i % 2 * 4) & 15;
      scales[i] = d * (0.5F + static_cast<float>(bits)) * 0.25F;
    }
    for (size_t g = 0; g < 32; ++g) {
      const size_t upper = block.high[g / 4] >> (g % 4 * 2) & 3;
      values.set_magnitudes(g * 8, kIq2SGrid[block.index[g] | upper << 8]);
      values.set_signs(g * 8, block.signs[g]);
    }
    scale_values<16>(values, scales, out);
  }
}

}  // namespace plumb
