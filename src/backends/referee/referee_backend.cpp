// SPDX-License-Identifier: Apache-2.0
#include "backends/referee/referee_backend.h"

#include <algorithm>
#include <map>
#include <set>

#include "backends/referee/evaluate.h"
#include "backends/referee/rounding.h"

namespace plumb {
namespace {

// Rows computed at a time: bounds the memory of a long prefill. The bits do not depend on it.
constexpr size_t kBatch = 64;

const char* rounding_of(KvType type) {
  return type == KvType::Q8_0 ? "int8/32/f16scale" : to_text(type);
}

class RefereeSession : public Session {
 public:
  RefereeSession(const Model& model, const Plan& plan, const SessionOptions& options,
                 Threads& threads)
      : model_(model),
        plan_(plan),
        capacity_(options.capacity),
        kv_cache_(rounding_of(options.kv_cache)),
        threads_(threads) {
    for (const auto& step : plan.steps)
      if (step.op == Op::Scores || step.op == Op::Mix) history_[step.inputs[1]] = {};
  }

  size_t position() const override { return position_; }

  Result<std::vector<float>> forward(std::span<const Token> tokens, Outputs outputs,
                                     Observer* observer) override {
    TRY(check_tokens(tokens, model_, position_, capacity_));
    const size_t visible = position_ + tokens.size();
    std::vector<float> logits;
    const size_t batch = can_split(plan_) ? kBatch : tokens.size();
    for (size_t begin = 0; begin < tokens.size(); begin += batch) {
      const auto part = tokens.subspan(begin, std::min(batch, tokens.size() - begin));
      auto rows = run(part, visible, observer);
      if (outputs == Outputs::AllPositions) logits.insert(logits.end(), rows.begin(), rows.end());
      else logits.assign(rows.end() - static_cast<ptrdiff_t>(model_.config.vocabulary), rows.end());
    }
    return logits;
  }

 private:
  std::vector<float> run(std::span<const Token> tokens, size_t visible_keys, Observer* observer) {
    std::vector<int32_t> positions(tokens.size());
    for (size_t i = 0; i < positions.size(); ++i)
      positions[i] = static_cast<int32_t>(position_ + i);
    const std::vector<size_t> visible(tokens.size(), visible_keys);
    const referee::Rows rows{positions, tokens, visible, position_ + tokens.size()};
    std::vector<std::vector<double>> values(plan_.steps.size());
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      compute(i, rows, values);
      if (observer != nullptr && observer->wants(plan_.steps[i]))
        observe(plan_.steps[i], rows, values[i], *observer);
      if (auto found = history_.find(i); found != history_.end())
        found->second.insert(found->second.end(), values[i].begin(), values[i].end());
    }
    position_ += tokens.size();
    return {values.back().begin(), values.back().end()};
  }

  void compute(size_t index, const referee::Rows& rows, std::vector<std::vector<double>>& values) {
    const auto& step = plan_.steps[index];
    std::vector<referee::Matrix> inputs;
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      const size_t from = step.inputs[i];
      const size_t width = width_of(plan_.steps[from], rows);
      const bool all = (step.op == Op::Scores || step.op == Op::Mix) && i == 1;
      const auto& data = all ? history_[from] : values[from];
      inputs.push_back({data.data(), data.size() / width, width});
    }
    values[index].resize(rows.positions.size() * width_of(step, rows));
    referee::evaluate(step, inputs, rows, {.kv_cache = kv_cache_}, threads_, values[index]);
    if (!step.quirk) return;
    auto& plain = before_quirk_[index];
    plain.insert(plain.end(), values[index].begin(), values[index].end());
    const auto row_at = [&](int32_t position) {
      return &plain[static_cast<size_t>(position) * step.width];
    };
    referee::rearrange(*step.quirk, rows.positions, step.width, row_at, true, values[index]);
  }

  static size_t width_of(const Step& step, const referee::Rows& rows) {
    return is_on_request(step.op) ? step.attention.heads * rows.keys : step.width;
  }

  // Widens rows of Scores and Softmax to the capacity.
  void observe(const Step& step, const referee::Rows& rows, const std::vector<double>& values,
               Observer& observer) const {
    if (!is_on_request(step.op))
      return observer.on_value(step, position_, rows.positions.size(),
                               std::span<const double>(values));
    std::vector<double> wide(rows.positions.size() * step.attention.heads * capacity_, 0.0);
    for (size_t line = 0; line * rows.keys < values.size(); ++line)
      std::copy_n(values.begin() + static_cast<ptrdiff_t>(line * rows.keys), rows.keys,
                  wide.begin() + static_cast<ptrdiff_t>(line * capacity_));
    observer.on_value(step, position_, rows.positions.size(), std::span<const double>(wide));
  }

  const Model& model_;
  const Plan& plan_;
  size_t capacity_, position_ = 0;
  std::string kv_cache_;
  Threads& threads_;
  std::map<size_t, std::vector<double>> history_;       // K and V of all positions, by step
  std::map<size_t, std::vector<double>> before_quirk_;  // what faulty steps computed, all positions
};

class RefereeBackend : public Backend {
 public:
  std::string name() const override { return "referee"; }
  std::string level() const override { return "double"; }
  Arithmetic arithmetic(const Step& step) const override {
    Arithmetic a{.weights = "f32", .activations = "f32", .accumulate = "f64", .output = "f64"};
    if (step.weight) a.weights = info(step.weight->dtype).short_name;
    return a;
  }
  Result<std::unique_ptr<Session>> open(const Model& model, const Plan& plan,
                                        const SessionOptions& options,
                                        Threads& threads) const override {
    TRY(check_options(model, plan, options));
    return std::make_unique<RefereeSession>(model, plan, options, threads);
  }
  uint64_t session_bytes(const Model&, const Plan& plan,
                         const SessionOptions& options) const override {
    uint64_t cache = 0;
    uint64_t row = 0;
    std::set<size_t> cached;
    for (const auto& step : plan.steps) {
      row += is_on_request(step.op) ? step.attention.heads * options.capacity : step.width;
      if ((step.op == Op::Scores || step.op == Op::Mix) && cached.insert(step.inputs[1]).second)
        cache += plan.steps[step.inputs[1]].width;
    }
    return sizeof(double) *
           (options.capacity * cache + std::min<uint64_t>(kBatch, options.capacity) * row);
  }
};

}  // namespace

std::unique_ptr<Backend> make_referee_backend() { return std::make_unique<RefereeBackend>(); }

}  // namespace plumb
