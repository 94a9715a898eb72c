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

std::shared_ptr<Weight> vector_of(size_t count) {
  auto weight = std::make_shared<Weight>();
  weight->rows = 1;
  weight->columns = count;
  weight->storage.assign(count * sizeof(float), std::byte{0x3F});
  weight->bytes = weight->storage;
  return weight;
}

// The weight of one head was repeated for the whole row, the bias was not, and the kernel read
// behind its end.
TEST(Catalogue, AGroupOfANormHasAsManyBiasesAsWeights) {
  Model model;
  model.config.head_dim = 4;
  Plan plan;
  plan.steps = {{.op = Op::LayerNorm,
                 .name = "layer.0.attn.q_norm",
                 .width = 12,
                 .weight = vector_of(4),
                 .bias = vector_of(4),
                 .group = 4}};
  const auto variants = fault_named("norm.group").variants({.model = model, .plan = plan});
  ASSERT_EQ(variants.size(), 1U);
  const Step step = variants[0].step();
  EXPECT_EQ(step.group, 12U);
  for (const auto& weight : {step.weight, step.bias}) {
    EXPECT_EQ(weight->columns, 12U);
    EXPECT_EQ(weight->values(), std::vector<float>(12, vector_of(1)->values()[0]));
  }
}

// Blocks whose scale is 1, and whose numbers are of some value.
std::shared_ptr<Weight> blocks_of(DType dtype) {
  auto weight = std::make_shared<Weight>();
  weight->dtype = dtype;
  weight->rows = 1;
  weight->columns = info(dtype).block_elements;
  auto& block = weight->storage;
  block.assign(info(dtype).block_bytes, std::byte{0x5A});
  const bool scale_first = dtype == DType::Q4_0 || dtype == DType::Q5_0;
  block[scale_first ? 0 : block.size() - 2] = std::byte{0};
  block[scale_first ? 1 : block.size() - 1] = std::byte{0x3C};  // 1 as a half
  if (dtype == DType::Q6_K) std::fill_n(&block[192], 16, std::byte{1});
  if (dtype == DType::Q3_K) {  // 6-bit scales of 33, of which 32 is subtracted
    std::fill_n(&block[96], 8, std::byte{0x11});
    std::fill_n(&block[104], 4, std::byte{0xAA});
  }
  weight->bytes = block;
  return weight;
}

// No run of a model of the repository had an effect of it: none has Q4_0 or Q5_0, and the types
// that they have, Q3_K and Q6_K, were left out.
TEST(Catalogue, AZeroPointThatIsNotSubtractedStandsInEveryValue) {
  const Model model;
  for (const auto& [dtype, zero] : {std::pair{DType::Q4_0, 8.0F},
                                    {DType::Q5_0, 16.0F},
                                    {DType::Q3_K, 4.0F},
                                    {DType::Q6_K, 32.0F}}) {
    const auto weight = blocks_of(dtype);
    Plan plan;
    plan.steps = {{.op = Op::MatMul, .name = "layer.0.attn.v", .width = 1, .weight = weight}};
    const auto variants =
        fault_named("weights.zero_point").variants({.model = model, .plan = plan});
    ASSERT_EQ(variants.size(), 1U) << info(dtype).name;
    const auto faulty = variants[0].step().weight->values();
    const auto right = weight->values();
    for (size_t i = 0; i < right.size(); ++i)
      EXPECT_EQ(faulty[i], right[i] + zero) << info(dtype).name << " at " << i;
  }
}

// The tiny model of the repository has no biases, so the fault tests cannot inject this one.
TEST(Catalogue, ASkippedBiasAddsNothing) {
  const auto bias = vector_of(3);
  bias->name = "blk.0.attn_q.bias";
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
