// SPDX-License-Identifier: Apache-2.0
// The tiny model, runs of it and comparisons of runs, for tests of the instrument.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/referee/evaluate.h"
#include "backends/referee/referee_backend.h"
#include "backends/referee/rounding.h"
#include "core/half.h"
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
  std::shared_ptr<const Model> model = tiny_model();
  KvType kv = KvType::F32;
  std::function<void(Plan&)> edit = {};  // a fault that the catalogue does not have
};

// A side of a comparison: the tiny model, run and recorded in memory.
inline Side side_of(const std::string& role, const RunOf& run) {
  const auto& model = run.model;
  const Plan plan = make_plan(*model);
  Plan executed = plan;
  for (const auto& text : run.inject) {
    const auto done = inject(text, *model, executed);
    EXPECT_TRUE(done) << done.error().message;
  }
  if (run.edit) run.edit(executed);
  const auto backend = backend_of(run.backend);
  Threads threads(run.threads);
  const RunSetup clean{*model, plan, *backend, threads, run.kv};
  const auto fed = run.fed ? *run.fed : run_greedily(clean, run.tokens, run.decode).value().tokens;
  const RunSetup setup{*model, executed, *backend, threads, run.kv};
  auto writer =
      TraceWriter::to_memory(role, plan_trace(setup, fed, run.tokens.size(), run.steps, {}).value())
          .value();
  EXPECT_TRUE(record(setup, fed, run.tokens.size(), *writer));
  return {role, role, model, plan, writer->finish_in_memory().value()};
}

inline Comparison compare_sides(Side a, Side b) {
  Threads threads(2);
  return compare(std::move(a), std::move(b), {}, threads, [](size_t, size_t) {});
}

inline Comparison audit_side(Side side) {
  Threads threads(2);
  return audit(std::move(side), threads, [](size_t, size_t) {});
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

// The findings that blame a side: all but those of the files and what is only said.
inline std::vector<const Finding*> faults_of(const Comparison& result) {
  std::vector<const Finding*> faults;
  for (const auto& finding : result.findings)
    if (finding.kind == "fault" || finding.kind == "unexplained") faults.push_back(&finding);
  return faults;
}

// The first finding; one that says nothing, where there is none.
inline const Finding& first_finding(const Comparison& result) {
  static const Finding none;
  return result.findings.empty() ? none : result.findings.front();
}

inline const Finding* find_reason(const Comparison& result, const std::string& reason) {
  for (const auto& finding : result.findings)
    if (finding.reason == reason) return &finding;
  return nullptr;
}

inline const StepRow& row_of(const Comparison& result, const std::string& step) {
  for (const auto& row : result.steps)
    if (row.name == step) return row;
  ADD_FAILURE() << "there is no row of " << step;
  std::abort();
}

// --- Traces as a capture tool would spoil them

inline std::vector<double> values_of(const Trace& trace, const std::string& step) {
  const auto& recorded = trace.steps.at(step);
  std::vector<double> values(recorded.positions.size() * recorded.width());
  for (size_t row = 0; row < recorded.positions.size(); ++row)
    read_row(recorded, row, std::span(values).subspan(row * recorded.width(), recorded.width()));
  return values;
}

// New values of a step, of the same shape.
inline void set_values(Trace& trace, const std::string& step, const std::vector<double>& values) {
  auto& recorded = trace.steps.at(step);
  const auto kept = std::make_shared<const std::vector<double>>(values);
  recorded.view.dtype = DType::F64;
  recorded.view.bytes = std::as_bytes(std::span(*kept));
  recorded.owner = kept;
}

inline void change_values(Trace& trace, const std::string& step,
                          const std::function<double(double)>& change) {
  auto values = values_of(trace, step);
  for (double& x : values) x = change(x);
  set_values(trace, step, values);
}

// Only the rows from `first` to before `last`, of every step.
inline void keep_rows(TraceStep& step, size_t first, size_t last) {
  const size_t row = step.view.bytes.size() / step.positions.size();
  step.view.bytes = step.view.bytes.subspan(first * row, (last - first) * row);
  step.view.shape[0] = last - first;
  step.positions = {step.positions.begin() + static_cast<ptrdiff_t>(first),
                    step.positions.begin() + static_cast<ptrdiff_t>(last)};
}

// --- Models that no file has

inline std::string zoo_path(const std::string& name) {
  return std::string(PLUMB_SOURCE_DIR) + "/tests/models/zoo/" + name;
}

inline std::shared_ptr<const Model> zoo_model(const std::string& name) {
  auto loaded = load_model(zoo_path(name));
  EXPECT_TRUE(loaded) << loaded.error().message;
  return std::make_shared<const Model>(std::move(*loaded));
}

// Matrices as half precision, as a converter makes them.
inline std::shared_ptr<const Model> in_half_precision(
    const std::shared_ptr<const Model>& model, const std::function<bool(const Weight&)>& which) {
  auto out = std::make_shared<Model>(*model);
  out->sha256 = std::string(64, 'b');
  for (auto& [name, weight] : out->weights) {
    if (weight->rows == 1 || !which(*weight)) continue;
    const auto values = weight->values();
    auto half = std::make_shared<Weight>(*weight);
    half->dtype = DType::F16;
    half->storage.resize(values.size() * 2);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t bits = f32_to_f16(values[i]);
      std::memcpy(half->storage.data() + 2 * i, &bits, 2);
    }
    half->bytes = half->storage;
    weight = std::move(half);
  }
  return out;
}

