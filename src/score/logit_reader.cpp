// SPDX-License-Identifier: Apache-2.0
#include "score/logit_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"

namespace plumb {
namespace {
constexpr size_t kPart = 512;  // tokens that are fed at once where no logits are asked for
}  // namespace

Result<LogitReader> LogitReader::of_trace(const Trace& trace) {
  const TraceStep* logits = trace.find("logits");
  if (logits == nullptr || logits->positions.empty())
    return fail(
        ErrorCode::NotComparable,
        fmt::format("{}: the trace has no step 'logits': there is nothing to score", trace.label));
  return LogitReader(trace, *logits);
}

size_t LogitReader::vocabulary() const {
  return model_ ? model_->model.config.vocabulary : logits_->width();
}

std::string LogitReader::label() const { return model_ ? model_->model.path : trace_->label; }

Result<void> LogitReader::begin(std::span<const Token> tokens) {
  tokens_ = tokens;
  if (!model_) {
    CHECK(std::ranges::equal(tokens, trace_->tokens));
    return {};
  }
  session_.reset();  // Its memory is free before the next one takes as much.
  TRY_ASSIGN(session_, model_->backend.open(model_->model, model_->plan,
                                            {tokens.size(), model_->kv_cache}, model_->threads));
  return {};
}

Result<void> LogitReader::feed(size_t count, Outputs outputs) {
  TRY_ASSIGN(values_,
             session_->forward(tokens_.subspan(session_->position(), count), outputs, nullptr));
  fed_ += count;
  return {};
}

void LogitReader::read_trace(size_t first, size_t count) {
  const auto at = std::ranges::lower_bound(logits_->positions, static_cast<int32_t>(first));
  const auto row = static_cast<size_t>(at - logits_->positions.begin());
  CHECK(row + count <= logits_->positions.size());
  std::vector<double> wide(vocabulary());
  values_.resize(count * wide.size());
  for (size_t i = 0; i < count; ++i) {
    CHECK(logits_->positions[row + i] == static_cast<int32_t>(first + i));
    read_row(*logits_, row + i, wide);
    std::ranges::transform(wide, values_.begin() + static_cast<ptrdiff_t>(i * wide.size()),
                           [](double x) { return static_cast<float>(x); });
  }
}

Result<std::span<const float>> LogitReader::rows(size_t first, size_t count) {
  if (!model_) {
    read_trace(first, count);
    return values_;
  }
  CHECK(first >= session_->position() && first + count <= tokens_.size());
  while (session_->position() < first)
    TRY(feed(std::min(kPart, first - session_->position()), Outputs::LastPosition));
  TRY(feed(count, Outputs::AllPositions));
  CHECK(values_.size() == count * vocabulary());
  return values_;
}

}  // namespace plumb
