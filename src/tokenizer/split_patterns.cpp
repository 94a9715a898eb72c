// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/split_patterns.h"

#include <iterator>

#include "tokenizer/unicode_categories.h"

namespace plumb {
namespace {

using Ends = std::vector<size_t>;
using Family = SplitPattern::Family;

bool is_line_end(CodePoint point) { return point == '\n' || point == '\r'; }

CodePoint fold(CodePoint point, Contractions contractions) {
  if (contractions == Contractions::LowerCase) return point;
  if (point >= 'A' && point <= 'Z') return point + 32;
  return contractions == Contractions::Unicode && point == 0x17F ? 's' : point;
}

// The end of 's|'t|'re|'ve|'m|'ll|'d at `at`, or `at`.
size_t contraction(PointSpan text, size_t at, Contractions contractions) {
  if (contractions == Contractions::None || at + 1 >= text.size || text.points[at] != '\'')
    return at;
  const CodePoint first = fold(text.points[at + 1], contractions);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if (at + 2 >= text.size) return at;
  const CodePoint second = fold(text.points[at + 2], contractions);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
      (first == 'l' && second == 'l'))
    return at + 3;
  return at;
}

// The end of the run of points that have one of the traits.
size_t run_with(PointSpan text, size_t at, uint8_t traits) {
  while (at < text.size && (text.traits[at] & traits) != 0) ++at;
  return at;
}

size_t run_without(PointSpan text, size_t at, uint8_t traits) {
  while (at < text.size && (text.traits[at] & traits) == 0) ++at;
  return at;
}

// \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word that follows.
size_t spaces(PointSpan text, size_t at) {
  const size_t end = run_with(text, at, trait::kSpace);
  return end < text.size && end - at > 1 ? end - 1 : end;
}

size_t gpt2_piece(PointSpan text, size_t at, Contractions contractions) {
  constexpr uint8_t kNoOther = trait::kSpace | trait::kLetter | trait::kNumber;
  if (const size_t end = contraction(text, at, contractions); end > at) return end;
  const bool space = text.points[at] == ' ' && at + 1 < text.size;
  const size_t start = space ? at + 1 : at;
  const uint8_t traits = text.traits[start];
  if ((traits & trait::kLetter) != 0) return run_with(text, start, trait::kLetter);
  if ((traits & trait::kNumber) != 0) return run_with(text, start, trait::kNumber);
  if ((traits & trait::kSpace) == 0) return run_without(text, start, kNoOther);
  return spaces(text, at);
}

// `[^\r\n\p{L}\p{N}]?` : whether one point may stand before a word.
bool leads_word(PointSpan text, size_t at) {
  return (text.traits[at] & (trait::kLetter | trait::kNumber)) == 0 &&
         !is_line_end(text.points[at]);
}

// What the patterns of words and of cased words have in common: numbers, punctuation and spaces.
size_t other_piece(const SplitPattern& pattern, PointSpan text, size_t at) {
  if ((text.traits[at] & trait::kNumber) != 0) {
    size_t end = at + 1;
    while (end < text.size && end - at < pattern.max_digits &&
           (text.traits[end] & trait::kNumber) != 0)
      ++end;
    return end;
  }
  const uint8_t no_other = static_cast<uint8_t>(trait::kSpace | trait::kLetter | trait::kNumber |
                                                (pattern.marks ? trait::kMark : 0));
  const size_t start = text.points[at] == ' ' && at + 1 < text.size ? at + 1 : at;
  if ((text.traits[start] & no_other) == 0) {
    size_t end = run_without(text, start, no_other);
    while (end < text.size &&
           (is_line_end(text.points[end]) || (pattern.slash && text.points[end] == '/')))
      ++end;
    return end;
  }
  const size_t end = run_with(text, at, trait::kSpace);
  for (size_t last = end; last > at; --last)  // \s*[\r\n]+
    if (is_line_end(text.points[last - 1])) return last;
  return end > at ? spaces(text, at) : at + 1;
}

size_t word_piece(const SplitPattern& pattern, PointSpan text, size_t at) {
  const uint8_t letters = static_cast<uint8_t>(trait::kLetter | (pattern.marks ? trait::kMark : 0));
  if (const size_t end = contraction(text, at, pattern.contractions); end > at) return end;
  if ((text.traits[at] & letters) != 0) return run_with(text, at, letters);
  if (leads_word(text, at) && at + 1 < text.size && (text.traits[at + 1] & letters) != 0)
    return run_with(text, at + 1, letters);
  return other_piece(pattern, text, at);
}

bool is_upper(const SplitPattern& pattern, PointSpan text, size_t at) {
  const uint8_t traits = text.traits[at];
  if (pattern.ascii_case)
    return (traits & trait::kLetter) != 0 && (text.points[at] < 'a' || text.points[at] > 'z');
  return (traits & (trait::kLetter | trait::kMark)) != 0 && (traits & trait::kLower) == 0;
}

bool is_lower(const SplitPattern& pattern, PointSpan text, size_t at) {
  const uint8_t traits = text.traits[at];
  if (pattern.ascii_case)
    return (traits & trait::kLetter) != 0 && (text.points[at] < 'A' || text.points[at] > 'Z');
  return (traits & (trait::kLetter | trait::kMark)) != 0 && (traits & trait::kUpper) == 0;
}

// U*l+ with U and l as above; `start` where nothing matches. When nothing lower follows the
// capitals, the last of them that counts as lower too (a letter without case) ends the match.
size_t capitals_then_lower(const SplitPattern& pattern, PointSpan text, size_t start) {
  size_t end = start;
  while (end < text.size && is_upper(pattern, text, end)) ++end;
  if (end < text.size && is_lower(pattern, text, end)) {
    while (end < text.size && is_lower(pattern, text, end)) ++end;
    return end;
  }
  while (end > start && !is_lower(pattern, text, end - 1)) --end;
  return end;
}

// U+l*
size_t capitals_first(const SplitPattern& pattern, PointSpan text, size_t start) {
  size_t end = start;
  while (end < text.size && is_upper(pattern, text, end)) ++end;
  if (end == start) return start;
  while (end < text.size && is_lower(pattern, text, end)) ++end;
  return end;
}

size_t cased_piece(const SplitPattern& pattern, PointSpan text, size_t at) {
  const size_t lead = leads_word(text, at) ? 1 : 0;
  for (const auto rule : {capitals_then_lower, capitals_first}) {
    for (size_t skip = lead + 1; skip-- > 0;) {
      const size_t start = at + skip;
      if (const size_t end = rule(pattern, text, start); end > start)
        return contraction(text, end, pattern.contractions);
    }
  }
  return other_piece(pattern, text, at);
}

void split_numbers(const SplitPattern& pattern, PointSpan text, size_t base, Ends& ends) {
  const size_t group = pattern.family == Family::EachNumber ? 1 : pattern.max_digits;
  for (size_t at = 0; at < text.size;) {
    if ((text.traits[at] & trait::kNumber) == 0) {
      at = run_without(text, at, trait::kNumber);
      ends.push_back(base + at);
      continue;
    }
    const size_t end = run_with(text, at, trait::kNumber);
    if (pattern.family == Family::NumbersRight && (end - at) % 3 != 0) {
      at += (end - at) % 3;
      ends.push_back(base + at);
    }
    while (at < end) {
      at = end - at > group ? at + group : end;
      ends.push_back(base + at);
    }
  }
}

void split_lines(PointSpan text, size_t base, Ends& ends) {
  for (size_t at = 0; at < text.size;) {
    const bool line_end = text.points[at] == '\n';
    while (at < text.size && (text.points[at] == '\n') == line_end) ++at;
    ends.push_back(base + at);
  }
}

// The end of each expression is the same: punctuation, line ends, spaces.
#define PLUMB_REST R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PLUMB_REST_SLASH R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PLUMB_ANY_CASE R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define PLUMB_ASCII_CASE R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define PLUMB_WORD R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define PLUMB_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define PLUMB_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define PLUMB_LEAD R"([^\r\n\p{L}\p{N}]?)"
#define PLUMB_UPPER_LLAMA R"(((?=[\p{L}])([^a-z])))"
#define PLUMB_LOWER_LLAMA R"(((?=[\p{L}])([^A-Z])))"

constexpr uint32_t kNoLimit = UINT32_MAX;
constexpr SplitPattern kGpt2 = {.family = Family::Gpt2, .contractions = Contractions::LowerCase};
constexpr SplitPattern words(Contractions contractions, uint32_t digits, bool marks = false) {
  return {
      .family = Family::Words, .contractions = contractions, .max_digits = digits, .marks = marks};
}
constexpr SplitPattern cased(Contractions contractions, uint32_t digits, bool ascii) {
  return {.family = Family::CasedWords,
          .contractions = contractions,
          .max_digits = digits,
          .slash = true,
          .ascii_case = ascii};
}

constexpr NamedPattern kPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", kGpt2},
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", kGpt2},
    {PLUMB_ANY_CASE "|" PLUMB_WORD R"(|\p{N}{1,3}|)" PLUMB_REST, words(Contractions::Unicode, 3)},
    {PLUMB_ASCII_CASE "|" PLUMB_WORD R"(|\p{N}{1,3}|)" PLUMB_REST, words(Contractions::Ascii, 3)},
    {PLUMB_ANY_CASE "|" PLUMB_WORD R"(|\p{N}|)" PLUMB_REST, words(Contractions::Unicode, 1)},
    {PLUMB_ASCII_CASE "|" PLUMB_WORD R"(|\p{N}|)" PLUMB_REST, words(Contractions::Ascii, 1)},
    {PLUMB_ANY_CASE "|" PLUMB_WORD R"(|\p{N}+|)" PLUMB_REST,
     words(Contractions::Unicode, kNoLimit)},
    {PLUMB_WORD R"(|\p{N}|)" PLUMB_REST, words(Contractions::None, 1)},
    {PLUMB_ANY_CASE
     R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     words(Contractions::Unicode, 1, true)},
    {PLUMB_ASCII_CASE
     R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     words(Contractions::Ascii, 1, true)},
    {PLUMB_LEAD PLUMB_UPPER "*" PLUMB_LOWER "+|" PLUMB_LEAD PLUMB_UPPER "+" PLUMB_LOWER
                            R"(*|\p{N}|)" PLUMB_REST_SLASH,
     cased(Contractions::None, 1, false)},
    {PLUMB_LEAD PLUMB_UPPER "*" PLUMB_LOWER "+" PLUMB_ANY_CASE "?|" PLUMB_LEAD PLUMB_UPPER
                            "+" PLUMB_LOWER "*" PLUMB_ANY_CASE R"(?|\p{N}{1,3}|)" PLUMB_REST_SLASH,
     cased(Contractions::Unicode, 3, false)},
    {PLUMB_LEAD PLUMB_UPPER_LLAMA "*" PLUMB_LOWER_LLAMA "+|" PLUMB_LEAD PLUMB_UPPER_LLAMA
                                  "+" PLUMB_LOWER_LLAMA R"(*|\p{N}|)" PLUMB_REST_SLASH,
     cased(Contractions::None, 1, true)},
    {PLUMB_LEAD PLUMB_UPPER_LLAMA "*" PLUMB_LOWER_LLAMA "+" PLUMB_ASCII_CASE
                                  "?|" PLUMB_LEAD PLUMB_UPPER_LLAMA "+" PLUMB_LOWER_LLAMA
                                  "*" PLUMB_ASCII_CASE R"(?|\p{N}{1,3}|)" PLUMB_REST_SLASH,
     cased(Contractions::Ascii, 3, true)},
    {R"(\p{N})", {.family = Family::EachNumber}},
    {R"(\p{N}{1,3})", {.family = Family::NumberRuns, .max_digits = 3}},
    {R"(\p{N}+)", {.family = Family::NumberRuns, .max_digits = kNoLimit}},
    {R"([^\n]+|[\n]+)", {.family = Family::Lines}},
};

