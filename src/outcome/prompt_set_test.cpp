// SPDX-License-Identifier: Apache-2.0
#include "outcome/prompt_set.h"

#include <gtest/gtest.h>

#include <cmath>

namespace plumb {
namespace {

// A prompt of two tokens and three decoded ones, whose best token changes at the given positions.
PromptOutcome prompt_with(std::initializer_list<size_t> changed, double kl = 0) {
  PromptOutcome prompt;
  prompt.tokens = {1, 2, 3, 4, 5};
  prompt.prompt = 2;
  prompt.positions.resize(5);
  for (auto& position : prompt.positions) position.kl = kl;
  for (const size_t at : changed) {
    prompt.positions[at].changed = true;
    prompt.positions[at].margin = 0.5;
  }
  prompt.positions[0].log_ratio = -kl;
  prompt.identical = changed.size() == 0 && kl == 0;
  prompt.distance = kl;
  return prompt;
}

TEST(PromptSet, IdenticalSidesGiveExactlyZeroAndSayWhatCouldBeMissed) {
  const auto set = summarize(std::vector<PromptOutcome>(20, prompt_with({})), 3, {});
  EXPECT_EQ(set.kl.value, 0);
  EXPECT_EQ(set.kl.interval->high, 0);
  EXPECT_EQ(set.changed.value, 0);
  EXPECT_EQ(set.log_ratio.value, 0);
  EXPECT_EQ(set.touched.events, 0u);
  EXPECT_NEAR(set.touched.detectable, 0.139, 0.001);  // 3 of 20, exactly 1 - 0.05^(1/20)
  EXPECT_NEAR(set.unseen_by_positions, 0.0295, 0.0001);
  EXPECT_EQ(set.unseen_by_prompts, set.touched.detectable);
  EXPECT_FALSE(set.chosen_differs);
  EXPECT_EQ(set.chosen, 0u);
}

// Prompts part where a generated token changes; a change inside the prompt is none.
TEST(PromptSet, PartingCountsGeneratedTokensOnly) {
  EXPECT_FALSE(prompt_with({0}).parting());
  EXPECT_EQ(prompt_with({1}).parting(), 0u);
  EXPECT_EQ(prompt_with({0, 3, 4}).parting(), 2u);
  auto prompts = std::vector<PromptOutcome>(9, prompt_with({0}));
  prompts.push_back(prompt_with({4}));
  const auto set = summarize(prompts, 3, {});
  EXPECT_EQ(set.parted.events, 1u);
  EXPECT_EQ(set.parted.count, 10u);
  EXPECT_EQ(set.changes, 10u);
  EXPECT_NEAR(set.changed.value, 0.2, 1e-12);
  EXPECT_EQ(set.unseen_by_prompts, 0);  // something was seen
  EXPECT_GT(set.parted.detectable, 0.1);
}

// A change by less than equivalent runs change is a tie, and is counted beside.
TEST(PromptSet, TiesNeedAMeasuredFloor) {
  auto prompt = prompt_with({3, 4});
  EXPECT_EQ(prompt.ties(), 0u);
  prompt.positions[3].tie = 0.6;
  prompt.positions[4].tie = 0.4;
  EXPECT_EQ(prompt.ties(), 1u);
  EXPECT_EQ(prompt.changes(), 2u);
}

// The first prompt above its floor is the one to look into; below the floor is no difference.
TEST(PromptSet, ChoosesTheFirstPromptAboveItsFloor) {
  std::vector<PromptOutcome> prompts(3, prompt_with({}, 0.01));
  prompts[0].floor = 0.02;
  prompts[1].floor = 0.001;
  const auto set = summarize(prompts, 3, {});
  EXPECT_TRUE(set.chosen_differs);
  EXPECT_EQ(set.chosen, 1u);
  prompts[1].floor = prompts[2].floor = 0.02;
  EXPECT_FALSE(summarize(prompts, 3, {}).chosen_differs);
}

// Few prompts: blocks of positions; ten and more: the prompt is the block.
TEST(PromptSet, BlocksArePromptsWhereThereAreEnough) {
  const auto few = summarize(std::vector<PromptOutcome>(9, prompt_with({}, 0.01)), 3, {});
  EXPECT_FALSE(few.blocks.groups);
  const auto enough = summarize(std::vector<PromptOutcome>(10, prompt_with({}, 0.01)), 3, {});
  EXPECT_TRUE(enough.blocks.groups);
  EXPECT_EQ(enough.blocks.count, 10);
}

// Logits that are no numbers: no mean, no interval, and the position counts as changed.
TEST(PromptSet, WhatIsNotFiniteIsNotAveraged) {
  auto bad = prompt_with({2}, 0.01);
  bad.positions[2].kl = INFINITY;
  bad.positions[2].finite = false;
  auto prompts = std::vector<PromptOutcome>(10, prompt_with({}, 0.01));
  prompts.push_back(bad);
  const auto set = summarize(prompts, 3, {});
  EXPECT_EQ(set.not_finite, 1u);
  EXPECT_TRUE(std::isinf(set.kl.value));
  EXPECT_FALSE(set.kl.interval);
  EXPECT_TRUE(set.changed.interval);
  EXPECT_EQ(set.ties, 0u);
}

}  // namespace
}  // namespace plumb
