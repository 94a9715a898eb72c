// SPDX-License-Identifier: Apache-2.0
#include "generate/penalties.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace plumb {
namespace {

std::vector<float> penalize(const PenaltyOptions& options, const std::vector<Token>& tokens,
                            std::vector<float> logits) {
  Penalties penalties(options);
  for (const Token token : tokens) penalties.add(token);
  penalties.apply(logits);
  return logits;
}
using Logits = std::vector<float>;

TEST(Penalties, DividePositiveLogitsAndMultiplyOthers) {
  EXPECT_EQ(penalize({.repeat = 2}, {0, 1, 2, 2}, {4, -4, 0, 4}), (Logits{2, -8, 0, 4}));
}

TEST(Penalties, SubtractPresenceOnceAndFrequencyForEach) {
  EXPECT_EQ(penalize({.presence = 0.5}, {0, 0, 0, 1}, {4, -4, 1}), (Logits{3.5, -4.5, 1}));
  EXPECT_EQ(penalize({.frequency = 0.5}, {0, 0, 0, 1}, {4, -4, 1}), (Logits{2.5, -4.5, 1}));
  EXPECT_EQ(penalize({.repeat = 2, .presence = 1, .frequency = 0.25}, {0, 0}, {4, 1}),
            (Logits{0.5, 1}));
}

TEST(Penalties, SeeTheLastTokensOnly) {
  const std::vector<Token> tokens = {0, 1, 0, 2};
  EXPECT_EQ(penalize({.frequency = 1, .last = 1}, tokens, {0, 0, 0}), (Logits{0, 0, -1}));
  EXPECT_EQ(penalize({.frequency = 1, .last = 3}, tokens, {0, 0, 0}), (Logits{-1, -1, -1}));
  EXPECT_EQ(penalize({.frequency = 1, .last = -1}, tokens, {0, 0, 0}), (Logits{-2, -1, -1}));
  EXPECT_EQ(penalize({.frequency = 1, .last = 0}, tokens, {0, 0, 0}), (Logits{0, 0, 0}));
}

TEST(Penalties, TokensOutsideTheVocabularyAreNoConcern) {
  EXPECT_EQ(penalize({.repeat = 2}, {-1, 5}, {1, 1}), (Logits{1, 1}));
}

TEST(Penalties, CheckNamesTheWrongOne) {
  const auto message = [](const PenaltyOptions& options) {
    const auto checked = check(options);
    return checked ? std::string() : checked.error().message;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({.repeat = 1.1, .presence = -1, .frequency = 2, .last = -1}), "");
  for (const double repeat : {0.0, -1.0, nan, HUGE_VAL})
    EXPECT_TRUE(message({.repeat = repeat}).starts_with("repeat-penalty must be")) << repeat;
  EXPECT_TRUE(message({.presence = nan}).starts_with("presence-penalty"));
  EXPECT_TRUE(message({.frequency = HUGE_VAL}).starts_with("frequency-penalty"));
  EXPECT_TRUE(message({.last = -2}).starts_with("repeat-last-n"));
}

}  // namespace
}  // namespace plumb
