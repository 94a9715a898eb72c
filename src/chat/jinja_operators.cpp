// SPDX-License-Identifier: Apache-2.0
// Operators, attributes and indices, with the meaning that Python gives them.
#include <fmt/format.h>
#include <string.h>  // memmem

#include <algorithm>
#include <cmath>

#include "chat/code_points.h"
#include "chat/jinja_interpreter.h"

namespace plumb::jinja {
namespace {

// An integer up to here is a double exactly.
constexpr int64_t kExactInDouble = int64_t{1} << 53;

std::unexpected<Error> too_large() { return unsupported("an integer of more than 64 bits"); }
std::unexpected<Error> by_zero() { return template_error("ZeroDivisionError: division by zero"); }

std::unexpected<Error> wrong_types(std::string_view symbol, const Value& left, const Value& right) {
  if (left.is(Kind::Undefined)) return template_error(left.why_undefined());
  if (right.is(Kind::Undefined)) return template_error(right.why_undefined());
  return template_error(fmt::format("TypeError: unsupported operand types for {}: '{}' and '{}'",
                                    symbol, type_name(left), type_name(right)));
}

// Python rounds the quotient down, and the rest has the sign of the divisor.
int64_t floor_quotient(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}
double floor_rest(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}
double floor_quotient(double a, double b) {
  const double quotient = (a - floor_rest(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

Result<Value> power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return by_zero();
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  int64_t result = 1;
  for (; exponent > 0; --exponent)  // at most 63 turns before the overflow
    if (__builtin_mul_overflow(result, base, &result)) return too_large();
  return Value::integer(result);
}

Result<Value> integer_arithmetic(std::string_view symbol, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (symbol == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (symbol == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (symbol == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (symbol == "**") {
    return power(a, b);
  } else {
    if (b == 0) return by_zero();
    if (symbol == "/") {
      if (std::max(a, b) > kExactInDouble || std::min(a, b) < -kExactInDouble)
        return unsupported("the quotient of integers beyond 2^53");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    }
    if (b == -1)  // the one quotient that overflows is with this divisor
      return symbol == "%" ? Result<Value>(Value::integer(0)) : integer_arithmetic("-", 0, a);
    result = symbol == "//" ? floor_quotient(a, b) : a - floor_quotient(a, b) * b;
  }
  if (overflow) return too_large();
  return Value::integer(result);
}

Result<Value> real_arithmetic(std::string_view symbol, double a, double b) {
  if (symbol == "+") return Value::real(a + b);
  if (symbol == "-") return Value::real(a - b);
  if (symbol == "*") return Value::real(a * b);
  if (symbol == "**") {
    if (a == 0 && b < 0) return by_zero();
    if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b))
      return unsupported("a complex number");
    const double result = std::pow(a, b);
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
      return template_error("OverflowError: the power is too large");
    return Value::real(result);
  }
  if (b == 0) return by_zero();
  if (symbol == "/") return Value::real(a / b);
  return Value::real(symbol == "//" ? floor_quotient(a, b) : floor_rest(a, b));
}

// A text or a sequence several times over.
Result<Value> repeated(Budget& budget, const Value& value, int64_t times) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(times, 0));
  if (value.is(Kind::String)) {
    const auto& text = value.text();
    if (!text.empty() && count > kMaxTextBytes / text.size()) TRY(budget.text(UINT64_MAX));
    std::string out;
    if (!text.empty())
      for (uint64_t i = 0; i < count; ++i) out += text;
    return budget.string(std::move(out), value.is_markup());
  }
  const auto& items = value.items();
  std::vector<Value> out;
  if (!items.empty()) {
    if (count > kMaxWeight / items.size()) TRY(budget.memory(kMaxMadeBytes + 1));
    TRY(budget.memory(count * items.size() * sizeof(Value)));
    for (uint64_t i = 0; i < count; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return budget.sequence(value.kind(), std::move(out));
}

// Where either side is marked safe, the other one is escaped.
Result<Value> joined(Budget& budget, const Value& left, const Value& right) {
  const bool markup = left.is_markup() || right.is_markup();
  std::string text = markup && !left.is_markup() ? escape_html(left.text()) : left.text();
  text += markup && !right.is_markup() ? escape_html(right.text()) : right.text();
  return budget.string(std::move(text), markup);
}

bool is_list_or_tuple(const Value& value) { return value.is(Kind::List) || value.is(Kind::Tuple); }

std::string object_name(const Value& value) {
  return value.is(Kind::None) ? "None" : fmt::format("{} object", type_name(value));
}

Value no_attribute(const Value& value, std::string_view name) {
  return Value::undefined(
      fmt::format("UndefinedError: '{}' has no attribute '{}'", object_name(value), name));
}

Result<Value> loop_attribute(const Value& value, const std::string& name) {
  const Loop& loop = value.loop();
  const auto& items = loop.items.items();
  const size_t i = loop.index0, count = items.size();
  const auto number = [](size_t n) { return Value::integer(static_cast<int64_t>(n)); };
  if (name == "index") return number(i + 1);
  if (name == "index0") return number(i);
  if (name == "revindex") return number(count - i);
  if (name == "revindex0") return number(count - i - 1);
  if (name == "first") return Value::boolean(i == 0);
  if (name == "last") return Value::boolean(i + 1 == count);
  if (name == "length") return number(count);
  if (name == "depth") return number(loop.depth0 + 1);
  if (name == "depth0") return number(loop.depth0);
  if (name == "previtem")
    return i > 0 ? items[i - 1] : Value::undefined("UndefinedError: there is no previous item");
  if (name == "nextitem")
    return i + 1 < count ? items[i + 1] : Value::undefined("UndefinedError: there is no next item");
  if (name == "cycle") {
    Callable cycle{.type = Callable::Type::Cycle, .name = name, .self = {}};
    cycle.index0 = i;
    return Value::of(std::move(cycle));
  }
  if (name == "changed") return unsupported("loop.changed");
  return no_attribute(value, name);
}

// What a value has beside the entries of a dict: its methods and fields.
Result<Value> own_attribute(const Value& value, const std::string& name) {
  if (name.starts_with("__")) return unsupported(fmt::format("the attribute '{}'", name));
  if (value.is(Kind::Loop)) return loop_attribute(value, name);
  if (value.is(Kind::Namespace)) {
    const auto found = value.space()->attributes.find(name);
    return found == value.space()->attributes.end() ? no_attribute(value, name) : found->second;
  }
  if (value.is(Kind::View) || value.is(Kind::Generator) || value.is(Kind::Callable) ||
      value.is(Kind::Range) || value.is_markup())
    return unsupported(fmt::format("the attribute '{}' of a {}", name, type_name(value)));
  if (changes_its_object(value, name))
    return Value::undefined(
        fmt::format("SecurityError: '{}' would change a {}", name, type_name(value)));
  if (has_attribute(value, name))
    return Value::of(Callable{.type = Callable::Type::Method, .name = name, .self = value});
  return no_attribute(value, name);
}

// Start, stop and step as Python's slice.indices gives them for `length` items.
struct Bounds {
  int64_t start, stop, step;
};
int64_t clamped(const Value& bound, int64_t otherwise, int64_t length, bool down) {
  if (bound.is(Kind::None)) return otherwise;
  const int64_t low = down ? -1 : 0, high = down ? length - 1 : length;
  int64_t at = bound.as_integer();
  if (at < 0) at = at < -length ? low : at + length;
  return std::clamp(at, low, std::max(low, high));
}
Bounds bounds_of(const Value& start, const Value& stop, int64_t step, int64_t length) {
  const bool down = step < 0;
  return {clamped(start, down ? length - 1 : 0, length, down),
          clamped(stop, down ? -1 : length, length, down), step};
}

template <class Visit>
void for_slice(const Bounds& bounds, Visit visit) {
  for (int64_t i = bounds.start; bounds.step > 0 ? i < bounds.stop : i > bounds.stop;) {
    visit(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, bounds.step, &i)) break;
  }
}

}  // namespace

Result<Value> Interpreter::binary(std::string_view symbol, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_integral() && right.is_integral())
      return integer_arithmetic(symbol, left.as_integer(), right.as_integer());
    return real_arithmetic(symbol, left.as_real(), right.as_real());
  }
  if (symbol == "+" && left.is(Kind::String) && right.is(Kind::String))
    return joined(budget_, left, right);
  if (symbol == "+" && is_list_or_tuple(left) && left.kind() == right.kind()) {
    auto items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    return budget_.sequence(left.kind(), std::move(items));
  }
  if (symbol == "*") {
    const bool forward = left.is(Kind::String) || is_list_or_tuple(left);
    const Value &value = forward ? left : right, &times = forward ? right : left;
    if ((value.is(Kind::String) || is_list_or_tuple(value)) && times.is_integral())
      return repeated(budget_, value, times.as_integer());
  }
  if (symbol == "%" && left.is(Kind::String)) return printf_format(*this, left, right);
  return wrong_types(symbol, left, right);
}

Result<bool> Interpreter::equals(const Value& a, const Value& b) {
  if (a.kind() == b.kind()) TRY(budget_.walk(a.weight() < b.weight() ? a : b));
  return equal(a, b);
}

Result<bool> Interpreter::compare(std::string_view symbol, const Value& left, const Value& right) {
  if (symbol == "==" || symbol == "!=") {
    TRY_ASSIGN(const bool same, equals(left, right));
    return same == (symbol == "==");
  }
  if (symbol == "in" || symbol == "not in") {
    TRY_ASSIGN(const bool found, contains(right, left));
    return found == (symbol == "in");
  }
  TRY(budget_.walk(left));
  TRY_ASSIGN(const int sign, order(left, right));
  if (left.is_number() && (std::isnan(left.as_real()) || std::isnan(right.as_real()))) return false;
  if (symbol == "<") return sign < 0;
  if (symbol == "<=") return sign <= 0;
  if (symbol == ">") return sign > 0;
  return sign >= 0;
}

Result<bool> Interpreter::contains(const Value& container, const Value& value) {
  if (container.is(Kind::String)) {
    if (!value.is(Kind::String))
      return template_error(fmt::format(
          "TypeError: 'in <string>' requires a string on the left, not '{}'", type_name(value)));
    TRY(budget_.work(container.text().size() / 16));
    // memmem takes linear time for any two texts.
    const auto &in = container.text(), &what = value.text();
    return what.empty() || memmem(in.data(), in.size(), what.data(), what.size()) != nullptr;
  }
  if (container.is(Kind::Dict)) {
    TRY(budget_.walk(value));
    if (!key_of(value))
      return template_error(fmt::format("TypeError: unhashable type: '{}'", type_name(value)));
    return container.dict().find(value) != nullptr;
  }
  if (container.is(Kind::Namespace))
    return template_error("TypeError: a namespace cannot be searched");
  TRY_ASSIGN(const auto items, iterate(container));
  for (const auto& item : items) {
    TRY(budget_.work(1));
    TRY_ASSIGN(const bool same, equals(item, value));
    if (same) return true;
  }
  return false;
}

Result<std::vector<Value>> Interpreter::iterate(const Value& value) {
  TRY(budget_.work(value.is(Kind::String) ? value.text().size() / 8 : 0));
  if (value.is_sequence()) {
    TRY(budget_.memory(value.items().size() * sizeof(Value)));
    if (!value.is(Kind::Generator)) return value.items();
    if (std::exchange(value.sequence().consumed, true)) return std::vector<Value>();
    return value.items();
  }
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::Undefined: return items;
    case Kind::String:
      TRY(budget_.memory(value.text().size() * (sizeof(Value) + 48)));
      for (const auto one : split_code_points(value.text()))
        items.push_back(Value::string(std::string(one)));
      return items;
    case Kind::Dict:
      TRY(budget_.memory(value.dict().entries.size() * sizeof(Value)));
      for (const auto& entry : value.dict().entries) items.push_back(entry.first);
      return items;
    case Kind::Loop: return unsupported("going through 'loop' by hand");
    default:
      return template_error(
          fmt::format("TypeError: '{}' object is not iterable", type_name(value)));
  }
}

