// SPDX-License-Identifier: Apache-2.0
// The referee against formulas worked out by hand: it is what everything else is judged by.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backends/referee/evaluate.h"
#include "backends/referee/rounding.h"

namespace plumb::referee {
namespace {

WeightPtr weight_of(std::vector<float> values, size_t rows) {
  auto weight = std::make_shared<Weight>();
  weight->rows = rows;
  weight->columns = values.size() / rows;
  weight->storage.resize(values.size() * sizeof(float));
  std::memcpy(weight->storage.data(), values.data(), weight->storage.size());
  weight->bytes = weight->storage;
  return weight;
}

// The step on rows that stand at positions 0, 1, … of a prefill.
std::vector<double> run(const Step& step, const std::vector<std::vector<double>>& inputs,
                        const std::vector<size_t>& widths, size_t rows, size_t out_width,
                        size_t keys = 0, size_t visible_keys = 0) {
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < inputs.size(); ++i)
    matrices.push_back({inputs[i].data(), inputs[i].size() / widths[i], widths[i]});
  std::vector<int32_t> positions;
  std::vector<Token> tokens;
  for (size_t r = 0; r < rows; ++r) {
    positions.push_back(static_cast<int32_t>(r));
    tokens.push_back(static_cast<Token>(r));
  }
  const std::vector<size_t> visible(rows, visible_keys == 0 ? rows : visible_keys);
  std::vector<double> out(rows * out_width);
  Threads threads(2);
  evaluate(step, matrices, {positions, tokens, visible, keys}, {}, threads, out);
  return out;
}

TEST(Referee, RmsNorm) {
  Step step{
      .op = Op::RmsNorm, .name = "n", .width = 2, .weight = weight_of({2, 3}, 1), .epsilon = 0.5};
  const auto y = run(step, {{3, 4}}, {2}, 1, 2);
  const double factor = 1 / std::sqrt(12.5 + 0.5);
  EXPECT_DOUBLE_EQ(y[0], 3 * factor * 2);
  EXPECT_DOUBLE_EQ(y[1], 4 * factor * 3);
  step.use_gamma = false;
  EXPECT_DOUBLE_EQ(run(step, {{3, 4}}, {2}, 1, 2)[1], 4 * factor);
}

// A weight of one head, in a run that norms the whole row: a fault that must stay inside the
// weight.
TEST(Referee, WeightOfAHeadRepeatsInANormOfTheRow) {
  Step step{.op = Op::RmsNorm, .name = "n", .width = 4, .weight = weight_of({2, 3}, 1)};
  step.group = 2;
  const auto heads = run(step, {{3, 4, 3, 4}}, {4}, 1, 4);
  step.group = 4;
  const auto row = run(step, {{3, 4, 3, 4}}, {4}, 1, 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(row[i], heads[i]);
}

// Rows of the weight are outputs; more rows than one tile of inputs.
TEST(Referee, MatMul) {
  Step step{.op = Op::MatMul, .name = "m", .width = 2, .weight = weight_of({1, 2, 3, 4, 5, 6}, 2)};
  std::vector<double> x;
  for (int i = 0; i < 11 * 3; ++i) x.push_back(i);
  const auto y = run(step, {x}, {3}, 11, 2);
  for (size_t r = 0; r < 11; ++r) {
    EXPECT_EQ(y[r * 2], x[r * 3] + 2 * x[r * 3 + 1] + 3 * x[r * 3 + 2]);
    EXPECT_EQ(y[r * 2 + 1], 4 * x[r * 3] + 5 * x[r * 3 + 1] + 6 * x[r * 3 + 2]);
  }
  step.bias = weight_of({10, 20}, 1);
  EXPECT_EQ(run(step, {x}, {3}, 11, 2)[1], y[1] + 20);
}

TEST(Referee, RotationOfNeighboursAndHalves) {
  Step step{.op = Op::Rope, .name = "r", .width = 6, .head_dim = 6};
  step.rope = {.base = 100, .dimensions = 4};
  const std::vector<double> x = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6};
  auto y = run(step, {x}, {6}, 2, 6);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(y[i], x[i]);  // position 0 is the identity
  const double second = std::pow(100, -0.5);             // the frequency of the second pair
  EXPECT_DOUBLE_EQ(y[6], 1 * std::cos(1) - 2 * std::sin(1));
  EXPECT_DOUBLE_EQ(y[7], 1 * std::sin(1) + 2 * std::cos(1));
  EXPECT_DOUBLE_EQ(y[8], 3 * std::cos(second) - 4 * std::sin(second));
  EXPECT_EQ(y[10], 5);  // beyond the rotated dimensions
  step.rope.pairing = RopePairing::Halves;
  y = run(step, {x}, {6}, 2, 6);
  EXPECT_DOUBLE_EQ(y[6], 1 * std::cos(1) - 3 * std::sin(1));
  EXPECT_DOUBLE_EQ(y[8], 1 * std::sin(1) + 3 * std::cos(1));
  step.rope.factors = weight_of({2, 1}, 1);
  step.rope.linear_factor = 4;
  EXPECT_DOUBLE_EQ(run(step, {x}, {6}, 2, 6)[6], 1 * std::cos(0.125) - 3 * std::sin(0.125));
}

// Two query heads share one key head; the mask and the window belong to the softmax.
TEST(Referee, Attention) {
  const Attention attention{.heads = 2, .kv_heads = 1, .head_dim = 1, .scale = 0.5};
  const std::vector<double> q = {1, 2, 3, 4, 5, 6};
  const std::vector<double> k = {1, -1, 2};
  const std::vector<double> v = {10, 20, 30};
  Step scores{.op = Op::Scores, .name = "s", .attention = attention};
  const auto s = run(scores, {q, k}, {2, 1}, 3, 6, 3);
  EXPECT_EQ(s[0 * 6 + 0 * 3 + 1], -0.5);      // position 0, head 0, key 1: 0.5 * 1 * -1
  EXPECT_EQ(s[2 * 6 + 1 * 3 + 2], 0.5 * 12);  // position 2, head 1, key 2
  Step softmax{.op = Op::Softmax, .name = "w", .attention = attention};
  auto w = run(softmax, {s}, {6}, 3, 6, 3);
  EXPECT_EQ(w[0], 1);  // position 0 sees itself only
  EXPECT_EQ(w[1], 0);
  EXPECT_DOUBLE_EQ(w[6] + w[7], 1);
  EXPECT_EQ(w[8], 0);
  EXPECT_DOUBLE_EQ(w[6] / w[7], std::exp(s[6] - s[7]));
  Step mix{.op = Op::Mix, .name = "m", .width = 2, .attention = attention};
  EXPECT_DOUBLE_EQ(run(mix, {w, v}, {6, 1}, 3, 2, 3)[2], w[6] * 10 + w[7] * 20);
  softmax.attention.window = 1;
  w = run(softmax, {s}, {6}, 3, 6, 3);
  EXPECT_EQ(w[2 * 6 + 2], 1);
  EXPECT_EQ(w[2 * 6 + 0] + w[2 * 6 + 1], 0);
  softmax.attention.window = 0;
  softmax.attention.quirk = std::make_shared<AttentionQuirk>(
      AttentionQuirk{.sees = [](size_t, size_t visible, size_t key) { return key < visible; }});
  w = run(softmax, {s}, {6}, 3, 6, 3);
  EXPECT_GT(w[1], 0);  // position 0 sees what lies behind it
  mix.attention.quirk = std::make_shared<AttentionQuirk>(AttentionQuirk{
      .cache_row = [](size_t, size_t key) { return std::optional(key == 2 ? 1 : key); }});
  EXPECT_DOUBLE_EQ(run(mix, {w, v}, {6, 1}, 3, 2, 3)[0], w[0] * 10 + w[1] * 20 + w[2] * 20);
}

TEST(Referee, HeadsAreGrouped) {
  const Attention attention{.heads = 6, .kv_heads = 3, .head_dim = 1};
  for (size_t head = 0; head < 6; ++head) EXPECT_EQ(kv_head_of(attention, head), head / 2);
}

TEST(Rounding, Int8PerBlock) {
  std::vector<double> row(64, 0.0);
  row[0] = 127;
  row[1] = 0.5;  // half a step: to even
  row[2] = 1.5;
  row[3] = -126.6;
  row[40] = 0.001;
  round_row("int8/32", row);
  EXPECT_EQ(row[0], 127);
  EXPECT_EQ(row[1], 0);
  EXPECT_EQ(row[2], 2);
  EXPECT_EQ(row[3], -127);
  EXPECT_NEAR(row[40], 0.001, 1e-9);  // a block of its own
  std::vector<double> wide(256, 0.001);
  wide[7] = -146.7;
  round_row("int8/256", wide);
  EXPECT_EQ(wide[100], 0);  // one outlier crushes the rest
  EXPECT_NEAR(wide[7], -146.7, 1e-4);
}

TEST(Rounding, ShortTypes) {
  EXPECT_EQ(round_to_f16(1 + 0x1p-11), 1);
  EXPECT_EQ(round_to_f16(1 + 0x1p-10), 1 + 0x1p-10);
  EXPECT_TRUE(std::isinf(round_to_f16(65520)));
  EXPECT_EQ(round_to_bf16(1 + 0x1p-9), 1);
  EXPECT_EQ(round_to_tf32(1 + 0x1p-11), 1 + 0x1p-10);  // a tie goes away from 0
  EXPECT_EQ(round_to_tf32(-1 - 0x1p-12), -1);
  EXPECT_EQ(cut_to_tf32(-1 - 0x1.8p-10), -1 - 0x1p-10);
  EXPECT_EQ(round_to_tf32(1e-30), 0x1.448p-100);  // the range is that of a float
  EXPECT_TRUE(std::isnan(round_to_tf32(NAN)));
  EXPECT_TRUE(std::isinf(cut_to_tf32(INFINITY)));
  EXPECT_TRUE(is_known_rounding("fp8e4m3/tensor"));
  EXPECT_FALSE(is_known_rounding("fp6e3m2"));
}

// As torch 2 converts them.
TEST(Rounding, EightBitFloats) {
  const std::vector<double> values = {0.0009, 0.001, 0x1p-10, 0x1p-9, 3 * 0x1p-10,
                                      0.0137, 0.3,   1.0625,  1.1875, 17,
                                      18,     447,   460,     1e5,    -3.3};
  const std::vector<double> e4m3 = {0,    0x1p-9, 0,  0x1p-9, 0x1p-8, 0.013671875, 0.3125, 1,
                                    1.25, 16,     18, 448,    448,    448,         -3.25};
  const std::vector<double> e5m2 = {0.0008544921875,
                                    0x1p-10,
                                    0x1p-10,
                                    0x1p-9,
                                    3 * 0x1p-10,
                                    0.013671875,
                                    0.3125,
                                    1,
                                    1.25,
                                    16,
                                    16,
                                    448,
                                    448,
                                    57344,
                                    -3.5};
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(round_to_e4m3(values[i]), e4m3[i]) << values[i];
    EXPECT_EQ(round_to_e5m2(values[i]), e5m2[i]) << values[i];
  }
  std::vector<double> row = {44.8, 0.3, -1.1, 0};
  round_row("fp8e4m3/row", row);  // one step of the scale is 0.1
  EXPECT_NEAR(row[0], 44.8, 1e-5);
  EXPECT_NEAR(row[1], 0.3, 1e-7);
  EXPECT_NEAR(row[2], -1.1, 1e-6);
  row = {1, 0.1};
  round_row("fp8e4m3/tensor", row, 448);  // the largest stands in another row
  EXPECT_EQ(row[1], 0.1015625);
  row = {1, 2.6, -100};
  round_row("int8/tensor", row, 127 * 4);
  EXPECT_EQ(row, (std::vector<double>{0, 4, -100}));
}