// The model with one weight changed, kept as floats.
inline std::shared_ptr<const Model> with_weight(
    const std::shared_ptr<const Model>& model, const std::string& name,
    const std::function<void(std::vector<float>&, const Weight&)>& change) {
  auto out = std::make_shared<Model>(*model);
  auto values = model->weights.at(name)->values();
  change(values, *model->weights.at(name));
  auto weight = std::make_shared<Weight>(*model->weights.at(name));
  weight->dtype = DType::F32;
  weight->storage.resize(values.size() * sizeof(float));
  std::memcpy(weight->storage.data(), values.data(), weight->storage.size());
  weight->bytes = weight->storage;
  out->weights[name] = std::move(weight);
  return out;
}

// --- A run by hand

// How a product is summed up: a row of the weight and the rounded inputs.
using Product = std::function<double(std::span<const float> weights, std::span<const double> x)>;
// A whole product with the weights `w` (rows of x.width values); rows of x are the prompt.
using Multiply = std::function<std::vector<double>(std::vector<float> w, const referee::Matrix& x)>;

// A prefill of an engine of another name, whose steps are computed in double and rounded to float;
// inputs of products with block types are rounded as `activations` says.
inline Side run_by_hand(const std::string& role, const std::shared_ptr<const Model>& model,
                        const std::vector<Token>& tokens, const std::string& activations,
                        const Product& product = {}, const Multiply& multiply = {}) {
  Side side{role, role, model, make_plan(*model), {}};
  Threads threads(2);
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<size_t> visible(tokens.size(), tokens.size());
  const referee::Rows rows{positions, tokens, visible, tokens.size()};
  std::vector<std::shared_ptr<std::vector<double>>> values;
  for (const auto& step : side.plan.steps) {
    const bool blocks = is_product(step.op) && is_quantized(step.weight->dtype);
    const std::string rounding = blocks ? activations : "f32";
    std::vector<referee::Matrix> inputs;
    for (const size_t from : step.inputs)
      inputs.push_back({values[from]->data(), tokens.size(), values[from]->size() / tokens.size()});
    const size_t width = is_on_request(step.op) ? step.attention.heads * tokens.size() : step.width;
    auto out = std::make_shared<std::vector<double>>(tokens.size() * width);
    if (multiply && step.op == Op::MatMul && step.name != "logits") {
      *out = multiply(step.weight->values(), inputs[0]);
    } else if (product && step.op == Op::MatMul) {
      const auto weights = step.weight->values();
      for (size_t row = 0; row < tokens.size(); ++row) {
        std::vector<double> x(inputs[0].row(row), inputs[0].row(row) + inputs[0].width);
        referee::round_row(rounding, x);
        for (size_t j = 0; j < width; ++j)
          (*out)[row * width + j] = product(std::span(weights).subspan(j * x.size(), x.size()), x);
      }
    } else {
      referee::evaluate(step, inputs, rows, {.activations = rounding}, threads, *out);
    }
    for (double& x : *out) x = static_cast<double>(static_cast<float>(x));
    values.push_back(out);
    if (is_on_request(step.op)) continue;
    TraceStep recorded;
    recorded.view = {DType::F64, {tokens.size(), width}, std::as_bytes(std::span(*out))};
    recorded.positions = positions;
    recorded.owner = out;
    side.trace.steps[step.name] = std::move(recorded);
    side.trace.provenance.arithmetic.emplace_back(step.name, Arithmetic{.activations = rounding});
  }
  side.trace.label = role;
  side.trace.tokens = tokens;
  side.trace.prompt = tokens.size();
  side.trace.provenance.engine["name"] = "another";
  side.trace.provenance.model["sha256"] = model->sha256;
  return side;
}

}  // namespace plumb::testing
