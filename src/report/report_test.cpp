// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

Comparison example() {
  Comparison c;
  c.verdict = Verdict::Different;
  c.why = "layer.0.attn.k_rope is wrong on the candidate's side: </script><b>x";
  Side a{"baseline", "a.gguf", nullptr, {}, {}};
  a.trace.tokens = {1, 2, 3};
  a.trace.prompt = 2;
  Side b = a;
  b.role = "candidate";
  c.sides = {a, b};
  c.positions = 3;
  c.of = 2;
  c.measured = 1;
  StepCheck check;
  check.name = "layer.0.attn.k_rope";
  check.segment = {check.name};
  check.positions = {0, 1, 2};
  check.local_by_position = {0, 1.2, INFINITY};
  check.local = INFINITY;
  check.times_bound = INFINITY;
  c.steps.push_back({.name = check.name,
                     .baseline = check,
                     .candidate = check,
                     .inherited = 0.0,
                     .total = INFINITY,
                     .total_by_position = {},
                     .verdict = "WRONG (candidate)"});
  Finding finding;
  finding.kind = "fault";
  finding.step = check.name;
  finding.side = "candidate";
  finding.reason = "rope.pairing";
  finding.text = "it rotates neighbours";
  finding.layers = {0};
  finding.first_position = 1;
  finding.position_count = 2;
  finding.phase = "both";
  finding.local = INFINITY;
  finding.times_bound = INFINITY;
  c.findings.push_back(finding);
  return c;
}

// Scripts read these keys: they may be added to, never renamed.
TEST(Report, JsonHasTheKeysOfTheContract) {
  const auto json = nlohmann::json::parse(to_json(example()));
  EXPECT_EQ(json["plumb"], "compare");
  EXPECT_EQ(json["version"], 1);
  EXPECT_EQ(json["verdict"], "DIFFERENT");
  const auto& finding = json["findings"][0];
  for (const char* key :
       {"kind", "step", "tensor", "layers", "side", "reason", "parameters", "text", "positions",
        "local", "bound", "times_bound", "reproduced_to", "clues", "price"})
    EXPECT_TRUE(finding.contains(key)) << key;
  EXPECT_EQ(finding["positions"]["first"], 1);
  EXPECT_EQ(finding["positions"]["phase"], "both");
  EXPECT_TRUE(finding["local"].is_null());  // JSON has no infinity
  const auto& step = json["steps"][0];
  for (const char* key : {"step", "local", "inherited", "total", "verdict"})
    EXPECT_TRUE(step.contains(key)) << key;
  EXPECT_EQ(json["measured"]["of"], 2);
}

