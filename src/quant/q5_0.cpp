// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q5_0(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ5_0), out += 32) {
    const auto& block = *reinterpret_cast<const BlockQ5_0*>(source);
    const float d = half_to_float(block.d);
    const uint32_t high = block.high;
    for (uint32_t j = 0; j < 16; ++j) {
      const auto low = static_cast<int>((block.nibbles[j] & 15U) | (high >> j & 1U) << 4);
      const auto upper = static_cast<int>((block.nibbles[j] >> 4) | (high >> (j + 16) & 1U) << 4);
      out[j] = static_cast<float>(low - 16) * d;
      out[j + 16] = static_cast<float>(upper - 16) * d;
    }
  }
}

}  // namespace plumb
