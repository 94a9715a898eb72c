// SPDX-License-Identifier: Apache-2.0
// Ways in which a template writes values: JSON, the two kinds of Python's format strings, dates.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "chat/code_points.h"
#include "chat/jinja_interpreter.h"

namespace plumb::jinja {
namespace {

// One byte of a format, as a message shows it.
std::string printable_letter(char c) {
  return c > 0x20 && c < 0x7F ? std::string(1, c)
                              : fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
}

struct JsonStyle {
  bool ascii = false, sort_keys = false;
  std::optional<std::string> indent;  // one level of it
  std::string between = ", ", after_key = ": ";
};

std::string json_text(std::string_view text, bool ascii) {
  std::string out = "\"";
  const auto unit = [&](uint32_t value) { out += fmt::format("\\u{:04x}", value); };
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<uint32_t>(next_code_point(text, at));
    constexpr std::string_view kFrom = "\"\\\n\r\t\f\b", kTo = "\"\\nrtfb";
    if (const size_t known = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
        known != std::string_view::npos) {
      out += '\\';
      out += kTo[known];
    } else if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) {
      unit(c);
    } else if (ascii && c >= 0x10000) {
      unit(0xD800 + ((c - 0x10000) >> 10));
      unit(0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      append_code_point(out, c);
    }
  }
  return out + '"';
}

std::string json_number(const Value& value) {
  if (value.is(Kind::Bool)) return value.as_bool() ? "true" : "false";
  if (value.is(Kind::Int)) return std::to_string(value.as_integer());
  const double real = value.as_real();
  if (std::isnan(real)) return "NaN";
  if (std::isinf(real)) return real < 0 ? "-Infinity" : "Infinity";
  return repr_of_float(real);
}

Result<std::string> json_key(const Value& key, bool ascii) {
  if (key.is(Kind::String)) return json_text(key.text(), ascii);
  if (key.is(Kind::None)) return std::string("\"null\"");
  if (key.is_number()) return fmt::format("\"{}\"", json_number(key));
  return template_error(fmt::format("TypeError: a key of type {} in JSON", type_name(key)));
}

class JsonWriter {
 public:
  JsonWriter(Interpreter& run, const JsonStyle& style) : run_(run), style_(style) {}

  Result<void> write(const Value& value, size_t level) {
    switch (value.kind()) {
      case Kind::None: out_ += "null"; return {};
      case Kind::Bool:
      case Kind::Int:
      case Kind::Float: out_ += json_number(value); return {};
      case Kind::String: out_ += json_text(value.text(), style_.ascii); return {};
      case Kind::List:
      case Kind::Tuple: return write_list(value.items(), level);
      case Kind::Dict: return write_dict(value.dict(), level);
      default:
        return template_error(
            fmt::format("TypeError: Object of type {} is not JSON serializable", type_name(value)));
    }
  }
  std::string take() { return std::move(out_); }

 private:
  Result<void> line(size_t level) {
    if (style_.indent) {
      out_ += '\n';
      if (out_.size() + style_.indent->size() * level > kMaxTextBytes)
        return run_.budget().text(UINT64_MAX);
      for (size_t i = 0; i < level; ++i) out_ += *style_.indent;
    }
    return {};
  }
  Result<void> write_list(const std::vector<Value>& items, size_t level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.between;
      TRY(line(level + 1));
      TRY(write(items[i], level + 1));
    }
    if (!items.empty()) TRY(line(level));
    out_ += ']';
    return {};
  }
  Result<void> write_dict(const Dict& dict, size_t level) {
    auto entries = dict.entries;
    if (style_.sort_keys) {
      for (const auto& [key, value] : entries)
        if (!key.is(Kind::String)) return unsupported("sort_keys with a key that is no string");
      std::sort(entries.begin(), entries.end(),
                [](const auto& a, const auto& b) { return a.first.text() < b.first.text(); });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      TRY_ASSIGN(const auto key, json_key(entries[i].first, style_.ascii));
      if (i > 0) out_ += style_.between;
      TRY(line(level + 1));
      out_ += key;
      out_ += style_.after_key;
      TRY(write(entries[i].second, level + 1));
    }
    if (!entries.empty()) TRY(line(level));
    out_ += '}';
    return {};
  }

