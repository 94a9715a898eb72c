// SPDX-License-Identifier: Apache-2.0
// Every fault of the catalogue, at an early, a middle and the last layer: found at its step, on the
// right side, with its reason, and no other step is called wrong.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "faults/build.h"
#include "replay/hypotheses.h"
#include "tests/laws/test_support.h"

namespace plumb::testing {
namespace {

struct Case {
  std::string fault, step, parameter;
  std::vector<std::string> reasons;  // the fault's own if empty
};

// Where each fault can be put in the tiny model; {} stands for the layer.
std::vector<Case> cases() {
  return {
      {"rope.pairing", "layer.{}.attn.q_rope", "", {}},
      {"rope.pairing", "layer.{}.attn.k_rope", "", {}},
      {"rope.theta", "layer.{}.attn.q_rope", "500000", {}},
      {"rope.theta", "layer.{}.attn.k_rope", "1000000", {}},
      {"rope.missing", "layer.{}.attn.k_rope", "", {}},
      {"rope.position", "layer.{}.attn.q_rope", "1", {}},
      // What epsilon changes must stand above the rounding of float: its share of the mean square
      // is 1e-7 or more.
      {"norm.epsilon", "layer.{}.attn.norm", "0.001", {}},
      {"norm.epsilon", "layer.{}.ffn.norm", "0.03", {}},
      {"norm.gamma_skipped", "layer.{}.ffn.norm", "", {}},
      {"weights.swapped", "layer.{}.ffn.gate", "", {}},
      {"weights.swapped", "layer.{}.ffn.norm", "", {}},
      {"weights.swapped", "layer.{}.attn.k", "", {}},
      {"attention.head_map", "layer.{}.attn.scores", "", {}},
      {"attention.head_map", "layer.{}.attn.mix", "", {}},
      {"attention.scale", "layer.{}.attn.scores", "1", {}},
      {"attention.scale", "layer.{}.attn.scores", "0.2", {}},
      {"attention.mask", "layer.{}.attn.weights", "", {}},
      {"attention.window", "layer.{}.attn.weights", "4", {}},
      {"kv.stale_row", "layer.{}.attn.scores", "3", {}},
      {"kv.stale_row", "layer.{}.attn.mix", "6", {}},
      {"weights.nibbles", "layer.{}.attn.v", "", {}},
      {"weights.block_type", "layer.{}.attn.out", "", {"weights.block_type", "unexplained"}},
      {"weights.transposed", "layer.{}.attn.q", "", {}},
      {"weights.transposed", "layer.{}.ffn.out", "", {}},
      {"value.scaled", "layer.{}.ffn.up", "1.001", {}},
      {"value.scaled", "layer.{}.residual", "1.00001", {}},
      {"value.element", "layer.{}.ffn.act", "5", {}},
      {"value.element", "layer.{}.attn.out", "2", {}},
  };
}

// The step that a trace shows: scores and weights are seen at the mix unless they were recorded.
std::string visible_step(const std::string& step, bool everything) {
  for (const char* part : {".scores", ".weights"})
    if (!everything && step.ends_with(part)) return step.substr(0, step.rfind('.')) + ".mix";
  return step;
}

void expect_found(const Comparison& result, const std::string& step, const std::string& side,
                  const std::vector<std::string>& reasons, const std::string& what) {
  EXPECT_EQ(result.verdict, Verdict::Different) << what << ": " << result.why;
  EXPECT_EQ(wrong_steps(result), std::vector<std::string>{step}) << what;
  ASSERT_FALSE(result.findings.empty()) << what;
  EXPECT_EQ(result.findings[0].step, step) << what;
  EXPECT_EQ(result.findings[0].side, side) << what;
  EXPECT_NE(std::ranges::find(reasons, result.findings[0].reason), reasons.end())
      << what << ": " << result.findings[0].reason << ": " << result.findings[0].text;
}

TEST(Faults, EachIsFoundAtItsStepOnItsSide) {
  size_t count = 0;
  for (const auto& test : cases())
    for (const char* layer : {"0", "2", "3"}) {
      const auto step = fmt::format(fmt::runtime(test.step), layer);
      const auto fault = fmt::format("{}@{}{}{}", test.fault, step,
                                     test.parameter.empty() ? "" : ":", test.parameter);
      const auto reasons = test.reasons.empty() ? std::vector{test.fault} : test.reasons;
      const bool everything = count % 2 == 0;  // scores and weights recorded, or not
      const StepChoice steps = everything ? StepChoice{{"*"}} : StepChoice{};
      const RunOf clean{.steps = steps};
      const RunOf broken{.inject = {fault}, .steps = steps};
      expect_found(compare_runs(clean, broken), visible_step(step, everything), "candidate",
                   reasons, fault);
      if (count % 4 == 0)
        expect_found(compare_runs(broken, clean), visible_step(step, everything), "baseline",
                     reasons, fault + ", exchanged");
      ++count;
    }
  EXPECT_EQ(count, 84U);
}

TEST(Faults, AtTheEndsOfTheModel) {
  for (const auto& [fault, step] : {std::pair{"norm.gamma_skipped@final.norm", "final.norm"},
                                    {"norm.epsilon@final.norm:0.01", "final.norm"},
                                    {"weights.transposed@logits", "logits"},
                                    {"value.scaled@embedding:1.001", "embedding"},
                                    {"value.element@embedding:4", "embedding"}}) {
    const std::string name = fault;
    expect_found(compare_runs({}, {.inject = {name}}), step, "candidate",
                 {name.substr(0, name.find('@'))}, name);
  }
}

// A run of a tiny model of tests/models/zoo.
RunOf zoo_run(const std::string& name, std::vector<std::string> inject) {
  auto model = load_model(std::string(PLUMB_SOURCE_DIR) + "/tests/models/zoo/" + name);
  EXPECT_TRUE(model) << model.error().message;
  std::vector<Token> tokens(12);
  std::iota(tokens.begin(), tokens.end(), Token{3});
  return {.inject = std::move(inject),
          .tokens = std::move(tokens),
          .model = std::make_shared<const Model>(std::move(*model))};
}

// A float embedding is copied and has the bound 0; the factor that is read off products that were
// rounded is not exact, and the step was left unexplained.
TEST(Faults, AScaledCopyIsExplained) {
  for (const char* factor : {"1.01", "0.7", "3.3"}) {
    const auto fault = fmt::format("value.scaled@embedding:{}", factor);
    expect_found(audit_run(zoo_run("mistral-window", {fault})), "embedding", "candidate",
                 {"value.scaled"}, fault);
  }
}

// A limit that cuts off a single value was called one wrong element where the catalogue had no row
// for it.
TEST(Faults, AValueThatWasCutOffIsNoSingleWrongElement) {
  const std::string step = "layer.1.ffn.out";
  const Side right = side_of("candidate", {});
  std::vector<double> sizes;
  std::vector<double> row(right.model->config.width);
  for (size_t r = 0; r < right.trace.tokens.size(); ++r) {
    read_row(*right.trace.find(step), r, row);
    for (const double x : row) sizes.push_back(std::fabs(x));
  }
  std::ranges::sort(sizes, std::greater{});
  const auto fault = fmt::format("value.clamped@{}:{}", step, (sizes[0] + sizes[1]) / 2);
  const Side side = side_of("candidate", {.inject = {fault}});
  Threads threads(2);
  const Replayer replayer(*side.model, side.plan, side.trace, threads);
  const auto checked = replayer.check(side.plan.find(step).value());
  EXPECT_EQ(checked.check.wrong_values, 1U);
  EXPECT_EQ(explain(replayer, checked).reason, "value.clamped");
  EXPECT_EQ(explain(replayer, checked, {"value.clamped"}).reason, "unexplained");
}

TEST(Faults, OfTheScalarLevelAndTheRefereeToo) {
  for (const char* backend : {"scalar", "referee"})
    expect_found(
        compare_runs({.backend = backend},
                     {.backend = backend, .inject = {"rope.theta@layer.1.attn.k_rope:20000"}}),
        "layer.1.attn.k_rope", "candidate", {"rope.theta"}, backend);
}

TEST(Faults, SeveralAtOnceAreAllFound) {
  const auto result = compare_runs(
      {}, {.inject = {"rope.pairing@layer.0.attn.q_rope", "norm.gamma_skipped@layer.2.ffn.norm",
                      "weights.nibbles@layer.3.ffn.gate"}});
  EXPECT_EQ(
      wrong_steps(result),
      (std::vector<std::string>{"layer.0.attn.q_rope", "layer.2.ffn.norm", "layer.3.ffn.gate"}));
}

// A base that is read off the values gives the same frequencies, and was named first.
TEST(Faults, AFrequencyWidthIsNotTakenForABase) {
  for (const char* layer : {"0", "3"}) {
    const auto step = fmt::format("layer.{}.attn.q_rope", layer);
    const auto result = audit_run({.inject = {"rope.frequency_width@" + step}});
    expect_found(result, step, "candidate", {"rope.frequency_width"}, step);
  }
  const auto other = audit_run({.inject = {"rope.theta@layer.1.attn.k_rope:31000"}});
  expect_found(other, "layer.1.attn.k_rope", "candidate", {"rope.theta"}, "a base");
}

// Two faults of one norm were unexplained.
TEST(Faults, OfANormTogetherWithAnEpsilonAreBothNamed) {
  for (const char* name : {"norm.gamma_skipped", "norm.offset", "norm.kind", "norm.source"})
    for (const char* epsilon : {"0.001", "0.0123"}) {
      const std::string step = "layer.2.ffn.norm";
      const auto result =
          compare_runs({}, {.inject = {fmt::format("{}@{}", name, step),
                                       fmt::format("norm.epsilon@{}:{}", step, epsilon)}});
      expect_found(result, step, "candidate", {name}, fmt::format("{}, {}", name, epsilon));
      const auto& parameters = first_finding(result).parameters;
      ASSERT_TRUE(parameters.contains("second")) << name;
      EXPECT_EQ(parameters.at("second"), "norm.epsilon");
      EXPECT_NEAR(std::stod(parameters.at("second_found")), std::stod(epsilon),
                  0.01 * std::stod(epsilon));
    }
}

// The epsilon of a layer norm with a bias is read off as well as that of an RMS norm.
TEST(Faults, AnyEpsilonOfALayerNormIsFound) {
  const auto result = audit_run(zoo_run("phi", {"norm.epsilon@layer.0.attn.norm:0.0123"}));
  expect_found(result, "layer.0.attn.norm", "candidate", {"norm.epsilon"}, "layer norm");
}

// A head that no thread computed. In a product with a bias the bias is still there: the channels
// are the same at every position.
TEST(Faults, ChannelsThatWereNotComputedAreNamed) {
  const auto plain = zoo_run("llama-yarn", {"value.zero_channels@layer.1.attn.q:0"});
  const auto found = audit_run(plain);
  expect_found(found, "layer.1.attn.q", "candidate", {"value.zero_channels"}, "no bias");
  auto biased = zoo_run("qwen2-yarn", {});
  biased.edit = [](Plan& plan) {
    for (auto& step : plan.steps) {
      if (step.weight == nullptr || step.weight->name != "blk.1.attn_v.weight") continue;
      auto values = step.weight->values();
      std::fill_n(values.begin(), 8 * step.weight->columns, 0.0F);
      step.weight = faults::weight_of_floats(*step.weight, values);
    }
  };
  const auto result = audit_run(biased);
  EXPECT_EQ(first_finding(result).reason, "value.zero_channels") << result.why;
  EXPECT_NE(first_finding(result).text.find("channels 0 to 7"), std::string::npos)
      << first_finding(result).text;
}

// Any order of channels is read off the values: heads, with a bias behind the product or without,
// and single ones.
TEST(Faults, TheOrderOfChannelsIsReadOffTheValues) {
  const auto with_order = [](const char* model, const std::string& weight,
                             const std::function<size_t(size_t)>& source) {
    auto run = zoo_run(model, {});
    run.edit = [=](Plan& plan) {
      for (auto& step : plan.steps) {
        if (step.weight == nullptr || step.weight->name != weight) continue;
        const auto right = step.weight->values();
        auto values = right;
        const size_t n = step.weight->columns;
        for (size_t row = 0; row < step.weight->rows; ++row)
          std::copy_n(&right[source(row) * n], n, &values[row * n]);
        step.weight = faults::weight_of_floats(*step.weight, values);
      }
    };
    return audit_run(run);
  };
  for (const char* model : {"llama-yarn", "qwen2-yarn"}) {
    const size_t dim = zoo_model(model)->config.head_dim;
    const auto twice = with_order(model, "blk.1.attn_q.weight",
                                  [&](size_t row) { return row / dim == 1 ? row - dim : row; });
    EXPECT_EQ(first_finding(twice).reason, "weights.heads") << model << twice.why;
    EXPECT_TRUE(first_finding(twice).parameters.at("found").starts_with("0, 0"))
        << first_finding(twice).parameters.at("found");
  }
  const auto back = with_order("llama-yarn", "blk.1.ffn_up.weight", [](size_t row) {
    return row == 0 ? 5 : row == 5 ? 0 : row;
  });
  EXPECT_EQ(first_finding(back).reason, "value.order") << back.why;
  EXPECT_EQ(first_finding(back).step, "layer.1.ffn.up");
  EXPECT_NE(first_finding(back).text.find("channel 0 from 5, 5 from 0"), std::string::npos)
      << first_finding(back).text;
}

TEST(Faults, TheFactorOfAPartOfASumIsReadOffTheValues) {
  for (const char* factor : {"0.7", "1.03125", "-1"}) {
    const auto fault = fmt::format("residual.scaled@layer.1.residual:{}", factor);
    const auto result = audit_run(zoo_run("llama-yarn", {fault}));
    expect_found(result, "layer.1.residual", "candidate", {"residual.scaled"}, fault);
    EXPECT_NEAR(std::stod(first_finding(result).parameters.at("found")), std::stod(factor), 1e-5);
  }
}

TEST(Faults, TheElementOfAMatrixIsReadOffItsValues) {
  for (const char* change : {"0.125", "-3"}) {
    const auto fault = fmt::format("weights.elements@layer.1.ffn.up:{}", change);
    const auto result = audit_run(zoo_run("llama-yarn", {fault}));
    expect_found(result, "layer.1.ffn.up", "candidate", {"weights.elements"}, fault);
    const auto& p = first_finding(result).parameters;
    EXPECT_NEAR(std::stod(p.at("found")) - std::stod(p.at("expected")), std::stod(change), 1e-4);
  }
}

// One wrong channel was taken for sums in half precision where the catalogue has no such fault.
TEST(Faults, OneChannelIsNoSumInHalfPrecision) {
  for (const char* change : {"0.001", "0.03", "1"}) {
    const std::string step = "layer.2.ffn.gate";
    const Side side =
        side_of("candidate", {.inject = {fmt::format("weights.elements@{}:{}", step, change)}});
    Threads threads(2);
    const Replayer replayer(*side.model, side.plan, side.trace, threads);
    const auto checked = replayer.check(side.plan.find(step).value());
    EXPECT_EQ(explain(replayer, checked).reason, "weights.elements") << change;
    EXPECT_EQ(explain(replayer, checked, {"weights.elements"}).reason, "unexplained") << change;
  }
}

TEST(Faults, OneFaultOnEachSide) {
  const auto result = compare_runs({.inject = {"rope.pairing@layer.1.attn.q_rope"}},
                                   {.inject = {"norm.gamma_skipped@layer.2.ffn.norm"}});
  ASSERT_GE(result.findings.size(), 2U);
  EXPECT_EQ(result.findings[0].side, "baseline");
  EXPECT_EQ(result.findings[1].side, "candidate");
}

TEST(Faults, TheSameFaultOnBothSidesIsSeen) {
  const auto result = compare_runs({.inject = {"rope.pairing@layer.1.attn.q_rope"}},
                                   {.inject = {"rope.pairing@layer.1.attn.q_rope"}});
  EXPECT_EQ(result.verdict, Verdict::Different);
  EXPECT_EQ(result.findings[0].side, "both");
}

TEST(Faults, InEveryLayerAreOneFinding) {
  const auto result = compare_runs(
      {}, {.inject = {
               "rope.theta@layer.0.attn.q_rope:500000", "rope.theta@layer.1.attn.q_rope:500000",
               "rope.theta@layer.2.attn.q_rope:500000", "rope.theta@layer.3.attn.q_rope:500000"}});
  ASSERT_EQ(result.findings.size(), 1U);
  EXPECT_EQ(result.findings[0].layers, (std::vector<int>{0, 1, 2, 3}));
}

// Whether the text that a list shows for a fault names the step, by its name or by its kind.
std::string name_in_layer(const Step& step) {
  return step.name.starts_with("layer.") ? step.name.substr(step.name.find('.', 6) + 1) : step.name;
}
bool names_step(const std::string& text, const Step& step) {
  const auto name = name_in_layer(step);
  auto words = " " + text + " ";
  std::erase(words, ',');
  const auto says = [&](const std::string& word) { return words.contains(" " + word + " "); };
  if (says("any")) return !says(name);
  return says(name) || (says("norms") && is_norm(step.op)) ||
         (says("projections") && (is_product(step.op) || step.op == Op::Bias)) ||
         (says("residuals") && step.op == Op::Add) || (says("scales") && step.op == Op::Scale) ||
         (says("weight") && step.weight);
}

// `--list-faults` named fewer steps than a fault applies to.
TEST(Faults, TheListNamesEachStepThatAFaultAppliesTo) {
  const auto zoo = std::filesystem::path(PLUMB_SOURCE_DIR) / "tests" / "models" / "zoo";
  std::set<std::string> missing;
  for (const auto& entry : std::filesystem::directory_iterator(zoo)) {
    if (!entry.is_directory()) continue;
    const auto model = load_model(entry.path());
    if (!model) continue;  // of an architecture that cannot be run
    const Plan plan = make_plan(*model);
    for (size_t at = 0; at < plan.steps.size(); ++at)
      for (const auto& fault : fault_catalogue())
        for (const auto& parameter : {std::optional<double>(), std::optional<double>(3)}) {
          const FaultContext context{.model = *model,
                                     .plan = plan,
                                     .step = at,
                                     .parameter = parameter,
                                     .first_position = 4,
                                     .prompt = 8,
                                     .largest = 1};
          if (!fault.variants(context).empty() && !names_step(fault.steps, plan.steps[at]))
            missing.insert(fault.name + " at " + name_in_layer(plan.steps[at]));
        }
  }
  EXPECT_EQ(fmt::format("{}", fmt::join(missing, "\n")), "");
}

}  // namespace
}  // namespace plumb::testing
