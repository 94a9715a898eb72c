// SPDX-License-Identifier: Apache-2.0
#include "quant/dequantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "core/half.h"
#include "core/mapped_file.h"
#include "quant/blocks.h"
#include "quant/fast_half.h"
#include "quant/iq_grids.h"

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

TEST(Half, TheOneWithoutBranchesGivesTheSameBits) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(std::bit_cast<uint32_t>(half_to_float(half)),
              std::bit_cast<uint32_t>(f16_to_f32(half)))
        << bits;
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

TEST(Dequantize, F8EveryByte) {
  std::vector<uint8_t> bytes(256);
  for (size_t i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  std::vector<float> e4m3(256);
  std::vector<float> e5m2(256);
  const auto* source = reinterpret_cast<const std::byte*>(bytes.data());
  dequantize(DType::F8_E4M3, source, 256, e4m3.data());
  dequantize(DType::F8_E5M2, source, 256, e5m2.data());
  for (int i = 0; i < 128; ++i) {
    const int e4 = i >> 3;
    const int m4 = i & 7;
    const float a = e4 == 0 ? std::ldexp(m4 / 8.0F, -6) : std::ldexp(1 + m4 / 8.0F, e4 - 7);
    const int e5 = i >> 2;
    const int m5 = i & 3;
    const float b = e5 == 0 ? std::ldexp(m5 / 4.0F, -14) : std::ldexp(1 + m5 / 4.0F, e5 - 15);
    const auto at = static_cast<size_t>(i);
    ASSERT_EQ(std::signbit(e4m3[at + 128]), true) << i;
    ASSERT_EQ(std::signbit(e5m2[at + 128]), true) << i;
    ASSERT_EQ(std::signbit(e4m3[at]) || std::signbit(e5m2[at]), false) << i;
    ASSERT_EQ(std::isnan(e4m3[at]), i == 0x7F);
    ASSERT_EQ(std::isnan(e4m3[at + 128]), i == 0x7F);
    ASSERT_EQ(std::isnan(e5m2[at]), i > 0x7C) << i;
    ASSERT_EQ(std::isnan(e5m2[at + 128]), i > 0x7C) << i;
    if (i < 0x7F) {
      ASSERT_EQ(e4m3[at], a) << i;
      ASSERT_EQ(e4m3[at + 128], -a) << i;
    }
    if (i < 0x7C) {
      ASSERT_EQ(e5m2[at], b) << i;
      ASSERT_EQ(e5m2[at + 128], -b) << i;
    }
  }
  EXPECT_EQ(e4m3[0x7E], 448);
  EXPECT_EQ(e5m2[0x7C], std::numeric_limits<float>::infinity());
  EXPECT_EQ(e5m2[0xFC], -std::numeric_limits<float>::infinity());
}

// Pseudo-random blocks, the same as in tools/make_dequant_hashes.py, which asks ggml's C code and
// the Python package gguf what they mean and prints the hashes of the floats.
constexpr size_t kHashedBlocks = 2048;

struct Hashed {
  DType dtype;
  std::string_view sha256;
};

constexpr Hashed kHashes[] = {
    {DType::F16, "e51ad3460968b38e6a7f7d3ee4e87666d456cba6c294cfcc643e81f06bd02fe1"},
    {DType::BF16, "31b60080e13b1cc51d0a8956219c6441ea0a5fbff6af5c78bec8fdf48e87e381"},
    {DType::Q4_0, "00a71dc720ba52703a3e384c67cf4f8e31860519f26db067e7043a78a4b8e6c6"},
    {DType::Q4_1, "6d10ed6029a4a7bae931f310b2f3bdd68bc89f34ed88907ee36dbe5d5b8241a9"},
    {DType::Q5_0, "7b18748fb480e84703c502470b538a47f2463d3ed47e2a04f1147abdadf5c220"},
    {DType::Q5_1, "0e2967964bc4518a194bff5c7a23b38a3e00d89e37cecec8c11349ea1a6e8a5c"},
    {DType::Q8_0, "7d6974dae594eed18eb34b47cbc6716de7f5b8cd5e4bfa54811f6c4ebafa8aad"},
    {DType::Q8_1, "3ab7e35742289943afa26549194c0c76cc720bbae34e9fd4c30c4bb047433c0f"},
    {DType::Q2_K, "d9a487dc93f4425fcdfa9cda96a59810d6239fe552e8d5b6162f3d573ddf46c0"},
    {DType::Q3_K, "fe3205c9b6c2ab1c3804703b57cd95012c997f384237430f6fc41b254f568010"},
    {DType::Q4_K, "dca2ab4e2a5ffd48a7224047347bc8eb6a630ec992f1db25afd1f8b2011d82a4"},
    {DType::Q5_K, "64a40d2441f9b09104f403ae0572b1f0953420de6bee21293863b935325f3aba"},
    {DType::Q6_K, "94d5e194398a2816bea8f8967ba698b06522460136fb9d7199d1804114b21f16"},
    {DType::Q8_K, "2750d719f26a15a6acb216139da77b0865448e29c5b8ecc6769284a1318a5e68"},
    {DType::IQ1_S, "eef13d43c53062f75ee089d23b47653543c81aeda70a2165d536d6c16998b8d1"},
    {DType::IQ1_M, "42a5ed5394bac76a864cc0e797df938e9b4caa0a86f1a8ebf3a15920191a0968"},
    {DType::IQ2_XXS, "57ca18c2c5eb86013fa5f30034f1d0dc396366acf68ca6ebe1330b6ab0cbd6a5"},
    {DType::IQ2_XS, "d89e86502b5389b70ddff55905c6ea0b7ca09731c6bf759377b0d436352a2976"},
    {DType::IQ2_S, "fb5d8b51214671e57833211a40648301b28d73f164af2ef4a014dd943ebfdce5"},
    {DType::IQ3_XXS, "7375382dd90e1e0e5885b30fec20d11b7466bd2efab6d16a451ef7d74439ad22"},
    {DType::IQ3_S, "2538bedb9533a986d3ea4fa559c76953fc4a7a297ec3128103681b6424eb6f37"},
    {DType::IQ4_NL, "ef7393971faaf1f24895a910cc814fce075b28f22b7e17aa7486a7bbb76d86fc"},
    {DType::IQ4_XS, "16a0ca35f560d69b76317cf8149f7c242f4b5d5701c7ddd11775aa77527348f6"},
    {DType::TQ1_0, "dc802b1601eaffd8cd14a4206213c42e7705857901801c7edde0543042c9a9a5"},
    {DType::TQ2_0, "aae1ebe7f0a2ee35a427e077d2c26b34268014793ed4f097a72c79d4dace5a02"},
    {DType::MXFP4, "cd1c82b4a32f6f45b5d73250f650308e902b9dab943b64cfa0272417fd0d1a83"},
    {DType::NVFP4, "18753c8d2865fbbc2e5695e56af76549c3bf30c2910bba1a5aac29227d4c34d2"},
};

// splitmix64, started with 1.
std::vector<std::byte> random_bytes(size_t size) {
  std::vector<std::byte> bytes(size + 8);
  uint64_t state = 1;
  for (size_t i = 0; i < size; i += 8) {
    state += 0x9E3779B97F4A7C15U;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    std::memcpy(bytes.data() + i, &z, sizeof(z));
  }
  bytes.resize(size);
  return bytes;
}

// Where a block has halves that must be finite. Q8_K (a float) and IQ1_M (four nibbles) stand
// apart.
std::vector<size_t> scale_offsets(DType dtype) {
  switch (dtype) {
    case DType::Q4_1:
    case DType::Q5_1:
    case DType::Q4_K:
    case DType::Q5_K: return {0, 2};
    case DType::Q2_K: return {80, 82};
    case DType::Q3_K: return {108};
    case DType::Q6_K: return {208};
    case DType::TQ1_0: return {52};
    case DType::TQ2_0: return {64};
    case DType::BF16:
    case DType::Q8_K:
    case DType::IQ1_M:
    case DType::MXFP4:
    case DType::NVFP4: return {};
    default: return {0};
  }
}

// The first blocks get zeros, subnormals, the smallest normal and the largest finite scale.
uint16_t finite_half(uint16_t bits, size_t block, size_t field) {
  constexpr uint16_t kSpecial[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF};
  if (block < std::size(kSpecial)) return kSpecial[(block + 3 * field) % std::size(kSpecial)];
  return static_cast<uint16_t>((bits & 0x7C00) == 0x7C00 ? bits & 0xBFFF : bits);
}

uint32_t finite_float(uint32_t bits, size_t block) {
  constexpr uint32_t kSpecial[] = {0,        0x80000000, 0x00000001, 0x807FFFFF,
                                   0x800000, 0x7F7FFFFF, 0xFF7FFFFF};
  if (block < std::size(kSpecial)) return kSpecial[block];
  return (bits & 0x7F800000U) == 0x7F800000U ? bits & 0xBFFFFFFFU : bits;
}

template <class T, class Change>
void change(std::byte* at, const Change& changed) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  value = changed(value);
  std::memcpy(at, &value, sizeof(value));
}

