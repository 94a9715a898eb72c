// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/half.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"

namespace plumb {

void dequantize_q8_0(const std::byte* source, size_t blocks, float* out) {
  BlockQ8_0 block;
  for (size_t b = 0; b < blocks; ++b, source += sizeof(block), out += 32) {
    std::memcpy(&block, source, sizeof(block));
    const float d = f16_to_f32(block.d);
    for (size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(block.q[j]) * d;
  }
}

}  // namespace plumb
