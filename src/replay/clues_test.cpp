// SPDX-License-Identifier: Apache-2.0
#include "replay/clues.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace plumb {
namespace {

constexpr size_t kRows = 12;
constexpr size_t kHeads = 3;
constexpr size_t kHeadDim = 8;
constexpr size_t kWidth = kHeads * kHeadDim;

// Values that no two channels and no two positions share.
ReplayedStep right_step() {
  ReplayedStep step;
  step.width = kWidth;
  for (size_t r = 0; r < kRows; ++r) {
    step.check.positions.push_back(static_cast<int32_t>(r));
    for (size_t i = 0; i < kWidth; ++i)
      step.referee.push_back(
          std::sin(1.7 * static_cast<double>(r * r + 1) + 2.3 * static_cast<double>(i * i)));
  }
  step.recorded = step.referee;
  return step;
}

// Recorded values from (position, channel); clues of what then is wrong.
std::map<std::string, std::string> clues_of(
    const std::function<double(const ReplayedStep&, size_t, size_t)>& value) {
  auto step = right_step();
  for (size_t r = 0; r < kRows; ++r)
    for (size_t i = 0; i < kWidth; ++i) step.recorded[r * kWidth + i] = value(step, r, i);
  step.outside.resize(step.recorded.size());
  for (size_t r = 0; r < kRows; ++r) {
    bool wrong = false;
    for (size_t i = 0; i < kWidth; ++i) {
      const size_t at = r * kWidth + i;
      step.outside[at] = std::fabs(step.recorded[at] - step.referee[at]) > 1e-9;
      wrong = wrong || step.outside[at];
    }
    if (wrong) step.check.wrong_positions.push_back(static_cast<int32_t>(r));
  }
  step.check.values = step.recorded.size();
  Step plan_step;
  plan_step.op = Op::MatMul;
  return find_clues(plan_step, step, kHeadDim);
}

double at(const ReplayedStep& step, size_t r, size_t i) { return step.referee[r * kWidth + i]; }

TEST(Clues, WhichPositionsAndChannels) {
  auto clues =
      clues_of([](auto& s, size_t r, size_t i) { return at(s, r, i) + (r >= 5 ? 0.1 : 0); });
  EXPECT_EQ(clues["positions"], "from 5 on");
  EXPECT_EQ(clues.count("channels"), 0U);
  clues = clues_of(
      [](auto& s, size_t r, size_t i) { return at(s, r, i) + (r % 4 == 3 && i == 7 ? 0.1 : 0); });
  EXPECT_EQ(clues["positions"], "every 4th from 3 to 11");
  EXPECT_EQ(clues["channels"], "7 alone");
  clues = clues_of(
      [](auto& s, size_t r, size_t i) { return at(s, r, i) * (i / kHeadDim == 1 ? 2 : 1); });
  EXPECT_EQ(clues.count("positions"), 0U);
  EXPECT_EQ(clues["channels"], "heads 1 alone");
  clues = clues_of([](auto& s, size_t r, size_t i) { return at(s, r, i) * (i % 2 == 1 ? 2 : 1); });
  EXPECT_EQ(clues["channels"], "every 2nd from 1 to 23");
  clues = clues_of([](auto& s, size_t r, size_t i) { return at(s, r, i) * (i > 20 ? 2 : 1); });
  EXPECT_EQ(clues["channels"], "from 21 on");
  clues = clues_of(
      [](auto& s, size_t r, size_t i) { return r == 2 || r == 3 || r == 9 ? 0 : at(s, r, i); });
  EXPECT_EQ(clues["positions"], "2, 3, 9 (3 of 12)");
}

TEST(Clues, TheRightValuesInAnotherOrder) {
  const auto order = [](const std::function<size_t(size_t)>& source) {
    return clues_of([&](auto& s, size_t r, size_t i) { return at(s, r, source(i)); })["order"];
  };
  const auto in_head = [](size_t i, size_t inner) { return i / kHeadDim * kHeadDim + inner; };
  EXPECT_EQ(order([](size_t i) { return i; }), "");
  EXPECT_EQ(order([](size_t i) { return kWidth - 1 - i; }), "in reverse");
  EXPECT_EQ(order([](size_t i) { return (i + kWidth / 2) % kWidth; }),
            "the halves of a row exchanged");
  EXPECT_EQ(order([](size_t i) { return (i + 3) % kWidth; }), "turned by 3 channels");
  EXPECT_EQ(order([](size_t i) { return (i / kHeadDim + 1) % kHeads * kHeadDim + i % kHeadDim; }),
            "turned by 8 channels");
  EXPECT_EQ(order([](size_t i) {
              const size_t head = i / kHeadDim;
              return (head == 0 ? 1 : head == 1 ? 0 : 2) * kHeadDim + i % kHeadDim;
            }),
            "heads in another order: 1 0 2");
  EXPECT_EQ(order([&](size_t i) { return in_head(i, (i + kHeadDim / 2) % kHeadDim); }),
            "the halves of each head exchanged");
  EXPECT_EQ(order([&](size_t i) { return in_head(i, i % kHeadDim / 2 + i % 2 * (kHeadDim / 2)); }),
            "the halves of each head in pairs");
  EXPECT_EQ(order([&](size_t i) {
              return in_head(i, i % (kHeadDim / 2) * 2 + i % kHeadDim / (kHeadDim / 2));
            }),
            "the pairs of each head in halves");
  EXPECT_EQ(order([](size_t i) { return i % kHeads * kHeadDim + i / kHeads; }),
            "3 heads x 8 channels, transposed");
  EXPECT_EQ(order([](size_t i) { return i * 5 % kWidth; }),
            "another order: channel 1 from 5, 2 from 10, 3 from 15, 4 from 20, …");
}

TEST(Clues, TheRightRowsAtOtherPositions) {
  auto clues = clues_of([](auto& s, size_t r, size_t i) { return at(s, r < 4 ? r : r - 1, i); });
  EXPECT_EQ(clues["rows"], "each wrong row is the one before");
  clues = clues_of([](auto& s, size_t, size_t i) { return at(s, 3, i); });
  EXPECT_EQ(clues["rows"], "each wrong row is that of position 3");
  clues = clues_of([](auto& s, size_t r, size_t i) { return at(s, kRows - 1 - r, i); });
  EXPECT_EQ(clues["rows"], "the wrong rows are those of other positions");
  clues = clues_of([](auto& s, size_t r, size_t i) {
    const size_t index = r * kWidth + i;
    return at(s, index % kRows, index / kRows);
  });
  EXPECT_EQ(clues["transposed"], "channels and positions are exchanged");
}

TEST(Clues, NothingIsSeenInNoise) {
  const auto clues = clues_of([](auto& s, size_t r, size_t i) {
    return at(s, r, i) + std::cos(31.0 * static_cast<double>(r * kWidth + i));
  });
  for (const char* name :
       {"order", "rows", "transposed", "channels", "positions", "constant_vector"})
    EXPECT_FALSE(clues.contains(name)) << name;
  const auto bias = clues_of(
      [](auto& s, size_t r, size_t i) { return at(s, r, i) + 0.01 * static_cast<double>(i + 1); });
  EXPECT_TRUE(bias.contains("constant_vector"));
}

}  // namespace
}  // namespace plumb
