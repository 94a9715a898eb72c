// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>

#include "chat/jinja_ast.h"
#include "core/result.h"

namespace plumb::jinja {

constexpr size_t kMaxTemplateBytes = 1 << 20;  // the longest known one has 40 KB
constexpr uint32_t kMaxNesting = 200;          // of blocks and of brackets, which count three each
constexpr uint32_t kMaxTreeDepth = 256;        // of an expression; a chain of 100 additions is one

// A name that a scope sets behind an inner scope that reads it. For a name that the caller gives,
// Jinja2 makes the inner scope see nothing, because names are resolved when it compiles; walking up
// the scopes would find the caller's value.
struct LateName {
  std::string name;
  Position at;
};

struct ParsedTemplate {
  Body body;
  std::vector<LateName> late_names;
};

// The whole template, or what stands in its way, with line and column.
Result<ParsedTemplate> parse_template(std::string_view source);

bool is_jinja_filter(std::string_view name);
bool is_jinja_test(std::string_view name);

}  // namespace plumb::jinja
