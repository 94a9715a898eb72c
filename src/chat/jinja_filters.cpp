// SPDX-License-Identifier: Apache-2.0
// The filters of Jinja2. What a filter of Jinja2 computes lazily is computed at once here, so an
// error in an item that nobody asks for is an error.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "chat/code_points.h"
#include "chat/jinja_interpreter.h"
#include "chat/jinja_parser.h"

namespace plumb::jinja {
namespace {

// What a filter is given: the interpreter, the value in front of the '|' and the arguments.
struct Call {
  Interpreter& run;
  const Value& value;
  const Arguments& arguments;

  Budget& budget() const { return run.budget(); }
  Result<std::vector<std::optional<Value>>> bind(std::initializer_list<std::string_view> names,
                                                 size_t required = 0) const {
    return jinja::bind(arguments, names, required);
  }
};
using Filter = Result<Value> (*)(const Call&);

bool flag(const std::optional<Value>& value) { return value && truth(*value); }

Result<Value> method(const Call& call, const std::string& name) {
  TRY_ASSIGN(const auto text, call.budget().print(call.value));
  TRY_ASSIGN(const auto result, call_method(call.run, Value::string(text), name, call.arguments));
  if (!call.value.is_markup()) return result;
  return call.budget().string(result.text(), true);
}

// --- texts ---

Result<Value> trim(const Call& call) { return method(call, "strip"); }
Result<Value> upper(const Call& call) { return method(call, "upper"); }
Result<Value> lower(const Call& call) { return method(call, "lower"); }
Result<Value> capitalize(const Call& call) { return method(call, "capitalize"); }

// Words begin behind white space and after - ( { [ <.
Result<Value> title(const Call& call) {
  TRY(call.bind({}));
  TRY_ASSIGN(const auto text, call.budget().print(call.value));
  std::string out, word;
  const auto end_word = [&]() -> Result<void> {
    if (word.empty()) return {};
    size_t at = 0;
    next_code_point(word, at);
    const auto rest = to_lower(std::string_view(word).substr(at));
    if (!rest) return unsupported("the lower case of a capital sigma");
    out += to_upper(std::string_view(word).substr(0, at));
    out += *rest;
    word.clear();
    return {};
  };
  for (const auto one : split_code_points(text)) {
    size_t at = 0;
    const char32_t c = next_code_point(one, at);
    if (c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c)) {
      TRY(end_word());
      out += one;
    } else {
      word += one;
    }
  }
  TRY(end_word());
  return call.budget().string(std::move(out));
}

Result<Value> string(const Call& call) {
  TRY(call.bind({}));
  if (call.value.is(Kind::String)) return call.value;
  TRY_ASSIGN(auto text, call.budget().print(call.value));
  return call.budget().string(std::move(text));
}

Result<Value> safe(const Call& call) {
  TRY(call.bind({}));
  TRY_ASSIGN(auto text, call.budget().print(call.value));
  return call.budget().string(std::move(text), true);
}

Result<Value> escape(const Call& call) {
  TRY(call.bind({}));
  if (call.value.is_markup()) return call.value;
  TRY_ASSIGN(const auto text, call.budget().print(call.value));
  return call.budget().string(escape_html(text), true);
}

Result<Value> replace(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"old", "new", "count"}, 2));
  Arguments texts;
  for (size_t i = 0; i < 2; ++i) {
    TRY_ASSIGN(auto text, call.budget().print(*given[i]));
    texts.positional.push_back(Value::string(std::move(text)));
  }
  if (given[2] && !given[2]->is(Kind::None)) texts.positional.push_back(*given[2]);
  TRY_ASSIGN(auto text, call.budget().print(call.value));
  return call_method(call.run, Value::string(std::move(text)), "replace", texts);
}

