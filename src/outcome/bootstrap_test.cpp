// SPDX-License-Identifier: Apache-2.0
#include "outcome/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace plumb {
namespace {

// Values of textbooks' tables.
TEST(Distributions, AreThoseOfTheTables) {
  EXPECT_NEAR(normal_quantile(0.975), 1.959964, 1e-6);
  EXPECT_NEAR(normal_cdf(1.959964), 0.975, 1e-6);
  EXPECT_NEAR(student_t_quantile(0.975, 1), 12.706205, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.975, 9), 2.262157, 1e-6);
  EXPECT_NEAR(student_t_quantile(0.8, 30), 0.853767, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.025, 9), -2.262157, 1e-6);
  EXPECT_NEAR(incomplete_beta(2, 3, 0.4), 0.5248, 1e-12);  // 1 - Σ of a binomial, by hand
}

// Clopper and Pearson for 3 of 20, and at the two ends.
TEST(Distributions, BinomialIntervalIsExact) {
  const auto some = binomial_interval(3, 20, 0.95);
  EXPECT_NEAR(some.low, 0.032071, 1e-5);
  EXPECT_NEAR(some.high, 0.378927, 1e-5);
  const auto none = binomial_interval(0, 10, 0.95);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 1 - std::pow(0.025, 0.1), 1e-9);
  const auto all = binomial_interval(10, 10, 0.95);
  EXPECT_NEAR(all.low, std::pow(0.025, 0.1), 1e-9);
  EXPECT_EQ(all.high, 1);
}

// No event in n trials: the rule of three, and nothing at all is known from no trial.
TEST(Distributions, ZeroEventsHaveABound) {
  EXPECT_NEAR(zero_event_bound(1000, 0.95), 3.0 / 1000, 1e-5);
  EXPECT_NEAR(zero_event_bound(1, 0.95), 0.95, 1e-12);
  EXPECT_EQ(zero_event_bound(0, 0.95), 1);
  for (const size_t n : {1, 7, 400})  // that share gives no event just once in twenty
    EXPECT_NEAR(std::pow(1 - zero_event_bound(n, 0.95), static_cast<double>(n)), 0.05, 1e-12);
}

class Noise {
 public:
  explicit Noise(uint64_t seed) : random_(seed) {}
  double normal() {  // Box and Muller: the same numbers with every library
    const double u = (static_cast<double>(random_() >> 11) + 0.5) * 0x1p-53;
    const double v = static_cast<double>(random_() >> 11) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979323846 * v);
  }
  // AR(1): each value is `correlation` times the one before plus noise; variance 1.
  std::vector<Observation> positions(size_t count, double correlation, double mean) {
    std::vector<Observation> result;
    double x = normal();
    for (size_t i = 0; i < count; ++i) {
      result.push_back({mean + x, 1});
      x = correlation * x + std::sqrt(1 - correlation * correlation) * normal();
    }
    return result;
  }

 private:
  std::mt19937_64 random_;
};

// In how many of `repeats` samples the interval holds the true mean.
template <class Sample>
double coverage(const Sample& sample, double truth, size_t repeats, std::optional<Blocks> forced) {
  size_t held = 0;
  Noise noise(7);
  for (size_t i = 0; i < repeats; ++i) {
    const std::vector<Series> series = {sample(noise)};
    const auto blocks = forced ? *forced : choose_blocks(series);
    const auto e = bootstrap(series, blocks, {.seed = i + 1, .resamples = 400})[0];
    if (e.interval->low <= truth && truth <= e.interval->high) ++held;
  }
  return static_cast<double>(held) / static_cast<double>(repeats);
}

// 400 repeats see a coverage to ± 0.022 (two standard errors). The moving-block interval is known
// to cover a little too rarely in finite samples; treating the positions as independent misses the
// truth far more often, which is what the blocks are for.
TEST(Bootstrap, MovingBlocksCoverTheMeanOfCorrelatedPositions) {
  const auto sample = [](Noise& noise) { return Series{noise.positions(400, 0.6, 2.0)}; };
  const double blocks = coverage(sample, 2.0, 400, std::nullopt);
  EXPECT_GE(blocks, 0.90);
  EXPECT_LE(blocks, 0.985);
  const double single =
      coverage(sample, 2.0, 400, Blocks{.groups = false, .length = 1, .count = 400});
  EXPECT_LE(single, 0.75);
}

TEST(Bootstrap, MovingBlocksCoverTheMeanOfIndependentPositions) {
  const auto sample = [](Noise& noise) { return Series{noise.positions(100, 0, -1.0)}; };
  EXPECT_GE(coverage(sample, -1.0, 400, std::nullopt), 0.92);
}

