// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/iq_grids.h"
#include "quant/target_clones.h"

namespace plumb {

namespace {

inline void scaled_values(const uint8_t* nibbles, float scale, float* __restrict out) {
  for (size_t j = 0; j < 16; ++j) {
    out[j] = scale * kIq4Values[nibbles[j] & 15];
    out[j + 16] = scale * kIq4Values[nibbles[j] >> 4];
  }
}

}  // namespace

PLUMB_TARGET_CLONES
void dequantize_iq4_nl(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ4_NL), out += 32) {
    const auto& block = *reinterpret_cast<const BlockIQ4_NL*>(source);
    scaled_values(block.nibbles, half_to_float(block.d), out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_iq4_xs(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ4_XS), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ4_XS*>(source);
    const float d = half_to_float(block.d);
    for (size_t j = 0; j < 8; ++j) {
      const int nibble = block.low[j / 2] >> (j % 2 * 4) & 15;
      const int upper = block.high >> (2 * j) & 3;
      const float scale = d * static_cast<float>((nibble | upper << 4) - 32);
      scaled_values(block.nibbles + j * 16, scale, out + j * 32);
    }
  }
}

}  // namespace plumb
