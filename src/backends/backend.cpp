// SPDX-License-Identifier: Apache-2.0
#include "backends/backend.h"

#include <fmt/format.h>

namespace plumb {

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
