// SPDX-License-Identifier: Apache-2.0
#include "generate/generator.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/log_softmax.h"

namespace plumb {
namespace {

// A model of scripted logits: after each token fed it gives the next row, whatever was fed.
class ScriptedSession : public Session {
 public:
  explicit ScriptedSession(std::vector<std::vector<float>> rows) : rows_(std::move(rows)) {}
  Result<std::vector<float>> forward(std::span<const Token> tokens, Outputs, Observer*) override {
    if (tokens.empty()) return fail(ErrorCode::Usage, "no tokens to run: the prompt is empty");
    fed.insert(fed.end(), tokens.begin(), tokens.end());
    batches.push_back(tokens.size());
    const size_t row = next_ < rows_.size() ? next_ : rows_.size() - 1;
    if (fed.size() >= prompt_size) ++next_;
    return rows_[row];
  }
  size_t position() const override { return fed.size(); }

  std::vector<Token> fed;
  std::vector<size_t> batches;
  size_t prompt_size = 1;

 private:
  std::vector<std::vector<float>> rows_;
  size_t next_ = 0;
};

// Tokens of one letter, 0 to 25, the first two bytes of é as 26 and 27, an end token 28.
Tokenizer letters() {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  for (char c = 'a'; c <= 'z'; ++c) vocabulary.tokens.emplace_back(1, c);
  vocabulary.tokens.insert(vocabulary.tokens.end(), {"\xC3\x83", "\xC2\xA9", "<end>"});
  vocabulary.types.assign(vocabulary.tokens.size(), 1);
  vocabulary.types.back() = static_cast<int32_t>(TokenType::Control);
  vocabulary.eos = 28;
  vocabulary.merges = {"a b"};
  return Tokenizer::create(std::move(vocabulary)).value();
}

std::vector<float> favours(Token id) {
  std::vector<float> row(29, 0.0F);
  row[static_cast<size_t>(id)] = 5;
  return row;
}

std::vector<std::vector<float>> favour(const std::vector<Token>& ids) {
  std::vector<std::vector<float>> rows;
  for (const Token id : ids) rows.push_back(favours(id));
  return rows;
}

struct Heard {
  std::vector<std::string> parts;
  std::vector<Token> tokens;
  size_t interrupt_after = SIZE_MAX;  // tokens
  GenerateEvents events() {
    GenerateEvents e;
    e.on_text = [this](std::string_view bytes) { parts.emplace_back(bytes); };
    e.on_token = [this](Token id) { tokens.push_back(id); };
    e.interrupted = [this] { return tokens.size() >= interrupt_after; };
    return e;
  }
};

constexpr Token kPrompt[] = {0};

Generated run(const GenerateOptions& options, const std::vector<Token>& script, Heard& heard) {
  static const Tokenizer tokenizer = letters();
  ScriptedSession session(favour(script));
  auto generator = Generator::create(options, &tokenizer);
  EXPECT_TRUE(generator.has_value());
  auto result = generator->run(session, kPrompt, heard.events());
  EXPECT_TRUE(result.has_value());
  return std::move(*result);
}

TEST(Generator, StopsAtTheLength) {
  Heard heard;
  const auto result = run({.tokens = 3}, {7, 8, 9, 10}, heard);
  EXPECT_EQ(result.text, "hij");
  EXPECT_EQ(result.stop, StopReason::Length);
  EXPECT_EQ(heard.parts, (std::vector<std::string>{"h", "i", "j"}));
  EXPECT_EQ(heard.tokens, (std::vector<Token>{7, 8, 9}));
  EXPECT_EQ(run({.tokens = 0}, {7}, heard).text, "");
}

TEST(Generator, StopsAtTheEndTokenAndDoesNotShowIt) {
  Heard heard;
  const auto result = run({.tokens = 9}, {7, 28, 9}, heard);
  EXPECT_EQ(result.text, "h");
  EXPECT_EQ(result.stop, StopReason::EndToken);
  EXPECT_EQ(result.tokens.size(), 2U);
  const auto on = run({.tokens = 3, .ignore_end = true}, {7, 28, 9}, heard);
  EXPECT_EQ(on.text, "h<end>j");
  EXPECT_EQ(on.stop, StopReason::Length);
}

TEST(Generator, StopsAtAStringThatTokensCut) {
  Heard heard;
  const auto result = run({.tokens = 9, .stops = {"no", "ij"}}, {7, 8, 9, 10}, heard);
  EXPECT_EQ(result.text, "h");
  EXPECT_EQ(result.stop, StopReason::StopString);
  EXPECT_EQ(result.stop_string, "ij");
  EXPECT_EQ(result.tokens.size(), 3U);
  EXPECT_EQ(heard.parts, std::vector<std::string>{"h"});
}

TEST(Generator, ShowsWhatOnlyBeganLikeAStopString) {
  Heard heard;
  EXPECT_EQ(run({.tokens = 2, .stops = {"ij"}}, {7, 8}, heard).text, "hi");
}

TEST(Generator, NeverCutsACharacter) {
  Heard heard;
  const auto result = run({.tokens = 3}, {26, 27, 0}, heard);
  EXPECT_EQ(result.text,
            "\xC3\xA9"
            "a");
  EXPECT_EQ(heard.parts, (std::vector<std::string>{"\xC3\xA9", "a"}));
  Heard cut;
  EXPECT_EQ(run({.tokens = 1}, {26}, cut).text, "\xC3") << "what is unfinished at the end is shown";
}

TEST(Generator, AnInterruptShowsWhatWasHeld) {
  Heard heard{.parts = {}, .tokens = {}, .interrupt_after = 2};
  const auto result = run({.tokens = 9, .stops = {"ijk"}}, {7, 8, 9}, heard);
  EXPECT_EQ(result.text, "hi");
  EXPECT_EQ(result.stop, StopReason::Interrupt);
  Heard at_once{.parts = {}, .tokens = {}, .interrupt_after = 0};
  const auto nothing = run({.tokens = 9}, {7}, at_once);
  EXPECT_EQ(nothing.stop, StopReason::Interrupt);
  EXPECT_EQ(nothing.prefilled, 0U);
}

TEST(Generator, FeedsALongPromptInPartsAndEachTokenOnce) {
  std::vector<Token> prompt(1100);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<Token>(i % 26);
  ScriptedSession session(favour({7, 8, 9}));
  session.prompt_size = prompt.size();
  const auto generator = Generator::create({.tokens = 3}, nullptr);
  const auto result = generator->run(session, prompt, {});
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(session.batches, (std::vector<size_t>{512, 512, 76, 1, 1}));
  prompt.insert(prompt.end(), {7, 8});
  EXPECT_EQ(session.fed, prompt) << "the last token needs no pass of its own";
  EXPECT_EQ(result->tokens.size(), 3U);
  EXPECT_EQ(result->text, "") << "there is no tokenizer";
}

TEST(Generator, PenaltiesSeePromptAndOutputAndLeaveTheLogitsAlone) {
  // Logits 5 for h, 4 for i, 3 for j at every step: each token that was there falls by 10.
  std::vector<float> row(29, -100.0F);
  row[7] = 5;
  row[8] = 4;
  row[9] = 3;
  ScriptedSession session({row});
  const GenerateOptions options{.tokens = 2, .penalties = {.presence = 10}, .logprobs = 1};
  const auto generator = Generator::create(options, nullptr);
  const Token prompt[] = {7};
  const auto result = generator->run(session, prompt, {});
  ASSERT_TRUE(result.has_value());
  ASSERT_EQ(result->tokens.size(), 2U);
  EXPECT_EQ(result->tokens[0].id, 8);
  EXPECT_EQ(result->tokens[1].id, 9);
  EXPECT_EQ(result->tokens[1].logit, 3);
  EXPECT_EQ(result->tokens[1].best.at(0).id, 7) << "the best by the model, not by the penalties";
}

TEST(Generator, LogprobsAreThoseOfTheModel) {
  const std::vector<float> row = {1, 3, 2, 3};
  ScriptedSession session({row});
  const auto generator = Generator::create(
      {.tokens = 1, .sampling = {.temperature = 2, .top_k = 1}, .logprobs = 3}, nullptr);
  const Token prompt[] = {0};
  const auto result = generator->run(session, prompt, {});
  ASSERT_TRUE(result.has_value());
  const double total = std::log(std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0));
  const auto& token = result->tokens.at(0);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logprob, 3 - total, 1e-14);
  ASSERT_EQ(token.best.size(), 3U);
  EXPECT_EQ(token.best[0].id, 1);
  EXPECT_EQ(token.best[1].id, 3);
  EXPECT_EQ(token.best[2].id, 2);
  EXPECT_NEAR(token.best[2].logprob, 2 - total, 1e-14);
}

