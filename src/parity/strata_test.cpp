// SPDX-License-Identifier: Apache-2.0
#include "parity/strata.h"

#include <gtest/gtest.h>

#include <cmath>

namespace plumb {
namespace {

constexpr size_t kWidth = 64;
constexpr size_t kRows = 6;
constexpr size_t kMassive = 17;

// A residual stream of plain values; the first row has one massive value and is large in all.
ReplayedStep residual() {
  ReplayedStep step;
  step.check.name = "layer.1.residual";
  step.width = kWidth;
  for (size_t r = 0; r < kRows; ++r) {
    step.check.positions.push_back(static_cast<int32_t>(r));
    for (size_t i = 0; i < kWidth; ++i)
      step.recorded.push_back(std::sin(static_cast<double>(r * kWidth + i * 7 + 1)));
  }
  step.recorded[kMassive] = 3000;
  step.referee = step.recorded;
  return step;
}

TEST(Strata, FindMassiveChannelsAndFirstTokens) {
  const auto step = residual();
  const auto strata = strata_of(step, &step).value();
  EXPECT_EQ(strata.channels, std::vector<size_t>{kMassive});
  EXPECT_EQ(strata.massive_positions, std::vector<int32_t>{0});
  EXPECT_EQ(strata.first_positions, std::vector<int32_t>{0});
  EXPECT_GT(strata.times_median, 1000);
  EXPECT_EQ(strata.massive.values, 1u);
  EXPECT_EQ(strata.first.values, kWidth - 1);
  EXPECT_EQ(strata.rest.values, (kRows - 1) * kWidth);
  EXPECT_EQ(strata.massive.total, 0.0);
  EXPECT_EQ(strata.rest.total, 0.0);
  EXPECT_FALSE(strata.rest.share);  // of no difference there is no share
}

// Scaling a residual stream changes nothing behind a norm: neither may it change the strata.
TEST(Strata, HaveNoScale) {
  auto small = residual();
  for (auto* values : {&small.recorded, &small.referee})
    for (double& x : *values) x *= 1e-4;
  const auto strata = strata_of(small, &small).value();
  EXPECT_EQ(strata.channels, std::vector<size_t>{kMassive});
  EXPECT_NEAR(strata.times_median, strata_of(residual(), nullptr)->times_median, 1e-6);
}

// The case that they are made for: everything but the massive value is wrong, and the distance of
// the whole row hardly shows it.
TEST(Strata, ShowADifferenceThatLivesOutsideTheMassiveValue) {
  const auto right = residual();
  auto wrong = right;
  for (size_t i = 0; i < kWidth; ++i)
    if (i != kMassive) wrong.recorded[i] = -right.recorded[i];
  const auto strata = strata_of(right, &wrong).value();
  EXPECT_EQ(strata.massive.total, 0.0);
  EXPECT_DOUBLE_EQ(*strata.first.total, 2);
  EXPECT_EQ(strata.rest.total, 0.0);
  EXPECT_EQ(*strata.first.share, 1);
  EXPECT_EQ(*strata.first.local_baseline, 0);
  EXPECT_DOUBLE_EQ(*strata.first.local_candidate, 2);
}

TEST(Strata, ShowADifferenceThatLivesInTheMassiveValueOnly) {
  const auto right = residual();
  auto wrong = right;
  wrong.recorded[kMassive] *= 1.15;
  const auto strata = strata_of(right, &wrong).value();
  EXPECT_NEAR(*strata.massive.total, 0.15, 1e-12);
  EXPECT_EQ(*strata.massive.share, 1);
  EXPECT_EQ(*strata.first.total, 0);
  EXPECT_EQ(*strata.rest.total, 0);
}

// A side that lost its massive value is compared with the one that has it, whichever that is.
TEST(Strata, NeitherSideIsRightByBirth) {
  const auto has = residual();
  auto lost = has;
  lost.recorded[kMassive] = 1;
  for (const bool swapped : {false, true}) {
    const auto strata = swapped ? strata_of(lost, &has).value() : strata_of(has, &lost).value();
    EXPECT_EQ(strata.channels, std::vector<size_t>{kMassive});
    EXPECT_GT(*strata.massive.share, 0.999);
  }
}

// A later token that the attention rests on is like a first one.
TEST(Strata, ALargeRowIsAFirstToken) {
  auto step = residual();
  for (size_t i = 0; i < kWidth; ++i) step.recorded[4 * kWidth + i] *= 12;
  const auto strata = strata_of(step, &step).value();
  EXPECT_EQ(strata.first_positions, (std::vector<int32_t>{0, 4}));
  EXPECT_EQ(strata.channels, std::vector<size_t>{kMassive});
}

TEST(Strata, AreOfTheResidualStreamAndOfWhatWasMeasured) {
  auto step = residual();
  auto other = step;
  other.check.name = "layer.1.attn.q_rope";
  EXPECT_FALSE(strata_of(other, &other));
  other = step;
  other.check.unmeasured = "not recorded";
  EXPECT_FALSE(strata_of(other, nullptr));
  EXPECT_FALSE(strata_of(step, &other));
  // Of an audit the two are the run and the referee.
  step.recorded[3 * kWidth] += 0.5;
  const auto strata = strata_of(step, nullptr).value();
  EXPECT_FALSE(strata.rest.total);
  EXPECT_GT(*strata.rest.local_baseline, 0);
  EXPECT_EQ(*strata.rest.share, 1);
}

// Two traces without a model: what differs is known, which side is right is not.
TEST(Strata, OfTracesAloneHaveNoLocalDifference) {
  const auto right = residual();
  auto wrong = right;
  wrong.recorded[2 * kWidth] += 1;
  const auto strata = strata_of_recorded(right.check.name, {right.check.positions, right.recorded},
                                         {wrong.check.positions, wrong.recorded}, kWidth)
                          .value();
  EXPECT_EQ(strata.channels, std::vector<size_t>{kMassive});
  EXPECT_GT(*strata.rest.total, 0);
  EXPECT_EQ(*strata.rest.share, 1);
  EXPECT_FALSE(strata.rest.local_baseline);
  EXPECT_FALSE(strata.rest.local_candidate);
}

TEST(Strata, WhatIsNotANumberIsInfinitelyFar) {
  const auto right = residual();
  auto wrong = right;
  wrong.recorded[2 * kWidth] = NAN;
  const auto strata = strata_of(right, &wrong).value();
  EXPECT_TRUE(std::isinf(*strata.rest.total));
  EXPECT_FALSE(strata.rest.share);
  EXPECT_TRUE(channel_shares(wrong, 8).empty());
}

TEST(ChannelShares, NameTheChannelsOfTheDifference) {
  auto step = residual();
  step.recorded[2 * kWidth + 5] += 3;
  step.recorded[3 * kWidth + 9] += 1;
  const auto shares = channel_shares(step, 8);
  ASSERT_EQ(shares.size(), 2u);  // a channel without a difference has no share
  EXPECT_EQ(shares[0].channel, 5u);
  EXPECT_NEAR(shares[0].share, 0.9, 1e-12);
  EXPECT_EQ(shares[1].channel, 9u);
  EXPECT_EQ(channel_shares(step, 1).size(), 1u);
  EXPECT_TRUE(channel_shares(residual(), 8).empty());
}

}  // namespace
}  // namespace plumb
