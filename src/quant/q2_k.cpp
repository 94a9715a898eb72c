// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q2_k(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ2_K), out += 256) {
    const auto& block = *reinterpret_cast<const BlockQ2_K*>(source);
    const float d = half_to_float(block.d);
    const float dmin = half_to_float(block.dmin);
    for (size_t j = 0; j < 16; ++j) {
      const float scale = d * static_cast<float>(block.scales[j] & 15);
      const float min = dmin * static_cast<float>(block.scales[j] >> 4);
      const uint8_t* bits = block.q + j / 8 * 32 + j % 2 * 16;
      const size_t shift = j % 8 / 2 * 2;
      for (size_t l = 0; l < 16; ++l)
        out[j * 16 + l] = scale * static_cast<float>(bits[l] >> shift & 3) - min;
    }
  }
}

}  // namespace plumb
