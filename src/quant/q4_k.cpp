// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/half.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

struct ScaleAndMin {
  int scale;
  int min;
};

ScaleAndMin scale_and_min(const uint8_t* s, size_t j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}

}  // namespace

void dequantize_q4_k(const std::byte* source, size_t blocks, float* out) {
  BlockQ4_K block;
  for (size_t b = 0; b < blocks; ++b, source += sizeof(block), out += 256) {
    std::memcpy(&block, source, sizeof(block));
    const float d = f16_to_f32(block.d);
    const float dmin = f16_to_f32(block.dmin);
    for (size_t j = 0; j < 8; ++j) {
      const ScaleAndMin sub = scale_and_min(block.scales, j);
      const float scale = d * static_cast<float>(sub.scale);
      const float min = dmin * static_cast<float>(sub.min);
      const uint8_t* nibbles = block.nibbles + j / 2 * 32;
      for (size_t l = 0; l < 32; ++l) {
        const int q = j % 2 == 0 ? nibbles[l] & 15 : nibbles[l] >> 4;
        out[j * 32 + l] = scale * static_cast<float>(q) - min;
      }
    }
  }
}

}  // namespace plumb
