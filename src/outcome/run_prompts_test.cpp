// SPDX-License-Identifier: Apache-2.0
#include "outcome/run_prompts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "core/log_softmax.h"

namespace plumb {
namespace {

const Model& model() {
  static const Model model =
      load_model(std::string(PLUMB_SOURCE_DIR) + "/tests/models/tiny-stories-q4_k.gguf").value();
  return model;
}

class RunPrompts : public ::testing::Test {
 protected:
  RunSetup setup(const Plan& plan, KvType kv = KvType::F32) {
    return {model(), plan, *backend_, threads_, kv};
  }
  const std::vector<Token> prompt_ =
      model().tokenizer->encode("One day a bird", true, true).value();
  const std::unique_ptr<Backend> backend_ = make_cpu_backend("scalar").value();
  Threads threads_{2};
  const Plan plan_ = make_plan(model());
};

TEST_F(RunPrompts, TheSameSidesAreExactlyTheSame) {
  const auto outcome = run_prompt(setup(plan_), setup(plan_), prompt_, 4).value();
  EXPECT_TRUE(outcome.identical);
  EXPECT_EQ(outcome.distance, 0);
  EXPECT_EQ(outcome.kl_max(), 0);
  EXPECT_EQ(outcome.changes(), 0u);
  EXPECT_EQ(outcome.positions.size(), prompt_.size() + 4);
  // The tokens are those that a user would get.
  EXPECT_EQ(outcome.tokens, run_greedily(setup(plan_), prompt_, 4).value().tokens);
}

// Position by position against logits of two whole runs.
TEST_F(RunPrompts, FiguresAreThoseOfWholeRuns) {
  Plan other = plan_;
  other.steps[other.find("layer.1.attn.k_rope").value()].rope.position_shift = 3;
  const auto outcome = run_prompt(setup(plan_), setup(other), prompt_, 3).value();
  EXPECT_FALSE(outcome.identical);
  const auto a = run_logits(setup(plan_), outcome.tokens, outcome.prompt, 0).value();
  const auto b = run_logits(setup(other), outcome.tokens, outcome.prompt, 0).value();
  const size_t n = model().config.vocabulary;
  for (size_t at = 0; at < outcome.tokens.size(); ++at) {
    const auto row_a = std::span(a).subspan(at * n, n);
    const auto row_b = std::span(b).subspan(at * n, n);
    double kl = 0;
    const double total_a = log_sum_exp(row_a);
    const double total_b = log_sum_exp(row_b);
    for (size_t i = 0; i < n; ++i)
      kl += std::exp(row_a[i] - total_a) * (row_a[i] - total_a - row_b[i] + total_b);
    const auto& position = outcome.positions[at];
    EXPECT_NEAR(position.kl, kl, 1e-9) << at;
    EXPECT_EQ(position.changed, argmax(row_a) != argmax(row_b)) << at;
    // The prompt's own tokens are judged, those that A chose are not.
    ASSERT_EQ(position.log_ratio.has_value(), at + 1 < outcome.prompt) << at;
    if (!position.log_ratio) continue;
    const auto next = static_cast<size_t>(outcome.tokens[at + 1]);
    EXPECT_NEAR(*position.log_ratio, row_b[next] - total_b - row_a[next] + total_a, 1e-9) << at;
  }
}

// The floor is that of equivalent runs: not zero, and far below a fault's difference.
TEST_F(RunPrompts, FloorLiesBelowAFault) {
  Plan other = plan_;
  other.steps[other.find("layer.0.attn.k_rope").value()].rope.base = 500;
  Plan noisy = plan_;
  noisy.steps.front().gain = 1 + 0x1p-23;
  auto outcome = run_prompt(setup(plan_), setup(other), prompt_, 3).value();
  ASSERT_TRUE(measure_prompt_floor(setup(plan_), setup(noisy), outcome));
  EXPECT_GT(*outcome.floor, 0);
  EXPECT_LT(*outcome.floor, outcome.distance / 10);
  EXPECT_TRUE(outcome.above_floor());
  for (const auto& position : outcome.positions)
    EXPECT_EQ(position.tie.has_value(), position.changed);
}

TEST_F(RunPrompts, TokensOutsideTheModelAreAnError) {
  const std::vector<Token> outside = {1, 1000000};
  EXPECT_FALSE(run_prompt(setup(plan_), setup(plan_), outside, 1));
}

// A value that is no number has no best token, and no mean hides it.
TEST_F(RunPrompts, NotFiniteLogitsAreInfinitelyFar) {
  Plan broken = plan_;
  broken.steps[broken.find("final.norm").value()].gain = NAN;
  const auto outcome = run_prompt(setup(plan_), setup(broken), prompt_, 1).value();
  EXPECT_TRUE(std::isinf(outcome.kl_mean()));
  EXPECT_TRUE(std::isinf(outcome.distance));
  EXPECT_EQ(outcome.parting(), 0u);
  EXPECT_EQ(outcome.ties(), 0u);
}

}  // namespace
}  // namespace plumb
