// SPDX-License-Identifier: Apache-2.0
// The methods of Python's str, list, tuple and dict.
#include <fmt/format.h>
#include <string.h>  // memmem

#include <algorithm>
#include <iterator>

#include "chat/code_points.h"
#include "chat/jinja_interpreter.h"

namespace plumb::jinja {
namespace {

using Values = std::vector<std::optional<Value>>;

// What Python's types have, so that an attribute that is there but not done here is refused instead
// of being undefined.
constexpr std::string_view kTextMethods[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
constexpr std::string_view kListMethods[] = {"append", "clear",   "copy",   "count",
                                             "extend", "index",   "insert", "pop",
                                             "remove", "reverse", "sort"};
constexpr std::string_view kTupleMethods[] = {"count", "index"};
constexpr std::string_view kDictMethods[] = {"clear",      "copy",   "fromkeys", "get",
                                             "items",      "keys",   "pop",      "popitem",
                                             "setdefault", "update", "values"};
constexpr std::string_view kNumberMethods[] = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
    "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
    "numerator",        "real",      "to_bytes"};
constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                             "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};

template <size_t N>
bool in(std::string_view name, const std::string_view (&names)[N]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Result<std::string_view> text_of(const Value& value) {
  if (value.is(Kind::String)) return std::string_view(value.text());
  return template_error(fmt::format("TypeError: expected a string, found '{}'", type_name(value)));
}

Result<Value> texts(Budget& budget, Kind kind, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  TRY(budget.memory(parts.size() * 64));
  for (const auto part : parts) {
    TRY_ASSIGN(auto text, budget.string(std::string(part)));
    items.push_back(std::move(text));
  }
  return budget.sequence(kind, std::move(items));
}

// --- split ---

std::vector<std::string_view> split_at_space(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  const auto is_gap = [](std::string_view one) {
    size_t at = 0;
    return is_space(next_code_point(one, at));
  };
  while (!(text = strip(text, from_right ? Side::Right : Side::Left)).empty()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    size_t cut = from_right ? text.size() : 0;
    if (from_right) {
      while (cut > 0) {
        size_t last = cut - 1;
        while (last > 0 && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
        if (is_gap(text.substr(last))) break;
        cut = last;
      }
      parts.push_back(text.substr(cut));
      text = text.substr(0, cut);
    } else {
      while (cut < text.size() && !is_gap(text.substr(cut))) next_code_point(text, cut);
      parts.push_back(text.substr(0, cut));
      text = text.substr(cut);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

// memmem takes linear time for any two texts; rfind does not.
size_t position_of(std::string_view text, std::string_view mark, bool from_right) {
  if (from_right) return text.rfind(mark);
  if (mark.empty()) return 0;
  const auto* found =
      static_cast<const char*>(memmem(text.data(), text.size(), mark.data(), mark.size()));
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(found - text.data());
}

Result<void> pay_search(Budget& budget, std::string_view text, std::string_view mark,
                        bool from_right) {
  return budget.work(text.size() / 16 + (from_right ? text.size() * mark.size() / 64 : 0));
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view mark, int64_t most,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t cut = position_of(text, mark, from_right);
    if (cut == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(cut + mark.size()) : text.substr(0, cut));
    text = from_right ? text.substr(0, cut) : text.substr(cut + mark.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Result<Value> split(Budget& budget, std::string_view text, const Arguments& arguments,
                    bool from_right) {
  TRY_ASSIGN(const auto given, bind(arguments, {"sep", "maxsplit"}));
  int64_t most = -1;
  if (given[1]) {
    TRY_ASSIGN(most, as_index(*given[1]));
  }
  TRY(budget.work(text.size() / 64));
  if (!given[0] || given[0]->is(Kind::None))
    return texts(budget, Kind::List, split_at_space(text, most, from_right));
  TRY_ASSIGN(const auto mark, text_of(*given[0]));
  if (mark.empty()) return template_error("ValueError: empty separator");
  TRY(pay_search(budget, text, mark, from_right));
  return texts(budget, Kind::List, split_at(text, mark, most, from_right));
}

Result<Value> partition(Budget& budget, std::string_view text, const Arguments& arguments,
                        bool from_right) {
  TRY_ASSIGN(const auto given, bind(arguments, {"sep"}, 1));
  TRY_ASSIGN(const auto mark, text_of(*given[0]));
  if (mark.empty()) return template_error("ValueError: empty separator");
  TRY(pay_search(budget, text, mark, from_right));
  const size_t cut = position_of(text, mark, from_right);
  if (cut == std::string_view::npos && from_right)
    return texts(budget, Kind::Tuple, {"", "", text});
  if (cut == std::string_view::npos) return texts(budget, Kind::Tuple, {text, "", ""});
  return texts(budget, Kind::Tuple, {text.substr(0, cut), mark, text.substr(cut + mark.size())});
}

// --- search ---

Result<Value> starts_or_ends(std::string_view text, const Arguments& arguments, bool starts) {
  if (arguments.positional.size() > 1)
    return unsupported("a start or end in startswith and endswith");
  TRY_ASSIGN(const auto given, bind(arguments, {"prefix"}, 1));
  std::vector<Value> options = {*given[0]};
  if (given[0]->is(Kind::Tuple)) options = given[0]->items();
  for (const auto& option : options) {
    TRY_ASSIGN(const auto mark, text_of(option));
    if (starts ? text.starts_with(mark) : text.ends_with(mark)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Result<Value> find(Budget& budget, std::string_view text, const std::string& name,
                   const Arguments& arguments) {
  if (arguments.positional.size() > 1)
    return unsupported(fmt::format("a start or end in {}", name));
  TRY_ASSIGN(const auto given, bind(arguments, {"sub"}, 1));
  TRY_ASSIGN(const auto mark, text_of(*given[0]));
  TRY(pay_search(budget, text, mark, name[0] == 'r'));
  if (name == "count") {
    if (mark.empty()) return Value::integer(static_cast<int64_t>(code_point_count(text)) + 1);
    return Value::integer(static_cast<int64_t>(split_at(text, mark, -1, false).size()) - 1);
  }
  const size_t at = position_of(text, mark, name[0] == 'r');
  if (at != std::string_view::npos)
    return Value::integer(static_cast<int64_t>(code_point_count(text.substr(0, at))));
  if (name.ends_with("index")) return template_error("ValueError: substring not found");
  return Value::integer(-1);
}

Result<Value> replace(Budget& budget, std::string_view text, const Arguments& arguments) {
  TRY_ASSIGN(const auto given, bind(arguments, {"old", "new", "count"}, 2));
  TRY_ASSIGN(const auto old, text_of(*given[0]));
  TRY_ASSIGN(const auto with, text_of(*given[1]));
  int64_t most = -1;
  if (given[2]) {
    TRY_ASSIGN(most, as_index(*given[2]));
  }
  TRY(pay_search(budget, text, old, false));
  std::string out;
  const auto put = [&](std::string_view part) -> Result<void> {
    out += part;
    return out.size() > kMaxTextBytes ? budget.text(UINT64_MAX) : Result<void>();
  };
  if (old.empty()) {  // before each code point, and at the end
    for (const auto one : split_code_points(text)) {
      if (most != 0) TRY(put(with));
      if (most > 0) --most;
      TRY(put(one));
    }
    if (most != 0) TRY(put(with));
    return budget.string(std::move(out));
  }
  const auto parts = split_at(text, old, most, false);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) TRY(put(with));
    TRY(put(parts[i]));
  }
  return budget.string(std::move(out));
}

// --- case ---

Result<std::string> lower(std::string_view text) {
  auto lowered = to_lower(text);
  if (!lowered) return unsupported("the lower case of a capital sigma");
  return std::move(*lowered);
}

Result<std::string> capitalize(std::string_view text) {
  if (text.empty()) return std::string();
  size_t at = 0;
  auto out = to_title_case(next_code_point(text, at));
  TRY_ASSIGN(const auto rest, lower(text.substr(at)));
  return out + rest;
}

// Words are letters in a row; only ASCII is told from what is no letter.
Result<std::string> title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) return unsupported("title() of letters beyond ASCII");
    const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
    out += static_cast<char>(inside && upper ? c + 32 : !inside && lower ? c - 32 : c);
    inside = lower || upper;
  }
  return out;
}

Result<Value> change_case(Budget& budget, std::string_view text, const std::string& name,
                          const Arguments& arguments) {
  TRY(bind(arguments, {}));
  TRY(budget.work(text.size() / 8));
  if (name == "upper") return budget.string(to_upper(text));
  Result<std::string> changed = name == "lower"   ? lower(text)
                                : name == "title" ? title(text)
                                                  : capitalize(text);
  if (!changed) return std::unexpected(changed.error());
  return budget.string(std::move(*changed));
}

// isdigit and its like, of ASCII.
Result<Value> classify(std::string_view text, const std::string& name, const Arguments& arguments) {
  TRY(bind(arguments, {}));
  const auto non_ascii = [](char c) { return static_cast<uint8_t>(c) >= 0x80; };
  const bool ascii = std::none_of(text.begin(), text.end(), non_ascii);
  if (name == "isascii") return Value::boolean(ascii);
  if (name == "isspace") return Value::boolean(!text.empty() && strip(text, Side::Both).empty());
  if (!ascii) return unsupported(fmt::format("{}() of letters beyond ASCII", name));
  const auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto letter = [&](char c) { return lower(c) || upper(c); };
  const auto all = [&](auto is) {
    return Value::boolean(!text.empty() && std::all_of(text.begin(), text.end(), is));
  };
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric") return all(digit);
  if (name == "isalpha") return all(letter);
  if (name == "isalnum") return all([&](char c) { return letter(c) || digit(c); });
  const bool any_lower = std::any_of(text.begin(), text.end(), lower);
  const bool any_upper = std::any_of(text.begin(), text.end(), upper);
  if (name == "islower") return Value::boolean(any_lower && !any_upper);
  if (name == "isupper") return Value::boolean(any_upper && !any_lower);
  return unsupported(fmt::format("the method '{}' of a string", name));
}

Result<Value> strip_method(Budget& budget, std::string_view text, const Arguments& arguments,
                           Side side) {
  TRY_ASSIGN(const auto given, bind(arguments, {"chars"}));
  TRY(budget.work(text.size() / 64));
  if (!given[0] || given[0]->is(Kind::None)) return budget.string(std::string(strip(text, side)));
  TRY_ASSIGN(const auto characters, text_of(*given[0]));
  TRY(budget.work(text.size() / 64 * (1 + characters.size() / 16)));
  return budget.string(std::string(strip(text, side, characters)));
}

Result<Value> join(Interpreter& run, std::string_view mark, const Arguments& arguments) {
  TRY_ASSIGN(const auto given, bind(arguments, {"iterable"}, 1));
  if (given[0]->is(Kind::Undefined)) return run.budget().string("");
  TRY_ASSIGN(const auto items, run.iterate(*given[0]));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    TRY_ASSIGN(const auto part, text_of(items[i]));
    if (i > 0) out += mark;
    out += part;
    if (out.size() > kMaxTextBytes) TRY(run.budget().text(UINT64_MAX));
  }
  return run.budget().string(std::move(out));
}

Result<Value> remove_affix(Budget& budget, std::string_view text, const Arguments& arguments,
                           bool prefix) {
  TRY_ASSIGN(const auto given, bind(arguments, {"affix"}, 1));
  TRY_ASSIGN(const auto affix, text_of(*given[0]));
  if (prefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  else if (!prefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return budget.string(std::string(text));
}

Result<Value> text_method(Interpreter& run, const std::string& text, const std::string& name,
                          const Arguments& arguments) {
  Budget& budget = run.budget();
  if (name == "strip") return strip_method(budget, text, arguments, Side::Both);
  if (name == "lstrip") return strip_method(budget, text, arguments, Side::Left);
  if (name == "rstrip") return strip_method(budget, text, arguments, Side::Right);
  if (name == "split" || name == "rsplit") return split(budget, text, arguments, name[0] == 'r');
  if (name == "partition" || name == "rpartition")
    return partition(budget, text, arguments, name[0] == 'r');
  if (name == "startswith" || name == "endswith")
    return starts_or_ends(text, arguments, name[0] == 's');
  if (name == "replace") return replace(budget, text, arguments);
  if (name == "format") return brace_format(run, text, arguments);
  if (name == "join") return join(run, text, arguments);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize")
    return change_case(budget, text, name, arguments);
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count")
    return find(budget, text, name, arguments);
  if (name == "removeprefix" || name == "removesuffix")
    return remove_affix(budget, text, arguments, name == "removeprefix");
  if (name == "splitlines") {
    TRY(bind(arguments, {}));
    TRY(budget.work(text.size() / 64));
    return texts(budget, Kind::List, split_lines(text));
  }
  if (name.starts_with("is")) return classify(text, name, arguments);
  return unsupported(fmt::format("the method '{}' of a string", name));
}

// --- list, tuple, dict ---

Result<Value> sequence_method(Interpreter& run, const Value& self, const std::string& name,
                              const Arguments& arguments) {
  if (name == "copy") {
    TRY(bind(arguments, {}));
    return self;
  }
  if (arguments.positional.size() > 1)
    return unsupported(fmt::format("a start or end in {}", name));
  TRY_ASSIGN(const auto given, bind(arguments, {"value"}, 1));
  int64_t count = 0;
  for (size_t i = 0; i < self.items().size(); ++i) {
    TRY(run.budget().work(1));
    TRY_ASSIGN(const bool same, run.equals(self.items()[i], *given[0]));
    if (same && name == "index") return Value::integer(static_cast<int64_t>(i));
    count += same ? 1 : 0;
  }
  if (name == "index") return template_error("ValueError: the value is not in the list");
  return Value::integer(count);
}

Result<Value> dict_method(Interpreter& run, const Value& self, const std::string& name,
                          const Arguments& arguments) {
  const Dict& dict = self.dict();
  if (name == "get") {
    if (!arguments.named.empty())
      return template_error("TypeError: get() takes no keyword arguments");
    TRY_ASSIGN(const auto given, bind(arguments, {"key", "default"}, 1));
    TRY(run.budget().walk(*given[0]));
    if (!key_of(*given[0]))
      return template_error(fmt::format("TypeError: unhashable type: '{}'", type_name(*given[0])));
    const auto* found = dict.find(*given[0]);
    return found != nullptr ? *found : given[1].value_or(Value::none());
  }
  if (name != "items" && name != "keys" && name != "values" && name != "copy")
    return unsupported(fmt::format("the method '{}' of a dict", name));
  TRY(bind(arguments, {}));
  if (name == "copy") return self;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (name == "items") {
      TRY_ASSIGN(auto pair, run.budget().sequence(Kind::Tuple, {key, value}));
      items.push_back(std::move(pair));
    } else {
      items.push_back(name == "keys" ? key : value);
    }
  }
  return run.budget().sequence(Kind::View, std::move(items));
}

}  // namespace

bool has_attribute(const Value& value, std::string_view name) {
  switch (value.kind()) {
    case Kind::String: return in(name, kTextMethods);
    case Kind::List: return in(name, kListMethods);
    case Kind::Tuple: return in(name, kTupleMethods);
    case Kind::Dict: return in(name, kDictMethods);
    case Kind::Bool:
    case Kind::Int:
    case Kind::Float: return in(name, kNumberMethods);
    default: return false;
  }
}

bool changes_its_object(const Value& value, std::string_view name) {
  return (value.is(Kind::List) && in(name, kListChanges)) ||
         (value.is(Kind::Dict) && in(name, kDictChanges));
}

Result<Value> call_method(Interpreter& run, const Value& self, const std::string& name,
                          const Arguments& arguments) {
  switch (self.kind()) {
    case Kind::String: return text_method(run, self.text(), name, arguments);
    case Kind::List:
    case Kind::Tuple: return sequence_method(run, self, name, arguments);
    case Kind::Dict: return dict_method(run, self, name, arguments);
    default: return unsupported(fmt::format("the method '{}' of a {}", name, type_name(self)));
  }
}

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!((c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
          c == 0x2029))
      continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, end - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

}  // namespace plumb::jinja
