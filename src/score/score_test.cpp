// SPDX-License-Identifier: Apache-2.0
#include "score/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "backends/cpu/cpu_backend.h"
#include "backends/referee/referee_backend.h"
#include "core/log_softmax.h"

namespace plumb {
namespace {

const Model& tiny() {
  static const Model model =
      load_model(std::string(PLUMB_SOURCE_DIR) + "/tests/models/tiny-stories-q4_k.gguf").value();
  return model;
}
const Plan& tiny_plan() {
  static const Plan plan = make_plan(tiny());
  return plan;
}

std::vector<Token> some_tokens(size_t count) {
  std::vector<Token> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<Token>((i * i * 31 + 7 * i + 3) % 500);
  return tokens;
}

// All logits of a sequence that is fed at once.
std::vector<float> logits_of(const Backend& backend, const std::vector<Token>& tokens) {
  Threads threads(1);
  const auto session =
      backend.open(tiny(), tiny_plan(), {tokens.size(), KvType::F32}, threads).value();
  return session->forward(tokens, Outputs::AllPositions, nullptr).value();
}

double nll_of(const std::vector<float>& logits, size_t position, Token right) {
  const size_t n = tiny().config.vocabulary;
  const auto row = std::span(logits).subspan(position * n, n);
  return log_sum_exp(row) - row[static_cast<size_t>(right)];
}

Trace trace_of(const std::vector<Token>& tokens, const std::vector<float>& logits,
               std::vector<int32_t> positions) {
  Trace trace;
  trace.label = "t.safetensors";
  trace.tokens = tokens;
  const size_t n = logits.size() / tokens.size();
  auto bytes = std::make_shared<std::vector<float>>();
  for (const int32_t position : positions) {
    const auto row = logits.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(position) * n);
    bytes->insert(bytes->end(), row, row + static_cast<ptrdiff_t>(n));
  }
  trace.steps["logits"] = {
      {DType::F32, {positions.size(), n}, std::as_bytes(std::span<const float>(*bytes))},
      std::move(positions)};
  trace.owner = bytes;
  return trace;
}

TEST(CutIntoChunks, LeavesOutTheRestAndScoresTheSecondHalf) {
  const auto tokens = some_tokens(23);
  const auto chunks = cut_into_chunks(tokens, {.context = 8, .chunks = 0, .bos = 1});
  ASSERT_TRUE(chunks.has_value());
  ASSERT_EQ(chunks->size(), 2U);
  EXPECT_EQ((*chunks)[1].tokens[0], 1);
  EXPECT_EQ((*chunks)[1].tokens[1], tokens[9]);
  EXPECT_EQ((*chunks)[1].tokens.size(), 8U);
  EXPECT_EQ((*chunks)[1].scored, (std::vector<size_t>{4, 5, 6}));
  EXPECT_EQ(cut_into_chunks(tokens, {.context = 8, .chunks = 1, .bos = {}})->size(), 1U);
  EXPECT_EQ(cut_into_chunks(tokens, {.context = 8, .chunks = 9, .bos = {}})->at(0).tokens[0],
            tokens[0]);
  // As llama-perplexity: of an odd context the larger part is scored.
  EXPECT_EQ(cut_into_chunks(tokens, {.context = 7, .chunks = 0, .bos = {}})->at(0).scored,
            (std::vector<size_t>{3, 4, 5}));
}

TEST(CutIntoChunks, NeedsTwoChunksOfThreeTokens) {
  const auto message = [](size_t count, size_t context) {
    const auto chunks = cut_into_chunks(some_tokens(count), {context, 0, {}});
    return chunks ? std::string() : chunks.error().message;
  };
  EXPECT_EQ(message(16, 8), "");
  EXPECT_EQ(message(15, 8),
            "the text has 15 tokens; a context of 8 needs at least 16: give a longer text or a "
            "smaller --context");
  EXPECT_TRUE(message(100, SIZE_MAX).starts_with("the text has 100 tokens"));
  EXPECT_EQ(message(6, 3), "");
  EXPECT_EQ(message(16, 2), "a context of 2 tokens leaves none to score: at least 3");
}

TEST(Score, IsWhatAnUncutRunGives) {
  const auto backend = make_cpu_backend("scalar").value();
  const auto chunks = cut_into_chunks(some_tokens(150), {.context = 50, .chunks = 0, .bos = 1});
  Mean expected;
  for (const auto& chunk : chunks.value()) {
    const auto logits = logits_of(*backend, chunk.tokens);
    for (size_t at = 25; at < 49; ++at) expected.add(nll_of(logits, at, chunk.tokens[at + 1]));
  }
  ASSERT_EQ(expected.count(), 3 * 24U);
  for (const size_t count : {1, 3}) {
    Threads threads(count);
    LogitReader reader({tiny(), tiny_plan(), *backend, threads, KvType::F32});
    const auto result = score(reader, nullptr, chunks.value(), threads, {});
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->nll.sum(), expected.sum()) << "to the bit, with any number of threads";
    EXPECT_EQ(result->nll.count(), expected.count());
    EXPECT_EQ(result->sequences.size(), 3U);
    EXPECT_EQ(result->fed, 3 * 49U) << "the last token of a chunk is only predicted";
  }
}

