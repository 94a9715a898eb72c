// SPDX-License-Identifier: Apache-2.0
#include "trace/row_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace plumb {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Summary {
  RowStatistics figures;
  Sketch sketch;
};

template <class T>
Summary summary_of(const std::vector<T>& row) {
  Summary out;
  summarize(std::span<const T>(row), row.size(), std::span(&out.figures, 1),
            std::span(&out.sketch, 1));
  return out;
}

bool same_bits(const Summary& a, const Summary& b) {
  return std::memcmp(&a.figures, &b.figures, sizeof(a.figures)) == 0 &&
         std::memcmp(&a.sketch, &b.sketch, sizeof(a.sketch)) == 0;
}

std::vector<float> random_row(size_t width, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(width);
  for (auto& x : row) x = normal(generator);
  return row;
}

double squared_length(const Sketch& sketch) {
  double sum = 0;
  for (const float x : sketch) sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

// docs/steps.md, word for word, without a thought for speed.
Sketch sketch_by_hand(const std::vector<float>& row) {
  const auto output = [](uint64_t i) {
    uint64_t z = 0x706C756D62 + (i + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  };
  Sketch sketch{};
  for (size_t i = 0; i < row.size(); ++i) {
    const uint64_t word = output(2 * (i / 64));
    const uint64_t turn = output(2 * (i / 64) + 1) >> 58;
    const bool minus = ((word >> (i % 64)) & 1) == 1;
    sketch[(i + turn) % 64] += minus ? -row[i] : row[i];
  }
  return sketch;
}

// Another engine checks its own code with these figures; they stand in docs/steps.md.
TEST(RowStatistics, TheSketchOfTheDocument) {
  std::vector<float> row(200);
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(i + 1);
  const auto out = summary_of(row);
  const std::vector<float> first = {-258, 502, 506, 158, -514, 162, -232, 294};
  for (size_t j = 0; j < first.size(); ++j) EXPECT_EQ(out.sketch[j], first[j]) << j;
  EXPECT_EQ(out.sketch[63], 303);
  EXPECT_EQ(sketch_block(0).signs, 0x60cf5622883d31ef);
  EXPECT_EQ(sketch_block(0).turn, 0xa75c96354f4fe682 >> 58);
}

TEST(RowStatistics, EveryWidthGivesTheSketchOfTheDefinition) {
  for (const size_t width : {1, 7, 63, 64, 65, 128, 191, 256, 257, 576, 2047, 2048, 2049, 5000}) {
    std::vector<float> row(width);  // whole numbers: the order of additions changes nothing
    for (size_t i = 0; i < width; ++i)
      row[i] = static_cast<float>(static_cast<int>(i * 7919 % 201) - 100);
    EXPECT_EQ(summary_of(row).sketch, sketch_by_hand(row)) << width;
  }
}

TEST(RowStatistics, FiguresAreThoseOfPlainSums) {
  for (const size_t width : {1, 5, 64, 100, 256, 576, 3001}) {
    auto row = random_row(width, 7);
    for (auto& x : row) x = x * 3 + 0.5F;
    const auto f = summary_of(row).figures;
    double sum = 0;
    double squares = 0;
    size_t largest = 0;
    for (size_t i = 0; i < width; ++i) {
      sum += static_cast<double>(row[i]);
      squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
      if (std::fabs(row[i]) > std::fabs(row[largest])) largest = i;
    }
    const auto n = static_cast<double>(width);
    double deviations = 0;
    for (const float x : row) deviations += std::pow(static_cast<double>(x) - sum / n, 2);
    // Sums of 256 floats: each has 2^-24 for each addition of its lane, 32 of them.
    const double error = 32 * 0x1p-24 * std::sqrt(squares / n);
    EXPECT_EQ(f.count, n);
    EXPECT_EQ(f.non_finite, 0);
    EXPECT_NEAR(f.mean, sum / n, error) << width;
    EXPECT_NEAR(f.deviation, std::sqrt(deviations / n), 4 * error) << width;
    EXPECT_NEAR(f.norm, std::sqrt(squares), error * std::sqrt(n)) << width;
    EXPECT_EQ(f.minimum, static_cast<double>(*std::ranges::min_element(row)));
    EXPECT_EQ(f.maximum, static_cast<double>(*std::ranges::max_element(row)));
    EXPECT_EQ(f.largest, static_cast<double>(largest));
  }
}

TEST(RowStatistics, ZerosAndEqualValuesAreExact) {
  const auto zero = summary_of(std::vector<float>(300, 0.0F));
  EXPECT_EQ(zero.figures.norm, 0);
  EXPECT_EQ(zero.figures.deviation, 0);
  EXPECT_EQ(zero.figures.largest, 0);
  EXPECT_EQ(squared_length(zero.sketch), 0);
  const auto same = summary_of(std::vector<float>(300, 0.1F));
  EXPECT_EQ(same.figures.mean, static_cast<double>(0.1F));
  EXPECT_EQ(same.figures.deviation, 0);
}

// The first of several largest magnitudes counts, also where a negative one comes later.
TEST(RowStatistics, TheFirstLargestMagnitudeIsNamed) {
  std::vector<float> row(700, 1.0F);
  row[300] = 5;
  row[299] = -5;
  row[650] = 5;
  EXPECT_EQ(summary_of(row).figures.largest, 299);
}

TEST(RowStatistics, ValuesThatAreNotFiniteAreCountedAndLeftOut) {
  for (const float bad : {kNan, kInfinity, -kInfinity})
    for (const size_t at : {0, 255, 256, 320}) {
      auto row = random_row(330, 3);
      row[at] = bad;
      auto without = row;
      without[at] = 0;
      const auto out = summary_of(row);
      EXPECT_EQ(out.figures.count, 330);
      EXPECT_EQ(out.figures.non_finite, 1);
      EXPECT_TRUE(std::isfinite(out.figures.mean) && std::isfinite(out.figures.norm));
      EXPECT_LT(sketch_distance(out.sketch, summary_of(without).sketch), 1e-4) << at;
      EXPECT_NEAR(out.figures.norm, summary_of(without).figures.norm, 1e-4);
    }
}

TEST(RowStatistics, ARowWithoutAFiniteValueHasNoFigures) {
  const auto out = summary_of(std::vector<float>{kNan, kInfinity, kNan});
  EXPECT_EQ(out.figures.non_finite, 3);
  EXPECT_TRUE(std::isnan(out.figures.mean) && std::isnan(out.figures.norm));
  EXPECT_EQ(out.figures.largest, -1);
  EXPECT_EQ(squared_length(out.sketch), 0);
}

// Squares of these leave the range of a float: the sums must not.
TEST(RowStatistics, VeryLargeAndVerySmallValues) {
  for (const float scale : {1e-30F, 1e-42F, 1e25F}) {
    std::vector<float> row(256);
    double squares = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = scale * static_cast<float>(i % 5);
      squares += static_cast<double>(row[i]) * static_cast<double>(row[i]);
    }
    const auto f = summary_of(row).figures;
    EXPECT_EQ(f.non_finite, 0);
    EXPECT_NEAR(f.norm / std::sqrt(squares), 1, 1e-12) << scale;
  }
}

TEST(RowStatistics, RowsTogetherGiveTheBitsOfEachAlone) {
  constexpr size_t kWidth = 577;
  std::vector<float> rows;
  for (uint32_t r = 0; r < 7; ++r) {
    auto row = random_row(kWidth, r);
    if (r == 3) row[100] = kNan;
    rows.insert(rows.end(), row.begin(), row.end());
  }
  std::vector<RowStatistics> figures(7);
  std::vector<Sketch> sketches(7);
  summarize(std::span<const float>(rows), kWidth, figures, sketches);
  for (size_t r = 0; r < 7; ++r) {
    const auto from = rows.begin() + static_cast<ptrdiff_t>(r * kWidth);
    const auto alone = summary_of(std::vector<float>(from, from + kWidth));
    EXPECT_TRUE(same_bits(alone, {figures[r], sketches[r]})) << r;
  }
}

TEST(RowStatistics, DoublesOfFloatsAreTheSameUpToRounding) {
  const auto row = random_row(1000, 11);
  const auto a = summary_of(row);
  const auto b = summary_of(std::vector<double>(row.begin(), row.end()));
  EXPECT_NEAR(a.figures.norm, b.figures.norm, 1e-5);
  EXPECT_EQ(a.figures.largest, b.figures.largest);
  EXPECT_LT(sketch_distance(a.sketch, b.sketch), sketch_resolution(1000) * a.figures.norm);
}

// E|sketch|² = |x|², with a relative standard error of at most sqrt(2/64). 2000 rows: the mean is
// known to 0.004, so 0.02 is five times that.
TEST(RowStatistics, TheSquaredLengthIsKeptOnAverage) {
  constexpr size_t kRows = 2000;
  double sum = 0;
  double squares = 0;
  for (uint32_t r = 0; r < kRows; ++r) {
    const auto out = summary_of(random_row(576, r));
    const double ratio = squared_length(out.sketch) / (out.figures.norm * out.figures.norm);
    sum += ratio;
    squares += ratio * ratio;
  }
  const double mean = sum / kRows;
  EXPECT_NEAR(mean, 1, 0.02);
  EXPECT_LT(std::sqrt(squares / kRows - mean * mean), 1.1 * kSketchSquareError);
}

// A difference in one channel, or in neighbours, comes out exactly: they share no place.
TEST(RowStatistics, NeighboursDoNotMeet) {
  const auto row = random_row(576, 1);
  auto other = row;
  double square = 0;
  for (size_t i = 64; i < 128; ++i) {
    other[i] += 2;
    square += 4;
  }
  EXPECT_NEAR(sketch_distance(summary_of(row).sketch, summary_of(other).sketch), std::sqrt(square),
              1e-4);
}

}  // namespace
}  // namespace plumb
