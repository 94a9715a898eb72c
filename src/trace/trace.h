// SPDX-License-Identifier: Apache-2.0
// A run, recorded: the tokens that went in and what each step gave. As a file it is safetensors;
// see docs/trace-format.md. plumb's own runs and other engines' runs are judged from this type
// alone.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/tensor.h"
#include "trace/arithmetic.h"
#include "trace/row_statistics.h"

namespace plumb {

// Who ran what. Free text: an unknown engine may leave all of it empty.
struct Provenance {
  std::map<std::string, std::string> engine;  // name, version, backend, level, threads, path, …
  std::map<std::string, std::string> model;   // name, architecture, sha256, …
  ArithmeticTable arithmetic;                 // empty: undeclared
  std::string kv_cache = "f32";
  std::string created;
};

struct TraceStep {
  TensorView view;                 // (positions, width) or (positions, heads, keys)
  std::vector<int32_t> positions;  // ascending; one for each row
  // Values known only to within this, as printed decimals; 0: as the engine had them.
  double precision = 0;
  bool elided = false;                     // NaN stands for a value that was not written down
  std::shared_ptr<const void> owner = {};  // of the bytes, where the trace does not own them
  size_t width() const;                    // values in a row
};

// What was recorded of a step in place of its values.
struct StepStatistics {
  TensorView statistics;             // F64 (positions, 8), as RowStatistics
  std::optional<TensorView> sketch;  // F32 (positions, 64)
  std::vector<int32_t> positions;    // ascending; one for each row
  // Rows of q and k in the order of a Hugging Face folder where the model's own is another: what
  // depends on the order of channels compares only with its like.
  bool turned_rows = false;
  RowStatistics row(size_t index) const;
  Sketch sketch_row(size_t index) const;  // of a step with a sketch
};

struct Trace {
  std::string label;  // for messages: the file or the model
  Provenance provenance;
  std::vector<int32_t> tokens;
  size_t prompt = 0;  // the first `prompt` tokens were one prefill
  std::map<std::string, TraceStep> steps;
  std::map<std::string, StepStatistics> statistics;  // by the name of the step
  std::vector<std::string> unknown;   // names outside the list of steps, kept and never compared
  std::shared_ptr<const void> owner;  // of the bytes that the views point into

  const TraceStep* find(const std::string& step) const;
  // The declared arithmetic of a step, or nothing.
  std::optional<Arithmetic> arithmetic_of(std::string_view step) const;
  // Whether it holds statistics, and no values but the numbers of experts.
  bool has_only_statistics() const;
};

// Whether a file begins like safetensors; whether it is a trace, open_trace tells.
bool is_trace_file(const std::filesystem::path& path);
// Whether it is a safetensors file whose header names the trace format; false if it cannot be read.
bool is_plumb_trace(const std::filesystem::path& path);
Result<Trace> open_trace(const std::filesystem::path& path);
Result<Trace> parse_trace(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                          std::string label);

// Whether a name is in the list of steps of docs/steps.md, for any layer.
bool is_step_name(std::string_view name);

// Sorts names of steps as a model computes them, as far as a name says it.
struct StepOrder {
  int part = 0;  // 0: before the layers, 1: in a layer, 2: behind them
  int layer = -1;
  size_t index = 0;
  friend auto operator<=>(const StepOrder&, const StepOrder&) = default;
};
StepOrder step_order(std::string_view step);

// Row `row` of a step as float, or as it is in double. `out` has width() values.
void read_row(const TraceStep& step, size_t row, std::span<double> out);

}  // namespace plumb