void fix_scales(DType dtype, size_t b, std::byte* block) {
  const std::vector<size_t> offsets = scale_offsets(dtype);
  for (size_t field = 0; field < offsets.size(); ++field)
    change<uint16_t>(block + offsets[field], [&](uint16_t h) { return finite_half(h, b, field); });
  if (dtype == DType::Q8_K)
    change<uint32_t>(block, [&](uint32_t bits) { return finite_float(bits, b); });
  if (dtype != DType::IQ1_M) return;
  change<BlockIQ1_M>(block, [&](BlockIQ1_M iq) {
    uint32_t half = 0;
    for (size_t i = 0; i < 4; ++i) half |= static_cast<uint32_t>(iq.scales[i] >> 12) << (4 * i);
    half = finite_half(static_cast<uint16_t>(half), b, 0);
    for (size_t i = 0; i < 4; ++i)
      iq.scales[i] = static_cast<uint16_t>((iq.scales[i] & 0x0FFF) | (half >> (4 * i) & 15) << 12);
    return iq;
  });
}

TEST(Dequantize, RandomBlocksAsGgmlReadsThem) {
  for (const auto& [dtype, sha256] : kHashes) {
    const size_t size = info(dtype).block_bytes;
    std::vector<std::byte> bytes = random_bytes(kHashedBlocks * size);
    for (size_t b = 0; b < kHashedBlocks; ++b) fix_scales(dtype, b, bytes.data() + b * size);
    std::vector<float> out(kHashedBlocks * info(dtype).block_elements);
    dequantize(dtype, bytes.data(), out.size(), out.data());
    EXPECT_EQ(sha256_hex(std::as_bytes(std::span(out))), sha256) << info(dtype).name;
  }
}