// value.name: a method first, then the entry of a dict.
Result<Value> Interpreter::attribute(const Value& value, const std::string& name) {
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  if (value.is(Kind::Dict) && !has_attribute(value, name) && !name.starts_with("__")) {
    const auto* found = value.dict().find(name);
    return found == nullptr ? no_attribute(value, name) : *found;
  }
  return own_attribute(value, name);
}

// value[key]: an entry first, then, for a string, the attribute.
Result<Value> Interpreter::item(const Value& value, const Value& key) {
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  const bool indexed = value.is(Kind::String) || is_list_or_tuple(value) || value.is(Kind::Range);
  if (indexed && key.is_integral()) {
    TRY(budget_.work(value.is(Kind::String) ? value.text().size() / 256 : 0));
    const auto count = static_cast<int64_t>(value.is(Kind::String) ? code_point_count(value.text())
                                                                   : value.items().size());
    const int64_t at = key.as_integer() < 0 ? key.as_integer() + count : key.as_integer();
    if (at < 0 || at >= count)
      return Value::undefined(fmt::format("UndefinedError: {} has no element {}",
                                          object_name(value), key.as_integer()));
    if (!value.is(Kind::String)) return value.items()[static_cast<size_t>(at)];
    const auto rest =
        std::string_view(value.text()).substr(byte_offset(value.text(), static_cast<size_t>(at)));
    return budget_.string(std::string(rest.substr(0, byte_offset(rest, 1))), value.is_markup());
  }
  if (value.is(Kind::Dict)) {
    TRY(budget_.walk(key));
    if (const auto* found = value.dict().find(key)) return *found;
  }
  if (key.is(Kind::String)) return own_attribute(value, key.text());
  return Value::undefined(
      fmt::format("UndefinedError: {} has no such element", object_name(value)));
}

