// SPDX-License-Identifier: Apache-2.0
// A hunt that took ten weeks, rebuilt small: each comparison that was none and held the hunt on a
// false trail must be refused or told for what it is, and each true cause must be found, alone and
// together, with what it costs.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/report.h"
#include "tests/laws/test_support.h"

namespace plumb::testing {
namespace {

double norm_of(std::span<const double> x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}
double cosine(std::span<const double> x, std::span<const double> y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0) / (norm_of(x) * norm_of(y));
}
double deviation(std::span<const double> x) {
  const auto n = static_cast<double>(x.size());
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / n - mean * mean);
}
std::span<const double> row_at(const std::vector<double>& values, size_t row, size_t width) {
  return std::span(values).subspan(row * width, width);
}

std::vector<Token> encoded(const std::string& text) {
  return tiny_model()->tokenizer->encode(text, true, true).value();
}

// Every wrong step, each once, and nothing more: step and reason of each finding, all on one side.
void expect_faults(const Comparison& result, const std::string& side,
                   const std::vector<std::pair<std::string, std::string>>& faults,
                   const std::vector<std::string>& steps) {
  EXPECT_EQ(result.verdict, Verdict::Different) << result.why;
  EXPECT_EQ(wrong_steps(result), steps);
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto* finding : faults_of(result)) {
    found.emplace_back(finding->step, finding->reason);
    EXPECT_EQ(finding->side, side) << finding->step;
  }
  EXPECT_EQ(found, faults);
}

// One early token with a huge activation, all tokens on one side, the last token on the other: the
// ratio of the deviations is the ratio of the samples.
TEST(FalseLeads, AllTokensAgainstTheLastToken) {
  const auto fed = greedy_tokens();
  const auto model = with_weight(tiny_model(), "token_embd.weight", [&](auto& v, const Weight& w) {
    for (size_t i = 0; i < w.columns; ++i) v[static_cast<size_t>(fed[1]) * w.columns + i] *= 40;
  });
  const std::string step = "layer.0.attn.residual";
  const auto values = values_of(side_of("s", {.fed = fed, .model = model}).trace, step);
  ASSERT_GT(deviation(values) / deviation(row_at(values, fed.size() - 1, 256)), 3);  // the lead

  const StepChoice statistics{.patterns = {}, .depth = Depth::Statistics};
  const auto all = side_of("baseline", {.steps = statistics, .fed = fed, .model = model});
  auto last = side_of("candidate", {.steps = statistics, .fed = fed, .model = model});
  for (auto& [name, recorded] : last.trace.statistics) {
    const auto keep = [&](TensorView& view) {
      const size_t row = view.bytes.size() / fed.size();
      view.bytes = view.bytes.last(row);
      view.shape[0] = 1;
    };
    keep(recorded.statistics);
    keep(*recorded.sketch);
    recorded.positions = {static_cast<int32_t>(fed.size()) - 1};
  }
  const auto result = compare_sides(all, last);
  EXPECT_EQ(result.verdict, Verdict::Unmeasured);
  EXPECT_EQ(result.measured, 0U);
  ASSERT_TRUE(result.screen);
  EXPECT_TRUE(result.screen->ranked.empty());
  ASSERT_FALSE(result.screen->notes.empty());
  EXPECT_NE(result.screen->notes[0].find("only common ones are compared"), std::string::npos);
  for (const auto& row : result.screen->rows) {
    ASSERT_EQ(row.cells.size(), 1U) << row.step;
    EXPECT_EQ(row.positions_baseline, fed.size());
    EXPECT_EQ(row.positions_candidate, 1U);
    EXPECT_TRUE(row.cells[0].equal) << row.step;
    EXPECT_EQ(row.cells[0].position, static_cast<int32_t>(fed.size()) - 1);
  }
}

RunOf biased_run() {
  const std::vector<Token> tokens = {43, 36, 56, 21, 8, 43, 48, 54, 46, 13, 57, 20};
  return {.decode = 0, .tokens = tokens, .fed = tokens, .model = zoo_model("qwen2-window")};
}

// Biases of the queries as large as trained models have them: the vector of the bias outweighs the
// product.
RunOf strongly_biased_run() {
  auto run = biased_run();
  for (const char* layer : {"blk.0", "blk.1", "blk.2"})
    run.model = with_weight(run.model, std::string(layer) + ".attn_q.bias",
                            [](auto& values, const Weight&) {
                              for (float& x : values) x *= 50;
                            });
  return run;
}

