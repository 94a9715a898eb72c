// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "chat/code_points.h"
#include "core/check.h"

namespace plumb::jinja {
namespace {

uint32_t deepest(const std::vector<Value>& items) {
  uint32_t depth = 0;
  for (const auto& item : items) depth = std::max(depth, item.depth());
  return depth;
}

// Weights are added without overflow: a list that holds itself twice, over and over, has no end.
uint64_t add_weight(uint64_t a, uint64_t b) {
  constexpr uint64_t kMost = uint64_t{1} << 60;
  return std::min(kMost, a + b);
}

// Three-way of numbers; exact where both are integers, as doubles else. NaN orders as equal to
// nothing, which the callers that need it look at themselves.
int order_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral())
    return (a.as_integer() > b.as_integer()) - (a.as_integer() < b.as_integer());
  return (a.as_real() > b.as_real()) - (a.as_real() < b.as_real());
}

bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const auto* other = b.find(entry.first);
    return other != nullptr && equal(entry.second, *other);
  });
}

Result<std::string> joined_reprs(const std::vector<Value>& items) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    TRY_ASSIGN(const auto text, to_repr(items[i]));
    if (i > 0) out += ", ";
    out += text;
  }
  return out;
}

Result<std::string> repr_of_dict(const Dict& dict) {
  std::string out = "{";
  for (const auto& [key, value] : dict.entries) {
    TRY_ASSIGN(const auto left, to_repr(key));
    TRY_ASSIGN(const auto right, to_repr(value));
    if (out.size() > 1) out += ", ";
    out += fmt::format("{}: {}", left, right);
  }
  return out + "}";
}

}  // namespace

Value Value::undefined(std::string why) {
  Value value;
  value.object_ = std::make_shared<const std::string>(std::move(why));
  return value;
}

Value Value::none() {
  Value value;
  value.kind_ = Kind::None;
  return value;
}

Value Value::boolean(bool boolean) {
  Value value;
  value.kind_ = Kind::Bool;
  value.integer_ = boolean ? 1 : 0;
  return value;
}

Value Value::integer(int64_t integer) {
  Value value;
  value.kind_ = Kind::Int;
  value.integer_ = integer;
  return value;
}

Value Value::real(double real) {
  Value value;
  value.kind_ = Kind::Float;
  value.real_ = real;
  return value;
}

Value Value::string(std::string text, bool markup) {
  Value value;
  value.kind_ = Kind::String;
  value.markup_ = markup;
  value.object_ = std::make_shared<const std::string>(std::move(text));
  return value;
}

Value Value::sequence(Kind kind, std::vector<Value> items) {
  Value value;
  value.kind_ = kind;
  CHECK(value.is_sequence());
  auto made = std::make_shared<Sequence>();
  made->depth = deepest(items) + 1;
  made->weight = 32;
  for (const auto& item : items) made->weight = add_weight(made->weight, item.weight());
  made->items = std::move(items);
  value.object_ = std::move(made);
  return value;
}

Value Value::dict(Dict dict) {
  Value value;
  value.kind_ = Kind::Dict;
  value.object_ = std::make_shared<const Dict>(std::move(dict));
  return value;
}

Value Value::of(Namespace* space) {
  Value value;
  value.kind_ = Kind::Namespace;
  value.space_ = space;
  return value;
}

Value Value::of(std::shared_ptr<const Loop> loop) {
  Value value;
  value.kind_ = Kind::Loop;
  value.object_ = std::move(loop);
  return value;
}

Value Value::of(Callable callable) {
  Value value;
  value.kind_ = Kind::Callable;
  value.object_ = std::make_shared<const Callable>(std::move(callable));
  return value;
}

bool Value::is_sequence() const {
  return kind_ == Kind::List || kind_ == Kind::Tuple || kind_ == Kind::Range ||
         kind_ == Kind::View || kind_ == Kind::Generator;
}

std::string Value::why_undefined() const {
  return object_ == nullptr ? std::string("the value is undefined") : *get<std::string>();
}

uint32_t Value::depth() const {
  if (is_sequence()) return sequence().depth;
  if (is(Kind::Dict)) return dict().depth;
  if (is(Kind::Loop)) return loop().items.depth() + 1;
  if (is(Kind::Callable)) return callable().self.depth() + 1;
  return 0;
}

uint64_t Value::weight() const {
  constexpr uint64_t kScalar = 16;
  if (is_sequence()) return sequence().weight;
  if (is(Kind::Dict)) return dict().weight;
  if (is(Kind::String)) return kScalar + text().size();
  if (is(Kind::Loop)) return add_weight(kScalar, loop().items.weight());
  if (is(Kind::Callable)) return add_weight(kScalar, callable().self.weight());
  return kScalar;
}

