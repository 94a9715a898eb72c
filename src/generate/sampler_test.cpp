// SPDX-License-Identifier: Apache-2.0
#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace plumb {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

Token greedy(std::vector<float> logits) { return Sampler({}).sample(logits); }

std::vector<Token> draw(const SamplingOptions& options, const std::vector<float>& logits,
                        int count) {
  Sampler sampler(options);
  std::vector<Token> ids;
  for (int i = 0; i < count; ++i) ids.push_back(sampler.sample(logits));
  return ids;
}

std::set<Token> drawn(const SamplingOptions& options, const std::vector<float>& logits) {
  const auto ids = draw(options, logits, 2000);
  return {ids.begin(), ids.end()};
}

TEST(Greedy, TakesTheLargestAndTheLowestIdOnTies) {
  EXPECT_EQ(greedy({1, 3, 2}), 1);
  EXPECT_EQ(greedy({1, 3, 3, 3}), 1);
  EXPECT_EQ(greedy({-0.0f, 0.0f}), 0);
  EXPECT_EQ(greedy({-kInf, -kInf}), 0);
  EXPECT_EQ(greedy({1, kInf, kInf}), 1);
}

TEST(Greedy, NanNeverWins) {
  EXPECT_EQ(greedy({kNan, 1, kNan, 2, kNan}), 3);
  EXPECT_EQ(greedy({kNan, -kInf}), 1);
  EXPECT_EQ(greedy({kNan, kNan}), Sampler::kNoToken);
  EXPECT_EQ(greedy({}), Sampler::kNoToken);
}

TEST(Sampler, SameSeedSameIds) {
  const std::vector<float> logits = {0.1f, 0.7f, -0.3f, 0.2f, 0.0f, 0.5f};
  const auto first = draw({.temperature = 0.8, .seed = 7}, logits, 100);
  EXPECT_EQ(first, draw({.temperature = 0.8, .seed = 7}, logits, 100));
  EXPECT_NE(first, draw({.temperature = 0.8, .seed = 8}, logits, 100));
}

TEST(Sampler, GeneratorIsXoshiro256StarStarSeededBySplitmix64) {
  // Two equal logits show the top bit of each output. These are the bits that a separate version
  // in Python gives; a change here changes what every saved seed means.
  const auto ids = draw({.temperature = 1, .seed = 42}, {0, 0}, 24);
  EXPECT_EQ(ids, (std::vector<Token>{0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0,
                                     1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1}));
}

TEST(Sampler, TopOneIsGreedy) {
  const std::vector<float> logits = {2, kNan, 5, 5, 1};
  EXPECT_EQ(drawn({.temperature = 2, .top_k = 1}, logits), std::set<Token>{2});
}

TEST(Sampler, FollowsTheSoftmax) {
  // Counts are binomial: 5 standard deviations are passed by chance once in 1.7 million, and the
  // seed is fixed.
  const std::vector<float> logits = {1.0f, 0.0f, -1.0f, 2.0f};
  constexpr double kTemperature = 1.5;
  constexpr int kDraws = 100'000;
  std::vector<int> counts(logits.size());
  for (const Token id : draw({.temperature = kTemperature, .seed = 3}, logits, kDraws)) {
    ++counts[static_cast<size_t>(id)];
  }
  double total = 0;
  for (const float logit : logits) total += std::exp(logit / kTemperature);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / kTemperature) / total;
    EXPECT_NEAR(counts[i], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p))) << i;
  }
}

TEST(Sampler, FiltersInTheDocumentedOrder) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 at ids 3, 0, 1, 2.
  const auto log2f = [](double p) { return static_cast<float>(std::log(p)); };
  const std::vector<float> logits = {log2f(0.25), log2f(0.125), log2f(0.125), log2f(0.5)};
  using Set = std::set<Token>;
  EXPECT_EQ(drawn({.temperature = 1}, logits), (Set{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 3}, logits), (Set{0, 1, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 9}, logits), (Set{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.7}, logits), (Set{0, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.8}, logits), (Set{0, 1, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 1e-9}, logits), (Set{3}));
  EXPECT_EQ(drawn({.temperature = 1, .min_p = 0.4}, logits), (Set{0, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .min_p = 1}, logits), (Set{3}));
  // top-k comes before top-p: of the first two, id 3 alone has 2/3.
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 2, .top_p = 0.6}, logits), (Set{3}));
  // Temperature comes before top-p: at 0.5 id 3 has 0.727.
  EXPECT_EQ(drawn({.temperature = 0.5, .top_p = 0.7}, logits), (Set{3}));
}

TEST(Sampler, StandsOddLogits) {
  EXPECT_EQ(drawn({.temperature = 1}, {kNan, 1, -kInf}), std::set<Token>{1});
  EXPECT_EQ(drawn({.temperature = 1}, {1, kInf, 2, kInf}), (std::set<Token>{1, 3}));
  EXPECT_EQ(drawn({.temperature = 1}, {-kInf, -kInf}), (std::set<Token>{0, 1}));
  EXPECT_EQ(drawn({.temperature = 1e-310}, {1, 2}), std::set<Token>{1});
  EXPECT_EQ(drawn({.temperature = 1}, {kNan}), std::set<Token>{Sampler::kNoToken});
  EXPECT_EQ(drawn({.temperature = 1}, {}), std::set<Token>{Sampler::kNoToken});
}

TEST(SamplingOptions, CheckNamesTheWrongOne) {
  const auto message = [](const SamplingOptions& options) {
    const auto checked = check(options);
    return checked ? std::string() : checked.error().message;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({.temperature = 1, .top_k = 40, .top_p = 0.9, .min_p = 0.05}), "");
  EXPECT_EQ(message({.temperature = -1}),
            "temperature must be 0 (greedy) or a positive number, not -1");
  EXPECT_TRUE(message({.temperature = nan}).starts_with("temperature"));
  EXPECT_TRUE(message({.temperature = HUGE_VAL}).starts_with("temperature"));
  EXPECT_EQ(message({.top_k = -2}), "top-k must be 0 (all) or more, not -2");
  for (const double top_p : {0.0, 1.01, nan}) {
    EXPECT_TRUE(message({.top_p = top_p}).starts_with("top-p"));
  }
  for (const double min_p : {-0.1, 1.1, nan}) {
    EXPECT_TRUE(message({.min_p = min_p}).starts_with("min-p"));
  }
}

}  // namespace
}  // namespace plumb
