// SPDX-License-Identifier: Apache-2.0
#include "quant/quantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/mapped_file.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/quantize_test_hashes.h"
#include "quant/quantize_test_rows.h"

namespace plumb {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Bytes without one to spare, at an odd address.
std::vector<std::byte> quantized(DType to, const std::vector<float>& values) {
  const size_t bytes = *tensor_bytes(to, values.size());
  std::vector<std::byte> padded(bytes + 1);
  quantize(to, values.data(), values.size(), padded.data() + 1);
  return {padded.begin() + 1, padded.end()};
}

std::vector<uint8_t> as_numbers(const std::vector<std::byte>& bytes) {
  std::vector<uint8_t> numbers;
  for (const std::byte byte : bytes) numbers.push_back(static_cast<uint8_t>(byte));
  return numbers;
}

size_t kind_of(const std::string& rows) {
  for (size_t kind = 0; kind < std::size(kRowKinds); ++kind)
    if (rows == kRowKinds[kind]) return kind;
  ADD_FAILURE() << "no rows " << rows;
  return 0;
}

// Whether a file's weights are the rounding of another's is decided by equal bytes, so "nearly
// ggml's blocks" is wrong.
TEST(Quantize, GivesTheBlocksOfGgml) {
  ASSERT_EQ(std::size(kExpectedBlocks), 7 * std::size(kRowKinds));
  for (const ExpectedBlocks& expected : kExpectedBlocks) {
    const std::vector<float> row = test_row(kind_of(expected.rows));
    EXPECT_EQ(sha256_hex(quantized(expected.to, row)), expected.sha256)
        << info(expected.to).name << " of " << expected.rows;
  }
}

TEST(Quantize, AHashNoticesOneBit) {
  std::vector<float> row = test_row(0);
  const std::string before = sha256_hex(quantized(DType::Q4_K, row));
  row[4095] = -row[4095];
  EXPECT_NE(sha256_hex(quantized(DType::Q4_K, row)), before);
}

// Blocks are independent: the second half of a row alone gives the second half of its blocks.
TEST(Quantize, RowsMayBeQuantizedOneByOne) {
  for (const DType to : {DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K}) {
    const std::vector<float> row = test_row(1);
    const std::vector<std::byte> whole = quantized(to, row);
    const std::vector<std::byte> part = quantized(to, {row.begin() + 2048, row.end()});
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + whole.size() / 2));
  }
}

// What comes back is off by half a step of the block at most (and the rounding of its scale).
TEST(Quantize, StaysWithinHalfAStep) {
  const std::vector<float> row = test_row(0);
  for (const auto& [to, steps] : {std::pair{DType::Q8_0, 254.0F}, {DType::Q4_1, 15.0F}}) {
    std::vector<float> back(row.size());
    dequantize(to, quantized(to, row).data(), row.size(), back.data());
    for (size_t first = 0; first < row.size(); first += 32) {
      float low = to == DType::Q8_0 ? 0 : row[first];
      float high = low;
      for (size_t i = first; i < first + 32; ++i) {
        const float value = to == DType::Q8_0 ? std::fabs(row[i]) : row[i];
        low = std::min(low, to == DType::Q8_0 ? -value : value);
        high = std::max(high, value);
      }
      // Half a step, and 2^-11 of the range and of the minimum for the two halves.
      const float bound = (high - low) / steps / 2 + 2 * std::max(high, -low) * 0x1p-11F;
      for (size_t i = first; i < first + 32; ++i) ASSERT_NEAR(back[i], row[i], bound) << i;
    }
  }
}

TEST(Quantize, PlainTypes) {
  const std::vector<float> values = {1.5F, -0.0F, 65520.0F, 1.0F + 0x1p-11F, 1.0F + 0x3p-11F};
  EXPECT_EQ(0, std::memcmp(quantized(DType::F32, values).data(), values.data(), 20));
  const std::vector<uint8_t> f16 = {0x00, 0x3E, 0x00, 0x80, 0x00, 0x7C, 0x00, 0x3C, 0x02, 0x3C};
  EXPECT_EQ(as_numbers(quantized(DType::F16, values)), f16);
  const std::vector<uint8_t> bf16 = {0xC0, 0x3F, 0x00, 0x80, 0x80, 0x47, 0x80, 0x3F, 0x80, 0x3F};
  EXPECT_EQ(as_numbers(quantized(DType::BF16, values)), bf16);
}

