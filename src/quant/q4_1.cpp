// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q4_1(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ4_1), out += 32) {
    const auto& block = *reinterpret_cast<const BlockQ4_1*>(source);
    const float d = half_to_float(block.d);
    const float m = half_to_float(block.m);
    for (size_t j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(block.nibbles[j] & 15) * d + m;
      out[j + 16] = static_cast<float>(block.nibbles[j] >> 4) * d + m;
    }
  }
}

}  // namespace plumb
