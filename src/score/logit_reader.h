// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "trace/trace.h"

namespace plumb {

// Everything that a run of a model needs; all of it outlives the reader.
struct ScoredModel {
  const Model& model;
  const Plan& plan;
  const Backend& backend;
  Threads& threads;
  KvType kv_cache = KvType::F32;
};

// The logits of one sequence after another, part by part: of a model that runs, or as a trace
// recorded them.
class LogitReader {
 public:
  explicit LogitReader(ScoredModel source) : model_(source) {}
  // Fails if the trace has no logits. The trace outlives the reader.
  static Result<LogitReader> of_trace(const Trace& trace);

  size_t vocabulary() const;
  std::string label() const;

  // A new sequence. For a trace it must be the trace's tokens.
  Result<void> begin(std::span<const Token> tokens);
  // The logits of the positions from `first` on, (count, vocabulary); what lies before is fed and
  // not kept. Positions only go up. The span is good until the next call.
  Result<std::span<const float>> rows(size_t first, size_t count);
  size_t fed() const { return fed_; }  // tokens that a model was given, in all sequences

 private:
  LogitReader(const Trace& trace, const TraceStep& logits) : trace_(&trace), logits_(&logits) {}
  Result<void> feed(size_t count, Outputs outputs);
  void read_trace(size_t first, size_t count);

  std::optional<ScoredModel> model_;
  const Trace* trace_ = nullptr;
  const TraceStep* logits_ = nullptr;
  std::unique_ptr<Session> session_;
  std::span<const Token> tokens_;
  std::vector<float> values_;
  size_t fed_ = 0;
};

}  // namespace plumb
