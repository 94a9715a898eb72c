// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace plumb {

enum class ErrorCode { Io, Corrupt, Unsupported, NotFound, Usage, NotComparable };

// What the input, the system or the device said no to. A bug of our own is a CHECK instead.
struct Error {
  ErrorCode code;
  std::string message;

  // Puts the place in front: "model.gguf: tensor 'x': ...".
  Error within(std::string_view where) && {
    return {code, std::string(where) + ": " + std::move(message)};
  }
};

template <class T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(ErrorCode code, std::string message) {
  return std::unexpected(Error{code, std::move(message)});
}

}  // namespace plumb

#define PLUMB_CONCAT_(a, b) a##b
#define PLUMB_CONCAT(a, b) PLUMB_CONCAT_(a, b)

// Returns the error of `expression` to the caller, or goes on.
#define TRY(expression)                                       \
  do {                                                        \
    if (auto try_result_ = (expression); !try_result_)        \
      return std::unexpected(std::move(try_result_).error()); \
  } while (false)

// TRY_ASSIGN(auto x, f()): x is the value of f(), or the error goes to the caller.
#define TRY_ASSIGN(target, expression) \
  TRY_ASSIGN_(PLUMB_CONCAT(try_assign_, __LINE__), target, expression)
#define TRY_ASSIGN_(name, target, expression)                 \
  auto name = (expression);                                   \
  if (!name) return std::unexpected(std::move(name).error()); \
  target = std::move(*name)
