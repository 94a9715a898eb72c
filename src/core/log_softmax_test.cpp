// SPDX-License-Identifier: Apache-2.0
#include "core/log_softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace plumb {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
using Best = std::vector<std::pair<float, int32_t>>;

double sum_of(std::vector<float> logits) { return log_sum_exp(logits); }

TEST(LogSumExp, IsTheLogarithmOfTheSum) {
  EXPECT_DOUBLE_EQ(sum_of({0, 0, 0, 0}), std::log(4.0));
  EXPECT_DOUBLE_EQ(sum_of({1, 2, 3}), std::log(std::exp(1.0) + std::exp(2.0) + std::exp(3.0)));
  EXPECT_DOUBLE_EQ(sum_of({-5}), -5);
}

TEST(LogSumExp, DoesNotOverflowOrVanish) {
  EXPECT_DOUBLE_EQ(sum_of({3e38F, 3e38F}), static_cast<double>(3e38F));
  EXPECT_DOUBLE_EQ(sum_of({-2000, -2000}), -2000 + std::log(2.0));
  EXPECT_DOUBLE_EQ(sum_of({-kInf, 1, -kInf}), 1);
}

TEST(LogSumExp, IsNoNumberWhereTheRowIsNone) {
  EXPECT_TRUE(std::isnan(sum_of({})));
  EXPECT_TRUE(std::isnan(sum_of({1, kNan, 2})));
  EXPECT_TRUE(std::isnan(sum_of({kNan, 1})));
  EXPECT_TRUE(std::isnan(sum_of({-kInf, kNan})));
  EXPECT_TRUE(std::isnan(sum_of({1, kInf})));
  EXPECT_EQ(sum_of({-kInf, -kInf}), -kInf);
}

TEST(BestLogits, AreInOrderWithTheLowestIdFirst) {
  EXPECT_EQ(best_logits(std::vector<float>{1, 3, 2, 3, kNan, 0}, 3),
            (Best{{3, 1}, {3, 3}, {2, 2}}));
  EXPECT_EQ(best_logits(std::vector<float>{7, 7, 7}, 2), (Best{{7, 0}, {7, 1}}));
  EXPECT_EQ(best_logits(std::vector<float>{1, 2}, 9), (Best{{2, 1}, {1, 0}}));
  EXPECT_EQ(best_logits(std::vector<float>{1, 2}, 0), Best{});
  EXPECT_EQ(best_logits(std::vector<float>{kNan, -kInf}, 2), (Best{{-kInf, 1}}));
}

}  // namespace
}  // namespace plumb