#undef PLUMB_REST
#undef PLUMB_REST_SLASH
#undef PLUMB_ANY_CASE
#undef PLUMB_ASCII_CASE
#undef PLUMB_WORD
#undef PLUMB_UPPER
#undef PLUMB_LOWER
#undef PLUMB_LEAD
#undef PLUMB_UPPER_LLAMA
#undef PLUMB_LOWER_LLAMA

}  // namespace

void SplitPattern::split(PointSpan text, size_t base, Ends& ends) const {
  switch (family) {
    case Family::EachNumber:
    case Family::NumberRuns:
    case Family::NumbersRight: return split_numbers(*this, text, base, ends);
    case Family::Lines: return split_lines(text, base, ends);
    case Family::Gpt2:
      for (size_t at = 0; at < text.size; ends.push_back(base + at))
        at = gpt2_piece(text, at, contractions);
      return;
    case Family::Words:
      for (size_t at = 0; at < text.size; ends.push_back(base + at))
        at = word_piece(*this, text, at);
      return;
    case Family::CasedWords:
      for (size_t at = 0; at < text.size; ends.push_back(base + at))
        at = cased_piece(*this, text, at);
      return;
  }
}

std::span<const NamedPattern> split_patterns() { return kPatterns; }

const SplitPattern* find_split_pattern(std::string_view regex) {
  for (const NamedPattern& row : kPatterns)
    if (row.regex == regex) return &row.pattern;
  return nullptr;
}

}  // namespace plumb
