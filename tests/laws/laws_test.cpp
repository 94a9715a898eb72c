// SPDX-License-Identifier: Apache-2.0
// What must hold of the instrument itself, law by law. (In which ways such tools have lied:
// lies_test.cpp.)
//
//   observer on = observer off            EveryBackend.ObservingChangesNoBit
//   the same bits, any number of threads  EveryBackend.AnyNumberOfThreadsGivesTheSameBits
//   compare(x, x) is exactly zero         Laws.AModelAgainstItselfIsTheSameAndExactlyZero
//   a broken side never passes            Laws.ABrokenSideNeverPasses,
//   Laws.AnEmptyTraceNeverPasses,
//                                         Laws.OneNanIsFound, Laws.OtherTokensAreNotComparable
//   a switch that engages nothing         Laws.ASwitchThatEngagesNothingIsAnError
//   a missing step is unmeasured          Laws.AMissingPartIsUnmeasured, Lies.MissingStage
//   neither side is right by birth        Lies.WrongSideCalledTheReference,
//                                         Laws.WhichSideIsFirstChangesNoVerdict, Faults.*
//   replay with no change is zero         Laws.ReplayOfTheRefereeIsExactlyZero,
//                                         Lies.SwapThatReachedNothing (the control)
//   equivalent rewrites are no faults     Laws.EquivalentRunsAreNeverCalledWrong,
//                                         EveryBackend.AnySplitOfThePrefillGivesTheSameBits,
//                                         Laws.SumsInAnotherOrderAreNeverCalledWrong
//   every fault is found at its step      Faults.*, tests/cli/self_test.test
//   one that is in no catalogue, too      Laws.AFaultOutsideTheCatalogueIsLocated
//   the exit code agrees with the text    tests/cli/verdicts.test
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/laws/test_support.h"

namespace plumb::testing {
namespace {

using Bits = std::vector<std::vector<float>>;

bool same_bits(const Bits& a, const Bits& b) {
  return a.size() == b.size() && std::ranges::equal(a, b, [](const auto& x, const auto& y) {
           return x.size() == y.size() &&
                  std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
         });
}

class EveryBackend : public ::testing::TestWithParam<std::string> {};

std::vector<std::string> backends() {
  auto names = cpu_levels();
  names.emplace_back("referee");
  return names;
}

// A trace that changes the run shows another run than the one users get.
TEST_P(EveryBackend, ObservingChangesNoBit) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  const auto backend = backend_of(GetParam());
  Threads threads(2);
  const RunSetup setup{*model, plan, *backend, threads};
  const auto plain = run_greedily(setup, story_tokens(), 4).value();
  auto writer = TraceWriter::to_memory(
                    "t", plan_trace(setup, plain.tokens, plain.prompt, {{"*"}}, {}).value())
                    .value();
  const auto recorded = record(setup, plain.tokens, plain.prompt, *writer).value();
  EXPECT_TRUE(same_bits(plain.logits, recorded));
  EXPECT_TRUE(check_unchanged(plain, recorded));
  auto changed = recorded;
  changed[2][7] = std::nextafter(changed[2][7], 100.0F);
  EXPECT_FALSE(check_unchanged(plain, changed));
}

TEST_P(EveryBackend, AnyNumberOfThreadsGivesTheSameBits) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  const auto backend = backend_of(GetParam());
  Threads one(1);
  const auto expected = run_greedily({*model, plan, *backend, one}, story_tokens(), 4).value();
  for (const size_t count : {2, 3, 8}) {
    Threads many(count);
    EXPECT_TRUE(
        same_bits(expected.logits,
                  run_greedily({*model, plan, *backend, many}, story_tokens(), 4).value().logits))
        << count;
  }
}

// Batched and serial prefill, and any split of it, are one run.
TEST_P(EveryBackend, AnySplitOfThePrefillGivesTheSameBits) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  const auto backend = backend_of(GetParam());
  Threads threads(2);
  const RunSetup setup{*model, plan, *backend, threads};
  const auto tokens = story_tokens();
  const auto whole = run_logits(setup, tokens, tokens.size(), 0).value();
  for (const size_t part : {1, 2, 3, 5})
    EXPECT_EQ(whole, run_logits(setup, tokens, tokens.size(), part).value()) << part;
}