// Queries before the bias on one side, after it on the other.
TEST(FalseLeads, BeforeTheBiasAgainstAfterTheBias) {
  const auto run = strongly_biased_run();
  const auto after = side_of("baseline", run);
  auto before = side_of("candidate", run);
  for (const char* layer : {"layer.0", "layer.1", "layer.2"})
    set_values(before.trace, std::string(layer) + ".attn.q",
               values_of(before.trace, std::string(layer) + ".attn.q_matmul"));
  EXPECT_GT(deviation(values_of(after.trace, "layer.0.attn.q")) /
                deviation(values_of(before.trace, "layer.0.attn.q")),
            3);  // the lead
  for (const bool exchanged : {false, true})
    for (const bool product_recorded : {true, false}) {
      auto a = after;
      auto b = before;
      if (!product_recorded)
        for (const char* layer : {"layer.0", "layer.1", "layer.2"})
          b.trace.steps.erase(std::string(layer) + ".attn.q_matmul");
      if (exchanged) {
        std::swap(a, b);
        a.role = "baseline";
        b.role = "candidate";
      }
      const auto result = compare_sides(a, b);
      EXPECT_EQ(result.verdict, Verdict::Unmeasured) << result.why;
      EXPECT_TRUE(wrong_steps(result).empty());
      EXPECT_TRUE(faults_of(result).empty());
      const auto* finding = find_reason(result, "capture.point");
      ASSERT_NE(finding, nullptr);
      EXPECT_EQ(finding->step, "layer.0.attn.q");
      EXPECT_EQ(finding->layers, (std::vector<int>{0, 1, 2}));
      EXPECT_EQ(finding->side, exchanged ? "baseline" : "candidate");
      EXPECT_NE(finding->text.find("the values of layer.0.attn.q_matmul;"), std::string::npos)
          << finding->text;
      EXPECT_EQ(result.measured, result.of - 3);
    }
}

// Under their own names the two are never compared with each other.
TEST(FalseLeads, NamedCapturePointsAreNotMixedUp) {
  const auto run = strongly_biased_run();
  auto after = side_of("baseline", run);
  auto before = side_of("candidate", run);
  for (const char* layer : {"layer.0", "layer.1", "layer.2"}) {
    after.trace.steps.erase(std::string(layer) + ".attn.q_matmul");
    before.trace.steps.erase(std::string(layer) + ".attn.q");
  }
  const auto result = compare_sides(after, before);
  EXPECT_EQ(result.verdict, Verdict::Same) << result.why;
  EXPECT_EQ(result.measured, result.of);
  EXPECT_FALSE(row_of(result, "layer.0.attn.q").total);
  EXPECT_FALSE(row_of(result, "layer.0.attn.q_matmul").total);
}

// A bias that is really left out is one, and the run goes on with it.
TEST(FalseLeads, ASkippedBiasIsAFault) {
  const auto run = biased_run();
  auto broken = run;
  broken.inject = {"bias.skipped@layer.1.attn.q"};
  expect_faults(compare_runs(run, broken), "candidate", {{"layer.1.attn.q", "bias.skipped"}},
                {"layer.1.attn.q"});
}

// The same question, in a chat template on one side: other tokens.
TEST(FalseLeads, AnotherWrappingOfThePrompt) {
  const std::string question = "The young owl lived in the old oak";
  const auto wrap = [](const std::string& text) {
    return "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n";
  };
  const RunOf raw{.decode = 2, .tokens = encoded(question)};
  const RunOf chat{.decode = 2, .tokens = encoded(wrap(question))};
  const RunOf twice{.decode = 2, .tokens = encoded(wrap(wrap(question)))};
  for (const auto& [a, b, longer] :
       {std::tuple(raw, chat, "candidate"), std::tuple(chat, raw, "baseline"),
        std::tuple(chat, twice, "candidate")}) {
    const auto result = compare_runs(a, b);
    EXPECT_EQ(result.verdict, Verdict::NotComparable);
    EXPECT_TRUE(result.steps.empty());
    EXPECT_FALSE(result.price);
    ASSERT_EQ(result.findings.size(), 1U);
    const auto& finding = result.findings[0];
    EXPECT_EQ(finding.kind, "not_comparable");
    EXPECT_EQ(finding.reason, "tokens.wrapped");
    EXPECT_EQ(finding.side, longer);
    EXPECT_NE(finding.text.find("<|im_start|>user\\n"), std::string::npos) << finding.text;
    EXPECT_NE(finding.text.find("<|im_end|>"), std::string::npos) << finding.text;
  }
  const auto head = encoded("<|im_start|>user\n").size();
  EXPECT_NE(
      compare_runs(raw, chat).why.find(fmt::format("from position {} on in place of 0", head)),
      std::string::npos);
  // Another text is no other wrapping.
  const auto other = compare_runs(raw, {.decode = 2, .tokens = encoded("Tom was a little boy.")});
  EXPECT_EQ(first_finding(other).reason, "tokens.different");
}

