// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/iq_grids.h"
#include "quant/target_clones.h"

namespace plumb {

namespace {

// Eight values of the grid with their common offset, in eighths.
inline void add_delta(size_t index, bool minus, int8_t* eighths) {
  const int8_t* grid = kIq1Grid[index].data();
  const auto delta = static_cast<int8_t>(minus ? -1 : 1);
  for (size_t j = 0; j < 8; ++j) eighths[j] = static_cast<int8_t>(grid[j] + delta);
}

// One scale for each kEach values. The grid's value and the offset add up exactly.
template <size_t kEach>
inline void scale_eighths(const int8_t* eighths, const float* scales, float* __restrict out) {
  for (size_t i = 0; i < 256; i += kEach) {
    const float scale = scales[i / kEach];
    for (size_t l = 0; l < kEach; ++l)
      out[i + l] = scale * (static_cast<float>(eighths[i + l]) * 0.125F);
  }
}

}  // namespace

PLUMB_TARGET_CLONES
void dequantize_iq1_s(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ1_S), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ1_S*>(source);
    const float d = half_to_float(block.d);
    int8_t eighths[256];
    float scales[8];
    for (size_t i = 0; i < 8; ++i) {
      const uint32_t high = block.high[i];
      scales[i] = d * static_cast<float>(2 * static_cast<int>(high >> 12 & 7) + 1);
      for (size_t g = 0; g < 4; ++g) {
        const size_t index = block.index[i * 4 + g] | (high >> (3 * g) & 7) << 8;
        add_delta(index, (high & 0x8000U) != 0, eighths + i * 32 + g * 8);
      }
    }
    scale_eighths<32>(eighths, scales, out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_iq1_m(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockIQ1_M), out += 256) {
    const auto& block = *reinterpret_cast<const BlockIQ1_M*>(source);
    uint32_t half = 0;
    for (size_t i = 0; i < 4; ++i) half |= static_cast<uint32_t>(block.scales[i] >> 12) << (4 * i);
    const float d = half_to_float(static_cast<uint16_t>(half));
    int8_t eighths[256];
    float scales[16];
    for (size_t i = 0; i < 16; ++i) {
      const int bits = block.scales[i / 4] >> (i % 4 * 3) & 7;
      scales[i] = d * static_cast<float>(2 * bits + 1);
    }
    for (size_t g = 0; g < 32; ++g) {
      const uint32_t high = block.high[g / 2] >> (g % 2 * 4) & 15U;
      add_delta(block.index[g] | (high & 7) << 8, (high & 8) != 0, eighths + g * 8);
    }
    scale_eighths<16>(eighths, scales, out);
  }
}

}  // namespace plumb
