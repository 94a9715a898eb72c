// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/half.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"

namespace plumb {

void dequantize_q6_k(const std::byte* source, size_t blocks, float* out) {
  BlockQ6_K block;
  for (size_t b = 0; b < blocks; ++b, source += sizeof(block), out += 256) {
    std::memcpy(&block, source, sizeof(block));
    const float d = f16_to_f32(block.d);
    for (size_t i = 0; i < 256; ++i) {
      const size_t half = i / 128;
      const size_t quarter = i % 128 / 32;
      const uint8_t low = block.low[half * 64 + quarter % 2 * 32 + i % 32];
      const uint8_t high = block.high[half * 32 + i % 32];
      const int nibble = quarter < 2 ? low & 15 : low >> 4;
      const int q = (nibble | ((high >> (2 * quarter) & 3) << 4)) - 32;
      out[i] = d * static_cast<float>(block.scales[i / 16]) * static_cast<float>(q);
    }
  }
}

}  // namespace plumb
