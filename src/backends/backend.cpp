// SPDX-License-Identifier: Apache-2.0
#include "backends/backend.h"

#include <fmt/format.h>

namespace plumb {

const char* to_text(KvType type) {
  switch (type) {
    case KvType::F32: return "f32";
    case KvType::F16: return "f16";
    case KvType::Q8_0: return "q8_0";
  }
  return "";
}

Result<void> check_options(const Model& model, const Plan& plan, const SessionOptions& options) {
  for (const auto& step : plan.steps)
    if (step.op == Op::Positions && options.capacity > step.weight->rows)
      return fail(ErrorCode::Usage,
                  fmt::format("{} tokens do not fit: the model has learned {} positions",
                              options.capacity, step.weight->rows));
  if (options.kv_cache == KvType::Q8_0 && model.config.head_dim % 32 != 0)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("a q8_0 cache needs heads of a multiple of 32 values, this model has {}",
                    model.config.head_dim));
  return {};
}

Result<void> check_tokens(std::span<const Token> tokens, const Model& model, size_t position,
                          size_t capacity) {
  if (tokens.empty()) return fail(ErrorCode::Usage, "no tokens to run: the prompt is empty");
  if (tokens.size() > capacity - position)
    return fail(ErrorCode::Usage,
                fmt::format("{} tokens do not fit: the session has room for {}, {} are in use",
                            tokens.size(), capacity, position));
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= model.config.vocabulary)
      return fail(ErrorCode::Usage,
                  fmt::format("token {} at position {} is outside the vocabulary of {}", tokens[i],
                              position + i, model.config.vocabulary));
  return {};
}

}  // namespace plumb
