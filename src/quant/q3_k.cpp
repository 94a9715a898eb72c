// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q3_k(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ3_K), out += 256) {
    const auto& block = *reinterpret_cast<const BlockQ3_K*>(source);
    const float d = half_to_float(block.d);
    for (size_t j = 0; j < 16; ++j) {
      const int nibble = block.scales[j % 8] >> (j / 8 * 4) & 15;
      const int upper = block.scales[8 + j % 4] >> (j / 4 * 2) & 3;
      const float scale = d * static_cast<float>((nibble | upper << 4) - 32);
      const uint8_t* bits = block.q + j / 8 * 32 + j % 2 * 16;
      const uint8_t* high = block.high + j % 2 * 16;
      const size_t shift = j % 8 / 2 * 2;
      for (size_t l = 0; l < 16; ++l) {
        const int q = (bits[l] >> shift & 3) | (high[l] >> j / 2 & 1) << 2;
        out[j * 16 + l] = scale * static_cast<float>(q - 4);
      }
    }
  }
}

}  // namespace plumb
