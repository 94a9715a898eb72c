// SPDX-License-Identifier: Apache-2.0
#include "quant/values.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/half.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

template <class T>
std::vector<float> values_of(DType dtype, const std::vector<T>& stored) {
  const TensorView view = {dtype, {stored.size()}, std::as_bytes(std::span(stored))};
  std::vector<float> out(stored.size());
  read_values(view, 0, out.size(), out.data());
  return out;
}

TEST(ReadValues, WideTypesAreRoundedToTheNearestFloat) {
  // 2^24 + 1 lies between two floats, 2^24 + 3 too: ties go to even.
  EXPECT_EQ(values_of<double>(DType::F64, {0.1, -0.0, 1e300, 16777217.0, 0x1p-150}),
            (std::vector<float>{0.1F, 0, std::numeric_limits<float>::infinity(), 16777216, 0}));
  EXPECT_TRUE(std::signbit(values_of<double>(DType::F64, {-0.0})[0]));
  EXPECT_EQ(values_of<int64_t>(DType::I64, {16777217, -16777219, INT64_MIN, INT64_MAX}),
            (std::vector<float>{16777216, -16777220, -0x1p63F, 0x1p63F}));
  EXPECT_EQ(values_of<uint64_t>(DType::U64, {0, UINT64_MAX, 0x8000008000000001U}),
            (std::vector<float>{0, 0x1p64F, 0x1.000002p63F}));
  EXPECT_EQ(values_of<int32_t>(DType::I32, {INT32_MIN, 16777217}),
            (std::vector<float>{-0x1p31F, 16777216}));
  EXPECT_EQ(values_of<uint32_t>(DType::U32, {UINT32_MAX}), (std::vector<float>{0x1p32F}));
}

TEST(ReadValues, NarrowTypesAreExact) {
  EXPECT_EQ(values_of<int16_t>(DType::I16, {-32768, 32767}), (std::vector<float>{-32768, 32767}));
  EXPECT_EQ(values_of<uint16_t>(DType::U16, {65535}), (std::vector<float>{65535}));
  EXPECT_EQ(values_of<int8_t>(DType::I8, {-128, 127}), (std::vector<float>{-128, 127}));
  EXPECT_EQ(values_of<uint8_t>(DType::U8, {255}), (std::vector<float>{255}));
  EXPECT_EQ(values_of<uint8_t>(DType::Bool, {0, 1, 2}), (std::vector<float>{0, 1, 1}));
  EXPECT_EQ(values_of<uint16_t>(DType::F16, {0x3C00}), (std::vector<float>{1}));
  EXPECT_EQ(values_of<uint16_t>(DType::BF16, {0x3F80}), (std::vector<float>{1}));
  EXPECT_EQ(values_of<uint8_t>(DType::F8_E4M3, {0x38}), (std::vector<float>{1}));
  EXPECT_EQ(values_of<uint8_t>(DType::F8_E5M2, {0x3C}), (std::vector<float>{1}));
  EXPECT_EQ(values_of<float>(DType::F32, {1.5F}), (std::vector<float>{1.5F}));
}

// One APR_Q4 block with the nibbles 0, 1 … 15, 0, 1 … in the order of the values.
std::vector<std::byte> apr_q4_block(uint16_t scale) {
  std::vector<std::byte> block(18);
  std::memcpy(block.data(), &scale, sizeof(scale));
  for (size_t k = 0; k < 16; ++k)
    block[2 + k] = static_cast<std::byte>((2 * k) % 16 | ((2 * k + 1) % 16) << 4);
  return block;
}

