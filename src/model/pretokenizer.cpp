// SPDX-License-Identifier: Apache-2.0
#include "model/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 32
#include <fmt/format.h>
#include <pcre2.h>

#include <string>

#include "core/check.h"

namespace plumb {

struct PreTokenizer::Pattern {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
};

namespace {

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

constexpr std::string_view kSingleDigits = R"(\p{N})";

// Spelled out because PCRE2's \s also takes U+180E, which Unicode (and so Rust, Python and
// llama.cpp) no longer counts as a space.
#define PLUMB_SPACES \
  R"(\x09-\x0D\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"

// GPT-2's pattern without its last alternative \s+: what that would match is what lies between
// the other matches.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" PLUMB_SPACES
    R"(\p{L}\p{N}]+|[)" PLUMB_SPACES R"(]+(?![^)" PLUMB_SPACES R"(]))";

#undef PLUMB_SPACES

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[128] = {};
  pcre2_get_error_message(code, text, std::size(text));
  std::string message;
  for (size_t i = 0; i < std::size(text) && text[i] != 0; ++i) {
    message.push_back(static_cast<char>(text[i]));
  }
  return message;
}

pcre2_code* compile(std::string_view ascii) {
  const std::vector<PCRE2_UCHAR> pattern(ascii.begin(), ascii.end());
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(pattern.data(), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  CHECK(code != nullptr);
  // Where PCRE2 has no JIT, matching goes on without it, with the same answers.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

// Matches see nothing outside `piece`: its end is the end of the text to a look-ahead.
Result<void> split_piece(const pcre2_code* code, pcre2_match_data* data,
                         std::span<const CodePoint> piece, size_t base, std::vector<size_t>& ends) {
  size_t done = 0;
  while (done < piece.size()) {
    // Surrogates pass with NO_UTF_CHECK: each point is looked up on its own.
    const int rc =
        pcre2_match(code, piece.data(), piece.size(), done, PCRE2_NO_UTF_CHECK, data, nullptr);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return fail(ErrorCode::Unsupported,
                  fmt::format("cannot split the text into pieces: {}", pcre2_message(rc)));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    CHECK(range[1] > range[0]);
    if (range[0] > done) ends.push_back(base + range[0]);
    ends.push_back(base + range[1]);
    done = range[1];
  }
  if (done < piece.size()) ends.push_back(base + piece.size());
  return {};
}

}  // namespace

Result<PreTokenizer> PreTokenizer::create(std::string_view name) {
  std::vector<std::string_view> patterns;
  if (name == "smollm") {
    patterns = {kSingleDigits, kGpt2};
  } else if (name == "gpt-2") {
    patterns = {kGpt2};
  } else {
    return fail(ErrorCode::Unsupported,
                fmt::format("pre-tokenizer \"{}\" is not supported (\"gpt-2\" and \"smollm\" are)",
                            printable(name)));
  }
  PreTokenizer made;
  for (const std::string_view pattern : patterns) {
    auto compiled = std::make_shared<Pattern>();
    compiled->code.reset(compile(pattern));
    made.patterns_.push_back(std::move(compiled));
  }
  return made;
}

Result<std::vector<size_t>> PreTokenizer::split(std::span<const CodePoint> points) const {
  std::vector<size_t> ends;
  if (points.empty()) return ends;
  ends.push_back(points.size());
  const MatchData data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (data == nullptr) return fail(ErrorCode::Io, "out of memory while splitting the text");
  for (const auto& pattern : patterns_) {
    std::vector<size_t> finer;
    size_t begin = 0;
    for (const size_t end : ends) {
      TRY(split_piece(pattern->code.get(), data.get(), points.subspan(begin, end - begin), begin,
                      finer));
      begin = end;
    }
    ends = std::move(finer);
  }
  return ends;
}

}  // namespace plumb
