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

// Writes the values of the steps that the writer has by name, and the statistics of those that it
// has as such.
class WritingObserver : public Observer {
 public:
  WritingObserver(TraceWriter& writer, const Plan& plan, Threads& threads)
      : writer_(writer), threads_(threads), plan_(plan), targets_(plan.steps.size()) {
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      const auto& name = plan.steps[i].name;
      targets_[i] = {writer.find(name), writer.find(name + ".stats"),
                     writer.find(name + ".sketch")};
    }
  }
  bool wants(const Step& step) const override {
    const auto& to = target(step);
    return to.values || to.figures;
  }
  void on_value(const Step& step, size_t first, size_t rows, Values values) override {
    const auto& to = target(step);
    std::visit(
        [&](const auto& span) {
          if (to.values) writer_.write(*to.values, first, span);
          if (to.figures) write_statistics(to, first, rows, span);
        },
        values);
  }

 private:
  struct Target {
    std::optional<size_t> values, figures, sketch;  // tensors of the trace
  };

  // A backend gives the steps of its plan themselves, never copies.
  const Target& target(const Step& step) const {
    return targets_[static_cast<size_t>(&step - plan_.steps.data())];
  }

  template <class T>
  void write_statistics(const Target& to, size_t first, size_t rows, std::span<const T> values) {
    constexpr size_t kGrain = 4;  // rows that are summarized together
    figures_.resize(rows);
    sketches_.resize(rows);
    const size_t width = values.size() / rows;
    const auto some = [&](size_t begin, size_t end) {
      summarize(values.subspan(begin * width, (end - begin) * width), width,
                std::span(figures_).subspan(begin, end - begin),
                std::span(sketches_).subspan(begin, end - begin));
    };
    if (rows > kGrain) threads_.run(rows, kGrain, some);
    else some(0, rows);
    writer_.write(*to.figures, first, std::span(&figures_.front().count, rows * kStatisticsSize));
    writer_.write(*to.sketch, first, std::span(sketches_.front().data(), rows * kSketchSize));
  }

  TraceWriter& writer_;
  Threads& threads_;
  const Plan& plan_;
  std::vector<Target> targets_;  // of each step of the plan
  std::vector<RowStatistics> figures_;
  std::vector<Sketch> sketches_;
};

// The tensors of a step in a trace.
void add_entries(std::vector<SafetensorsEntry>& entries, const Step& step, size_t tokens,
                 DType dtype, Depth depth) {
  // The numbers of experts are fewer than the figures about them, and sums of them mean nothing.
  if (depth == Depth::Statistics && step.op != Op::TopExperts) {
    entries.push_back({step.name + ".stats", DType::F64, {tokens, kStatisticsSize}});
    entries.push_back({step.name + ".sketch", DType::F32, {tokens, kSketchSize}});
    return;
  }
  std::vector<uint64_t> shape = {tokens, step.width};
  if (is_on_request(step.op)) shape = {tokens, step.attention.heads, tokens};
  entries.push_back({step.name, dtype, std::move(shape)});
}

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
  if (is_on_request(step.op) && (patterns.empty() || depth == Depth::Statistics)) return false;
  if (patterns.empty()) return true;
  return std::ranges::any_of(patterns,
                             [&](const auto& pattern) { return fits(pattern, step.name); });
}

Result<TraceLayout> plan_trace(const RunSetup& setup, std::vector<Token> tokens, size_t prompt,
                               const StepChoice& choice, const std::string& injected) {
  for (const auto& pattern : choice.patterns)
    if (std::ranges::none_of(setup.plan.steps, [&](const Step& step) {
          return fits(pattern, step.name) && choice.takes(step);
        }))
      return fail(ErrorCode::Usage,
                  fmt::format("--steps '{}' fits no step of this model{}", pattern,
                              choice.depth == Depth::Statistics ? " that has statistics" : ""));
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
    const auto dtype = setup.backend.arithmetic(step).output == "f64" ? DType::F64 : DType::F32;
    add_entries(layout.steps, step, tokens.size(), dtype, choice.depth);
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
  WritingObserver observer(writer, setup.plan, setup.threads);
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