TEST(Score, TheCpuPathIsNearTheRefereeAndEachIsAtNoDistanceFromItself) {
  const auto cpu = make_cpu_backend("scalar").value();
  const auto referee = make_referee_backend();
  const auto chunks = cut_into_chunks(some_tokens(64), {.context = 32, .chunks = 0, .bos = 1});
  Threads threads(1);
  const auto reader = [&](const Backend& backend) {
    return LogitReader({tiny(), tiny_plan(), backend, threads, KvType::F32});
  };
  auto a = reader(*referee);
  auto b = reader(*cpu);
  const auto apart = score(a, &b, chunks.value(), threads, {});
  ASSERT_TRUE(apart.has_value());
  EXPECT_GT(apart->divergence->kl().value, 0);
  EXPECT_LT(apart->divergence->kl().value, 0.01);
  EXPECT_NEAR(apart->divergence->ratio().value, 1, 0.05);
  EXPECT_EQ(apart->divergence->count(), 2 * 15U);
  auto c = reader(*cpu);
  auto d = reader(*cpu);
  const auto same = score(c, &d, chunks.value(), threads, {});
  ASSERT_TRUE(same.has_value());
  EXPECT_EQ(same->divergence->kl_quantile(1), 0);
  EXPECT_EQ(same->divergence->same_top().value, 1);
  EXPECT_EQ(same->divergence->shared(1).value, 1);
  EXPECT_EQ(same->divergence->ratio().value, 1);
  EXPECT_EQ(same->divergence->rms_change().value, 0);
}

TEST(Score, ATraceGivesWhatItsModelGives) {
  const auto backend = make_cpu_backend("scalar").value();
  const auto tokens = some_tokens(12);
  const auto logits = logits_of(*backend, tokens);
  const Trace trace = trace_of(tokens, logits, {0, 1, 2, 5, 6, 11});
  const auto sequence = sequence_of(trace, nullptr);
  ASSERT_TRUE(sequence.has_value());
  EXPECT_EQ(sequence->scored, (std::vector<size_t>{0, 1, 2, 5, 6, 11}));
  Threads threads(2);
  auto a = LogitReader::of_trace(trace).value();
  LogitReader b({tiny(), tiny_plan(), *backend, threads, KvType::F32});
  const auto result = score(a, &b, {&*sequence, 1}, threads, {});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->divergence->count(), 6U);
  EXPECT_EQ(result->divergence->kl_quantile(1), 0);
  EXPECT_EQ(result->nll.count(), 5U) << "nobody knows what follows the last token";
  double expected = 0;
  for (const size_t at : {0, 1, 2, 5, 6}) expected += nll_of(logits, at, tokens[at + 1]);
  EXPECT_DOUBLE_EQ(result->nll.sum(), expected);
}

