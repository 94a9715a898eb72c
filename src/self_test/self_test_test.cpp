// SPDX-License-Identifier: Apache-2.0
#include "self_test/self_test.h"

#include <gtest/gtest.h>

namespace plumb {
namespace {

Trial found_trial(const std::string& fault) {
  Trial trial;
  trial.fault = fault;
  trial.step = trial.visible = "logits";
  trial.side = "candidate";
  trial.effect = 1;
  trial.found = true;
  trial.found_step = trial.audit_step = "logits";
  trial.found_side = "candidate";
  trial.found_reason = fault;
  trial.held_out_reason = "unexplained";
  return trial;
}

// The floor of the number of faults was published and never looked at: a catalogue that lost half
// of its rows passed.
TEST(SelfTest, TooFewFaultsAreBelowTheirFloor) {
  SelfTestResult result;
  result.trials = {found_trial("rope.theta"), found_trial("rope.theta"), found_trial("kv.shifted")};
  result.trials.push_back(found_trial("norm.mean"));
  result.trials.back().effect = 0;  // is no test of it
  SelfTestSetup setup;
  setup.rewrites = 0;
  EXPECT_TRUE(below_floor(result, {.faults = 2}, setup).empty());
  const auto missed = below_floor(result, {.faults = 3}, setup);
  ASSERT_EQ(missed.size(), 1U);
  EXPECT_EQ(missed[0], "faults with an effect: 2, the floor is 3");
}

TEST(SelfTest, TheFloorsThatAreBuiltInHaveEveryKey) {
  const auto floors = read_floors(std::string(embedded_floors()));
  ASSERT_TRUE(floors) << floors.error().message;
  EXPECT_EQ(floors->faults, 60U);
  EXPECT_EQ(floors->false_alarms, 0U);
}

}  // namespace
}  // namespace plumb
