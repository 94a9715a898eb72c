// SPDX-License-Identifier: Apache-2.0
// Tokens of a template, with the settings of transformers: trim_blocks and lstrip_blocks are on.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace plumb::jinja {

struct Position {
  uint32_t line = 1, column = 1;  // from 1; columns in code points
};

struct Token {
  enum class Type {
    Text,
    BlockBegin,
    BlockEnd,
    OutputBegin,
    OutputEnd,
    Name,
    String,
    Integer,
    Float,
    Operator,
    End
  };
  Type type = Type::End;
  std::string text;  // of a string: what it means, escapes resolved
  Position at;

  bool is(Type other) const { return type == other; }
  bool is_name(std::string_view name) const { return type == Type::Name && text == name; }
  bool is_operator(std::string_view name) const { return type == Type::Operator && text == name; }
};

// `source` is UTF-8. The last token is End.
Result<std::vector<Token>> tokenize(std::string_view source);

// "line 3, column 14: message"
std::unexpected<Error> at_position(Position at, Error error);
// As a message names it: "'%}'", "the end of the template".
std::string describe(const Token& token);

}  // namespace plumb::jinja