INSTANTIATE_TEST_SUITE_P(Laws, EveryBackend, ::testing::ValuesIn(backends()),
                         [](const auto& info) { return info.param; });

TEST(Laws, AModelAgainstItselfIsTheSameAndExactlyZero) {
  for (const char* backend : {"best", "scalar", "referee"}) {
    const auto result = compare_runs({.backend = backend}, {.backend = backend});
    EXPECT_EQ(result.verdict, Verdict::Same) << result.why;
    EXPECT_EQ(result.measured, result.of);
    for (const auto& row : result.steps) {
      if (!row.total) continue;
      EXPECT_EQ(*row.total, 0) << row.name;
      EXPECT_EQ(*row.inherited, 0) << row.name;
    }
    ASSERT_TRUE(result.price);
    EXPECT_EQ(result.price->kl_max, 0);
  }
}

TEST(Laws, ReplayOfTheRefereeIsExactlyZero) {
  const auto result = audit_run({.backend = "referee", .steps = {{"*"}}});
  EXPECT_EQ(result.verdict, Verdict::Same) << result.why;
  for (const auto& row : result.steps) {
    ASSERT_TRUE(row.baseline->measured()) << row.name;
    EXPECT_EQ(row.baseline->local, 0) << row.name;
  }
}

// Scores and weights recorded or not: the same run is judged right.
TEST(Laws, EveryStepOfACleanRunIsRightWithAndWithoutScores) {
  for (const char* level : {"best", "scalar"})
    for (const auto& steps : {StepChoice{}, StepChoice{{"*"}}}) {
      const auto result = audit_run({.backend = level, .steps = steps});
      EXPECT_NE(result.verdict, Verdict::Different) << result.why;
      EXPECT_EQ(result.measured, result.of);
    }
}

TEST(Laws, EquivalentRunsAreNeverCalledWrong) {
  const auto levels = cpu_levels();
  for (const auto& a : levels)
    for (const auto& b : levels)
      for (const size_t threads : {1, 2, 5}) {
        const auto fed = greedy_tokens();
        const auto result = compare_runs({.backend = a, .threads = 1, .fed = fed},
                                         {.backend = b, .threads = threads, .fed = fed});
        EXPECT_EQ(result.verdict, Verdict::Same) << a << " " << b << ": " << result.why;
      }
}

// Every product of a run summed up in float backwards, and in two halves: what another kernel does.
TEST(Laws, SumsInAnotherOrderAreNeverCalledWrong) {
  const std::vector<Token> tokens = {52, 257, 333, 78, 71, 221};
  for (const size_t parts : {1, 16}) {
    const Product backwards = [parts](std::span<const float> weights, std::span<const double> x) {
      std::vector<float> sums(parts, 0.0F);
      for (size_t i = x.size(); i-- > 0;) sums[i % parts] += weights[i] * static_cast<float>(x[i]);
      return static_cast<double>(std::accumulate(sums.begin(), sums.end(), 0.0F));
    };
    auto other = run_by_hand("candidate", tiny_model(), tokens, "int8/32", backwards);
    const auto result =
        compare_sides(side_of("baseline", {.decode = 0, .tokens = tokens, .fed = tokens}), other);
    EXPECT_EQ(result.verdict, Verdict::Same) << parts << ": " << result.why;
    EXPECT_EQ(result.measured, result.of);
    EXPECT_GT(*row_of(result, "logits").total, 0);  // other bits
    other.trace.provenance.arithmetic.clear();
    EXPECT_EQ(audit_side(other).verdict, Verdict::Explained) << parts;
  }
}

// int8 activations against double precision: the same function, with a named and priced loss.
TEST(Laws, CpuAgainstRefereeIsExplained) {
  const auto fed = greedy_tokens();
  const auto result = compare_runs({.fed = fed}, {.backend = "referee", .fed = fed});
  EXPECT_EQ(result.verdict, Verdict::Explained) << result.why;
  ASSERT_FALSE(result.findings.empty());
  EXPECT_EQ(result.findings[0].reason, "arithmetic.int8_per_32");
  EXPECT_EQ(result.findings[0].side, "baseline");
  ASSERT_TRUE(result.price);
  EXPECT_GT(result.price->kl_mean, 0);
}

