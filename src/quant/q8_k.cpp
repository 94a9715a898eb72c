// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/target_clones.h"

namespace plumb {

PLUMB_TARGET_CLONES
void dequantize_q8_k(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockQ8_K), out += 256) {
    const auto& block = *reinterpret_cast<const BlockQ8_K*>(source);
    for (size_t j = 0; j < 256; ++j) out[j] = static_cast<float>(block.q[j]) * block.d;
  }
}

}  // namespace plumb
