// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>

#include "chat/code_points.h"
#include "chat/jinja_value.h"

namespace plumb::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool begins_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Jinja2 makes every line end a single \n and drops one at the end of the template.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) TRY(text_and_tag());
    push(Token::Type::End, "", source_.size());
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool here(std::string_view text) const { return rest().starts_with(text); }

  Position position(size_t offset) {
    // Tokens are asked for in order, so the count goes on from the last one.
    for (; counted_ < offset; ++counted_) {
      if (source_[counted_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((static_cast<uint8_t>(source_[counted_]) & 0xC0) != 0x80) {
        ++place_.column;
      }
    }
    return place_;
  }
  void push(Token::Type type, std::string text, size_t offset) {
    tokens_.push_back({type, std::move(text), position(offset)});
  }
  std::unexpected<Error> error(size_t offset, std::string message) {
    return at_position(position(offset), {ErrorCode::Corrupt, std::move(message)});
  }
  std::unexpected<Error> refused(size_t offset, std::string what) {
    return at_position(position(offset), unsupported(std::move(what)).error());
  }

  void skip_space() {
    while (at_ < source_.size()) {
      size_t next = at_;
      if (!is_space(next_code_point(source_, next))) return;
      at_ = next;
    }
  }

  // Text up to the next "{{", "{%" or "{#", and that tag.
  Result<void> text_and_tag() {
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    if (tag == std::string::npos) {
      push(Token::Type::Text, source_.substr(at_), at_);
      at_ = source_.size();
      return {};
    }
    const char kind = source_[tag + 1];
    const char sign =
        tag + 2 < source_.size() && (source_[tag + 2] == '-' || source_[tag + 2] == '+')
            ? source_[tag + 2]
            : '\0';
    push_text(at_, tag, sign, kind != '{');
    at_ = tag + 2 + (sign == '\0' ? 0 : 1);
    if (kind == '#') return comment(tag);
    if (kind == '%') {
      TRY_ASSIGN(const bool was_raw, raw(tag));
      if (was_raw) return {};
    }
    push(kind == '{' ? Token::Type::OutputBegin : Token::Type::BlockBegin, "", tag);
    return inside(kind == '{' ? '}' : '%', tag);
  }

  // lstrip_blocks: white space between the start of a line and a block goes.
  void push_text(size_t from, size_t to, char sign, bool block) {
    std::string_view text = std::string_view(source_).substr(from, to - from);
    if (sign == '-') {
      text = strip(text, Side::Right);
    } else if (sign != '+' && block) {
      const size_t line = text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1;
      const bool starts_line = line > 0 || from == 0 || source_[from - 1] == '\n';
      if (starts_line && strip(text.substr(line), Side::Both).empty()) text = text.substr(0, line);
    }
    if (!text.empty()) push(Token::Type::Text, std::string(text), from);
  }

  // trim_blocks: one line end after a block goes.
  void after_block(char sign) {
    if (sign == '-') skip_space();
    else if (sign != '+' && here("\n")) ++at_;
  }

  Result<void> comment(size_t start) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return error(start, "the comment is not closed with '#}'");
    const char sign =
        end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+') ? source_[end - 1] : '\0';
    at_ = end + 2;
    after_block(sign);
    return {};
  }

  // At the inside of a block: whether it is "raw", whose text is then pushed as it stands.
  Result<bool> raw(size_t start) {
    const size_t back = at_;
    skip_space();
    if (!here("raw")) return at_ = back, false;
    at_ += 3;
    skip_space();
    const bool minus = here("-%}");
    if (!minus && !here("%}")) return at_ = back, false;
    at_ += minus ? 3 : 2;
    if (minus) skip_space();
    const size_t body = at_;
    for (size_t tag = body; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      at_ = tag + 2;
      const char sign = here("-") ? '-' : here("+") ? '+' : '\0';
      if (sign != '\0') ++at_;
      skip_space();
      if (!here("endraw")) continue;
      at_ += 6;
      skip_space();
      const char end = here("-%}") ? '-' : here("+%}") ? '+' : '\0';
      if (end == '\0' && !here("%}")) continue;
      at_ += end == '\0' ? 2 : 3;
      after_block(end);
      push_text(body, tag, sign, true);
      return true;
    }
    return error(start, "the raw block is not closed with 'endraw'");
  }

  // The tokens of a tag that `close` and '}' end.
  Result<void> inside(char close, size_t start) {
    std::string open;  // brackets that wait for their partner
    const Position opened = position(start);
    while (true) {
      skip_space();
      if (at_ >= source_.size())
        return at_position(opened, {ErrorCode::Corrupt, "the tag is not closed"});
      if (open.empty() && closes(close)) return {};
      TRY(token(open));
    }
  }

  bool closes(char close) {
    const char end[] = {close, '}'};
    const std::string_view mark(end, 2);
    const size_t start = at_;
    const char sign =
        (here("-") || (close == '%' && here("+"))) && rest().substr(1).starts_with(mark)
            ? source_[at_]
            : '\0';
    if (sign == '\0' && !here(mark)) return false;
    at_ += sign == '\0' ? 2 : 3;
    push(close == '%' ? Token::Type::BlockEnd : Token::Type::OutputEnd, "", start);
    if (close == '%') after_block(sign);
    else if (sign == '-') skip_space();
    return true;
  }

  Result<void> token(std::string& open) {
    const char c = source_[at_];
    if (is_digit(c)) return number();
    if (begins_name(c)) return name();
    if (c == '\'' || c == '"') return string(c);
    for (const std::string_view symbol : {"//", "**", "==", "!=", ">=", "<="})
      if (here(symbol)) return symbol_token(symbol);
    if (std::string_view("+-*/%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      if (static_cast<uint8_t>(c) >= 0x80) return refused(at_, "a name with letters beyond ASCII");
      return error(at_, fmt::format("unexpected character '{}'", c));
    }
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '{') open += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) return error(at_, fmt::format("unexpected '{}'", c));
      open.pop_back();
    }
    return symbol_token(rest().substr(0, 1));
  }

  Result<void> symbol_token(std::string_view symbol) {
    push(Token::Type::Operator, std::string(symbol), at_);
    at_ += symbol.size();
    return {};
  }

  Result<void> name() {
    const size_t start = at_;
    while (at_ < source_.size() && (begins_name(source_[at_]) || is_digit(source_[at_]))) ++at_;
    if (at_ < source_.size() && static_cast<uint8_t>(source_[at_]) >= 0x80) {
      size_t next = at_;
      if (!is_space(next_code_point(source_, next)))
        return refused(at_, "a name with letters beyond ASCII");
    }
    push(Token::Type::Name, source_.substr(start, at_ - start), start);
    return {};
  }

  // Digits with single underscores between them.
  void digits() {
    while (at_ < source_.size() &&
           (is_digit(source_[at_]) ||
            (source_[at_] == '_' && at_ + 1 < source_.size() && is_digit(source_[at_ + 1]))))
      ++at_;
  }

  Result<void> number() {
    const size_t start = at_;
    if (source_[at_] == '0' && at_ + 1 < source_.size() && begins_name(source_[at_ + 1]) &&
        source_[at_ + 1] != 'e' && source_[at_ + 1] != 'E' && source_[at_ + 1] != '_')
      return refused(start, "a number that is not decimal");
    digits();
    bool real = false;
    if (here(".") && at_ + 1 < source_.size() && is_digit(source_[at_ + 1]) &&
        (start == 0 || source_[start - 1] != '.')) {
      real = true;
      ++at_;
      digits();
    }
    if (here("e") || here("E")) {
      const size_t sign =
          at_ + 1 < source_.size() && (source_[at_ + 1] == '+' || source_[at_ + 1] == '-') ? 1 : 0;
      if (at_ + 1 + sign < source_.size() && is_digit(source_[at_ + 1 + sign]) &&
          (start == 0 || source_[start - 1] != '.')) {
        real = true;
        at_ += 1 + sign;
        digits();
      }
    }
    auto text = source_.substr(start, at_ - start);
    std::erase(text, '_');
    if (!real && text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of('0') != std::string::npos)
      return error(start, "a number begins with a zero");
    push(real ? Token::Type::Float : Token::Type::Integer, std::move(text), start);
    return {};
  }

  Result<void> string(char quote) {
    const size_t start = at_++;
    std::string text;
    while (at_ < source_.size() && source_[at_] != quote) {
      if (source_[at_] != '\\') text += source_[at_++];
      else TRY(escape(text));
    }
    if (at_ >= source_.size()) return error(start, "the string is not closed");
    ++at_;
    push(Token::Type::String, std::move(text), start);
    return {};
  }

  // As Python's unicode-escape: what it does not know keeps its backslash.
  Result<void> escape(std::string& text) {
    const size_t start = at_++;
    if (at_ >= source_.size()) return {};
    const char c = source_[at_++];
    constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
      text += kTo[known];
    } else if (c >= '0' && c <= '7') {
      uint32_t value = static_cast<uint32_t>(c - '0');
      for (int k = 0; k < 2 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7';
           ++k)
        value = value * 8 + static_cast<uint32_t>(source_[at_++] - '0');
      append_code_point(text, value);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      return code_point_escape(text, start, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
      return refused(start, "the escape \\N in a string");
    } else if (static_cast<uint8_t>(c) >= 0x80) {
      return refused(start, "a backslash before a letter beyond ASCII");
    } else if (c != '\n') {
      text += '\\';
      text += c;
    }
    return {};
  }

  Result<void> code_point_escape(std::string& text, size_t start, int digits) {
    uint32_t value = 0;
    for (int k = 0; k < digits; ++k, ++at_) {
      if (at_ >= source_.size() || !is_hex(source_[at_]))
        return error(start, fmt::format("the escape needs {} hexadecimal digits", digits));
      const char c = source_[at_];
      value = value * 16 + static_cast<uint32_t>(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (value > 0x10FFFF) return error(start, "the escape is beyond U+10FFFF");
    if (value >= 0xD800 && value < 0xE000)
      return refused(start, "half of a surrogate pair in a string");
    append_code_point(text, value);
    return {};
  }

  std::string source_;
  size_t at_ = 0;
  std::vector<Token> tokens_;
  size_t counted_ = 0;
  Position place_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) { return Lexer(source).run(); }

std::unexpected<Error> at_position(Position at, Error error) {
  return std::unexpected(
      std::move(error).within(fmt::format("line {}, column {}", at.line, at.column)));
}

std::string describe(const Token& token) {
  switch (token.type) {
    case Token::Type::End: return "the end of the template";
    case Token::Type::Text: return "text";
    case Token::Type::BlockBegin: return "'{%'";
    case Token::Type::BlockEnd: return "'%}'";
    case Token::Type::OutputBegin: return "'{{'";
    case Token::Type::OutputEnd: return "'}}'";
    case Token::Type::String: return "a string";
    default: return fmt::format("'{}'", token.text);
  }
}

}  // namespace plumb::jinja