// Prompts that differ from each other, positions that are correlated within: the fewest prompts
// that are drawn whole, and more.
TEST(Bootstrap, WholeGroupsCoverTheMeanOfDifferingGroups) {
  for (const size_t groups : {kEnoughGroups, size_t{40}}) {
    const auto sample = [&](Noise& noise) {
      Series series;
      for (size_t g = 0; g < groups; ++g)
        series.push_back(noise.positions(8 + g % 5, 0.6, 1.0 + noise.normal()));
      return series;
    };
    const double covered = coverage(sample, 1.0, 400, std::nullopt);
    EXPECT_GE(covered, 0.92) << groups;
    EXPECT_LE(covered, 0.985) << groups;
  }
}

// The standard error that a mean of independent values has by the textbook.
TEST(Bootstrap, StandardErrorIsThatOfTheTextbook) {
  Noise noise(3);
  const std::vector<Series> series = {{noise.positions(900, 0, 0)}};
  const auto e = bootstrap(series, {.groups = false, .length = 1, .count = 900}, {})[0];
  EXPECT_NEAR(*e.error, 1.0 / 30, 0.004);
  EXPECT_NEAR(*e.detectable / *e.error, 2.80, 0.02);  // 1.96 + 0.84
}

TEST(Bootstrap, BlocksAreAsLongAsTheCorrelation) {
  Noise noise(5);
  EXPECT_LE(block_length({noise.positions(2000, 0, 0)}), 3u);
  const size_t some = block_length({noise.positions(2000, 0.6, 0)});
  const size_t more = block_length({noise.positions(2000, 0.9, 0)});
  EXPECT_GE(some, 8u);
  EXPECT_GT(more, some);
  EXPECT_EQ(block_length({{{1, 1}, {1, 1}, {1, 1}, {1, 1}}}), 1u);  // nothing varies
  EXPECT_EQ(block_length({{{1, 1}}}), 1u);
}

// What does not differ has an effect, an error and an interval of exactly zero.
TEST(Bootstrap, ZerosGiveExactlyZero) {
  const std::vector<Series> series = {Series(12, std::vector<Observation>(5, {0, 1}))};
  const auto e = bootstrap(series, choose_blocks(series), {})[0];
  EXPECT_EQ(e.value, 0);
  EXPECT_EQ(*e.error, 0);
  EXPECT_EQ(e.interval->low, 0);
  EXPECT_EQ(e.interval->high, 0);
  EXPECT_EQ(*e.detectable, 0);
}

// A difference of the size that is said to be seen is seen in four of five samples.
TEST(Bootstrap, TheDetectableEffectIsSeenWithItsPower) {
  size_t seen = 0;
  Noise noise(11);
  const double effect = detectable_errors(30, 0.95, 0.8) * std::sqrt(1.0 / 30);
  for (size_t i = 0; i < 400; ++i) {
    Series series;
    for (size_t g = 0; g < 30; ++g) series.push_back(noise.positions(1, 0, effect));
    const std::vector<Series> one = {series};
    const auto e = bootstrap(one, choose_blocks(one), {.seed = i, .resamples = 400})[0];
    if (e.interval->low > 0) ++seen;
  }
  EXPECT_NEAR(static_cast<double>(seen) / 400, 0.8, 0.06);  // three standard errors
}

// One seed, one result; statistics with gaps; too few positions to say anything.
TEST(Bootstrap, IsReproducibleAndSaysNothingOfTooLittle) {
  Noise noise(2);
  auto gaps = noise.positions(30, 0.3, 1);
  for (size_t i = 0; i < gaps.size(); i += 3) gaps[i] = {};
  const std::vector<Series> series = {{noise.positions(30, 0.3, 1)}, {gaps}};
  const auto blocks = choose_blocks(series);
  const auto a = bootstrap(series, blocks, {.seed = 4});
  const auto b = bootstrap(series, blocks, {.seed = 4});
  const auto c = bootstrap(series, blocks, {.seed = 5});
  EXPECT_EQ(a[1].count, 20u);
  EXPECT_EQ(a[1].interval->low, b[1].interval->low);
  EXPECT_NE(a[1].interval->low, c[1].interval->low);
  const std::vector<Series> one = {{{{1, 1}}}};
  EXPECT_FALSE(bootstrap(one, choose_blocks(one), {})[0].interval);
  const std::vector<Series> infinite = {{{{1, 1}, {INFINITY, 1}, {1, 1}, {2, 1}}}};
  EXPECT_FALSE(bootstrap(infinite, choose_blocks(infinite), {})[0].interval);
  const std::vector<Series> none = {{{{0, 0}, {0, 0}, {0, 0}}}};
  const auto nothing = bootstrap(none, {.groups = false, .length = 1, .count = 3}, {})[0];
  EXPECT_TRUE(std::isnan(nothing.value));
  EXPECT_FALSE(nothing.interval);
}

}  // namespace
}  // namespace plumb
