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