// The best next token of one side against a whole decoded sentence of the other.
TEST(FalseLeads, ATokenAgainstASentence) {
  const auto prompt = story_tokens();
  const auto one = side_of("baseline", {.decode = 1, .tokens = prompt});
  const auto many = side_of("candidate", {.decode = 8, .tokens = prompt});
  // The two agree, as far as they go.
  ASSERT_TRUE(
      std::equal(one.trace.tokens.begin(), one.trace.tokens.end(), many.trace.tokens.begin()));
  for (const bool exchanged : {false, true}) {
    auto a = exchanged ? many : one;
    auto b = exchanged ? one : many;
    a.role = "baseline";
    b.role = "candidate";
    const auto result = compare_sides(a, b);
    EXPECT_EQ(result.verdict, Verdict::NotComparable);
    EXPECT_TRUE(faults_of(result).empty());
    EXPECT_TRUE(result.steps.empty());
    EXPECT_FALSE(result.price);
    ASSERT_EQ(result.findings.size(), 1U);
    EXPECT_EQ(first_finding(result).reason, "tokens.different");
    EXPECT_EQ(first_finding(result).side, "undecided");
    EXPECT_NE(result.why.find(
                  fmt::format("the same up to position {}, then one side ends", prompt.size() + 1)),
              std::string::npos)
        << result.why;
  }
}

// The reference was the coarse side: int8 activations with one scale for 256 values, and one value
// that takes all of the scale. The engine that was blamed was within rounding of the truth.
TEST(FalseLeads, TheReferenceIsTheCoarseSide) {
  const auto tokens = story_tokens();
  const auto model = with_weight(tiny_model(), "blk.2.ffn_norm.weight", [](auto& v, const Weight&) {
    for (size_t i = 0; i < v.size(); ++i) v[i] = i == 7 ? v[i] * 100 : v[i];
  });
  const auto exact =
      side_of("candidate", {.backend = "referee", .decode = 0, .fed = tokens, .model = model});
  for (const bool declared : {true, false})
    for (const bool exchanged : {false, true}) {
      auto coarse = run_by_hand("baseline", model, tokens, "int8/256");
      if (!declared) coarse.trace.provenance.arithmetic.clear();
      auto other = exact;
      if (exchanged) {
        coarse.role = "candidate";
        other.role = "baseline";
      }
      const auto result = exchanged ? compare_sides(other, coarse) : compare_sides(coarse, other);
      EXPECT_EQ(result.verdict, Verdict::Explained) << result.why;
      EXPECT_TRUE(wrong_steps(result).empty());
      EXPECT_EQ(result.measured, result.of);
      ASSERT_EQ(result.findings.size(), 1U);
      EXPECT_EQ(first_finding(result).kind, "arithmetic");
      EXPECT_EQ(first_finding(result).reason, "arithmetic.int8_per_256");
      EXPECT_EQ(first_finding(result).side, exchanged ? "candidate" : "baseline");
      EXPECT_NE(first_finding(result).text.find(declared ? "declared" : "tightest"),
                std::string::npos);
      // What it costs, and where: behind the row with the large value, not before it.
      ASSERT_TRUE(result.price);
      EXPECT_GT(result.price->kl_max, 1e-3);
      EXPECT_GT(*row_of(result, "layer.2.ffn.out").total,
                5 * *row_of(result, "layer.1.ffn.out").total);
    }
}

// The sharper int8 of the fast path, beside the coarse one: each side's loss is named by itself.
TEST(FalseLeads, TwoCoarseSidesAreNamedApart) {
  const auto tokens = story_tokens();
  const auto result = compare_sides(run_by_hand("baseline", tiny_model(), tokens, "int8/256"),
                                    side_of("candidate", {.decode = 0, .fed = tokens}));
  EXPECT_EQ(result.verdict, Verdict::Explained) << result.why;
  ASSERT_EQ(result.findings.size(), 2U);
  EXPECT_EQ(find_reason(result, "arithmetic.int8_per_256")->side, "baseline");
  EXPECT_EQ(find_reason(result, "arithmetic.int8_per_32")->side, "candidate");
}