  Interpreter& run_;
  const JsonStyle& style_;
  std::string out_;
};

Result<void> set_indent(JsonStyle& style, const Value& indent) {
  if (indent.is(Kind::None)) return {};
  if (indent.is(Kind::String)) {
    style.indent = indent.text();
  } else {
    TRY_ASSIGN(const auto width, as_index(indent));
    if (width > 1000) return unsupported("an indent of more than 1000");
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  style.between = ",";
  return {};
}

// One directive of a format: flags, width, precision and its letter.
struct Directive {
  bool left = false, zero = false;
  int width = 0, precision = -1;
  char letter = 's';
};

// Digits at `at`; widths above 1000 are nobody's.
Result<int> digits(std::string_view text, size_t& at) {
  int value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    value = value * 10 + (text[at] - '0');
    if (value > 1000) return unsupported("a width of more than 1000");
  }
  return value;
}

std::string padded(std::string text, const Directive& directive) {
  const auto length = static_cast<int>(std::min<size_t>(code_point_count(text), 2000));
  if (length >= directive.width) return text;
  const auto missing = static_cast<size_t>(directive.width - length);
  if (directive.left) return text.append(missing, ' ');
  if (directive.zero) {
    const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
    return text.insert(sign, missing, '0');
  }
  return text.insert(0, missing, ' ');
}

Result<std::string> formatted(Interpreter& run, const Value& value, const Directive& directive) {
  const char letter = directive.letter;
  if (letter == 's' || letter == 'r') {
    if (directive.precision >= 0) return unsupported("a precision of a text in a format");
    auto text = run.budget().print(value);
    if (letter == 'r') text = to_repr(value);
    if (!text) return text;
    Directive plain = directive;
    plain.zero = false;
    return padded(std::move(*text), plain);
  }
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  if (!value.is_number())
    return template_error(
        fmt::format("TypeError: %{} needs a number, not '{}'", letter, type_name(value)));
  if (letter == 'f') {
    if (!std::isfinite(value.as_real()))
      return unsupported("a format of a number that is not finite");
    return padded(
        fmt::format("{:.{}f}", value.as_real(), directive.precision < 0 ? 6 : directive.precision),
        directive);
  }
  if (directive.precision >= 0) return unsupported("a precision of an integer in a format");
  if (letter != 'x' && value.is(Kind::Float)) {
    if (!(std::fabs(value.as_real()) < 9e18))
      return unsupported("a float beyond 64 bits as an integer");
    return padded(std::to_string(static_cast<int64_t>(value.as_real())), directive);
  }
  if (letter == 'x') return unsupported("the format %x");
  return padded(std::to_string(value.as_integer()), directive);
}

// Behind a '%': "(key)", flags, width, precision, letter.
Result<Directive> parse_printf(std::string_view format, size_t& at) {
  Directive directive;
  for (; at < format.size() && (format[at] == '-' || format[at] == '0'); ++at)
    (format[at] == '-' ? directive.left : directive.zero) = true;
  TRY_ASSIGN(directive.width, digits(format, at));
  if (at < format.size() && format[at] == '.') {
    ++at;
    TRY_ASSIGN(directive.precision, digits(format, at));
  }
  if (at >= format.size()) return template_error("ValueError: incomplete format");
  directive.letter = format[at++] == 'i' ? 'd' : format[at - 1];
  if (std::string_view("sdrf").find(directive.letter) == std::string_view::npos)
    return unsupported(fmt::format("the format '%{}'", printable_letter(directive.letter)));
  return directive;
}

}  // namespace