Result<Value> format(const Call& call) {
  if (!call.arguments.named.empty() && !call.arguments.positional.empty())
    return template_error(
        "FilterArgumentError: can't handle positional and keyword arguments at the same time");
  TRY_ASSIGN(auto text, call.budget().print(call.value));
  Value values;
  if (call.arguments.named.empty()) {
    TRY_ASSIGN(values, call.budget().sequence(Kind::Tuple, call.arguments.positional));
  } else {
    Dict dict;
    for (const auto& [name, value] : call.arguments.named) dict.set(Value::string(name), value);
    TRY_ASSIGN(values, call.budget().dict(std::move(dict)));
  }
  return printf_format(call.run, Value::string(std::move(text), call.value.is_markup()), values);
}

Result<Value> indent(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"width", "first", "blank"}));
  if (!call.value.is(Kind::String)) {
    if (call.value.is(Kind::Undefined)) return template_error(call.value.why_undefined());
    return template_error(fmt::format("TypeError: indent of a {}", type_name(call.value)));
  }
  if (call.value.is_markup()) return unsupported("indent of a string marked safe");
  std::string indention(4, ' ');
  if (given[0] && given[0]->is(Kind::String)) {
    indention = given[0]->text();
  } else if (given[0]) {
    TRY_ASSIGN(const auto width, as_index(*given[0]));
    if (width > 1000) return unsupported("an indent of more than 1000");
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const auto whole = call.value.text() + '\n';
  const auto lines = split_lines(whole);
  std::string out = flag(given[1]) ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (flag(given[2]) || !lines[i].empty())) out += indention;
    out += lines[i];
    if (out.size() > kMaxTextBytes) TRY(call.budget().text(UINT64_MAX));
  }
  return call.budget().string(std::move(out));
}

// --- numbers ---

// What Python's int() and float() read; nullopt for what is no number.
Result<std::optional<int64_t>> integer_in(std::string_view text) {
  text = strip(text, Side::Both);
  const bool plus = text.starts_with('+');
  std::string digits(plus ? text.substr(1) : text);
  if (std::any_of(digits.begin(), digits.end(),
                  [](char c) { return static_cast<uint8_t>(c) >= 0x80 || c == '_'; }))
    return unsupported("a number with '_' or digits beyond ASCII");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::result_out_of_range)
    return unsupported("an integer of more than 64 bits");
  if (error != std::errc() || end != digits.data() + digits.size() ||
      (plus && digits.starts_with('-')))
    return std::optional<int64_t>();
  return std::optional(value);
}

Result<std::optional<double>> real_in(std::string_view text) {
  text = strip(text, Side::Both);
  const bool plus = text.starts_with('+');
  const std::string digits(plus ? text.substr(1) : text);
  if (std::any_of(digits.begin(), digits.end(),
                  [](char c) { return static_cast<uint8_t>(c) >= 0x80 || c == '_'; }))
    return unsupported("a number with '_' or digits beyond ASCII");
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc::result_out_of_range)
    return unsupported("a number beyond the range of double");
  if (error != std::errc() || end != digits.data() + digits.size() ||
      digits.find('(') != std::string::npos || (plus && digits.starts_with('-')))
    return std::optional<double>();
  return std::optional(value);
}

Result<Value> to_integer(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"default", "base"}));
  if (given[1] && !equal(*given[1], Value::integer(10)))
    return unsupported("int with another base than 10");
  const Value otherwise = given[0].value_or(Value::integer(0));
  const Value& value = call.value;
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  if (value.is_integral()) return Value::integer(value.as_integer());
  std::optional<double> real;
  if (value.is(Kind::Float)) {
    real = value.as_real();
    if (std::isinf(*real)) return template_error("OverflowError: infinity as an integer");
  } else if (value.is(Kind::String)) {
    TRY_ASSIGN(const auto number, integer_in(value.text()));
    if (number) return Value::integer(*number);
    TRY_ASSIGN(real, real_in(value.text()));
  }
  if (!real || !std::isfinite(*real)) return otherwise;
  if (std::fabs(*real) >= 9e18) return unsupported("an integer of more than 64 bits");
  return Value::integer(static_cast<int64_t>(*real));
}