// As ggml's Q4_0: the largest value has the sign of the scale, steps are halves up from -8.
TEST(Rounding, FourBitBlocks) {
  std::vector<double> row(32, 0.0);
  row[0] = -8;
  row[1] = 3.4;
  row[2] = 7.9;
  row[3] = 0.5;
  round_row("q4_0", row);
  EXPECT_EQ(row[0], -8);
  EXPECT_EQ(row[1], 3);
  EXPECT_EQ(row[2], 7);  // 8 is no step
  EXPECT_EQ(row[3], 1);
}

// x / (max / 127), x * (127 / max) and x * (1 / (max / 127)) part where a value lies between two
// steps, and there alone.
TEST(Rounding, UndecidedValues) {
  const float max = 3.7F;
  std::vector<double> row;
  for (int i = 0; i < 4000; ++i) row.push_back(static_cast<double>(max) * std::sin(i * 0.37));
  const double between = static_cast<double>(max) / 127 * 40.5;
  row.push_back(between);
  row.push_back(static_cast<double>(max));
  const auto undecided = undecided_values("int8/row", row);
  size_t parted = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const auto x = static_cast<float>(row[i]);
    const float scale = max / 127;
    const std::set<float> steps = {std::nearbyint(x / scale), std::nearbyint(x * (127 / max)),
                                   std::nearbyint(x * (1 / scale))};
    if (steps.size() == 1) continue;
    ++parted;
    EXPECT_TRUE(std::ranges::any_of(undecided, [&](auto& u) { return u.column == i; })) << i;
  }
  EXPECT_LE(undecided.size(), parted + 3);
  ASSERT_FALSE(undecided.empty());
  EXPECT_EQ(undecided.back().column, 4000U);
  EXPECT_NEAR(undecided.back().step, static_cast<double>(max) / 127, 1e-7);
  EXPECT_TRUE(undecided_values("int8/32", row).empty());
}

// Blocks of 128 x 128, at the edges smaller ones.
TEST(Rounding, WeightsByBlocks) {
  const size_t rows = 200;
  const size_t width = 130;
  std::vector<float> values(rows * width, 0.25F);
  values[0] = 127;                // of the block at the top left
  values[150 * width + 129] = 1;  // of the one at the bottom right
  auto blocks = values;
  round_weight("int8/128", rows, blocks);
  EXPECT_EQ(blocks[100 * width + 100], 0);
  EXPECT_NEAR(blocks[100 * width + 129], 0.25F, 1e-6);
  EXPECT_NEAR(blocks[150 * width + 128], 32.0F / 127, 1e-6);
  auto by_row = values;
  round_weight("int8/row", rows, by_row);
  EXPECT_EQ(by_row[1], 0);
  EXPECT_NEAR(by_row[width], 0.25F, 1e-6);
  auto whole = values;
  round_weight("int8/tensor", rows, whole);
  EXPECT_EQ(whole[150 * width + 129], 1);
  EXPECT_EQ(whole[199 * width], 0);
}

}  // namespace
}  // namespace plumb::referee
