// SPDX-License-Identifier: Apache-2.0
#include "parity/weight_class.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <vector>

#include "formats/model_file.h"
#include "parity/compare_files.h"
#include "quant/dequantize.h"
#include "quant/quantize.h"

namespace plumb {
namespace {

std::vector<float> noise(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  for (auto& value : values) {
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    value = (static_cast<float>(seed >> 40) + 0.5F) / 8388608.0F - 1.0F;
  }
  return values;
}

constexpr size_t kRows = 6;
constexpr size_t kColumns = 256;

class WeightClasses : public testing::Test {
 protected:
  std::string reason(std::span<const float> a, std::span<const float> b, DType type_b = DType::F32,
                     size_t rows_b = kRows) {
    found_ =
        classify_weights({DType::F32, kRows, kColumns, a}, {type_b, rows_b, b.size() / rows_b, b});
    return found_.reason;
  }
  std::vector<float> rounded(DType type) {
    std::vector<std::byte> bytes(bytes_of(type, a_.size()));
    quantize(type, a_.data(), a_.size(), bytes.data());
    std::vector<float> values(a_.size());
    dequantize(type, bytes.data(), values.size(), values.data());
    return values;
  }
  std::vector<float> a_ = noise(kRows * kColumns, 1);
  std::vector<float> b_ = a_;
  WeightClass found_;
};

TEST_F(WeightClasses, TheSameValuesHaveNoClass) { EXPECT_EQ(reason(a_, b_), ""); }

TEST_F(WeightClasses, RoundingToEachTypeIsRecognizedAndSaidToBeTheReference) {
  for (const DType type :
       {DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K}) {
    auto values = rounded(type);
    EXPECT_EQ(reason(a_, values, type), "weights.rounding") << info(type).name;
    EXPECT_EQ(found_.parameters.at("reference_rounding"), "true") << info(type).name;
  }
}

TEST_F(WeightClasses, RoundingByAnotherMethodIsRoundingButNotTheReference) {
  auto values = rounded(DType::Q8_0);
  values[5] += 0.3F / 127;
  EXPECT_EQ(reason(a_, values, DType::Q8_0), "weights.rounding");
  EXPECT_EQ(found_.parameters.at("reference_rounding"), "false");
}

TEST_F(WeightClasses, MoreThanTheTypeRoundsIsNotRounding) {
  auto values = rounded(DType::Q8_0);
  values[5] += 0.05F;
  EXPECT_EQ(reason(a_, values, DType::Q8_0), "weights.block");
  EXPECT_EQ(found_.parameters["first_block"], "0");
  for (size_t i = 0; i < values.size(); i += 7) values[i] += 0.05F;
  EXPECT_EQ(reason(a_, values, DType::Q8_0), "weights.different");
}

TEST_F(WeightClasses, OneDamagedBlockIsNamed) {
  auto values = rounded(DType::Q8_0);
  for (size_t i = 3 * kColumns + 64; i < 3 * kColumns + 96; ++i) values[i] = 0.5F;
  EXPECT_EQ(reason(a_, values, DType::Q8_0), "weights.block");
  EXPECT_NE(found_.text.find("block 26 (row 3, columns 64 to 95)"), std::string::npos)
      << found_.text;
}

// The same faults of a conversion, seen through the rounding that came with it.
TEST_F(WeightClasses, FaultsUnderRounding) {
  std::rotate(b_.begin(), b_.begin() + kColumns, b_.end());
  std::swap(a_, b_);
  const auto moved = rounded(DType::Q8_0);
  std::swap(a_, b_);
  EXPECT_EQ(reason(a_, moved, DType::Q8_0), "weights.rows_permuted") << found_.text;
  auto scaled = a_;
  for (float& x : scaled) x *= 1.5F;
  std::swap(a_, scaled);
  const auto rounded_scaled = rounded(DType::Q8_0);
  std::swap(a_, scaled);
  EXPECT_EQ(reason(a_, rounded_scaled, DType::Q8_0), "weights.scaled");
  EXPECT_EQ(found_.parameters["found"], "1.5");
}

TEST_F(WeightClasses, ATransposedMatrix) {
  for (size_t r = 0; r < kRows; ++r)
    for (size_t c = 0; c < kColumns; ++c) b_[c * kRows + r] = a_[r * kColumns + c];
  EXPECT_EQ(reason(a_, b_, DType::F32, kColumns), "weights.transposed");
}

TEST_F(WeightClasses, RowsInAnotherOrder) {
  std::rotate(b_.begin(), b_.begin() + kColumns, b_.end());
  EXPECT_EQ(reason(a_, b_), "weights.rows_permuted");
  EXPECT_NE(found_.text.find("6 of 6 moved; row 1 was row 2"), std::string::npos) << found_.text;
}

TEST_F(WeightClasses, ScaledAndOffByOne) {
  for (auto& value : b_) value *= 3;
  EXPECT_EQ(reason(a_, b_), "weights.scaled");
  EXPECT_EQ(found_.parameters.at("found"), "3");
  auto norm = a_;
  for (auto& value : norm) value += 1;
  const auto found =
      classify_weights({DType::F32, 1, a_.size(), a_}, {DType::F32, 1, a_.size(), norm});
  EXPECT_EQ(found.reason, "weights.offset");
}

TEST_F(WeightClasses, AFewValuesAndUnrelatedOnes) {
  b_[700] = 9;
  EXPECT_EQ(reason(a_, b_), "weights.elements");
  EXPECT_NE(found_.text.find("row 2, column 188"), std::string::npos) << found_.text;
  EXPECT_EQ(reason(a_, noise(a_.size(), 99)), "weights.unrelated");
  b_[700] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(reason(a_, b_), "weights.elements");
}

TEST_F(WeightClasses, OtherShapes) {
  EXPECT_EQ(reason(a_, noise(100, 1), DType::F32, 1), "weights.shape");
  EXPECT_EQ(reason(a_, a_, DType::F32, 2 * kRows), "weights.shape");
}

TEST(CompareFiles, AModelAgainstItselfAndAgainstAnother) {
  const std::filesystem::path models = std::filesystem::path(PLUMB_SOURCE_DIR) / "tests/models";
  const auto a = open_model_file(models / "tiny-stories-q4_k.gguf");
  const auto b = open_model_file(models / "architectures/llama3-tied");
  ASSERT_TRUE(a && b);
  const auto same = compare_files(*a, *a);
  EXPECT_EQ(same.verdict(), "SAME");
  EXPECT_EQ(same.tensors_same_bytes, a->tensors.size());
  EXPECT_EQ(same.metadata_same, a->metadata.size());
  const auto different = compare_files(*a, *b);
  EXPECT_EQ(different.verdict(), "DIFFERENT");
  EXPECT_FALSE(different.sizes.empty());
  EXPECT_FALSE(different.tensors.empty());
  // Both directions: what one side lacks is named, whichever it is.
  const auto back = compare_files(*b, *a);
  EXPECT_EQ(back.sizes.size(), different.sizes.size());
  EXPECT_EQ(back.tensors.size(), different.tensors.size());
}

}  // namespace
}  // namespace plumb