Result<Value> to_float(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"default"}));
  if (call.value.is(Kind::Undefined)) return template_error(call.value.why_undefined());
  if (call.value.is_number()) return Value::real(call.value.as_real());
  if (call.value.is(Kind::String)) {
    TRY_ASSIGN(const auto number, real_in(call.value.text()));
    if (number) return Value::real(*number);
  }
  return given[0].value_or(Value::real(0));
}

Result<Value> absolute(const Call& call) {
  TRY(call.bind({}));
  if (call.value.is(Kind::Undefined)) return template_error(call.value.why_undefined());
  if (!call.value.is_number())
    return template_error(fmt::format("TypeError: abs of a {}", type_name(call.value)));
  if (call.value.is(Kind::Float)) return Value::real(std::fabs(call.value.as_real()));
  if (call.value.as_integer() == INT64_MIN) return unsupported("an integer of more than 64 bits");
  return Value::integer(std::abs(call.value.as_integer()));
}

Result<Value> round(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"precision", "method"}));
  int64_t precision = 0;
  if (given[0]) {
    TRY_ASSIGN(precision, as_index(*given[0]));
  }
  const std::string how = given[1] ? given[1]->is(Kind::String) ? given[1]->text() : "?" : "common";
  if (how != "common" && how != "ceil" && how != "floor")
    return template_error("FilterArgumentError: method must be common, ceil or floor");
  if (call.value.is(Kind::Undefined)) return template_error(call.value.why_undefined());
  if (!call.value.is_number())
    return template_error(fmt::format("TypeError: round of a {}", type_name(call.value)));
  if (precision < 0 || precision > 15)
    return unsupported("round with a precision below 0 or above 15");
  const double real = call.value.as_real();
  if (how != "common") {
    if (!std::isfinite(real) || std::fabs(real) > 1e15)
      return unsupported("round of a number this large");
    const double scale = std::pow(10.0, static_cast<double>(precision));
    return Value::real((how == "ceil" ? std::ceil(real * scale) : std::floor(real * scale)) /
                       scale);
  }
  if (call.value.is_integral()) return Value::integer(call.value.as_integer());
  if (!std::isfinite(real) || std::fabs(real) > 1e22) return Value::real(real);
  // Both round the exact binary value, ties to even.
  const auto text = fmt::format("{:.{}f}", real, precision);
  double rounded = 0;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return Value::real(rounded);
}

// --- values ---

Result<Value> otherwise(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"default_value", "boolean"}));
  const bool replace = call.value.is(Kind::Undefined) || (flag(given[1]) && !truth(call.value));
  return replace ? given[0].value_or(Value::string("")) : call.value;
}

Result<Value> length(const Call& call) {
  TRY(call.bind({}));
  const Value& value = call.value;
  size_t count = 0;
  if (value.is(Kind::String)) {
    TRY(call.budget().work(value.text().size() / 256));
    count = code_point_count(value.text());
  } else if (value.is_sequence() && !value.is(Kind::Generator)) {
    count = value.items().size();
  } else if (value.is(Kind::Dict)) {
    count = value.dict().entries.size();
  } else if (value.is(Kind::Loop)) {
    count = value.loop().items.items().size();
  } else if (!value.is(Kind::Undefined)) {
    return template_error(
        fmt::format("TypeError: object of type '{}' has no len()", type_name(value)));
  }
  return Value::integer(static_cast<int64_t>(count));
}

Result<Value> list(const Call& call) {
  TRY(call.bind({}));
  TRY_ASSIGN(auto items, call.run.iterate(call.value));
  return call.budget().list(std::move(items));
}

Result<Value> first(const Call& call) {
  TRY(call.bind({}));
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  if (items.empty()) return Value::undefined("UndefinedError: No first item, sequence was empty.");
  return items.front();
}

Result<Value> last(const Call& call) {
  TRY(call.bind({}));
  if (call.value.is(Kind::Generator))
    return template_error("TypeError: 'generator' object is not reversible");
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  if (items.empty()) return Value::undefined("UndefinedError: No last item, sequence was empty.");
  return items.back();
}