Result<Value> to_json(Interpreter& run, const Value& value, const Arguments& arguments) {
  TRY_ASSIGN(const auto given,
             bind(arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ascii = given[0] && truth(*given[0]);
  style.sort_keys = given[3] && truth(*given[3]);
  if (given[1]) TRY(set_indent(style, *given[1]));
  if (given[2] && !given[2]->is(Kind::None)) {
    TRY_ASSIGN(const auto parts, run.iterate(*given[2]));
    if (parts.size() != 2 || !parts[0].is(Kind::String) || !parts[1].is(Kind::String))
      return template_error("ValueError: separators needs two strings");
    style.between = parts[0].text();
    style.after_key = parts[1].text();
  }
  TRY(run.budget().walk(value));
  TRY(run.budget().memory(value.weight()));
  JsonWriter writer(run, style);
  TRY(writer.write(value, 0));
  return run.budget().string(writer.take());
}

Result<Value> printf_format(Interpreter& run, const Value& format, const Value& values) {
  if (format.is_markup()) return unsupported("'%' of a string marked safe");
  const std::string_view text = format.text();
  const bool many = values.is(Kind::Tuple);
  const size_t count = many ? values.items().size() : 1;
  size_t used = 0;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '%') {
      out += text[at++];
      continue;
    }
    if (++at < text.size() && text[at] == '%') {
      out += text[at++];
      continue;
    }
    Value value;
    if (at < text.size() && text[at] == '(') {
      if (!values.is(Kind::Dict)) return template_error("TypeError: format requires a mapping");
      const size_t end = text.find(')', at);
      if (end == std::string_view::npos) return template_error("ValueError: incomplete format key");
      const auto* found = values.dict().find(text.substr(at + 1, end - at - 1));
      if (found == nullptr) return template_error("KeyError: a key of the format is missing");
      value = *found;
      used = count;
      at = end + 1;
    } else if (used == count) {
      return template_error("TypeError: not enough arguments for format string");
    } else {
      value = many ? values.items()[used] : values;
      ++used;
    }
    TRY_ASSIGN(const auto directive, parse_printf(text, at));
    TRY_ASSIGN(const auto part, formatted(run, value, directive));
    out += part;
    if (out.size() > kMaxTextBytes) TRY(run.budget().text(UINT64_MAX));
  }
  // A dict, a list and the like may be left over; a text or a number may not.
  if (used < count &&
      (many || values.is(Kind::String) || values.is_number() || values.is(Kind::None)))
    return template_error("TypeError: not all arguments converted during string formatting");
  return run.budget().string(std::move(out));
}

namespace {

// "02d", ".2f", "": what stands behind the colon of a field.
Result<Directive> parse_field_format(std::string_view text, const Value& value) {
  Directive directive;
  size_t at = 0;
  if (at < text.size() && text[at] == '0') directive.zero = ++at > 0;
  TRY_ASSIGN(directive.width, digits(text, at));
  if (at < text.size() && text[at] == '.') {
    ++at;
    TRY_ASSIGN(directive.precision, digits(text, at));
  }
  directive.letter = at < text.size()                                 ? text[at++]
                     : value.is(Kind::String) || directive.width == 0 ? 's'
                                                                      : 'd';
  const bool integer = directive.letter == 'd' && value.is(Kind::Int);
  const bool real = directive.letter == 'f' && value.is_number();
  const bool string = directive.letter == 's' && (text.empty() || text == "s") &&
                      (text.empty() || value.is(Kind::String));
  if (at != text.size() || !(integer || real || string))
    return unsupported(fmt::format("the format '{}' of a {}", text, type_name(value)));
  return directive;
}

// Which argument a field names: by number, by name, or the next one.
Result<Value> field_value(std::string_view field, const Arguments& arguments, int64_t& next) {
  const bool numbered =
      !field.empty() && field.find_first_not_of("0123456789") == std::string_view::npos;
  if (field.empty() || numbered) {
    if ((field.empty() && next < 0) || (numbered && next > 0))
      return template_error("ValueError: fields with and without a number in one format");
    size_t index = 0, at = 0;
    if (numbered) {
      TRY_ASSIGN(const int number, digits(field, at));
      index = static_cast<size_t>(number);
      next = -1;
    } else {
      index = static_cast<size_t>(next++);
    }
    if (index >= arguments.positional.size())
      return template_error("IndexError: too few arguments for the format");
    return arguments.positional[index];
  }
  if (field.find_first_of(".[") != std::string_view::npos)
    return unsupported("an attribute in a format field");
  for (const auto& [name, value] : arguments.named)
    if (name == field) return value;
  return template_error(fmt::format("KeyError: '{}'", field));
}

}  // namespace

