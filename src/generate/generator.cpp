// SPDX-License-Identifier: Apache-2.0
#include "generate/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/log_softmax.h"
#include "generate/stop_strings.h"
#include "tokenizer/unicode_bytes.h"

namespace plumb {
namespace {

// Tokens of the prompt that are fed at once: enough to be fast, few enough for an interrupt to be
// heard soon. How the prompt is split changes no bit.
constexpr size_t kPrefillPart = 512;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Bytes of tokens on their way to the user: through the stop strings, then by whole characters.
class TextStream {
 public:
  TextStream(const std::vector<std::string>& stops, const GenerateEvents& events, std::string& text)
      : stops_(stops), events_(events), text_(text) {}

  // Whether the text goes on.
  bool feed(std::string_view bytes) {
    pending_ += stops_.feed(bytes);
    if (stops_.found()) return false;
    const size_t tail = unfinished_utf8_tail(pending_);
    std::string unfinished = pending_.substr(pending_.size() - tail);
    pending_.resize(pending_.size() - tail);
    say();
    pending_ = std::move(unfinished);
    return true;
  }
  void finish() {
    if (!stops_.found()) pending_ += stops_.flush();
    say();
  }
  const std::optional<std::string>& found() const { return stops_.found(); }

 private:
  void say() {
    if (pending_.empty()) return;
    text_ += pending_;
    events_.on_text(pending_);
    pending_.clear();
  }

  StopStrings stops_;
  const GenerateEvents& events_;
  std::string& text_;
  std::string pending_;
};

}  // namespace

const char* to_text(StopReason reason) {
  switch (reason) {
    case StopReason::Length: return "length";
    case StopReason::EndToken: return "end token";
    case StopReason::StopString: return "stop string";
    case StopReason::Interrupt: return "interrupt";
  }
  return "";
}

Result<Generator> Generator::create(GenerateOptions options, const Tokenizer* tokenizer) {
  TRY(check(options.sampling));
  TRY(check(options.penalties));
  if (!options.stops.empty() && tokenizer == nullptr)
    return fail(ErrorCode::Usage, "stop strings need text, and this model has no tokenizer");
  for (const auto& stop : options.stops)
    if (stop.empty()) return fail(ErrorCode::Usage, "a stop string must not be empty");
  return Generator(std::move(options), tokenizer);
}

// The logits behind the prompt, or nothing after an interrupt.
Result<std::optional<std::vector<float>>> Generator::prefill(Session& session,
                                                             std::span<const Token> prompt,
                                                             const GenerateEvents& events,
                                                             Generated& run) const {
  std::vector<float> logits;
  // At least one call: the session says what is wrong with an empty prompt.
  do {
    if (events.interrupted()) return std::nullopt;
    const size_t count = std::min(kPrefillPart, prompt.size() - run.prefilled);
    TRY_ASSIGN(logits, session.forward(prompt.subspan(run.prefilled, count), Outputs::LastPosition,
                                       nullptr));
    run.prefilled += count;
    events.on_prefill(run.prefilled, prompt.size());
  } while (run.prefilled < prompt.size());
  return logits;
}

Result<GeneratedToken> Generator::choose(std::span<const float> logits, Sampler& sampler,
                                         const Penalties& penalties, size_t position) const {
  GeneratedToken token;
  if (options_.penalties.active()) {
    std::vector<float> changed(logits.begin(), logits.end());
    penalties.apply(changed);
    token.id = sampler.sample(changed);
  } else {
    token.id = sampler.sample(logits);
  }
  if (token.id < 0)
    return fail(ErrorCode::Corrupt, fmt::format("no logit is a number at position {}", position));
  token.logit = logits[static_cast<size_t>(token.id)];
  if (!options_.logprobs) return token;
  const double total = log_sum_exp(logits);
  token.logprob = token.logit - total;
  for (const auto& [logit, id] : best_logits(logits, *options_.logprobs))
    token.best.push_back({id, logit - total});
  return token;
}

Result<Generated> Generator::run(Session& session, std::span<const Token> prompt,
                                 const GenerateEvents& events) const {
  Generated run;
  Sampler sampler(options_.sampling);
  Penalties penalties(options_.penalties);
  for (const Token token : prompt) penalties.add(token);
  TextStream stream(options_.stops, events, run.text);
  auto start = std::chrono::steady_clock::now();
  TRY_ASSIGN(auto logits, prefill(session, prompt, events, run));
  run.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();
  if (!logits) run.stop = StopReason::Interrupt;
  while (logits && run.tokens.size() < options_.tokens) {
    if (events.interrupted()) {
      run.stop = StopReason::Interrupt;
      break;
    }
    TRY_ASSIGN(auto token, choose(*logits, sampler, penalties, prompt.size() + run.tokens.size()));
    const Token next = token.id;
    run.tokens.push_back(std::move(token));
    penalties.add(next);
    events.on_token(next);
    if (!options_.ignore_end && tokenizer_ != nullptr && tokenizer_->is_end(next)) {
      run.stop = StopReason::EndToken;
      break;
    }
    if (tokenizer_ != nullptr && !stream.feed(tokenizer_->piece(next))) {
      run.stop = StopReason::StopString;
      run.stop_string = *stream.found();
      break;
    }
    if (run.tokens.size() == options_.tokens) break;
    TRY_ASSIGN(logits, session.forward({&next, 1}, Outputs::LastPosition, nullptr));
  }
  stream.finish();
  run.decode_seconds = seconds_since(start);
  return run;
}

}  // namespace plumb