Result<Value> reverse(const Call& call) {
  TRY(call.bind({}));
  TRY_ASSIGN(auto items, call.run.iterate(call.value));
  std::reverse(items.begin(), items.end());
  if (call.value.is(Kind::Undefined)) return unsupported("reverse of an undefined value");
  if (!call.value.is(Kind::String))
    return call.budget().sequence(call.value.is(Kind::Generator) ? Kind::List : Kind::Generator,
                                  std::move(items));
  std::string out;
  for (const auto& item : items) out += item.text();
  return call.budget().string(std::move(out), call.value.is_markup());
}

Result<Value> items(const Call& call) {
  TRY(call.bind({}));
  if (call.value.is(Kind::Undefined)) return call.budget().sequence(Kind::Generator, {});
  if (!call.value.is(Kind::Dict))
    return template_error("TypeError: Can only get item pairs from a mapping.");
  TRY_ASSIGN(const auto view, call_method(call.run, call.value, "items", {}));
  return call.budget().sequence(Kind::Generator, view.items());
}

// "a.b.0" as Jinja2 looks it up in each item.
Result<Value> path(Interpreter& run, Value value, const Value& attribute) {
  if (attribute.is(Kind::None)) return value;
  if (attribute.is_integral()) return run.item(value, attribute);
  if (!attribute.is(Kind::String)) return unsupported("an attribute that is no string");
  std::string_view rest = attribute.text();
  while (true) {
    const auto part = rest.substr(0, rest.find('.'));
    const bool number =
        !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    Value key = Value::string(std::string(part));
    if (number) {
      TRY_ASSIGN(const auto index, integer_in(part));
      key = Value::integer(*index);
    }
    TRY_ASSIGN(value, run.item(value, key));
    if (part.size() == rest.size()) return value;
    rest.remove_prefix(part.size() + 1);
  }
}

Result<Value> without_case(const Value& value) {
  if (!value.is(Kind::String)) return value;
  auto lowered = to_lower(value.text());
  if (!lowered) return unsupported("the lower case of a capital sigma");
  return Value::string(std::move(*lowered));
}

Result<Value> join(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"d", "attribute"}));
  std::string mark;
  if (given[0]) {
    TRY_ASSIGN(mark, call.budget().print(*given[0]));
  }
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    TRY_ASSIGN(const auto item, path(call.run, items[i], given[1].value_or(Value::none())));
    TRY_ASSIGN(const auto text, call.budget().print(item));
    if (i > 0) out += mark;
    out += text;
    if (out.size() > kMaxTextBytes) TRY(call.budget().text(UINT64_MAX));
  }
  return call.budget().string(std::move(out));
}

// --- order ---

// Merges from below; stable, and reversed without turning equal items around, as Python's sorted.
Result<std::vector<Value>> sorted(Interpreter& run, const std::vector<Value>& items,
                                  const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> from(items.size()), to(items.size());
  for (size_t i = 0; i < from.size(); ++i) from[i] = i;
  for (size_t width = 1; width < from.size(); width *= 2) {
    for (size_t low = 0; low < from.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, from.size()),
                   high = std::min(low + 2 * width, from.size());
      size_t a = low, b = middle;
      for (size_t i = low; i < high; ++i) {
        bool second = a == middle;
        if (!second && b < high) {
          const Value &left = keys[from[a]], &right = keys[from[b]];
          TRY(run.budget().work(1 + left.weight() / 64));
          TRY_ASSIGN(const int sign, order(left, right));
          second = reverse ? sign < 0 : sign > 0;
        }
        to[i] = from[second ? b++ : a++];
      }
    }
    std::swap(from, to);
  }
  std::vector<Value> out;
  for (const size_t i : from) out.push_back(items[i]);
  return out;
}

