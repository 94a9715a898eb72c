// SPDX-License-Identifier: Apache-2.0
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {

namespace {

// Digit `n` of the base-3 numbers in `bytes`, scaled: -d, 0 or d.
template <size_t kBytes>
inline void ternary_digit(const uint8_t* bytes, uint8_t power, float d, float* __restrict out) {
  for (size_t i = 0; i < kBytes; ++i) {
    const auto rest = static_cast<uint8_t>(bytes[i] * power);
    out[i] = static_cast<float>((rest * 3 >> 8) - 1) * d;
  }
}

constexpr uint8_t kPowersOf3[5] = {1, 3, 9, 27, 81};

}  // namespace

PLUMB_TARGET_CLONES
void dequantize_tq1_0(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockTQ1_0), out += 256) {
    const auto& block = *reinterpret_cast<const BlockTQ1_0*>(source);
    const float d = half_to_float(block.d);
    for (size_t n = 0; n < 5; ++n) {
      ternary_digit<32>(block.q, kPowersOf3[n], d, out + n * 32);
      ternary_digit<16>(block.q + 32, kPowersOf3[n], d, out + 160 + n * 16);
    }
    for (size_t n = 0; n < 4; ++n)
      ternary_digit<4>(block.last, kPowersOf3[n], d, out + 240 + n * 4);
  }
}

PLUMB_TARGET_CLONES
void dequantize_tq2_0(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockTQ2_0), out += 256) {
    const auto& block = *reinterpret_cast<const BlockTQ2_0*>(source);
    const float d = half_to_float(block.d);
    for (size_t j = 0; j < 8; ++j) {
      const uint8_t* bits = block.q + j / 4 * 32;
      const size_t shift = j % 4 * 2;
      for (size_t l = 0; l < 32; ++l)
        out[j * 32 + l] = static_cast<float>((bits[l] >> shift & 3) - 1) * d;
    }
  }
}

}  // namespace plumb