// The model with one token whose embedding is nearly nothing, as special tokens have it.
std::shared_ptr<const Model> with_faint_token(const std::shared_ptr<const Model>& model,
                                              Token token) {
  return with_weight(model, "token_embd.weight", [token](auto& v, const Weight& w) {
    double square = 0;
    const size_t at = static_cast<size_t>(token) * w.columns;
    for (size_t i = 0; i < w.columns; ++i)
      square += static_cast<double>(v[at + i]) * static_cast<double>(v[at + i]);
    const double factor = std::sqrt(1e-6 * static_cast<double>(w.columns) / square);
    for (size_t i = 0; i < w.columns; ++i)
      v[at + i] = static_cast<float>(static_cast<double>(v[at + i]) * factor);
  });
}

std::vector<std::string> epsilon_everywhere(const std::string& value) {
  std::vector<std::string> all;
  for (const char* layer : {"layer.0", "layer.1", "layer.2"})
    for (const char* norm : {"attn", "ffn"})
      all.push_back(fmt::format("norm.epsilon@{}.{}.norm:{}", layer, norm, value));
  all.push_back("norm.epsilon@final.norm:" + value);
  return all;
}

// An epsilon of 1e-5 for 1e-6: every cosine is 1.0000, and a special token comes out at less than
// half of its size.
TEST(FalseLeads, AnEpsilonThatNoCosineShows) {
  constexpr size_t kFaint = 3;
  auto run = biased_run();
  run.model = with_faint_token(run.model, run.tokens[kFaint]);
  auto broken = run;
  broken.inject = {"norm.epsilon@layer.0.attn.norm:1e-5"};
  const auto a = side_of("baseline", run);
  const auto b = side_of("candidate", broken);
  const auto x = values_of(a.trace, "layer.0.attn.norm");
  const auto y = values_of(b.trace, "layer.0.attn.norm");
  for (size_t row = 0; row < run.tokens.size(); ++row)
    EXPECT_GT(cosine(row_at(x, row, 32), row_at(y, row, 32)), 0.99999) << row;  // the blind spot
  const double ratio = norm_of(row_at(y, kFaint, 32)) / norm_of(row_at(x, kFaint, 32));
  EXPECT_NEAR(ratio, std::sqrt(2.0 / 11), 0.01);

  const auto result = compare_sides(a, b);
  expect_faults(result, "candidate", {{"layer.0.attn.norm", "norm.epsilon"}},
                {"layer.0.attn.norm"});
  ASSERT_EQ(faults_of(result).size(), 1U);
  const auto& finding = *faults_of(result)[0];
  EXPECT_EQ(finding.parameters.at("expected"), "1e-06");
  EXPECT_EQ(finding.parameters.at("found"), "1e-05");
  EXPECT_EQ(row_of(result, "layer.0.attn.norm").candidate->worst_position,
            static_cast<int32_t>(kFaint));
  EXPECT_TRUE(row_of(result, "layer.0.attn.q_matmul").verdict.starts_with("ok"));

  // Baked into a kernel that all norms share: each kind of norm, all layers.
  broken.inject = epsilon_everywhere("1e-5");
  const auto all = compare_runs(broken, run);
  expect_faults(all, "baseline",
                {{"layer.0.attn.norm", "norm.epsilon"},
                 {"layer.0.ffn.norm", "norm.epsilon"},
                 {"final.norm", "norm.epsilon"}},
                {"layer.0.attn.norm", "layer.0.ffn.norm", "layer.1.attn.norm", "layer.1.ffn.norm",
                 "layer.2.attn.norm", "layer.2.ffn.norm", "final.norm"});
  ASSERT_EQ(faults_of(all).size(), 3U);
  EXPECT_EQ(faults_of(all)[0]->layers, (std::vector<int>{0, 1, 2}));
}