TEST(SequenceOf, TwoTracesAreWhatBothHave) {
  const std::vector<float> logits(40, 0.0F);
  const auto tokens = some_tokens(4);
  const Trace a = trace_of(tokens, logits, {0, 1, 3});
  EXPECT_EQ(sequence_of(a, &a)->scored, (std::vector<size_t>{0, 1, 3}));
  const Trace b = trace_of(tokens, logits, {1, 2, 3});
  EXPECT_EQ(sequence_of(a, &b)->scored, (std::vector<size_t>{1, 3}));
  const Trace apart = trace_of(tokens, logits, {2});
  EXPECT_EQ(sequence_of(a, &apart).error().code, ErrorCode::NotComparable);
  auto other = tokens;
  other[2] += 1;
  const Trace fed = trace_of(other, logits, {0, 1, 3});
  const auto refused = sequence_of(a, &fed);
  ASSERT_FALSE(refused.has_value());
  EXPECT_TRUE(refused.error().message.ends_with("4 and 4, the first difference at position 2"));
}

TEST(Score, RefusesWhatCannotBeCompared) {
  const auto tokens = some_tokens(4);
  const Trace ten = trace_of({1, 2, 3, 4}, std::vector<float>(40, 0.0F), {0, 1});
  const Trace nine = trace_of({1, 2, 3, 4}, std::vector<float>(36, 0.0F), {0, 1});
  const auto sequence = sequence_of(ten, &nine).value();
  Threads threads(1);
  auto a = LogitReader::of_trace(ten).value();
  auto b = LogitReader::of_trace(nine).value();
  const auto vocabulary = score(a, &b, {&sequence, 1}, threads, {});
  ASSERT_FALSE(vocabulary.has_value());
  EXPECT_EQ(vocabulary.error().code, ErrorCode::NotComparable);
  EXPECT_TRUE(vocabulary.error().message.find("has 10 tokens") != std::string::npos);

  const Trace outside = trace_of({1, 2, 3, 10}, std::vector<float>(40, 0.0F), {0, 1});
  auto c = LogitReader::of_trace(outside).value();
  const auto whole = sequence_of(outside, nullptr).value();
  const auto token = score(c, nullptr, {&whole, 1}, threads, {});
  ASSERT_FALSE(token.has_value());
  EXPECT_TRUE(token.error().message.find("token 10 at position 3") != std::string::npos);

  EXPECT_FALSE(LogitReader::of_trace(Trace{}).has_value());
}

TEST(Score, SaysWhereLogitsAreNoNumbers) {
  std::vector<float> logits(40, 0.0F);
  logits[25] = NAN;
  const Trace trace = trace_of({1, 2, 3, 4}, logits, {0, 1, 2});
  const auto sequence = sequence_of(trace, nullptr).value();
  Threads threads(1);
  auto a = LogitReader::of_trace(trace).value();
  const auto alone = score(a, nullptr, {&sequence, 1}, threads, {});
  ASSERT_FALSE(alone.has_value());
  EXPECT_TRUE(
      alone.error().message.starts_with("t.safetensors: the logits at position 2 of part 1"));
  const Trace sound = trace_of({1, 2, 3, 4}, std::vector<float>(40, 0.0F), {0, 1, 2});
  auto b = LogitReader::of_trace(sound).value();
  EXPECT_FALSE(score(b, &a, {&sequence, 1}, threads, {}).has_value());
}

TEST(CheckSameVocabulary, NamesTheFirstTokenThatDiffers) {
  EXPECT_TRUE(check_same_vocabulary(tiny(), tiny()).has_value());
  Model other;
  other.path = "other.gguf";
  other.config.vocabulary = 3;
  const auto sizes = check_same_vocabulary(tiny(), other);
  ASSERT_FALSE(sizes.has_value());
  EXPECT_TRUE(sizes.error().message.find("other.gguf has 3") != std::string::npos);
}

}  // namespace
}  // namespace plumb