Result<Value> sort(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"reverse", "case_sensitive", "attribute"}));
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  const Value attribute = given[2].value_or(Value::none());
  if (attribute.is(Kind::String) && attribute.text().find(',') != std::string::npos)
    return unsupported("sort by several attributes");
  std::vector<Value> keys;
  for (const auto& item : items) {
    TRY_ASSIGN(auto key, path(call.run, item, attribute));
    if (!flag(given[1])) {
      TRY_ASSIGN(key, without_case(key));
    }
    keys.push_back(std::move(key));
  }
  TRY_ASSIGN(auto out, sorted(call.run, items, keys, flag(given[0])));
  return call.budget().list(std::move(out));
}

Result<Value> sort_dict(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"case_sensitive", "by", "reverse"}));
  const Value by = given[1].value_or(Value::string("key"));
  const bool by_key = equal(by, Value::string("key"));
  if (!by_key && !equal(by, Value::string("value")))
    return template_error("FilterArgumentError: You can only sort by either 'key' or 'value'");
  if (call.value.is(Kind::Undefined)) return template_error(call.value.why_undefined());
  if (!call.value.is(Kind::Dict))
    return template_error(
        fmt::format("AttributeError: '{}' object has no attribute 'items'", type_name(call.value)));
  TRY_ASSIGN(const auto view, call_method(call.run, call.value, "items", {}));
  std::vector<Value> keys;
  for (const auto& pair : view.items()) {
    Value key = pair.items()[by_key ? 0 : 1];
    if (!flag(given[0])) {
      TRY_ASSIGN(key, without_case(key));
    }
    keys.push_back(std::move(key));
  }
  TRY_ASSIGN(auto out, sorted(call.run, view.items(), keys, flag(given[2])));
  return call.budget().list(std::move(out));
}

Result<Value> extreme(const Call& call, int wanted) {
  TRY_ASSIGN(const auto given, call.bind({"case_sensitive", "attribute"}));
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  if (items.empty())
    return Value::undefined("UndefinedError: No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    TRY_ASSIGN(auto key, path(call.run, items[i], given[1].value_or(Value::none())));
    if (!flag(given[0])) {
      TRY_ASSIGN(key, without_case(key));
    }
    if (i > 0) {
      TRY(call.budget().work(1 + key.weight() / 64));
      TRY_ASSIGN(const int sign, order(key, best_key));
      if (sign != wanted) continue;
    }
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}
Result<Value> minimum(const Call& call) { return extreme(call, -1); }
Result<Value> maximum(const Call& call) { return extreme(call, 1); }

Result<Value> sum(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"attribute", "start"}));
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  Value total = given[1].value_or(Value::integer(0));
  if (total.is(Kind::String)) return template_error("TypeError: sum() can't sum strings");
  for (const auto& item : items) {
    TRY(call.budget().work(1));
    TRY_ASSIGN(const auto part, path(call.run, item, given[0].value_or(Value::none())));
    TRY_ASSIGN(total, call.run.binary("+", total, part));
  }
  return total;
}

Result<Value> unique(const Call& call) {
  TRY_ASSIGN(const auto given, call.bind({"case_sensitive", "attribute"}));
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  Dict seen;
  std::vector<Value> out;
  for (const auto& item : items) {
    TRY_ASSIGN(auto key, path(call.run, item, given[1].value_or(Value::none())));
    if (!flag(given[0])) {
      TRY_ASSIGN(key, without_case(key));
    }
    TRY(call.budget().walk(key));
    TRY(call.budget().memory(key.weight()));
    if (seen.find(key) != nullptr) continue;
    if (!seen.set(key, Value::none()))
      return template_error(fmt::format("TypeError: unhashable type: '{}'", type_name(key)));
    out.push_back(item);
  }
  return call.budget().sequence(Kind::Generator, std::move(out));
}

// --- each item through a filter or a test ---

