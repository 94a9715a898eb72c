// SPDX-License-Identifier: Apache-2.0
#include "quant/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/half.h"
#include "quant/blocks.h"

namespace plumb {
namespace {

template <class T>
std::vector<float> from_unaligned(DType dtype, const T& source, size_t count) {
  std::vector<std::byte> bytes(sizeof(source) + 1);
  std::memcpy(bytes.data() + 1, &source, sizeof(source));
  std::vector<float> out(count);
  dequantize(dtype, bytes.data() + 1, count, out.data());
  return out;
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    const bool nan = (half & 0x7FFF) > 0x7C00;
    ASSERT_EQ(std::isnan(value), nan) << bits;
    ASSERT_EQ(f32_to_f16(value), nan ? half | 0x200 : half) << bits;  // A NaN becomes quiet.
    const bool bf16_nan = (half & 0x7FFF) > 0x7F80;
    ASSERT_EQ(f32_to_bf16(bf16_to_f32(half)), bf16_nan ? half | 0x40 : half) << bits;
  }
}

TEST(Dequantize, PlainTypes) {
  const float f32[3] = {1.5F, -0.0F, 0x1p-149F};
  EXPECT_EQ(0, std::memcmp(from_unaligned(DType::F32, f32, 3).data(), f32, sizeof(f32)));
  const uint16_t f16[4] = {0x3C00, 0xC000, 0x0001, 0x7BFF};
  EXPECT_EQ(from_unaligned(DType::F16, f16, 4), (std::vector<float>{1, -2, 0x1p-24F, 65504}));
  const uint16_t bf16[3] = {0x3F80, 0xC000, 0x0001};
  EXPECT_EQ(from_unaligned(DType::BF16, bf16, 3), (std::vector<float>{1, -2, 0x1p-133F}));
}

TEST(Dequantize, Q4_0) {
  BlockQ4_0 block = {.d = f32_to_f16(0.5F), .nibbles = {}};
  for (size_t j = 0; j < 16; ++j) block.nibbles[j] = static_cast<uint8_t>(j | (15 - j) << 4);
  const std::vector<float> out = from_unaligned(DType::Q4_0, block, 32);
  for (size_t j = 0; j < 16; ++j) {
    EXPECT_EQ(out[j], 0.5F * (static_cast<float>(j) - 8));
    EXPECT_EQ(out[j + 16], 0.5F * (7 - static_cast<float>(j)));
  }
}

TEST(Dequantize, Q4_1RoundsTheProductFirst) {
  // 15 * d needs 13 bits and m lies far above: a fused operation would round only once.
  const float d = f16_to_f32(0x3555);
  const float m = f16_to_f32(0x7801);
  BlockQ4_1 block = {.d = 0x3555, .m = 0x7801, .nibbles = {}};
  for (size_t j = 0; j < 16; ++j) block.nibbles[j] = static_cast<uint8_t>(j | (15 - j) << 4);
  const std::vector<float> out = from_unaligned(DType::Q4_1, block, 32);
  for (size_t j = 0; j < 16; ++j) {
    volatile float low = static_cast<float>(j) * d;
    volatile float high = static_cast<float>(15 - j) * d;
    EXPECT_EQ(out[j], low + m);
    EXPECT_EQ(out[j + 16], high + m);
  }
}

TEST(Dequantize, Q8_0TwoBlocks) {
  BlockQ8_0 blocks[2] = {{.d = f32_to_f16(0.25F), .q = {}}, {.d = f32_to_f16(-2.0F), .q = {}}};
  for (size_t j = 0; j < 32; ++j) {
    blocks[0].q[j] = static_cast<int8_t>(static_cast<int>(j) * 8 - 128);
    blocks[1].q[j] = static_cast<int8_t>(127 - static_cast<int>(j));
  }
  const std::vector<float> out = from_unaligned(DType::Q8_0, blocks, 64);
  for (size_t j = 0; j < 32; ++j) {
    EXPECT_EQ(out[j], 0.25F * (static_cast<float>(j) * 8 - 128));
    EXPECT_EQ(out[j + 32], -2.0F * (127 - static_cast<float>(j)));
  }
}

TEST(Dequantize, Q4_K) {
  // Scales 3 10 17 24 31 38 45 52 and minima 63 56 49 42 35 28 21 14, packed by hand.
  const int scales[8] = {3, 10, 17, 24, 31, 38, 45, 52};
  const int minima[8] = {63, 56, 49, 42, 35, 28, 21, 14};
  BlockQ4_K block = {.d = f32_to_f16(0.5F),
                     .dmin = f32_to_f16(0.25F),
                     .scales = {0x43, 0x8A, 0x91, 0xD8, 0xBF, 0x78,  //
                                0x71, 0x2A, 0x3F, 0xC6, 0x5D, 0xE4},
                     .nibbles = {}};
  for (size_t i = 0; i < 128; ++i) block.nibbles[i] = static_cast<uint8_t>(i * 37 + 11);
  const std::vector<float> out = from_unaligned(DType::Q4_K, block, 256);
  for (size_t i = 0; i < 256; ++i) {
    const size_t sub = i / 32;
    const int both = block.nibbles[sub / 2 * 32 + i % 32];
    const int q = sub % 2 == 0 ? both % 16 : both / 16;
    EXPECT_EQ(out[i], 0.5 * scales[sub] * q - 0.25 * minima[sub]) << i;
  }
}

TEST(Dequantize, Q6_K) {
  BlockQ6_K block = {.low = {}, .high = {}, .scales = {}, .d = f32_to_f16(0.125F)};
  std::vector<int> q(256);
  for (size_t i = 0; i < 256; ++i) {
    q[i] = static_cast<int>((i * 29 + 7) % 64);
    const size_t half = i / 128;
    const size_t quarter = i % 128 / 32;
    const auto low = static_cast<uint8_t>((q[i] & 15) << (quarter / 2 * 4));
    const auto high = static_cast<uint8_t>((q[i] >> 4) << (quarter * 2));
    block.low[half * 64 + quarter % 2 * 32 + i % 32] |= low;
    block.high[half * 32 + i % 32] |= high;
  }
  for (size_t j = 0; j < 16; ++j)
    block.scales[j] = static_cast<int8_t>(static_cast<int>(j) * 17 - 128);
  const std::vector<float> out = from_unaligned(DType::Q6_K, block, 256);
  for (size_t i = 0; i < 256; ++i)
    EXPECT_EQ(out[i], 0.125 * block.scales[i / 16] * (q[i] - 32)) << i;
}

TEST(Dequantize, NothingToDo) { dequantize(DType::F32, nullptr, 0, nullptr); }

}  // namespace
}  // namespace plumb