// The true cause: the one matrix that was kept as floats went through a kernel that read it
// transposed. All before it is sane.
TEST(FalseLeads, ATransposedHead) {
  const auto run = biased_run();
  auto broken = run;
  broken.inject = {"weights.transposed@logits"};
  const auto a = side_of("baseline", run);
  const auto b = side_of("candidate", broken);
  EXPECT_EQ(values_of(a.trace, "final.norm"), values_of(b.trace, "final.norm"));
  EXPECT_LT(std::fabs(cosine(values_of(a.trace, "logits"), values_of(b.trace, "logits"))), 0.5);
  for (const bool exchanged : {false, true}) {
    auto first = exchanged ? b : a;
    auto second = exchanged ? a : b;
    first.role = "baseline";
    second.role = "candidate";
    const auto result = compare_sides(first, second);
    expect_faults(result, exchanged ? "baseline" : "candidate", {{"logits", "weights.transposed"}},
                  {"logits"});
    ASSERT_EQ(faults_of(result).size(), 1U);
    EXPECT_EQ(faults_of(result)[0]->position_count, run.tokens.size());
    EXPECT_LT(*faults_of(result)[0]->reproduced_to, 1e-5);
    EXPECT_EQ(row_of(result, "final.norm").total, 0);
  }
}

// Confirms each finding by runs of the model with and without it.
Comparison confirmed(const RunOf& good, const RunOf& bad) {
  auto result = compare_runs(good, bad);
  const auto fed = *good.fed;
  EXPECT_TRUE(confirm(result, [&](const Model& model, const Plan& plan) {
    const auto backend = backend_of("best");
    Threads threads(2);
    return run_logits({model, plan, *backend, threads}, fed, good.tokens.size(), 0);
  }));
  return result;
}

// Each of two faults has a price of its own, and healing one leaves the other's.
void expect_own_prices(const Comparison& result) {
  const auto faults = faults_of(result);
  ASSERT_EQ(faults.size(), 2U);
  for (const auto* finding : faults) {
    ASSERT_TRUE(finding->confirmation) << finding->step;
    const auto& c = *finding->confirmation;
    EXPECT_TRUE(c.control);
    EXPECT_GT(c.alone, 0) << finding->step;
    EXPECT_GT(c.healed, 0) << finding->step;
    EXPECT_GT(c.price.positions, 0U);
    ASSERT_TRUE(c.account);
    EXPECT_LT(*c.account, 1e-3) << finding->step;
  }
  EXPECT_NE(faults[0]->confirmation->alone, faults[1]->confirmation->alone);
  EXPECT_NEAR(faults[0]->confirmation->healed, faults[1]->confirmation->alone,
              0.05 * faults[1]->confirmation->alone);
  EXPECT_NEAR(faults[1]->confirmation->healed, faults[0]->confirmation->alone,
              0.05 * faults[0]->confirmation->alone);
}

// One backend: the head was too large to be uploaded, and the attention is wrong from position 1
// on.
TEST(FalseLeads, AHeadThatWasNotUploadedAndAttentionBehindPositionZero) {
  const auto fed = greedy_tokens();
  const auto result =
      confirmed({.fed = fed},
                {.inject = {"rope.missing@layer.1.attn.k_rope", "value.zero@logits"}, .fed = fed});
  expect_faults(result, "candidate",
                {{"layer.1.attn.k_rope", "rope.missing"}, {"logits", "value.zero"}},
                {"layer.1.attn.k_rope", "logits"});
  const auto faults = faults_of(result);
  ASSERT_EQ(faults.size(), 2U);
  EXPECT_EQ(faults[0]->first_position, 1);
  EXPECT_EQ(faults[0]->position_count, fed.size() - 1);
  EXPECT_EQ(faults[1]->first_position, 0);
  EXPECT_EQ(faults[1]->position_count, fed.size());
  expect_own_prices(result);
  EXPECT_GT(faults[1]->confirmation->alone, 10 * faults[0]->confirmation->alone);
}

// The other backend: the transposed head, and the epsilon that hides behind it.
TEST(FalseLeads, ATransposedHeadAndAnEpsilonBehindIt) {
  auto run = biased_run();
  run.model = with_faint_token(run.model, run.tokens[3]);
  auto broken = run;
  broken.inject = {"norm.epsilon@layer.0.attn.norm:1e-5", "weights.transposed@logits"};
  const auto result = confirmed(run, broken);
  expect_faults(result, "candidate",
                {{"layer.0.attn.norm", "norm.epsilon"}, {"logits", "weights.transposed"}},
                {"layer.0.attn.norm", "logits"});
  expect_own_prices(result);
  // Where the larger one is mended, the smaller one is still there: a second look finds it.
  broken.inject.pop_back();
  expect_faults(compare_runs(run, broken), "candidate", {{"layer.0.attn.norm", "norm.epsilon"}},
                {"layer.0.attn.norm"});
}

}  // namespace
}  // namespace plumb::testing