Result<Value> map(const Call& call) {
  if (!truth(call.value)) return call.budget().sequence(Kind::Generator, {});
  Arguments rest = call.arguments;
  std::string name;
  std::optional<Value> attribute, replacement;
  if (rest.positional.empty()) {
    TRY_ASSIGN(const auto given, call.bind({"attribute", "default"}));
    if (!given[0]) return template_error("FilterArgumentError: map requires a filter argument");
    attribute = given[0];
    replacement = given[1];
  } else {
    if (!rest.positional[0].is(Kind::String))
      return template_error("TypeError: map needs the name of a filter");
    name = rest.positional[0].text();
    rest.positional.erase(rest.positional.begin());
  }
  TRY_ASSIGN(auto items, call.run.iterate(call.value));
  for (auto& item : items) {
    TRY(call.budget().work(1));
    if (attribute) {
      TRY_ASSIGN(item, path(call.run, item, *attribute));
      if (item.is(Kind::Undefined) && replacement && !replacement->is(Kind::None))
        item = *replacement;
    } else {
      TRY_ASSIGN(item, call.run.filter(name, item, rest));
    }
  }
  return call.budget().sequence(Kind::Generator, std::move(items));
}

Result<Value> choose(const Call& call, bool keep, bool by_attribute) {
  if (!truth(call.value)) return call.budget().sequence(Kind::Generator, {});
  Arguments rest = call.arguments;
  const auto shift = [&]() {
    Value front = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return front;
  };
  Value attribute = Value::none();
  if (by_attribute) {
    if (rest.positional.empty())
      return template_error("FilterArgumentError: Missing parameter for attribute name");
    attribute = shift();
  }
  std::optional<Value> name;
  if (!rest.positional.empty()) name = shift();
  if (name && !name->is(Kind::String))
    return template_error("TypeError: select needs the name of a test");
  TRY_ASSIGN(const auto items, call.run.iterate(call.value));
  std::vector<Value> out;
  for (const auto& item : items) {
    TRY(call.budget().work(1));
    TRY_ASSIGN(const auto value, path(call.run, item, attribute));
    bool holds = truth(value);
    if (name) {
      TRY_ASSIGN(holds, call.run.test(name->text(), value, rest));
    }
    if (holds == keep) out.push_back(item);
  }
  return call.budget().sequence(Kind::Generator, std::move(out));
}
Result<Value> select(const Call& call) { return choose(call, true, false); }
Result<Value> reject(const Call& call) { return choose(call, false, false); }
Result<Value> select_attribute(const Call& call) { return choose(call, true, true); }
Result<Value> reject_attribute(const Call& call) { return choose(call, false, true); }

Result<Value> json(const Call& call) { return to_json(call.run, call.value, call.arguments); }

struct Row {
  std::string_view name;
  Filter filter;
};
constexpr Row kRows[] = {
    {"abs", absolute},      {"capitalize", capitalize},
    {"count", length},      {"d", otherwise},
    {"default", otherwise}, {"dictsort", sort_dict},
    {"e", escape},          {"escape", escape},
    {"first", first},       {"float", to_float},
    {"format", format},     {"indent", indent},
    {"int", to_integer},    {"items", items},
    {"join", join},         {"last", last},
    {"length", length},     {"list", list},
    {"lower", lower},       {"map", map},
    {"max", maximum},       {"min", minimum},
    {"reject", reject},     {"rejectattr", reject_attribute},
    {"replace", replace},   {"reverse", reverse},
    {"round", round},       {"safe", safe},
    {"select", select},     {"selectattr", select_attribute},
    {"sort", sort},         {"string", string},
    {"sum", sum},           {"title", title},
    {"tojson", json},       {"trim", trim},
    {"unique", unique},     {"upper", upper},
};

}  // namespace

Result<Value> Interpreter::filter(std::string_view name, const Value& value,
                                  const Arguments& arguments) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows),
                                 [&](const Row& row) { return row.name == name; });
  if (row != std::end(kRows)) return row->filter({*this, value, arguments});
  if (is_jinja_filter(name)) return unsupported(fmt::format("the filter '{}'", name));
  return template_error(fmt::format("TemplateRuntimeError: no filter named '{}'", name));
}

}  // namespace plumb::jinja
