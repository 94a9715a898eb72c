// SPDX-License-Identifier: Apache-2.0
#include "faults/catalogue.h"

#include <gtest/gtest.h>

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
  EXPECT_GE(names.size(), 18U);
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
  const FaultContext context{.model = model,
                             .plan = plan,
                             .step = 0,
                             .parameter = {},
                             .first_position = {},
                             .fitted_epsilons = {}};
  size_t variants = 0;
  for (const auto& fault : fault_catalogue())
    for (const auto& variant : fault.variants(context)) {
      EXPECT_FALSE(variant.step.rope == step.rope) << fault.name;
      EXPECT_FALSE(variant.text.empty());
      ++variants;
    }
  EXPECT_GE(variants, 10U);
}

}  // namespace
}  // namespace plumb