TEST(Laws, OtherTokensAreNotComparable) {
  auto longer = story_tokens();
  longer.insert(longer.begin(), longer.front());
  auto other = story_tokens();
  other[2] = other[2] == 5 ? 6 : 5;
  auto shorter = story_tokens();
  shorter.pop_back();
  const auto doubled = compare_runs({}, {.tokens = longer});
  EXPECT_EQ(doubled.verdict, Verdict::NotComparable);
  for (const auto& tokens : {other, shorter}) {
    const auto result = compare_runs({.decode = 0}, {.decode = 0, .tokens = tokens});
    EXPECT_EQ(result.verdict, Verdict::NotComparable);
    EXPECT_TRUE(result.steps.empty());
  }
}

TEST(Laws, ADoubledFirstTokenIsNamed) {
  auto doubled = story_tokens();
  doubled.insert(doubled.begin(), doubled.front());
  const auto result = compare_runs({.decode = 0}, {.decode = 0, .tokens = doubled});
  ASSERT_EQ(result.findings.size(), 1U);
  EXPECT_EQ(result.findings[0].reason, "tokens.bos_doubled");
  EXPECT_EQ(result.findings[0].side, "candidate");
}

// A missing step is neither zero nor a pass.
TEST(Laws, AMissingPartIsUnmeasured) {
  const auto result = compare_runs({.steps = {{"layer.0.*"}}}, {.steps = {{"layer.0.*"}}});
  EXPECT_EQ(result.verdict, Verdict::Unmeasured) << result.why;
  EXPECT_LT(result.measured, result.of);
}

