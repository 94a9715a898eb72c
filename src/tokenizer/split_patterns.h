// SPDX-License-Identifier: Apache-2.0
// Hand-written matchers of the splitting patterns that most tokenizers use. Each gives what its
// regular expression gives; a test holds them against PCRE2.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/unicode_bytes.h"

namespace plumb {

// Text as code points with the traits of each (unicode_categories.h).
struct PointSpan {
  const CodePoint* points = nullptr;
  const uint8_t* traits = nullptr;
  size_t size = 0;

  PointSpan part(size_t begin, size_t end) const {
    return {points + begin, traits + begin, end - begin};
  }
};

enum class Contractions : uint8_t {
  None,
  LowerCase,  // 's, as GPT-2 has it
  Ascii,      // 's and 'S
  Unicode,    // case-insensitive as Unicode folds: U+017F is an s too
};

// One splitting pattern. A piece ends where a match ends; what no match covers is a piece as well.
struct SplitPattern {
  enum class Family : uint8_t {
    Gpt2,          // ` ?` before letters, digits and the rest
    Words,         // any one character before letters, digits in groups, line ends with punctuation
    CasedWords,    // the same; a capital begins a new word
    EachNumber,    // \p{N}
    NumberRuns,    // \p{N}{1,max_digits}, the rest in between
    NumbersRight,  // digits in groups of three, counted from the right
    Lines,         // [^\n]+|[\n]+
  };
  Family family = Family::Gpt2;
  Contractions contractions = Contractions::None;  // before words, or behind CasedWords
  uint32_t max_digits = 1;
  bool marks = false;       // \p{M} counts as letters
  bool slash = false;       // punctuation takes [\r\n/]* along instead of [\r\n]*
  bool ascii_case = false;  // llama.cpp's reading: other letters have both cases, marks none

  // Appends the end of each piece, `base` added.
  void split(PointSpan text, size_t base, std::vector<size_t>& ends) const;
};

// The matcher of a regular expression as tokenizer.json writes it, or null. It covers all text.
const SplitPattern* find_split_pattern(std::string_view regex);

// All expressions that find_split_pattern() knows, for tests.
struct NamedPattern {
  std::string_view regex;
  SplitPattern pattern;
};
std::span<const NamedPattern> split_patterns();

}  // namespace plumb
