// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q6_k(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ6_K), out += 256) {
    const auto& block = *reinterpret_cast<const BlockQ6_K*>(source);
    const float d = half_to_float(block.d);
    for (size_t j = 0; j < 16; ++j) {
      const size_t quarter = j % 8 / 2;
      const float scale = d * static_cast<float>(block.scales[j]);
      const uint8_t* low = block.low + j / 8 * 64 + quarter % 2 * 32 + j % 2 * 16;
      const uint8_t* high = block.high + j / 8 * 32 + j % 2 * 16;
      const size_t low_shift = quarter / 2 * 4;
      for (size_t l = 0; l < 16; ++l) {
        const int q = (low[l] >> low_shift & 15) | (high[l] >> (2 * quarter) & 3) << 4;
        out[j * 16 + l] = scale * static_cast<float>(q - 32);
      }
    }
  }
}

}  // namespace plumb
