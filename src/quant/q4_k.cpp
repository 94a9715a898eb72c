// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/k_scales.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q4_k(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ4_K), out += 256) {
    const auto& block = *reinterpret_cast<const BlockQ4_K*>(source);
    const float d = half_to_float(block.d);
    const float dmin = half_to_float(block.dmin);
    const SubScales sub = unpack_scales(block.scales);
    for (size_t j = 0; j < 8; j += 2) {
      const float scale[2] = {d * static_cast<float>(sub.scale[j]),
                              d * static_cast<float>(sub.scale[j + 1])};
      const float min[2] = {dmin * static_cast<float>(sub.min[j]),
                            dmin * static_cast<float>(sub.min[j + 1])};
      const uint8_t* nibbles = block.nibbles + j * 16;
      float* values = out + j * 32;
      for (size_t l = 0; l < 32; ++l) {
        values[l] = scale[0] * static_cast<float>(nibbles[l] & 15) - min[0];
        values[l + 32] = scale[1] * static_cast<float>(nibbles[l] >> 4) - min[1];
      }
    }
  }
}

}  // namespace plumb
