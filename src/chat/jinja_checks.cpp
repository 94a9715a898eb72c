// SPDX-License-Identifier: Apache-2.0
// The tests of Jinja2: what stands behind `is`.
#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja_interpreter.h"
#include "chat/jinja_parser.h"

namespace plumb::jinja {
namespace {

struct Comparison {
  std::string_view name, symbol;
};
constexpr Comparison kComparisons[] = {
    {"eq", "=="}, {"equalto", "=="}, {"==", "=="},         {"ne", "!="},
    {"!=", "!="}, {"gt", ">"},       {"greaterthan", ">"}, {">", ">"},
    {"ge", ">="}, {">=", ">="},      {"lt", "<"},          {"lessthan", "<"},
    {"<", "<"},   {"le", "<="},      {"<=", "<="},         {"in", "in"},
};

bool is_iterable(const Value& value) {
  return value.is_sequence() || value.is(Kind::Undefined) || value.is(Kind::String) ||
         value.is(Kind::Dict) || value.is(Kind::Loop);
}
bool is_indexable(const Value& value) {
  return value.is(Kind::List) || value.is(Kind::Tuple) || value.is(Kind::Range) ||
         value.is(Kind::Undefined) || value.is(Kind::String) || value.is(Kind::Dict);
}

// nullopt: no test without an argument has this name.
std::optional<bool> simple_test(std::string_view name, const Value& value) {
  const Kind kind = value.kind();
  if (name == "defined") return kind != Kind::Undefined;
  if (name == "undefined") return kind == Kind::Undefined;
  if (name == "none") return kind == Kind::None;
  if (name == "string") return kind == Kind::String;
  if (name == "mapping") return kind == Kind::Dict;
  if (name == "boolean") return kind == Kind::Bool;
  if (name == "true") return kind == Kind::Bool && value.as_bool();
  if (name == "false") return kind == Kind::Bool && !value.as_bool();
  if (name == "integer") return kind == Kind::Int;
  if (name == "float") return kind == Kind::Float;
  if (name == "number") return value.is_number();
  if (name == "iterable") return is_iterable(value);
  if (name == "sequence") return is_indexable(value);
  if (name == "callable") return kind == Kind::Callable || kind == Kind::Undefined;
  if (name == "escaped") return value.is_markup();
  if (name == "filter") return kind == Kind::String && is_jinja_filter(value.text());
  if (name == "test") return kind == Kind::String && is_jinja_test(value.text());
  return std::nullopt;
}

Result<bool> case_test(Budget& budget, const Value& value, bool upper) {
  TRY_ASSIGN(const auto text, budget.print(value));
  bool cased = false;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) return unsupported("the case of letters beyond ASCII");
    if (upper ? c >= 'a' && c <= 'z' : c >= 'A' && c <= 'Z') return false;
    cased |= upper ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z';
  }
  return cased;
}

Result<bool> same_object(const Value& a, const Value& b) {
  const auto single = [](const Value& value) {
    return value.is(Kind::None) || value.is(Kind::Bool);
  };
  if (single(a) || single(b)) return a.kind() == b.kind() && a.as_integer() == b.as_integer();
  if (a.kind() != b.kind()) return false;
  return unsupported(fmt::format("the test 'sameas' of a {}", type_name(a)));
}

Result<bool> divides(Interpreter& run, const Value& value, const Value& divisor, int64_t rest) {
  if (value.is(Kind::String)) return unsupported("the remainder of a text in a test");
  TRY_ASSIGN(const auto remainder, run.binary("%", value, divisor));
  return equal(remainder, Value::integer(rest));
}

}  // namespace

Result<bool> Interpreter::test(std::string_view name, const Value& value,
                               const Arguments& arguments) {
  if (!is_jinja_test(name))
    return template_error(fmt::format("TemplateRuntimeError: no test named '{}'", name));
  if (const auto result = simple_test(name, value)) {
    TRY(bind(arguments, {}));
    return *result;
  }
  if (name == "upper" || name == "lower") {
    TRY(bind(arguments, {}));
    return case_test(budget_, value, name == "upper");
  }
  if (name == "even" || name == "odd") {
    TRY(bind(arguments, {}));
    return divides(*this, value, Value::integer(2), name == "odd" ? 1 : 0);
  }
  TRY_ASSIGN(const auto values, bind(arguments, {"other"}, 1));
  if (name == "divisibleby") return divides(*this, value, *values[0], 0);
  if (name == "sameas") return same_object(value, *values[0]);
  const auto* found = std::find_if(std::begin(kComparisons), std::end(kComparisons),
                                   [&](const Comparison& row) { return row.name == name; });
  if (found == std::end(kComparisons)) return unsupported(fmt::format("the test '{}'", name));
  return compare(found->symbol, value, *values[0]);
}

}  // namespace plumb::jinja