Result<Value> brace_format(Interpreter& run, const std::string& format,
                           const Arguments& arguments) {
  const std::string_view text = format;
  std::string out;
  int64_t next = 0;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if ((c == '{' || c == '}') && at + 1 < text.size() && text[at + 1] == c) {
      out += c;
      at += 2;
    } else if (c == '{') {
      const size_t end = text.find('}', at);
      if (end == std::string_view::npos)
        return template_error("ValueError: expected '}' in the format");
      std::string_view field = text.substr(at + 1, end - at - 1);
      if (field.find('{') != std::string_view::npos)
        return unsupported("a field within a format field");
      std::string_view spec;
      if (const size_t colon = field.find(':'); colon != std::string_view::npos) {
        spec = field.substr(colon + 1);
        field = field.substr(0, colon);
      }
      const bool repr = field.ends_with("!r");
      if (repr || field.ends_with("!s")) {
        if (!spec.empty()) return unsupported("a conversion with a format");
        field.remove_suffix(2);
      }
      TRY_ASSIGN(const auto value, field_value(field, arguments, next));
      TRY_ASSIGN(auto directive, parse_field_format(spec, value));
      if (repr) directive.letter = 'r';
      TRY_ASSIGN(const auto part, formatted(run, value, directive));
      out += part;
      if (out.size() > kMaxTextBytes) TRY(run.budget().text(UINT64_MAX));
      at = end + 1;
    } else if (c == '}') {
      return template_error("ValueError: single '}' in the format");
    } else {
      out += c;
      ++at;
    }
  }
  return run.budget().string(std::move(out));
}

Result<std::string> format_time(std::chrono::sys_seconds now, std::string_view format) {
  const auto day = std::chrono::floor<std::chrono::days>(now);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(now - day);
  const int year = static_cast<int>(date.year());
  const auto month = static_cast<unsigned>(date.month()),
             monthday = static_cast<unsigned>(date.day());
  const unsigned weekday = std::chrono::weekday(day).c_encoding();  // 0: Sunday
  const auto hour = static_cast<int>(time.hours().count());
  const auto minute = static_cast<int>(time.minutes().count());
  const auto second = static_cast<int>(time.seconds().count());
  const auto of_year = (day - std::chrono::sys_days(date.year() / 1 / 1)).count() + 1;
  constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                          "May",       "June",     "July",     "August",
                                          "September", "October",  "November", "December"};
  constexpr std::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                        "Thursday", "Friday", "Saturday"};
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      out += format[at];
      continue;
    }
    const bool bare = at + 1 < format.size() && format[at + 1] == '-';  // glibc: no leading zero
    at += bare ? 2 : 1;
    if (at >= format.size()) return unsupported("a date format that ends in '%'");
    const auto two = [&](int value) {
      return bare ? std::to_string(value) : fmt::format("{:02}", value);
    };
    switch (format[at]) {
      case 'Y': out += std::to_string(year); break;
      case 'y': out += two(year % 100); break;
      case 'm': out += two(static_cast<int>(month)); break;
      case 'd': out += two(static_cast<int>(monthday)); break;
      case 'e': out += bare ? std::to_string(monthday) : fmt::format("{:2}", monthday); break;
      case 'H': out += two(hour); break;
      case 'I': out += two(hour % 12 == 0 ? 12 : hour % 12); break;
      case 'M': out += two(minute); break;
      case 'S': out += two(second); break;
      case 'p': out += hour < 12 ? "AM" : "PM"; break;
      case 'j': out += bare ? std::to_string(of_year) : fmt::format("{:03}", of_year); break;
      case 'B': out += kMonths[month - 1]; break;
      case 'b':
      case 'h': out += kMonths[month - 1].substr(0, 3); break;
      case 'A': out += kDays[weekday]; break;
      case 'a': out += kDays[weekday].substr(0, 3); break;
      case 'F': out += fmt::format("{}-{:02}-{:02}", year, month, monthday); break;
      case 'T': out += fmt::format("{:02}:{:02}:{:02}", hour, minute, second); break;
      case '%': out += '%'; break;
      default:
        return unsupported(fmt::format("the date format '%{}'", printable_letter(format[at])));
    }
  }
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace plumb::jinja
