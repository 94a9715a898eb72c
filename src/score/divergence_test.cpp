// SPDX-License-Identifier: Apache-2.0
#include "score/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace plumb {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
using Row = std::vector<float>;
constexpr size_t kTop[] = {1, 2};

std::vector<double> softmax(const Row& row) {
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x));
  std::vector<double> p;
  for (const float x : row) p.push_back(std::exp(static_cast<double>(x)) / sum);
  return p;
}

TEST(Mean, HasTheErrorOfLlamaPerplexity) {
  Mean mean;
  EXPECT_EQ(mean.estimate().value, 0);
  for (const double x : {1.0, 2.0, 4.0, 5.0}) mean.add(x);
  EXPECT_DOUBLE_EQ(mean.estimate().value, 3);
  EXPECT_DOUBLE_EQ(mean.estimate().error, std::sqrt((46.0 / 4 - 9) / 3));
  EXPECT_DOUBLE_EQ(perplexity(mean).value, std::exp(3.0));
  EXPECT_DOUBLE_EQ(perplexity(mean).error, std::exp(3.0) * mean.estimate().error);
}

TEST(Mean, OfOneOrOfEqualValuesHasNoError) {
  Mean mean;
  for (int i = 0; i < 7; ++i) {
    mean.add(0.1);
    EXPECT_NEAR(mean.estimate().error, 0, 1e-8);
  }
}

TEST(CompareRows, IsTheDefinition) {
  const Row a = {1, 2, -3, 0.5F};
  const Row b = {0.5F, 2.5F, -1, 1};
  const auto p = softmax(a);
  const auto q = softmax(b);
  double kl = 0;
  for (size_t i = 0; i < a.size(); ++i) kl += p[i] * std::log(p[i] / q[i]);
  const auto row = compare_rows(a, b, 2, kTop);
  EXPECT_NEAR(row.kl, kl, 1e-15);
  EXPECT_NEAR(row.nll_a.value(), -std::log(p[2]), 1e-15);
  EXPECT_NEAR(row.nll_b.value(), -std::log(q[2]), 1e-15);
  EXPECT_TRUE(row.same_top);
  EXPECT_EQ(row.shared, (std::vector<size_t>{1, 1}));  // {1, 0} and {1, 3}
  EXPECT_FALSE(compare_rows(a, b, std::nullopt, kTop).nll_a);
}

TEST(CompareRows, EqualRowsDivergeByExactlyNothing) {
  const Row a = {1.25F, -7, 3e4F, 2, -kInf};
  const auto row = compare_rows(a, a, 3, kTop);
  EXPECT_EQ(row.kl, 0);
  EXPECT_EQ(row.nll_a, row.nll_b);
}

TEST(CompareRows, AConstantAddedToAllLogitsChangesNothing) {
  const Row a = {1, 2, 3};
  const Row b = {1001, 1002, 1003};
  EXPECT_NEAR(compare_rows(a, b, 0, kTop).kl, 0, 1e-12);
}

TEST(CompareRows, WhatBRulesOutAndAAllowsIsInfinitelyFar) {
  EXPECT_EQ(compare_rows(Row{0, 0}, Row{0, -kInf}, 0, kTop).kl, kInf);
  EXPECT_NEAR(compare_rows(Row{0, -kInf}, Row{0, 0}, 0, kTop).kl, std::log(2.0), 1e-15);
}

TEST(CompareRows, IsNoNumberWhereARowIsNone) {
  EXPECT_TRUE(std::isnan(compare_rows(Row{0, kNan}, Row{0, 0}, 0, kTop).kl));
  EXPECT_TRUE(std::isnan(compare_rows(Row{0, 0}, Row{kNan, 0}, 0, kTop).kl));
  EXPECT_TRUE(std::isnan(compare_rows(Row{0, 0}, Row{kInf, 0}, 0, kTop).kl));
}

PairRow pair_of(double kl, bool same, double nll_a, double nll_b) {
  PairRow row;
  row.kl = kl;
  row.same_top = same;
  row.shared = {1};
  row.nll_a = nll_a;
  row.nll_b = nll_b;
  return row;
}

TEST(Divergence, QuantilesLieBetweenNeighbours) {
  Divergence d({2});
  for (const double kl : {4.0, 1.0, 3.0, 2.0}) d.add(pair_of(kl, kl < 2.5, 1, 1));
  EXPECT_DOUBLE_EQ(d.kl_quantile(0), 1);
  EXPECT_DOUBLE_EQ(d.kl_quantile(0.5), 2.5);
  EXPECT_DOUBLE_EQ(d.kl_quantile(0.9), 3.7);
  EXPECT_DOUBLE_EQ(d.kl_quantile(1), 4);
  EXPECT_DOUBLE_EQ(d.kl().value, 2.5);
  EXPECT_DOUBLE_EQ(d.same_top().value, 0.5);
  EXPECT_DOUBLE_EQ(d.same_top().error, std::sqrt(0.25 / 3));
  EXPECT_DOUBLE_EQ(d.shared(0).value, 0.5);
}

TEST(Divergence, TheErrorOfTheRatioIsThatOfTheDifferences) {
  const double a[] = {1.0, 3.0, 2.0, 0.5, 4.0};
  const double b[] = {1.1, 2.9, 2.3, 0.4, 4.4};
  Divergence d({2});
  Mean differences;
  Mean changes;
  for (size_t i = 0; i < 5; ++i) {
    d.add(pair_of(0, true, a[i], b[i]));
    differences.add(b[i] - a[i]);
    changes.add(std::exp(-b[i]) - std::exp(-a[i]));
  }
  EXPECT_NEAR(d.log_ratio().value, differences.estimate().value, 1e-14);
  EXPECT_NEAR(d.log_ratio().error, differences.estimate().error, 1e-12);
  EXPECT_NEAR(d.ratio().value, d.perplexity_b().value / d.perplexity_a().value, 1e-12);
  EXPECT_NEAR(d.mean_change().value, changes.estimate().value, 1e-15);
  double squares = 0;
  for (size_t i = 0; i < 5; ++i) squares += std::pow(std::exp(-b[i]) - std::exp(-a[i]), 2);
  EXPECT_NEAR(d.rms_change().value, std::sqrt(squares / 5), 1e-15);
  EXPECT_GT(d.rms_change().error, 0);
}

TEST(Divergence, PositionsWithoutANextTokenCountForKlOnly) {
  Divergence d({2});
  d.add(pair_of(1, true, 1, 2));
  PairRow last;
  last.kl = 3;
  last.shared = {2};
  d.add(last);
  EXPECT_EQ(d.count(), 2U);
  EXPECT_DOUBLE_EQ(d.kl().value, 2);
  EXPECT_DOUBLE_EQ(d.perplexity_b().value, std::exp(2.0));
}

}  // namespace
}  // namespace plumb