const Value* Dict::find(const Value& key) const {
  const auto name = key_of(key);
  if (!name) return nullptr;
  const auto found = index.find(*name);
  return found == index.end() ? nullptr : &entries[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  std::string name("s");
  name += key;
  const auto found = index.find(name);
  return found == index.end() ? nullptr : &entries[found->second].second;
}

bool Dict::set(const Value& key, Value value) {
  const auto name = key_of(key);
  if (!name) return false;
  depth = std::max({depth, value.depth() + 1, key.depth() + 1});
  weight = add_weight(weight, add_weight(key.weight(), value.weight()));
  const auto [place, added] = index.try_emplace(*name, entries.size());
  if (added) entries.emplace_back(key, std::move(value));
  else entries[place->second].second = std::move(value);
  return true;
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined: return "Undefined";
    case Kind::None: return "NoneType";
    case Kind::Bool: return "bool";
    case Kind::Int: return "int";
    case Kind::Float: return "float";
    case Kind::String: return value.is_markup() ? "Markup" : "str";
    case Kind::List: return "list";
    case Kind::Tuple: return "tuple";
    case Kind::Dict: return "dict";
    case Kind::Range: return "range";
    case Kind::View: return "dict view";
    case Kind::Generator: return "generator";
    case Kind::Namespace: return "Namespace";
    case Kind::Loop: return "LoopContext";
    case Kind::Callable: return "function";
  }
  return "object";
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined:
    case Kind::None: return false;
    case Kind::Bool:
    case Kind::Int: return value.as_integer() != 0;
    case Kind::Float: return value.as_real() != 0;
    case Kind::String: return !value.text().empty();
    case Kind::List:
    case Kind::Tuple:
    case Kind::Range:
    case Kind::View: return !value.items().empty();
    case Kind::Dict: return !value.dict().entries.empty();
    case Kind::Loop:
    case Kind::Generator:
    case Kind::Namespace:
    case Kind::Callable: return true;
  }
  return true;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (std::isnan(a.as_real()) || std::isnan(b.as_real())) return false;
    return order_numbers(a, b) == 0;
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::Undefined:
    case Kind::None: return true;
    case Kind::String: return a.text() == b.text();
    case Kind::List:
    case Kind::Tuple:
    case Kind::Range: return equal_items(a.items(), b.items());
    case Kind::Dict: return equal_dicts(a.dict(), b.dict());
    default: return a.identity() == b.identity();
  }
}

Result<int> order(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is(Kind::String) && b.is(Kind::String)) {
    const int result = a.text().compare(b.text());  // UTF-8 has the order of the code points
    return (result > 0) - (result < 0);
  }
  if (a.kind() == b.kind() && (a.is(Kind::List) || a.is(Kind::Tuple))) {
    const auto &left = a.items(), &right = b.items();
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i)
      if (!equal(left[i], right[i])) return order(left[i], right[i]);
    return (left.size() > right.size()) - (left.size() < right.size());
  }
  if (a.is(Kind::Undefined)) return template_error(a.why_undefined());
  if (b.is(Kind::Undefined)) return template_error(b.why_undefined());
  return template_error(
      fmt::format("'{}' and '{}' cannot be put in order", type_name(a), type_name(b)));
}

std::optional<std::string> key_of(const Value& value) {
  switch (value.kind()) {
    case Kind::None: return "n";
    case Kind::Undefined: return "u";
    case Kind::String: return fmt::format("s{}", value.text());
    case Kind::Bool:
    case Kind::Int: return fmt::format("i{}", value.as_integer());
    case Kind::Float: {
      const double real = value.as_real();
      if (real == std::floor(real) && std::fabs(real) < 9e18)
        return fmt::format("i{}", static_cast<int64_t>(real));
      return fmt::format("f{}", repr_of_float(real));
    }
    case Kind::Tuple: {
      std::string out = "t";
      for (const auto& item : value.items()) {
        const auto key = key_of(item);
        if (!key) return std::nullopt;
        out += fmt::format("{}:{}", key->size(), *key);
      }
      return out;
    }
    case Kind::List:
    case Kind::Dict:
    case Kind::View: return std::nullopt;
    default: return fmt::format("p{}", value.identity());
  }
}

std::string repr_of_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, std::end(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = buffer + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, end, exponent);
  // Python writes an exponent below 1e-4 and from 1e16 on, and at least one digit after the point.
  if (exponent < -4 || exponent >= 16) return std::string(text);
  std::string fixed(64 + 32, '\0');
  const auto fixed_end =
      std::to_chars(fixed.data(), fixed.data() + fixed.size(), value, std::chars_format::fixed).ptr;
  fixed.resize(static_cast<size_t>(fixed_end - fixed.data()));
  if (fixed.find('.') == std::string::npos) fixed += ".0";
  return fixed;
}

std::string repr_of_text(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const char quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      append_code_point(out, c);
    } else {
      const auto number = static_cast<uint32_t>(c);
      out += c < 0x100     ? fmt::format("\\x{:02x}", number)
             : c < 0x10000 ? fmt::format("\\u{:04x}", number)
                           : fmt::format("\\U{:08x}", number);
    }
  }
  return out + quote;
}

Result<std::string> to_str(const Value& value) {
  if (value.is(Kind::String)) return value.text();
  if (value.is(Kind::Undefined)) return std::string();
  return to_repr(value);
}

Result<std::string> to_repr(const Value& value) {
  switch (value.kind()) {
    case Kind::Undefined: return std::string("Undefined");
    case Kind::None: return std::string("None");
    case Kind::Bool: return std::string(value.as_bool() ? "True" : "False");
    case Kind::Int: return std::to_string(value.as_integer());
    case Kind::Float: return repr_of_float(value.as_real());
    case Kind::String: {
      auto text = repr_of_text(value.text());
      return value.is_markup() ? fmt::format("Markup({})", text) : text;
    }
    case Kind::List: {
      TRY_ASSIGN(const auto text, joined_reprs(value.items()));
      return fmt::format("[{}]", text);
    }
    case Kind::Tuple: {
      TRY_ASSIGN(const auto text, joined_reprs(value.items()));
      return fmt::format("({}{})", text, value.items().size() == 1 ? "," : "");
    }
    case Kind::Dict: return repr_of_dict(value.dict());
    default: return unsupported(fmt::format("printing a value of type {}", type_name(value)));
  }
}

std::unexpected<Error> template_error(std::string message) {
  return fail(ErrorCode::Corrupt, std::move(message));
}

std::unexpected<Error> unsupported(std::string what) {
  return fail(ErrorCode::Unsupported, fmt::format("{} is not supported", what));
}

}  // namespace plumb::jinja