Result<Value> Interpreter::slice(const Value& value, const Value& start, const Value& stop,
                                 const Value& step) {
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  const bool text = value.is(Kind::String);
  if (!text && !is_list_or_tuple(value) && !value.is(Kind::Range))
    return template_error(fmt::format("TypeError: a slice of a {}", type_name(value)));
  for (const auto* bound : {&start, &stop, &step})
    if (!bound->is(Kind::None) && !bound->is_integral())
      return template_error("TypeError: slice indices must be integers or None");
  const int64_t stride = step.is(Kind::None) ? 1 : step.as_integer();
  if (stride == 0) return template_error("ValueError: slice step cannot be zero");
  if (!text) {
    std::vector<Value> items;
    const auto& all = value.items();
    for_slice(bounds_of(start, stop, stride, static_cast<int64_t>(all.size())),
              [&](size_t i) { items.push_back(all[i]); });
    return budget_.sequence(value.kind(), std::move(items));
  }
  const auto& all = value.text();
  TRY(budget_.work(all.size() / 64));
  const auto bounds = bounds_of(start, stop, stride, static_cast<int64_t>(code_point_count(all)));
  if (stride == 1) {
    if (bounds.start >= bounds.stop) return budget_.string("", value.is_markup());
    const auto rest =
        std::string_view(all).substr(byte_offset(all, static_cast<size_t>(bounds.start)));
    const auto length = static_cast<size_t>(bounds.stop - bounds.start);
    return budget_.string(std::string(rest.substr(0, byte_offset(rest, length))),
                          value.is_markup());
  }
  TRY(budget_.memory(all.size() * sizeof(std::string_view)));
  const auto points = split_code_points(all);
  std::string out;
  for_slice(bounds, [&](size_t i) { out += points[i]; });
  return budget_.string(std::move(out), value.is_markup());
}

}  // namespace plumb::jinja