TEST(ReadValues, AprQ4HasNeighboursInOneByteAndAPaddedLastBlock) {
  std::vector<std::byte> bytes = apr_q4_block(0x3800);  // 0.5
  const std::vector<std::byte> last = apr_q4_block(0xC000);
  bytes.insert(bytes.end(), last.begin(), last.end());
  const TensorView view = {DType::AprQ4, {5, 7}, bytes};  // 35 values: 3 in the last block
  std::vector<float> out(35);
  read_values(view, 0, 35, out.data());
  for (size_t i = 0; i < 35; ++i) {
    const float q = static_cast<float>(i % 32 % 16) - 8;
    EXPECT_EQ(out[i], q * (i < 32 ? 0.5F : -2.0F)) << i;
  }
}

TEST(ReadValues, AprQ4ScalesThatNoWriterMakesAreZero) {
  for (const uint16_t scale : {0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x03FF, 0x0001, 0x8001, 0x0000}) {
    const std::vector<std::byte> bytes = apr_q4_block(scale);
    std::vector<float> out(32, 1);
    read_values({DType::AprQ4, {32}, bytes}, 0, 32, out.data());
    for (const float x : out) EXPECT_EQ(x, 0) << scale;
  }
  const std::vector<std::byte> smallest = apr_q4_block(0x0400);
  float out = 0;
  read_values({DType::AprQ4, {32}, smallest}, 9, 1, &out);
  EXPECT_EQ(out, 0x1p-14F);
}

TEST(ReadValues, AprQ8HasOneScale) {
  const float scale = 0.25F;
  std::vector<std::byte> bytes(4 + 5);
  std::memcpy(bytes.data(), &scale, sizeof(scale));
  for (size_t i = 0; i < 5; ++i) bytes[4 + i] = static_cast<std::byte>(i * 50);  // 200 is -56
  const TensorView view = {DType::AprQ8, {5}, bytes};
  std::vector<float> out(3);
  read_values(view, 2, 3, out.data());
  EXPECT_EQ(out, (std::vector<float>{25, -26.5F, -14}));
}

// Bytes that make every float finite, so that values can be compared with ==.
std::vector<std::byte> tame_bytes(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((i * 2654435761U >> 7) & 0x3B);
  return bytes;
}

TEST(ReadValues, AnyRangeOfAnyTypeIsACutOfTheWhole) {
  constexpr size_t kElements = 3 * 256;
  for (const DTypeInfo& type : kDTypes) {
    const std::vector<std::byte> bytes = tame_bytes(*tensor_bytes(type.dtype, kElements));
    const TensorView view = {type.dtype, {3, 256}, bytes};
    std::vector<float> whole(kElements);
    read_values(view, 0, kElements, whole.data());
    for (const size_t first : {0, 1, 31, 32, 33, 64, 255, 256, 300, 511, 767, 768}) {
      for (const size_t count : {0, 1, 15, 32, 63, 256, 300, 512, 768}) {
        if (first + count > kElements) continue;
        std::vector<float> out(count + 1, -77);
        read_values(view, first, count, out.data());
        ASSERT_EQ(0, std::memcmp(out.data(), whole.data() + first, count * sizeof(float)))
            << type.name << " " << first << " " << count;
        ASSERT_EQ(out[count], -77) << "written past the end";
      }
    }
    if (!is_weight_type(type.dtype)) continue;
    std::vector<float> direct(kElements);
    dequantize(type.dtype, bytes.data(), kElements, direct.data());
    EXPECT_EQ(0, std::memcmp(direct.data(), whole.data(), kElements * sizeof(float))) << type.name;
  }
}

using ReadValuesDeathTest = ::testing::Test;

TEST(ReadValuesDeathTest, ARangeOutsideTheTensorIsABug) {
  const std::vector<float> four(4);
  const TensorView view = {DType::F32, {4}, std::as_bytes(std::span(four))};
  float out[8];
  EXPECT_DEATH(read_values(view, 3, 2, out), "bug");
  EXPECT_DEATH(read_values(view, UINT64_MAX, 2, out), "bug");
  EXPECT_DEATH(read_values({DType::F32, {5}, view.bytes}, 0, 1, out), "bug");
}

}  // namespace
}  // namespace plumb
