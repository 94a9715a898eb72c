// SPDX-License-Identifier: Apache-2.0
// The tiny model, runs of it and comparisons of runs, for tests of the instrument.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/referee/referee_backend.h"
#include "faults/catalogue.h"
#include "parity/parity.h"
#include "record/record.h"

namespace plumb::testing {

inline std::string tiny_path() {
  return std::string(PLUMB_SOURCE_DIR) + "/tests/models/tiny-stories-q4_k.gguf";
}

inline std::shared_ptr<const Model> tiny_model() {
  static const auto model = [] {
    auto loaded = load_model(tiny_path());
    if (!loaded) {
      ADD_FAILURE() << loaded.error().message;
      std::abort();
    }
    return std::make_shared<const Model>(std::move(*loaded));
  }();
  return model;
}

inline std::vector<Token> story_tokens() {
  static const auto tokens =
      tiny_model()
          ->tokenizer->encode("Once upon a time there was a little cat", true, true)
          .value();
  return tokens;
}

inline std::unique_ptr<Backend> backend_of(const std::string& name) {
  return name == "referee" ? make_referee_backend() : make_cpu_backend(name).value();
}

// The prompt and four tokens that one fixed level decodes after it: for sides that are to be fed
// the same.
inline std::vector<Token> greedy_tokens() {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  const auto backend = backend_of("scalar");
  Threads threads(1);
  return run_greedily({*model, plan, *backend, threads}, story_tokens(), 4).value().tokens;
}

struct RunOf {
  std::string backend = "best";
  size_t threads = 2, decode = 4;
  std::vector<std::string> inject = {};
  StepChoice steps = {};
  std::vector<Token> tokens = story_tokens();
  std::optional<std::vector<Token>> fed =
      {};  // teacher-forced tokens; the greedy ones of a clean run if not given
};

// A side of a comparison: the tiny model, run and recorded in memory.
inline Side side_of(const std::string& role, const RunOf& run) {
  const auto model = tiny_model();
  const Plan plan = make_plan(*model);
  Plan executed = plan;
  for (const auto& text : run.inject) {
    const auto done = inject(text, *model, executed);
    EXPECT_TRUE(done) << done.error().message;
  }
  const auto backend = backend_of(run.backend);
  Threads threads(run.threads);
  const RunSetup clean{*model, plan, *backend, threads};
  const auto fed = run.fed ? *run.fed : run_greedily(clean, run.tokens, run.decode).value().tokens;
  const RunSetup setup{*model, executed, *backend, threads};
  auto writer =
      TraceWriter::to_memory(role, plan_trace(setup, fed, run.tokens.size(), run.steps, {}).value())
          .value();
  EXPECT_TRUE(record(setup, fed, run.tokens.size(), *writer));
  return {role, role, model, plan, writer->finish_in_memory().value()};
}

inline Comparison compare_runs(const RunOf& a, const RunOf& b) {
  Threads threads(2);
  return compare(side_of("baseline", a), side_of("candidate", b), {}, threads,
                 [](size_t, size_t) {});
}

inline Comparison audit_run(const RunOf& run) {
  Threads threads(2);
  return audit(side_of("candidate", run), threads, [](size_t, size_t) {});
}

inline std::vector<std::string> wrong_steps(const Comparison& result) {
  std::vector<std::string> names;
  for (const auto& row : result.steps)
    if (row.verdict.starts_with("WRONG")) names.push_back(row.name);
  return names;
}

}  // namespace plumb::testing
