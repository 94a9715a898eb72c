// SPDX-License-Identifier: Apache-2.0
// Runs a plan and records it. The run that is recorded is the run that users get: prefill as a
// batch, then token by token.
#pragma once
#include <string>
#include <vector>

#include "backends/backend.h"
#include "trace/trace_writer.h"

namespace plumb {

struct RunSetup {
  const Model& model;
  const Plan& plan;
  const Backend& backend;
  Threads& threads;
  KvType kv_cache = KvType::F32;
};

// Tokens with what was computed on the way: enough to check that a recorded run gives the same
// bits.
struct PlainRun {
  std::vector<Token> tokens;  // prompt and decoded tokens that were fed
  size_t prompt = 0;
  std::vector<std::vector<float>> logits;  // of the last prompt position and of each decoded one
};

// Feeds the prompt, then `decode` greedy tokens one by one. Fails if they do not fit into the
// model's context.
Result<PlainRun> run_greedily(const RunSetup& setup, std::span<const Token> prompt, size_t decode);

// What is recorded of a step: its values, or eight figures and a sketch of each row.
enum class Depth { Values, Statistics };

// Which steps to record: those that fit one of the patterns; none given: all that are not on
// request only. There are no statistics of steps on request: their rows grow with the tokens, and
// hold keys that the query does not see.
struct StepChoice {
  std::vector<std::string> patterns;
  Depth depth = Depth::Values;
  bool takes(const Step& step) const;
};

// What a trace of this run will hold. Fails if a pattern fits no step that can be recorded: a
// switch that engages nothing is an error.
Result<TraceLayout> plan_trace(const RunSetup& setup, std::vector<Token> tokens, size_t prompt,
                               const StepChoice& choice, const std::string& injected);

// Runs the tokens of the layout and writes every chosen step. Gives the logits of the same
// positions as PlainRun. `part`: so many tokens of the prefill are fed at a time; 0: all.
Result<std::vector<std::vector<float>>> record(const RunSetup& setup, std::span<const Token> tokens,
                                               size_t prompt, TraceWriter& writer, size_t part = 0);

// Fails unless both runs gave the same bits: observing must not change a run.
Result<void> check_unchanged(const PlainRun& plain,
                             const std::vector<std::vector<float>>& recorded);

// Logits of all positions of a run whose prefill is fed in parts of `part` tokens (0: at once), row
// by row.
Result<std::vector<float>> run_logits(const RunSetup& setup, std::span<const Token> tokens,
                                      size_t prompt, size_t part);

Token argmax(std::span<const float> logits);

}  // namespace plumb
