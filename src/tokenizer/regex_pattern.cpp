// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/regex_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 32
#include <fmt/format.h>
#include <pcre2.h>

#include <cctype>
#include <iterator>
#include <utility>

#include "core/check.h"
#include "formats/metadata.h"

namespace plumb {

struct RegexPattern::Code {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> compiled{nullptr, pcre2_code_free};
};

namespace {

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
using MatchContext = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;
using JitStack = std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)>;

// Spelled out because PCRE2's \s also takes U+180E, which Unicode (and so Rust, Python and
// llama.cpp) no longer counts as a space.
constexpr std::string_view kSpaces =
    R"(\x09-\x0D\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[128] = {};
  pcre2_get_error_message(code, text, std::size(text));
  std::string message;
  for (size_t i = 0; i < std::size(text) && text[i] != 0; ++i)
    message.push_back(static_cast<char>(text[i]));
  return message;
}

std::unexpected<Error> refuse(std::string_view regex, std::string_view why) {
  return fail(ErrorCode::Unsupported,
              fmt::format("the splitting pattern '{}' {}", printable(regex, 200), why));
}

// One escape sequence, rewritten for PCRE2. Those that would mean something else there are refused.
Result<std::string> rewrite_escape(std::string_view regex, size_t& at, bool in_class) {
  if (at + 1 >= regex.size()) return refuse(regex, "ends in a backslash");
  const char letter = regex[at + 1];
  if (letter == 's' || (letter == 'S' && !in_class)) {
    at += 2;
    if (in_class) return std::string(kSpaces);
    return fmt::format("[{}{}]", letter == 'S' ? "^" : "", kSpaces);
  }
  if (letter == 'p' || letter == 'P') {
    const size_t close = regex.find('}', at);
    if (at + 2 >= regex.size() || regex[at + 2] != '{' || close == std::string_view::npos)
      return refuse(regex, "has a \\p without {name}");
    std::string name(regex.substr(at, close + 1 - at));
    at = close + 1;
    return name;
  }
  const bool letter_or_digit = (letter >= 'a' && letter <= 'z') ||
                               (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9');
  constexpr std::string_view kSame = "rntfdDx";
  if (letter_or_digit && kSame.find(letter) == std::string_view::npos)
    return refuse(regex, fmt::format("has the escape \\{}, which is not supported", letter));
  at += 2;
  return std::string(regex.substr(at - 2, 2));
}

Result<std::string> rewrite(std::string_view regex) {
  std::string out;
  bool in_class = false;
  for (size_t at = 0; at < regex.size();) {
    const char c = regex[at];
    if (c == '\\') {
      TRY_ASSIGN(const std::string escape, rewrite_escape(regex, at, in_class));
      out += escape;
      continue;
    }
    if (in_class && (regex.substr(at, 2) == "&&" || c == '['))
      return refuse(regex, "has a class within a class, which is not supported");
    if (c == '[') {
      in_class = true;
      // A bracket right behind the opening one stands for itself.
      if (regex.substr(at, 3) == "[^]" || regex.substr(at, 2) == "[]")
        return refuse(regex, "has an empty class");
    } else if (c == ']') {
      in_class = false;
    }
    out.push_back(c);
    ++at;
  }
  return out;
}

Result<pcre2_code*> compile(std::string_view regex, std::string_view shown) {
  TRY_ASSIGN(const std::vector<CodePoint> points, decode_utf8_loosely(regex, 0));
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(points.data(), points.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  if (code == nullptr)
    return refuse(shown,
                  fmt::format("cannot be compiled: {} at character {}", pcre2_message(error), at));
  // Where PCRE2 has no JIT, matching goes on without it, with the same answers.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

Result<RegexPattern> RegexPattern::create(std::string_view regex, UnicodeVersion version) {
  constexpr size_t kMostBytes = 1 << 16;  // those in use have at most 2,000
  if (regex.empty() || regex.size() > kMostBytes)
    return refuse(regex.substr(0, 100), fmt::format("has {} bytes", regex.size()));
  TRY_ASSIGN(const std::string rewritten, rewrite(regex));
  auto code = std::make_shared<Code>();
  TRY_ASSIGN(auto* compiled, compile(rewritten, regex));
  code->compiled.reset(compiled);
  RegexPattern made;
  made.code_ = std::move(code);
  made.version_ = version;
  made.asks_categories_ =
      regex.find("\\p") != std::string_view::npos || regex.find("\\P") != std::string_view::npos ||
      regex.find("\\d") != std::string_view::npos || regex.find("\\D") != std::string_view::npos;
  return made;
}

Result<RegexPattern> RegexPattern::literal(std::string_view text, UnicodeVersion version) {
  std::string regex;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)) && c > ' ')
      regex.push_back('\\');
    regex.push_back(c);
  }
  return create(regex, version);
}

Result<void> RegexPattern::match(PointSpan text, std::vector<Match>& matches) const {
  const auto* code = code_->compiled.get();
  const MatchData data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const MatchContext context(pcre2_match_context_create(nullptr), pcre2_match_context_free);
  constexpr size_t kSmallestStack = 1 << 15;
  constexpr size_t kLargestStack = 1 << 24;
  const JitStack stack(pcre2_jit_stack_create(kSmallestStack, kLargestStack, nullptr),
                       pcre2_jit_stack_free);
  if (data == nullptr || context == nullptr)
    return fail(ErrorCode::Io, "out of memory while splitting the text");
  if (stack != nullptr) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  std::vector<CodePoint> known;
  const CodePoint* points = text.points;
  if (asks_categories_) {
    known.assign(text.points, text.points + text.size);
    for (CodePoint& point : known) point = stable_point(point, version_);
    points = known.data();
  }
  for (size_t done = 0; done <= text.size;) {
    // Surrogates pass with NO_UTF_CHECK: each point is looked up on its own.
    const int rc =
        pcre2_match(code, points, text.size, done, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0)
      return fail(ErrorCode::Unsupported,
                  fmt::format("cannot split the text into pieces: {}", pcre2_message(rc)));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    CHECK(range[1] >= range[0] && range[0] >= done);
    if (range[0] < text.size) matches.push_back({range[0], range[1]});
    done = range[1] > range[0] ? range[1] : range[1] + 1;
  }
  return {};
}

}  // namespace plumb
