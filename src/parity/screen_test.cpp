// SPDX-License-Identifier: Apache-2.0
#include "parity/screen.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

namespace plumb {
namespace {

constexpr size_t kTokens = 4;
constexpr size_t kWidth = 128;
using Rows = std::vector<std::vector<double>>;  // of each position

Rows random_rows(uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Rows rows(kTokens, std::vector<double>(kWidth));
  for (auto& row : rows)
    for (auto& x : row) x = static_cast<double>(normal(generator));
  return rows;
}

// Statistics of rows, as a file would hold them.
StepStatistics statistics_of(const Rows& rows, std::vector<int32_t> positions) {
  auto figures = std::make_shared<std::vector<RowStatistics>>(rows.size());
  auto sketches = std::make_shared<std::vector<Sketch>>(rows.size());
  for (size_t r = 0; r < rows.size(); ++r)
    summarize(std::span<const double>(rows[r]), rows[r].size(), std::span(*figures).subspan(r, 1),
              std::span(*sketches).subspan(r, 1));
  static std::vector<std::shared_ptr<void>> kept;  // the views point into them
  kept.insert(kept.end(), {figures, sketches});
  StepStatistics out;
  out.statistics = {DType::F64, {rows.size(), kStatisticsSize}, std::as_bytes(std::span(*figures))};
  out.sketch =
      TensorView{DType::F32, {rows.size(), kSketchSize}, std::as_bytes(std::span(*sketches))};
  out.positions = std::move(positions);
  return out;
}

const std::vector<std::string> kSteps = {"embedding",
                                         "layer.0.attn.norm",
                                         "layer.0.attn.q",
                                         "layer.0.attn.k",
                                         "layer.0.attn.v",
                                         "layer.0.attn.q_rope",
                                         "layer.0.attn.mix",
                                         "layer.0.attn.out",
                                         "layer.0.attn.residual",
                                         "layer.0.ffn.norm",
                                         "layer.0.ffn.out",
                                         "layer.0.residual",
                                         "layer.1.attn.norm",
                                         "layer.1.attn.q",
                                         "layer.1.attn.mix",
                                         "layer.1.attn.out",
                                         "layer.1.residual",
                                         "final.norm",
                                         "logits"};

Trace trace_of(const std::map<std::string, Rows>& values) {
  Trace trace;
  trace.label = "t";
  trace.tokens = {1, 2, 3, 4};
  trace.prompt = kTokens;
  trace.provenance.engine = {{"name", "e"}, {"version", "1"}, {"backend", "b"}, {"level", "l"}};
  for (const auto& [name, rows] : values)
    trace.statistics[name] = statistics_of(rows, {0, 1, 2, 3});
  return trace;
}

std::map<std::string, Rows> base() {
  std::map<std::string, Rows> values;
  uint32_t seed = 1;
  for (const auto& name : kSteps) values[name] = random_rows(seed++);
  return values;
}

// Each value moves by a part of its own size, as another arithmetic would.
void disturb(Rows& rows, double size, uint32_t seed = 99) {
  const auto noise = random_rows(seed);
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t i = 0; i < rows[r].size(); ++i) rows[r][i] += size * noise[r % kTokens][i % kWidth];
}

void disturb_from(std::map<std::string, Rows>& values, const std::string& first, double size) {
  bool after = false;
  uint32_t seed = 500;
  for (const auto& name : kSteps) {
    after = after || name == first;
    if (after) disturb(values[name], size, seed++);
  }
}

bool records(const Screen& screen, const std::string& step) {
  return std::ranges::any_of(screen.record, [&](const auto& p) { return fits(p, step); });
}

TEST(Screen, EqualRunsHaveTheSameBitsAndNoSuspect) {
  const auto out = screen(trace_of(base()), trace_of(base()), nullptr);
  EXPECT_EQ(out.screened, kSteps.size());
  EXPECT_EQ(out.equal, kSteps.size());
  EXPECT_EQ(out.positions, kTokens);
  EXPECT_TRUE(out.ranked.empty());
  EXPECT_TRUE(out.record.empty());
  EXPECT_NE(out.summary.find("does not prove"), std::string::npos);
}

TEST(Screen, TheStepAtWhichRunsPartComesFirst) {
  auto other = base();
  disturb_from(other, "layer.0.attn.q_rope", 0.001);
  disturb(other["layer.1.attn.mix"], 0.5);  // a later step makes more of it
  const auto out = screen(trace_of(base()), trace_of(other), nullptr);
  ASSERT_GE(out.ranked.size(), 2U);
  EXPECT_EQ(out.ranked[0].step, "layer.0.attn.q_rope");
  EXPECT_NEAR(out.ranked[0].after, 0.001, 0.0005);
  EXPECT_EQ(out.ranked[1].step, "layer.1.attn.mix");
  EXPECT_TRUE(records(out, "layer.0.attn.q_rope") && records(out, "embedding"));
  EXPECT_TRUE(records(out, "layer.1.attn.mix") && records(out, "layer.0.residual"));
}

// Noise everywhere, from the first product on: then the step that adds most comes first.
TEST(Screen, UnderNoiseTheLargestRiseComesFirst) {
  auto other = base();
  disturb(other["embedding"], 1e-8);
  disturb(other["layer.0.attn.norm"], 1e-8);
  disturb_from(other, "layer.0.attn.q", 0.01);
  disturb(other["layer.1.attn.q"], 0.3);
  for (const auto* name :
       {"layer.1.attn.mix", "layer.1.attn.out", "layer.1.residual", "final.norm", "logits"})
    disturb(other[name], 0.3, 7);
  auto elsewhere = trace_of(other);
  elsewhere.provenance.engine["backend"] = "another";
  const auto out = screen(trace_of(base()), elsewhere, nullptr);
  ASSERT_FALSE(out.ranked.empty());
  EXPECT_EQ(out.ranked[0].step, "layer.1.attn.q");
  EXPECT_TRUE(records(out, "layer.1.attn.q"));
  EXPECT_FALSE(out.rows.front().cells.front().equal);
  EXPECT_EQ(out.rows.front().cells.front().after(), 0);  // below what sketches resolve
}

// Bits that differ by less than a sketch resolves have a reason where both ran on one engine.
TEST(Screen, ADifferenceBelowTheResolutionIsStillTheFirst) {
  auto other = base();
  other["layer.0.ffn.norm"][2][5] += 1e-9;
  const auto one = screen(trace_of(base()), trace_of(other), nullptr);
  ASSERT_EQ(one.ranked.size(), 1U);
  EXPECT_EQ(one.ranked[0].step, "layer.0.ffn.norm");
  auto elsewhere = trace_of(other);
  elsewhere.provenance.engine["name"] = "another";
  EXPECT_TRUE(screen(trace_of(base()), elsewhere, nullptr).ranked.empty());
}

TEST(Screen, TheTwoSidesMayBeExchanged) {
  auto other = base();
  disturb_from(other, "layer.0.ffn.norm", 0.1);
  for (const bool exchange : {false, true}) {
    const auto a = trace_of(exchange ? other : base());
    const auto b = trace_of(exchange ? base() : other);
    const auto out = screen(a, b, nullptr);
    ASSERT_FALSE(out.ranked.empty());
    EXPECT_EQ(out.ranked[0].step, "layer.0.ffn.norm");
  }
}

TEST(Screen, NewValuesThatAreNotFiniteComeBeforeAll) {
  auto other = base();
  disturb_from(other, "layer.0.attn.q", 0.1);
  other["layer.0.ffn.norm"][1][3] = std::numeric_limits<double>::infinity();
  other["layer.0.ffn.out"][1][3] = std::numeric_limits<double>::quiet_NaN();
  const auto out = screen(trace_of(base()), trace_of(other), nullptr);
  ASSERT_GE(out.ranked.size(), 2U);
  EXPECT_EQ(out.ranked[0].step, "layer.0.ffn.norm");
  EXPECT_NE(out.ranked[0].why.find("candidate"), std::string::npos) << out.ranked[0].why;
  EXPECT_EQ(out.ranked[1].step, "layer.0.attn.q");
  ASSERT_EQ(out.notes.size(), 1U);
  EXPECT_NE(out.notes[0].find("layer.0.ffn.norm at position 1"), std::string::npos);
}

TEST(Screen, OnlyCommonPositionsAreComparedAndTheirNumberIsSaid) {
  auto a = trace_of(base());
  auto b = trace_of(base());
  const auto rows = base()["logits"];
  b.statistics["logits"] = statistics_of({rows[1], rows[3]}, {1, 3});
  a.statistics["final.norm"] = statistics_of({rows[0]}, {0});
  b.statistics["final.norm"] = statistics_of({rows[3]}, {3});
  const auto out = screen(a, b, nullptr);
  const auto& logits = out.rows.back();
  EXPECT_EQ(logits.cells.size(), 2U);
  EXPECT_EQ(logits.positions_baseline, 4U);
  EXPECT_EQ(logits.positions_candidate, 2U);
  ASSERT_NE(logits.last(kTokens), nullptr);
  EXPECT_EQ(logits.last(kTokens)->position, 3);
  EXPECT_NE(out.rows[out.rows.size() - 2].not_screened.find("no position"), std::string::npos);
  EXPECT_EQ(out.screened, kSteps.size() - 1);
  EXPECT_NE(out.notes.at(0).find("common"), std::string::npos);
}

TEST(Screen, RowsOfAnotherWidthAndMissingStepsAreNotCompared) {
  auto other = base();
  for (auto& row : other["logits"]) row.resize(kWidth / 2);
  other.erase("final.norm");
  const auto out = screen(trace_of(base()), trace_of(other), nullptr);
  EXPECT_NE(out.rows.back().not_screened.find("128"), std::string::npos);
  EXPECT_NE(out.rows[out.rows.size() - 2].not_screened.find("not recorded"), std::string::npos);
  EXPECT_EQ(out.screened, kSteps.size() - 2);
}

// Without sketches, or with rows of q and k in another order, only the norms are left: a lower
// limit that is exact.
TEST(Screen, WithoutSketchesTheNormsGiveALowerLimit) {
  auto other = base();
  for (auto& row : other["layer.0.attn.q"])
    for (auto& x : row) x *= 1.5;
  auto b = trace_of(other);
  b.statistics["layer.0.attn.q"].turned_rows = true;
  const auto out = screen(trace_of(base()), b, nullptr);
  const auto row = std::ranges::find(out.rows, "layer.0.attn.q", &ScreenRow::step);
  EXPECT_FALSE(row->cells[0].distance.has_value());
  EXPECT_NEAR(row->cells[0].at_least, 0.5, 1e-12);
  EXPECT_EQ(out.ranked.at(0).step, "layer.0.attn.q");
  EXPECT_NE(out.notes.at(0).find("another order"), std::string::npos);
}

// One side with values: their statistics are made here.
TEST(Screen, ValuesAreSummarized) {
  const auto values = base();
  auto a = trace_of(values);
  auto flat = std::make_shared<std::vector<double>>();
  for (const auto& row : values.at("logits")) flat->insert(flat->end(), row.begin(), row.end());
  a.statistics.erase("logits");
  TraceStep logits;
  logits.view = {DType::F64, {kTokens, kWidth}, std::as_bytes(std::span(*flat))};
  logits.positions = {0, 1, 2, 3};
  logits.owner = flat;
  a.steps["logits"] = logits;
  const auto out = screen(a, trace_of(values), nullptr);
  EXPECT_EQ(out.equal, kSteps.size());
  a.steps["logits"].elided = true;
  EXPECT_NE(screen(a, trace_of(values), nullptr).rows.back().not_screened, "");
}

TEST(Screen, ARowThatOneChannelFillsBlamesNobodyBehindIt) {
  auto a = base();
  auto b = base();
  for (auto* values : {&a, &b})
    for (auto& row : (*values)["layer.0.residual"]) row[7] = 1e4;
  disturb(b["layer.0.residual"], 0.5);  // hidden beside the large channel
  disturb_from(b, "layer.1.attn.norm", 0.5);
  const auto out = screen(trace_of(a), trace_of(b), nullptr);
  ASSERT_FALSE(out.ranked.empty());
  EXPECT_EQ(out.ranked[0].step, "layer.0.residual");
  EXPECT_TRUE(std::ranges::none_of(out.ranked,
                                   [](const Suspect& s) { return s.step == "layer.1.attn.norm"; }));
}

}  // namespace
}  // namespace plumb