TEST(Dequantize, EveryWeightTypeIsHashed) {
  for (const DTypeInfo& type : kDTypes) {
    const bool hashed =
        std::ranges::any_of(kHashes, [&](const Hashed& row) { return row.dtype == type.dtype; });
    EXPECT_EQ(hashed, is_weight_type(type.dtype) && type.dtype != DType::F32) << type.name;
  }
}

TEST(Dequantize, ScalesThatAreNoNumbersReachTheValues) {
  BlockQ8_0 block = {.d = 0x7C00, .q = {1, -1, 0}};
  const std::vector<float> infinite = from_unaligned(DType::Q8_0, block, 32);
  EXPECT_EQ(infinite[0], std::numeric_limits<float>::infinity());
  EXPECT_EQ(infinite[1], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(infinite[2]));
  block.d = 0x7E00;
  for (const float x : from_unaligned(DType::Q8_0, block, 32)) EXPECT_TRUE(std::isnan(x));
}

TEST(Dequantize, FloatScalesOutsideTheStandards) {
  // E8M0 255 and E4M3 0x7F are NaN in the standards; ggml takes them for 2^128 and 0.
  BlockMXFP4 mx = {.exponent = 255, .nibbles = {0x91}};
  EXPECT_EQ(from_unaligned(DType::MXFP4, mx, 32)[0], 0x1p127F);
  EXPECT_EQ(from_unaligned(DType::MXFP4, mx, 32)[16], -0x1p127F);
  mx.exponent = 0;
  EXPECT_EQ(from_unaligned(DType::MXFP4, mx, 32)[0], 0x1p-128F);
  const BlockNVFP4 nv = {.scales = {0x7F, 0xFF, 0x01, 0x80},
                         .nibbles = {0x7, 0, 0, 0, 0, 0, 0, 0, 0x7, 0, 0, 0, 0, 0, 0, 0,  //
                                     0x7, 0, 0, 0, 0, 0, 0, 0, 0x7, 0, 0, 0, 0, 0, 0, 0}};
  const std::vector<float> out = from_unaligned(DType::NVFP4, nv, 64);
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(out[16], 480 * 6);
  EXPECT_EQ(out[32], 6 * 0x1p-9F);
  EXPECT_EQ(out[48], 0);
}

TEST(IqGrids, TheRandomBlocksReachEveryEntry) {
  const std::vector<std::byte> bytes = random_bytes(kHashedBlocks * sizeof(BlockIQ1_S));
  std::vector<bool> seen(kIq1Grid.size());
  for (size_t b = 0; b < kHashedBlocks; ++b) {
    BlockIQ1_S block;
    std::memcpy(&block, bytes.data() + b * sizeof(block), sizeof(block));
    for (size_t g = 0; g < 32; ++g)
      seen[block.index[g] | (block.high[g / 4] >> (g % 4 * 3) & 7U) << 8] = true;
  }
  EXPECT_EQ(std::ranges::count(seen, true), 2048);
}

TEST(Dequantize, NothingToDo) { dequantize(DType::F32, nullptr, 0, nullptr); }

}  // namespace
}  // namespace plumb
