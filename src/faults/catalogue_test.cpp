// SPDX-License-Identifier: Apache-2.0
#include "faults/catalogue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace plumb {
namespace {

// Reasons are names that scripts rely on: each stands once.
TEST(Catalogue, NamesAreUniqueAndComplete) {
  std::set<std::string> names;
  for (const auto& fault : fault_catalogue()) {
    EXPECT_TRUE(names.insert(fault.name).second) << fault.name;
    EXPECT_FALSE(fault.summary.empty() || fault.steps.empty() || !fault.variants) << fault.name;
    EXPECT_NE(fault.name.find('.'), std::string::npos) << fault.name;
  }
  EXPECT_GE(names.size(), 80U);
}

// A variant that equals the right step would be a fault that is none, and a hypothesis that
// explains everything.
TEST(Catalogue, NoVariantOfARotationIsTheRightOne) {
  Model model;
  model.config.heads = 1;
  Plan plan;
  Step step{.op = Op::Rope, .name = "layer.0.attn.q_rope", .width = 8, .head_dim = 8};
  step.rope = {.base = 10000, .dimensions = 8};
  plan.steps = {step};
  const FaultContext context{.model = model, .plan = plan, .step = 0, .prompt = 5};
  size_t variants = 0;
  for (const auto& fault : fault_catalogue())
    for (const auto& variant : fault.variants(context)) {
      const Step faulty = variant.step();
      EXPECT_FALSE(faulty.rope == step.rope && !faulty.quirk) << fault.name;
      EXPECT_FALSE(variant.text.empty());
      ++variants;
    }
  EXPECT_GE(variants, 10U);
}

// The tiny model of the repository has no biases, so the fault tests cannot inject this one.
TEST(Catalogue, ASkippedBiasAddsNothing) {
  auto bias = std::make_shared<Weight>();
  bias->name = "blk.0.attn_q.bias";
  bias->rows = 1;
  bias->columns = 3;
  bias->storage.assign(3 * sizeof(float), std::byte{0x3F});
  bias->bytes = bias->storage;
  const Model model;
  Plan plan;
  plan.steps = {{.op = Op::Bias, .name = "layer.0.attn.q", .width = 3, .weight = bias},
                {.op = Op::MatMul, .name = "layer.0.attn.out", .width = 3, .bias = bias},
                {.op = Op::MatMul, .name = "layer.0.ffn.up", .width = 3}};
  const auto fault = std::ranges::find(fault_catalogue(), "bias.skipped", &Fault::name);
  ASSERT_NE(fault, fault_catalogue().end());
  const auto variants_at = [&](size_t step) {
    return fault->variants({.model = model, .plan = plan, .step = step});
  };
  ASSERT_EQ(variants_at(0).size(), 1U);
  EXPECT_EQ(variants_at(0)[0].step().weight->values(), std::vector<float>(3, 0.0F));
  EXPECT_NE(bias->values()[0], 0);  // the model's own is untouched
  ASSERT_EQ(variants_at(1).size(), 1U);
  EXPECT_EQ(variants_at(1)[0].step().bias, nullptr);
  EXPECT_TRUE(variants_at(2).empty());  // no bias to skip
}

}  // namespace
}  // namespace plumb
