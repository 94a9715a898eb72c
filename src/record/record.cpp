// SPDX-License-Identifier: Apache-2.0
#include "record/record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "core/check.h"

namespace plumb {
namespace {

class WritingObserver : public Observer {
 public:
  WritingObserver(TraceWriter& writer, const Plan& plan) : writer_(writer) {
    for (const auto& step : plan.steps)
      if (const auto index = writer.find(step.name)) index_[&step] = *index;
  }
  bool wants(const Step& step) const override { return index_.contains(&step); }
  void on_value(const Step& step, size_t first, size_t, Values values) override {
    std::visit([&](const auto& span) { writer_.write(index_.at(&step), first, span); }, values);
  }

 private:
  TraceWriter& writer_;
  std::map<const Step*, size_t> index_;
};

std::string now() {
  const std::time_t time = std::time(nullptr);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(time));
}

Result<void> check_context(const Model& model, size_t prompt, size_t decode) {
  if (prompt + decode <= model.config.context) return {};
  return fail(
      ErrorCode::Usage,
      fmt::format("{} prompt and {} decoded tokens do not fit: the model's context is {} tokens",
                  prompt, decode, model.config.context));
}

}  // namespace

Token argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[best]) best = i;
  return static_cast<Token>(best);
}

Result<PlainRun> run_greedily(const RunSetup& setup, std::span<const Token> prompt, size_t decode) {
  TRY(check_context(setup.model, prompt.size(), decode));
  PlainRun run{.tokens = {prompt.begin(), prompt.end()}, .prompt = prompt.size(), .logits = {}};
  TRY_ASSIGN(auto session,
             setup.backend.open(setup.model, setup.plan,
                                {.capacity = prompt.size() + decode, .kv_cache = setup.kv_cache},
                                setup.threads));
  TRY_ASSIGN(auto logits, session->forward(prompt, Outputs::LastPosition, nullptr));
  run.logits.push_back(std::move(logits));
  for (size_t i = 0; i < decode; ++i) {
    const Token next = argmax(run.logits.back());
    run.tokens.push_back(next);
    TRY_ASSIGN(logits, session->forward({&next, 1}, Outputs::LastPosition, nullptr));
    run.logits.push_back(std::move(logits));
  }
  return run;
}

bool StepChoice::takes(const Step& step) const {
  if (patterns.empty()) return !is_on_request(step.op);
  return std::ranges::any_of(patterns,
                             [&](const auto& pattern) { return fits(pattern, step.name); });
}

Result<TraceLayout> plan_trace(const RunSetup& setup, std::vector<Token> tokens, size_t prompt,
                               const StepChoice& choice, const std::string& injected) {
  for (const auto& pattern : choice.patterns)
    if (std::ranges::none_of(setup.plan.steps,
                             [&](const Step& step) { return fits(pattern, step.name); }))
      return fail(ErrorCode::Usage,
                  fmt::format("--steps '{}' fits no step of this model", pattern));
  TraceLayout layout;
  auto& p = layout.provenance;
  p.engine = {{"name", "plumb"},
              {"version", PLUMB_VERSION},
              {"backend", setup.backend.name()},
              {"level", setup.backend.level()},
              {"threads", fmt::format("{}", setup.threads.count())},
              {"path", "batched prefill, serial decode"}};
  // q and k lie as in a GGUF, also where the model is a Hugging Face folder (docs/trace-format.md).
  if (setup.model.rope_rows_reordered) p.engine["rope_rows"] = "gguf";
  if (!injected.empty()) p.engine["injected"] = injected;
  p.model = {{"name", setup.model.config.name},
             {"architecture", setup.model.config.architecture},
             {"sha256", setup.model.sha256}};
  p.kv_cache = to_text(setup.kv_cache);
  p.created = now();
  for (const auto& step : setup.plan.steps) {
    // Of all steps: what was not recorded is replayed with those that were.
    p.arithmetic.emplace_back(step.name, setup.backend.arithmetic(step));
    if (!choice.takes(step)) continue;
    std::vector<uint64_t> shape = {tokens.size(), step.width};
    if (is_on_request(step.op)) shape = {tokens.size(), step.attention.heads, tokens.size()};
    const auto dtype = setup.backend.arithmetic(step).output == "f64" ? DType::F64 : DType::F32;
    layout.steps.push_back({step.name, dtype, std::move(shape)});
  }
  layout.tokens = std::move(tokens);
  layout.prompt = prompt;
  return layout;
}

Result<std::vector<std::vector<float>>> record(const RunSetup& setup, std::span<const Token> tokens,
                                               size_t prompt, TraceWriter& writer, size_t part) {
  CHECK(prompt > 0 && prompt <= tokens.size());
  TRY(check_context(setup.model, prompt, tokens.size() - prompt));
  TRY_ASSIGN(
      auto session,
      setup.backend.open(setup.model, setup.plan,
                         {.capacity = tokens.size(), .kv_cache = setup.kv_cache}, setup.threads));
  WritingObserver observer(writer, setup.plan);
  std::vector<std::vector<float>> logits;
  std::vector<float> first;
  for (size_t at = 0; at < prompt; at += part) {
    if (part == 0) part = prompt;
    TRY_ASSIGN(first, session->forward(tokens.subspan(at, std::min(part, prompt - at)),
                                       Outputs::AllPositions, &observer));
  }
  logits.emplace_back(first.end() - static_cast<ptrdiff_t>(setup.model.config.vocabulary),
                      first.end());
  for (size_t i = prompt; i < tokens.size(); ++i) {
    TRY_ASSIGN(auto next, session->forward(tokens.subspan(i, 1), Outputs::LastPosition, &observer));
    logits.push_back(std::move(next));
  }
  return logits;
}

Result<void> check_unchanged(const PlainRun& plain,
                             const std::vector<std::vector<float>>& recorded) {
  CHECK(plain.logits.size() == recorded.size());
  for (size_t i = 0; i < recorded.size(); ++i)
    if (std::memcmp(plain.logits[i].data(), recorded[i].data(),
                    recorded[i].size() * sizeof(float)) != 0)
      return fail(ErrorCode::Corrupt,
                  fmt::format("the recorded run differs from the plain run at position {}: this "
                              "trace would not show what users get",
                              plain.prompt - 1 + i));
  return {};
}

Result<std::vector<float>> run_logits(const RunSetup& setup, std::span<const Token> tokens,
                                      size_t prompt, size_t part) {
  TRY_ASSIGN(
      auto session,
      setup.backend.open(setup.model, setup.plan,
                         {.capacity = tokens.size(), .kv_cache = setup.kv_cache}, setup.threads));
  std::vector<float> logits;
  size_t at = 0;
  while (at < tokens.size()) {
    const size_t count = at >= prompt ? 1 : part == 0 ? prompt : std::min(part, prompt - at);
    TRY_ASSIGN(const auto rows,
               session->forward(tokens.subspan(at, count), Outputs::AllPositions, nullptr));
    logits.insert(logits.end(), rows.begin(), rows.end());
    at += count;
  }
  return logits;
}

}  // namespace plumb
