// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "tokenizer/unicode_categories.h"

namespace plumb {
namespace {

using Kind = NormalizerStep::Kind;

// Canonical composition leaves text below U+0300 as it is; the other forms leave ASCII.
bool stays(const std::string& text, Kind kind) {
  const auto limit = static_cast<uint8_t>(kind == Kind::Nfc ? 0xCC : 0x80);
  return std::ranges::all_of(text, [limit](char c) { return static_cast<uint8_t>(c) < limit; });
}

void compose(std::string& text, Kind kind) {
  if (stays(text, kind)) return;
  int options = UTF8PROC_STABLE;
  options |= kind == Kind::Nfc || kind == Kind::Nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (kind == Kind::Nfkc || kind == Kind::Nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* out = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &out,
                                 static_cast<utf8proc_option_t>(options));
  // Text that is not UTF-8 has no normal form and stays as it is.
  if (size >= 0) text.assign(reinterpret_cast<const char*>(out), static_cast<size_t>(size));
  std::free(out);
}

Result<void> replace_matches(std::string& text, const NormalizerStep& step) {
  TRY_ASSIGN(const auto points, decode_utf8_loosely(text, 0));
  std::vector<RegexPattern::Match> matches;
  TRY(step.regex.front().match({points.data(), nullptr, points.size()}, matches));
  text.clear();
  size_t done = 0;
  for (const auto& match : matches) {
    for (; done < match.begin; ++done) append_utf8(points[done], text);
    text += step.content;
    done = match.end;
  }
  for (; done < points.size(); ++done) append_utf8(points[done], text);
  return {};
}

Result<void> strip(std::string& text, const NormalizerStep& step) {
  TRY_ASSIGN(const auto points, decode_utf8_loosely(text, 0));
  const uint8_t* traits = trait_table(UnicodeVersion::V16_0);
  size_t begin = 0;
  size_t end = points.size();
  const auto space = [&](size_t i) { return (traits[points[i]] & trait::kSpace) != 0; };
  while (step.left && begin < end && space(begin)) ++begin;
  while (step.right && end > begin && space(end - 1)) --end;
  text.clear();
  for (size_t i = begin; i < end; ++i) append_utf8(points[i], text);
  return {};
}

}  // namespace

void replace_all(std::string& text, std::string_view pattern, std::string_view content) {
  size_t at = text.find(pattern);
  if (pattern.empty() || at == std::string::npos) return;
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(pattern, done)) {
    out.append(text, done, at - done);
    out += content;
    done = at + pattern.size();
  }
  out.append(text, done, std::string::npos);
  text = std::move(out);
}

Result<void> Normalizer::apply(std::string& text, bool at_start) const {
  for (const NormalizerStep& step : steps_) {
    switch (step.kind) {
      case Kind::Nfc:
      case Kind::Nfd:
      case Kind::Nfkc:
      case Kind::Nfkd: compose(text, step.kind); break;
      case Kind::Prepend:
        if (!text.empty() && (at_start || !step.only_at_start) &&
            !(step.unless_there && text.starts_with(step.content)))
          text.insert(0, step.content);
        break;
      case Kind::Replace: replace_all(text, step.pattern, step.content); break;
      case Kind::ReplaceRegex: TRY(replace_matches(text, step)); break;
      case Kind::Strip: TRY(strip(text, step)); break;
    }
  }
  return {};
}

}  // namespace plumb