TEST(Generator, SaysWhatIsWrong) {
  static const Tokenizer tokenizer = letters();
  const auto message = [&](const GenerateOptions& options, const Tokenizer* with) {
    const auto generator = Generator::create(options, with);
    return generator ? std::string() : generator.error().message;
  };
  EXPECT_EQ(message({}, &tokenizer), "");
  EXPECT_EQ(message({.stops = {""}}, &tokenizer), "a stop string must not be empty");
  EXPECT_TRUE(message({.stops = {"a"}}, nullptr).starts_with("stop strings need text"));
  EXPECT_TRUE(message({.sampling = {.temperature = -1}}, nullptr).starts_with("temperature"));
  EXPECT_TRUE(message({.penalties = {.repeat = 0}}, nullptr).starts_with("repeat-penalty"));

  ScriptedSession session({std::vector<float>(3, NAN)});
  const auto generator = Generator::create({}, nullptr);
  const auto nan = generator->run(session, kPrompt, {});
  ASSERT_FALSE(nan.has_value());
  EXPECT_EQ(nan.error().message, "no logit is a number at position 1");
  const auto empty = generator->run(session, {}, {});
  ASSERT_FALSE(empty.has_value());
  EXPECT_EQ(empty.error().message, "no tokens to run: the prompt is empty");
}

}  // namespace
}  // namespace plumb