TEST(Laws, AnEmptyTraceNeverPasses) {
  auto a = side_of("baseline", {});
  auto b = side_of("candidate", {});
  b.trace.steps.clear();
  Threads threads(1);
  EXPECT_EQ(compare(a, b, {}, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
  a.trace.steps.clear();
  EXPECT_EQ(compare(a, b, {}, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
  EXPECT_EQ(audit(a, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
  a.model = b.model = nullptr;
  EXPECT_NE(compare(a, b, {}, threads, [](size_t, size_t) {}).verdict, Verdict::Same);
}

// One side is broken in a way that dumps are broken: with the model or without, alone or beside a
// good run, on either side, it is no pass.
TEST(Laws, ABrokenSideNeverPasses) {
  const std::vector<Token> fed = {52, 257, 333, 78, 71, 221};
  const RunOf run{.decode = 0, .tokens = fed, .fed = fed};
  const auto sound = side_of("baseline", run);
  const auto rename = [](Trace& trace, const std::string& from, const std::string& to) {
    auto step = trace.steps.extract(from);
    step.key() = to;
    trace.steps.insert(std::move(step));
  };
  const std::vector<std::pair<std::string, std::function<void(Trace&)>>> ways = {
      {"no steps", [](Trace& t) { t.steps.clear(); }},
      {"a step less", [](Trace& t) { t.steps.erase("logits"); }},
      {"the last rows cut off",
       [](Trace& t) {
         for (auto& [name, step] : t.steps) keep_rows(step, 0, step.positions.size() - 2);
       }},
      {"one step cut off", [](Trace& t) { keep_rows(t.steps.at("layer.3.ffn.norm"), 0, 2); }},
      {"rows cut to half their width",
       [](Trace& t) {
         auto& step = t.steps.at("layer.1.ffn.act");
         step.view.shape[1] /= 2;
         step.view.bytes = step.view.bytes.first(step.view.bytes.size() / 2);
       }},
      {"a step under another one's name",
       [&](Trace& t) {
         t.steps.erase("layer.0.ffn.gate");
         rename(t, "layer.0.ffn.up", "layer.0.ffn.gate");
       }},
      {"two steps exchanged",
       [&](Trace& t) {
         rename(t, "layer.0.attn.norm", "x");
         rename(t, "layer.0.ffn.norm", "layer.0.attn.norm");
         rename(t, "x", "layer.0.ffn.norm");
       }},
      {"an unknown name", [&](Trace& t) { rename(t, "logits", "output"); }},
      {"every value NaN",
       [](Trace& t) {
         for (const auto& [name, step] : std::map(t.steps))
           change_values(t, name, [](double) { return NAN; });
       }},
      {"logits NaN", [](Trace& t) { change_values(t, "logits", [](double) { return NAN; }); }},
      {"an infinite value",
       [](Trace& t) {
         size_t at = 0;
         change_values(t, "layer.1.ffn.up", [&](double x) { return at++ == 700 ? INFINITY : x; });
       }},
      {"no tokens", [](Trace& t) { t.tokens.clear(); }},
      {"another token", [](Trace& t) { t.tokens[4] = t.tokens[4] == 9 ? 10 : 9; }},
      {"a token less", [](Trace& t) { t.tokens.pop_back(); }},
      {"another prompt", [](Trace& t) { t.prompt -= 1; }},
  };
  const auto passes = [](const Comparison& result) {
    return result.verdict == Verdict::Same || result.verdict == Verdict::Explained;
  };
  for (const auto& [what, damage] : ways)
    for (const bool with_model : {true, false}) {
      auto good = sound;
      auto bad = sound;
      bad.role = "candidate";
      damage(bad.trace);
      if (!with_model) good.model = bad.model = nullptr;
      EXPECT_FALSE(passes(compare_sides(good, bad))) << what << ", model " << with_model;
      std::swap(good.role, bad.role);
      EXPECT_FALSE(passes(compare_sides(bad, good))) << what << ", exchanged, model " << with_model;
      // By itself a run with another prompt is sound; no file has more rows than tokens.
      if (with_model && what != "another prompt" && what != "a token less") {
        EXPECT_FALSE(passes(audit_side(bad))) << what << ", alone";
      }
    }
}

// A trace whose values were overwritten in place: one NaN anywhere must be found at its step.
TEST(Laws, OneNanIsFound) {
  for (const char* step : {"embedding", "layer.1.attn.norm", "layer.2.ffn.glu", "logits"}) {
    auto side = side_of("candidate", {});
    auto& recorded = side.trace.steps.at(step);
    std::vector<std::byte> copy(recorded.view.bytes.begin(), recorded.view.bytes.end());
    const float nan = std::nanf("");
    std::memcpy(copy.data() + copy.size() / 2 / 4 * 4, &nan, sizeof(nan));
    recorded.view.bytes = copy;
    Threads threads(1);
    const auto result = audit(side, threads, [](size_t, size_t) {});
    EXPECT_EQ(result.verdict, Verdict::Different) << step;
    const auto wrong = wrong_steps(result);
    ASSERT_FALSE(wrong.empty()) << step;
    EXPECT_EQ(wrong[0], step);
  }
}

// What follows an infinity inherits it: only the step that made it is wrong.
TEST(Laws, AnInfinityIsInherited) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  Plan broken = plan;
  broken.steps[*plan.find("layer.1.attn.v")].edit =
      ValueEdit{.position = 3, .channel = 5, .multiply = 1, .add = INFINITY};
  for (const auto& choice : {StepChoice{}, StepChoice{{"*"}}}) {
    const auto backend = backend_of("best");
    Threads threads(2);
    const auto fed = greedy_tokens();
    const RunSetup setup{*model, broken, *backend, threads};
    auto layout = plan_trace(setup, fed, story_tokens().size(), choice, {}).value();
    auto writer = TraceWriter::to_memory("t", std::move(layout)).value();
    EXPECT_TRUE(record(setup, fed, story_tokens().size(), *writer));
    Side side{"candidate", "t", model, plan, writer->finish_in_memory().value()};
    const auto result = audit(std::move(side), threads, [](size_t, size_t) {});
    EXPECT_EQ(result.verdict, Verdict::Different);
    EXPECT_EQ(wrong_steps(result), std::vector<std::string>{"layer.1.attn.v"});
  }
}

TEST(Laws, ATraceOfAnotherModelFileIsNotComparable) {
  auto side = side_of("candidate", {});
  side.trace.provenance.model["sha256"] = std::string(64, '0');
  Threads threads(1);
  const auto result = audit(side, threads, [](size_t, size_t) {});
  EXPECT_EQ(result.verdict, Verdict::NotComparable);
  EXPECT_EQ(result.findings[0].reason, "model.identity");
}

TEST(Laws, TokensOutsideTheVocabularyAreRefused) {
  auto side = side_of("candidate", {});
  side.trace.tokens[0] = 1'000'000;
  Threads threads(1);
  EXPECT_EQ(audit(side, threads, [](size_t, size_t) {}).verdict, Verdict::NotComparable);
}

// Without the model, equal bits are equal and everything else has no verdict.
TEST(Laws, TwoTracesWithoutAModel) {
  const auto fed = greedy_tokens();
  auto a = side_of("baseline", {.fed = fed});
  auto b = side_of("candidate", {.fed = fed});
  auto c = side_of("candidate", {.inject = {"rope.theta@layer.1.attn.q_rope:500"}, .fed = fed});
  a.model = b.model = c.model = nullptr;
  Threads threads(1);
  EXPECT_EQ(compare(a, b, {}, threads, [](size_t, size_t) {}).verdict, Verdict::Same);
  EXPECT_EQ(compare(a, c, {}, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
}

// A run without declared arithmetic is judged by the tightest that explains it, and it is named.
TEST(Laws, UndeclaredArithmeticIsFound) {
  auto side = side_of("candidate", {});
  side.trace.provenance.arithmetic.clear();
  Threads threads(2);
  const auto result = audit(side, threads, [](size_t, size_t) {});
  EXPECT_EQ(result.verdict, Verdict::Explained) << result.why;
  EXPECT_EQ(result.findings[0].reason, "arithmetic.int8_per_32");
}

// Steps that were not recorded are replayed with the next one, each in its own arithmetic.
TEST(Laws, AnyRecordedPartOfACleanRunIsNeverCalledWrong) {
  const std::vector<std::vector<std::string>> parts = {
      {"embedding", "layer.*.attn.*", "layer.*.ffn.norm", "layer.*.ffn.glu", "layer.*.ffn.out",
       "layer.*residual", "final.norm", "logits"},
      {"layer.*.residual", "logits", "embedding"},
      {"*.q_rope", "*.k_rope", "*.norm", "*.v"},
      {"logits"}};
  for (const auto& patterns : parts)
    for (const bool declared : {true, false}) {
      auto side = side_of("candidate", {.steps = {patterns}});
      if (!declared) side.trace.provenance.arithmetic.clear();
      Threads threads(2);
      const auto result = audit(side, threads, [](size_t, size_t) {});
      EXPECT_NE(result.verdict, Verdict::Different) << patterns[0] << ": " << result.why;
      EXPECT_NE(result.verdict, Verdict::Same) << patterns[0];  // int8 at best, unmeasured at worst
    }
}

// A fault in rows that were not kept must not hide behind the rows that were.
TEST(Laws, APositionThatIsMissingIsUnmeasured) {
  auto side = side_of("candidate", {.inject = {"rope.missing@layer.1.attn.k_rope"}});
  auto& step = side.trace.steps.at("layer.1.attn.k_rope");
  step.positions.resize(1);
  step.view.shape[0] = 1;
  step.view.bytes = step.view.bytes.first(step.width() * sizeof(float));
  Threads threads(1);
  EXPECT_EQ(audit(side, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
}

// A small fault is no rounding to a short type: the values are not made of that type's numbers.
TEST(Laws, AFaultIsNotTakenForUndeclaredRounding) {
  for (const char* fault : {"norm.epsilon@layer.1.attn.norm:0.01", "norm.epsilon@final.norm:0.05",
                            "value.scaled@layer.2.ffn.glu:1.0002"}) {
    auto side = side_of("candidate", {.inject = {fault}});
    side.trace.provenance.arithmetic.clear();
    side.trace.provenance.engine.clear();
    Threads threads(2);
    const auto result = audit(side, threads, [](size_t, size_t) {});
    EXPECT_EQ(result.verdict, Verdict::Different) << fault << ": " << result.why;
    ASSERT_FALSE(result.findings.empty());
    EXPECT_EQ(result.findings[0].reason,
              std::string(fault).substr(0, std::string(fault).find('@')));
  }
}

TEST(Laws, WhichSideIsFirstChangesNoVerdict) {
  const StepChoice part{{"embedding", "layer.*.attn.*", "layer.*.ffn.norm", "layer.*.ffn.glu",
                         "layer.*.ffn.out", "layer.*residual", "final.norm", "logits"}};
  const auto one = compare_runs({}, {.steps = part});
  const auto other = compare_runs({.steps = part}, {});
  EXPECT_EQ(one.verdict, other.verdict);
  EXPECT_EQ(one.measured, other.measured);
}

// Words of a declaration that nobody here knows are no reason to pass.
TEST(Laws, UnknownArithmeticIsUnmeasured) {
  for (const auto& unknown : {Arithmetic{"q4_k", "fp6e3m2/tensor", "f32", "f32"},
                              Arithmetic{"q4_k", "int8/32", "f24", "f32"},
                              Arithmetic{"q4_k", "int8/32", "f32", "posit16"}}) {
    auto side = side_of("candidate", {});
    side.trace.provenance.arithmetic = {{"*", unknown}};
    Threads threads(1);
    EXPECT_EQ(audit(side, threads, [](size_t, size_t) {}).verdict, Verdict::Unmeasured);
  }
}

// A fault that nobody has thought of is found at its step all the same, with clues and no name.
TEST(Laws, AFaultOutsideTheCatalogueIsLocated) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  const auto fed = greedy_tokens();
  const auto wave = [](int32_t position, size_t channel, double x) {
    return x + 0.02 * std::sin(static_cast<double>(channel) * 0.7 + position);
  };
  const auto squashed = [](int32_t, size_t, double x) { return 3 * std::tanh(x / 3); };
  for (const char* step : {"embedding", "layer.0.attn.k_rope", "layer.1.attn.mix",
                           "layer.2.ffn.act", "layer.3.residual", "logits"})
    for (const auto& [what, fault] :
         {std::pair<const char*, decltype(Quirk::value)>("wave", wave), {"squashed", squashed}}) {
      if (std::string(what) == "squashed" && std::string(step) != "layer.1.attn.mix" &&
          std::string(step) != "logits")
        continue;
      Plan broken = plan;
      broken.steps[*plan.find(step)].quirk = std::make_shared<const Quirk>(Quirk{.value = fault});
      const auto backend = backend_of("best");
      Threads threads(2);
      const RunSetup setup{*model, broken, *backend, threads};
      auto writer =
          TraceWriter::to_memory("t", plan_trace(setup, fed, story_tokens().size(), {}, {}).value())
              .value();
      ASSERT_TRUE(record(setup, fed, story_tokens().size(), *writer));
      const Side side{"candidate", "t", model, plan, writer->finish_in_memory().value()};
      const auto result = compare_sides(side_of("baseline", {.fed = fed}), side);
      EXPECT_EQ(result.verdict, Verdict::Different) << step << " " << what;
      EXPECT_EQ(wrong_steps(result), std::vector<std::string>{step}) << what;
      ASSERT_EQ(faults_of(result).size(), 1U);
      const auto& finding = *faults_of(result)[0];
      EXPECT_EQ(finding.kind, "unexplained") << step << " " << what << ": " << finding.reason;
      EXPECT_EQ(finding.reason, "unexplained");
      EXPECT_EQ(finding.side, "candidate");
      EXPECT_TRUE(finding.clues.contains("wrong_values"));
      EXPECT_TRUE(finding.clues.contains("worst"));
    }
}

TEST(Laws, ASwitchThatEngagesNothingIsAnError) {
  const auto model = tiny_model();
  Plan plan = make_plan(*model);
  EXPECT_FALSE(inject("rope.pairing@layer.0.attn.q", *model, plan));           // not a rotation
  EXPECT_FALSE(inject("rope.theta@layer.0.attn.q_rope:10000", *model, plan));  // the theta it has
  EXPECT_FALSE(inject("no.such.fault@logits", *model, plan));
  EXPECT_FALSE(inject("rope.pairing@layer.99.attn.q_rope", *model, plan));
  EXPECT_FALSE(inject("bias.skipped@layer.0.attn.q", *model, plan));  // no bias here
  const auto backend = backend_of("scalar");
  Threads threads(1);
  EXPECT_FALSE(
      plan_trace({*model, plan, *backend, threads}, story_tokens(), 3, {{"layer.9.*"}}, {}));
}

}  // namespace
}  // namespace plumb::testing