TEST(Quantize, AprQ4) {
  // 35 values: scale 2 (14 / 7), then a last block of three with scale 1, filled up with zero
  // bytes.
  std::vector<float> values(35, 0.0F);
  values[0] = 14;
  values[1] = -14;
  values[2] = 3;   // 1.5: away from zero
  values[3] = -3;  // -1.5: away from zero
  values[31] = 2;
  values[32] = 7;
  values[33] = -7;
  values[34] = -2.4F;
  std::vector<uint8_t> expected(36, 0);
  expected[1] = 0x40;
  for (size_t i = 2; i < 18; ++i) expected[i] = 0x88;
  expected[2] = 0x1F;
  expected[3] = 0x6A;
  expected[17] = 0x98;
  expected[19] = 0x3C;
  expected[20] = 0x1F;
  expected[21] = 0x06;
  EXPECT_EQ(as_numbers(quantized(DType::AprQ4, values)), expected);
  expected.assign(18, 0x88);
  expected[0] = 0x00;
  expected[1] = 0x3C;
  EXPECT_EQ(as_numbers(quantized(DType::AprQ4, std::vector<float>(32, 0.0F))), expected);
}

// The codes belong to the scale before its rounding to half: 7 * 1.0002 / 7 rounds to half 1, and
// 3.5003 is above 3.5 of the half scale but below 3.5 of the float one.
TEST(Quantize, AprQ4CodesAreOfTheFloatScale) {
  std::vector<float> values(32, 0.0F);
  values[0] = 7.0014F;
  values[1] = 3.5003F;
  const std::vector<uint8_t> bytes = as_numbers(quantized(DType::AprQ4, values));
  EXPECT_EQ(bytes[0] | bytes[1] << 8, 0x3C00);
  EXPECT_EQ(bytes[2], 0xBF);
}

TEST(Quantize, AprQ8) {
  const std::vector<uint8_t> expected = {0, 0, 0, 0x40, 127, 0x81, 2, 0xFE, 0};
  EXPECT_EQ(as_numbers(quantized(DType::AprQ8, {254, -254, 3, -3, 0.9F})), expected);
  const std::vector<uint8_t> zeros = {0, 0, 0x80, 0x3F, 0, 0};
  EXPECT_EQ(as_numbers(quantized(DType::AprQ8, {0, -0.0F})), zeros);
}

// A sanitizer build would stop here at a conversion of NaN or of a huge float to an integer.
TEST(Quantize, HostileValuesAreDefined) {
  const std::vector<std::vector<float>> patterns = {
      {kNan},         {kInf},       {-kInf},        {kInf, -kInf},        {kNan, 1},
      {1, kNan},      {kInf, 1},    {FLT_MAX},      {FLT_MAX, -FLT_MAX},  {0x1p-149F},
      {0x1p-149F, 0}, {-0x1p-149F}, {0x1p-126F, 0}, {FLT_MAX, 0x1p-149F}, {kNan, kInf, 0, -1}};
  for (const DTypeInfo& type : kDTypes) {
    if (!can_quantize(type.dtype)) continue;
    for (const auto& pattern : patterns) {
      std::vector<float> values(256);
      for (size_t i = 0; i < values.size(); ++i) values[i] = pattern[i % pattern.size()];
      EXPECT_EQ(quantized(type.dtype, values), quantized(type.dtype, values));
    }
  }
}

// The scale of one block has nothing to do with the NaN of another.
TEST(Quantize, ANanStaysInItsBlock) {
  for (const DType to : {DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K}) {
    std::vector<float> row = test_row(0);
    const std::vector<std::byte> clean = quantized(to, row);
    row[5] = kNan;
    const std::vector<std::byte> dirty = quantized(to, row);
    EXPECT_TRUE(std::equal(clean.begin() + info(to).block_bytes, clean.end(),
                           dirty.begin() + info(to).block_bytes));
  }
}

TEST(Quantize, KnowsWhatItCanDo) {
  size_t known = 0;
  for (const DTypeInfo& type : kDTypes) known += can_quantize(type.dtype) ? 1 : 0;
  EXPECT_EQ(known, 10U);
  EXPECT_TRUE(can_quantize(DType::Q4_K));
  EXPECT_FALSE(can_quantize(DType::Q5_K));
}

TEST(QuantizeDeathTest, RefusesHalfABlockAndUnknownTypes) {
  const std::vector<float> values(256);
  std::vector<std::byte> out(1024);
  EXPECT_DEATH(quantize(DType::Q8_0, values.data(), 33, out.data()), "bug at");
  EXPECT_DEATH(quantize(DType::Q2_K, values.data(), 256, out.data()), "bug at");
}

TEST(Quantize, NothingToDo) {
  for (const DType to : {DType::F32, DType::F16, DType::Q4_K, DType::AprQ4})
    quantize(to, nullptr, 0, nullptr);
}

}  // namespace
}  // namespace plumb
