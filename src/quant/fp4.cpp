// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>

#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/target_clones.h"

namespace plumb {

namespace {

// Twice the E2M1 numbers, so that they are integers; the scales below are halved for it. The slopes
// of 1, 2 and 4 between them are added up, because tables do not vectorize.
constexpr int twice_e2m1(int nibble) {
  const int magnitude = nibble & 7;
  const int twice = magnitude + std::max(magnitude - 4, 0) + 2 * std::max(magnitude - 6, 0);
  const int sign = -(nibble >> 3);
  return (twice ^ sign) - sign;
}

constexpr bool is_e2m1() {
  constexpr int kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  for (int nibble = 0; nibble < 16; ++nibble)
    if (twice_e2m1(nibble) != kTwice[nibble]) return false;
  return true;
}
static_assert(is_e2m1());

// 2^(exponent - 128). Exponent 255, NaN in the standard, is a number here as in ggml.
inline float half_e8m0(uint8_t exponent) {
  const uint32_t bits = exponent < 2 ? 0x200000U << exponent : (exponent - 1U) << 23;
  return std::bit_cast<float>(bits);
}

// Half an E4M3 number without its sign; 0x7F, NaN in the standard, is 0 as in ggml (0xFF is not).
inline float half_e4m3(uint8_t byte) {
  const uint32_t magnitude = byte & 0x7FU;
  if (byte == 0x7F) return 0;
  if (magnitude < 8) return static_cast<float>(magnitude) * 0x1p-10F;
  return std::bit_cast<float>((magnitude << 20) + (119U << 23));
}

// Twice the numbers in the low and in the high nibbles of kBytes bytes.
template <size_t kBytes>
struct TwiceFp4 {
  int8_t low[kBytes];
  int8_t high[kBytes];

  explicit TwiceFp4(const uint8_t* nibbles) {
    for (size_t j = 0; j < kBytes; ++j) {
      low[j] = static_cast<int8_t>(twice_e2m1(nibbles[j] & 15));
      high[j] = static_cast<int8_t>(twice_e2m1(nibbles[j] >> 4));
    }
  }
};

// kCount low numbers from `at` on, then as many high ones.
template <size_t kCount, size_t kBytes>
inline void scale_numbers(const TwiceFp4<kBytes>& twice, size_t at, float half_scale, float* out) {
  const int8_t* low = twice.low + at;
  const int8_t* high = twice.high + at;
  for (size_t j = 0; j < kCount; ++j) out[j] = static_cast<float>(low[j]) * half_scale;
  for (size_t j = 0; j < kCount; ++j) out[j + kCount] = static_cast<float>(high[j]) * half_scale;
}

}  // namespace

PLUMB_TARGET_CLONES
void dequantize_mxfp4(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockMXFP4), out += 32) {
    const auto& block = *reinterpret_cast<const BlockMXFP4*>(source);
    scale_numbers<16>(TwiceFp4<16>(block.nibbles), 0, half_e8m0(block.exponent), out);
  }
}

PLUMB_TARGET_CLONES
void dequantize_nvfp4(const std::byte* source, size_t blocks, float* __restrict out) {
  for (size_t b = 0; b < blocks; ++b, source += sizeof(BlockNVFP4), out += 64) {
    const auto& block = *reinterpret_cast<const BlockNVFP4*>(source);
    const TwiceFp4<32> twice(block.nibbles);
    for (size_t j = 0; j < 4; ++j)
      scale_numbers<8>(twice, j * 8, half_e4m3(block.scales[j]), out + j * 16);
  }
}

}  // namespace plumb
