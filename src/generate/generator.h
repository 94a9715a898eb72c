// SPDX-License-Identifier: Apache-2.0
// Text from a prompt: the loop around a session. Who calls it prints and decides about signals.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generate/penalties.h"
#include "generate/sampler.h"

namespace plumb {

enum class StopReason { Length, EndToken, StopString, Interrupt };
const char* to_text(StopReason reason);  // "length", "end token", "stop string", "interrupt"

struct GenerateOptions {
  size_t tokens = 64;  // at most
  SamplingOptions sampling = {};
  PenaltyOptions penalties = {};
  std::vector<std::string> stops = {};
  bool ignore_end = false;
  std::optional<size_t> logprobs = {};  // how many of the best tokens to note at each position
};

struct TokenLogprob {
  Token id = 0;
  double logprob = 0;
};

struct GeneratedToken {
  Token id = 0;
  float logit = 0;     // as the model gave it, before penalties
  double logprob = 0;  // with GenerateOptions::logprobs, from the model's logits
  std::vector<TokenLogprob> best;
};

struct Generated {
  std::vector<GeneratedToken> tokens;  // with the end token, if there was one
  std::string text;                    // without stop string and end token
  StopReason stop = StopReason::Length;
  std::string stop_string;
  double prefill_seconds = 0, decode_seconds = 0;
  size_t prefilled = 0;  // prompt tokens that were fed; fewer than all after an interrupt
};

struct GenerateEvents {
  // Bytes as they become certain, never cut inside a UTF-8 sequence; all of them are
  // Generated::text.
  std::function<void(std::string_view bytes)> on_text = [](std::string_view) {};
  std::function<void(Token id)> on_token = [](Token) {};
  std::function<void(size_t done, size_t all)> on_prefill = [](size_t, size_t) {};
  // Asked before each token; true ends the run.
  std::function<bool()> interrupted = [] { return false; };
};

// Feeds the prompt in parts, so that it can be interrupted, and then one token after another. The
// session must have room for the prompt and options.tokens. `tokenizer` may be null: then there is
// no text, no end token and no stop string.
class Generator {
 public:
  // Usage, where an option is wrong.
  static Result<Generator> create(GenerateOptions options, const Tokenizer* tokenizer);

  Result<Generated> run(Session& session, std::span<const Token> prompt,
                        const GenerateEvents& events) const;

 private:
  Generator(GenerateOptions options, const Tokenizer* tokenizer)
      : options_(std::move(options)), tokenizer_(tokenizer) {}
  Result<std::optional<std::vector<float>>> prefill(Session& session, std::span<const Token> prompt,
                                                    const GenerateEvents& events,
                                                    Generated& run) const;
  Result<GeneratedToken> choose(std::span<const float> logits, Sampler& sampler,
                                const Penalties& penalties, size_t position) const;

  GenerateOptions options_;
  const Tokenizer* tokenizer_;
};

}  // namespace plumb