TEST(Report, TextNamesVerdictStepSideAndDenominator) {
  const auto text = to_text(example(), {});
  for (const char* part : {"DIFFERENT", "layer.0.attn.k_rope", "candidate's side", "rope.pairing",
                           "first at 1", "measured 1 of 2 steps × 3 positions", "not finite"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in:\n" << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(to_text(example(), {.colour = true}).find("\x1b[1;31m"), std::string::npos);
}

// A text of a model file must not become a part of the page.
TEST(Report, HtmlKeepsTextsInsideTheData) {
  const auto html = to_html(example());
  EXPECT_EQ(html.find("</script><b>x"), std::string::npos);
  EXPECT_NE(html.find("rope.pairing"), std::string::npos);
  EXPECT_EQ(html.find("http://"), std::string::npos);
  EXPECT_EQ(html.find("https://"), std::string::npos);
}

// The residual stream with a massive value that hides what the rest does.
Comparison with_strata() {
  auto c = example();
  StepStrata strata;
  strata.channels = {408};
  strata.massive_positions = strata.first_positions = {0};
  strata.times_median = 730;
  strata.massive = {
      .values = 1, .total = 1e-6, .local_baseline = 0, .local_candidate = 0, .share = 0.001};
  strata.rest = {
      .values = 99, .total = 0.5, .local_baseline = 0, .local_candidate = 3e-8, .share = 0.999};
  c.steps.push_back(c.steps[0]);
  c.steps.back().name = "layer.0.residual";
  c.steps.back().strata = strata;
  c.findings[0].channels = {{408, 0.8}, {7, 0.15}, {9, 0.05}};
  return c;
}

TEST(Report, StrataAreShownApart) {
  const auto text = to_text(with_strata(), {});
  for (const char* part :
       {"channel 408 at position 0, up to 730 × the median", "total 1e-06 (layer.0.residual)",
        "the rest: total 0.5 (layer.0.residual), local 3e-08", "channels 408, 7 hold 95 %"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in:\n" << text;
  const auto json = nlohmann::json::parse(to_json(with_strata()));
  EXPECT_FALSE(json["steps"][0].contains("strata"));
  const auto& strata = json["steps"][1]["strata"];
  EXPECT_EQ(strata["massive"]["channels"], nlohmann::json({408}));
  EXPECT_EQ(strata["rest"]["share"], 0.999);
  EXPECT_TRUE(strata["first_tokens"]["total"].is_null());  // no such values
  EXPECT_EQ(json["findings"][0]["channels"][1]["channel"], 7);
}

// Twelve prompts of two positions; in `changed` of them the best token behind the last changes.
Comparison with_outcome(size_t changed) {
  auto c = example();
  std::vector<PromptOutcome> prompts(12);
  for (size_t i = 0; i < prompts.size(); ++i) {
    prompts[i].line = i + 1;
    prompts[i].tokens = {1, 2};
    prompts[i].prompt = 2;
    prompts[i].positions.resize(2);
    prompts[i].positions[0].log_ratio = 0.01 * static_cast<double>(i % 3);
    prompts[i].positions[1].kl = 0.02 * static_cast<double>(i);
    prompts[i].positions[1].changed = i < changed;
    prompts[i].identical = false;
    prompts[i].distance = 0.1;
  }
  c.outcome = summarize(std::move(prompts), 0, {});
  c.outcome->file = "p.txt";
  return c;
}

// Nothing is said to be the same without the size that could have been missed.
TEST(Report, NothingSeenStandsBesideWhatCouldGoUnseen) {
  const auto text = to_text(with_outcome(0), {});
  for (const char* part : {"12 prompts of p.txt, 24 positions", "95 % interval", "would have been",
                           "0 of 24 changed; up to 12 % of positions", "up to 22 % if those of a",
                           "0 of 12 prompts part within 1 token; up to 22 % of such prompts",
                           "whole prompts (12), seed 1"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in:\n" << text;
}

TEST(Report, OutcomeHasTheKeysOfItsContract) {
  EXPECT_TRUE(nlohmann::json::parse(to_json(example()))["outcome"].is_null());
  const auto outcome = nlohmann::json::parse(to_json(with_outcome(3)))["outcome"];
  for (const char* key :
       {"file", "prompts", "positions", "decode", "not_finite", "seed", "resamples", "confidence",
        "power", "block", "steps_of", "kl_mean", "argmax_changed", "log_prob_difference", "parted",
        "differing", "per_prompt"})
    EXPECT_TRUE(outcome.contains(key)) << key;
  EXPECT_EQ(outcome["argmax_changed"]["events"], 3);
  EXPECT_TRUE(outcome["argmax_changed"]["unseen_if_independent"].is_null());
  EXPECT_EQ(outcome["log_prob_difference"]["of"], 12);
  EXPECT_EQ(outcome["parted"]["value"], 0.25);
  EXPECT_EQ(outcome["per_prompt"][2]["first_token_changed"], 0);
  EXPECT_TRUE(outcome["per_prompt"][3]["first_token_changed"].is_null());
  EXPECT_NE(to_html(with_outcome(3)).find("\"outcome\""), std::string::npos);
}

// Two sides without values: one of plumb, with a fault and odd names, one of another engine.
Comparison screened() {
  auto c = example();
  c.verdict = Verdict::Unmeasured;
  c.findings.clear();
  c.steps.clear();
  c.sides[0].trace.provenance.engine = {{"name", "plumb"},
                                        {"backend", "referee"},
                                        {"injected", "rope.theta@layer.0.attn.q_rope:it's; a@b"}};
  c.sides[0].trace.provenance.kv_cache = "f16";
  c.sides[1].trace.provenance.engine = {{"name", "other"}};
  Screen screen;
  screen.screened = 1;
  screen.record = {"embedding", "layer.0.attn.*"};
  screen.ranked = {{"layer.0.attn.q_rope", 2, 0.0, 0.5, INFINITY, "because"}};
  ScreenRow row;
  row.step = "layer.0.attn.q_rope";
  row.positions_baseline = 3;
  row.positions_candidate = 1;
  ScreenCell cell;
  cell.position = 2;
  cell.distance = 0.5;
  row.cells = {cell};
  screen.rows = {row};
  c.screen = screen;
  return c;
}

TEST(Report, ScreeningHasItsKeysAndBothFigures) {
  const auto json = nlohmann::json::parse(to_json(screened()));
  const auto& screen = json["screen"];
  for (const char* key : {"steps", "of", "same_bits", "positions", "standard_error", "summary",
                          "notes", "ranked", "record", "commands", "rows"})
    EXPECT_TRUE(screen.contains(key)) << key;
  EXPECT_TRUE(screen["ranked"][0]["rise"].is_null());  // JSON has no infinity
  const auto& row = screen["rows"][0];
  EXPECT_EQ(row["positions"]["common"], 1);
  EXPECT_EQ(row["last_token"]["position"], 2);
  EXPECT_EQ(row["all_tokens_largest"]["distance"], 0.5);
  EXPECT_NEAR(row["last_token"]["standard_error"].get<double>(), 0.5 * 0.0884, 1e-3);
  EXPECT_FALSE(nlohmann::json::parse(to_json(example())).contains("screen"));
}

TEST(Report, ScreeningSaysHowToRecordEachSide) {
  const auto text = to_text(screened(), {.all_steps = true});
  for (const char* part :
       {"plumb trace MODEL --tokens 1,2 -n 1 --backend referee --kv f16 --inject "
        "'rope.theta@layer.0.attn.q_rope:it'\\''s' --inject a@b --steps 'embedding' "
        "'layer.0.attn.*' -o next-baseline.safetensors",
        "--steps 'embedding' 'layer.0.attn.*' -o next-candidate.safetensors    (the capture tool "
        "of other, the same tokens)",
        "plumb compare next-baseline.safetensors next-candidate.safetensors --model MODEL",
        "because", "last token", "all tokens"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in:\n" << text;
}

}  // namespace
}  // namespace plumb
