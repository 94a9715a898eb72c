// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "tokenizer/regex_pattern.h"

namespace plumb {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

struct NormalizerStep {
  enum class Kind : uint8_t { Nfc, Nfd, Nfkc, Nfkd, Prepend, Replace, ReplaceRegex, Strip };
  Kind kind = Kind::Nfc;
  std::string pattern = {}, content = {};  // Replace: pattern by content; Prepend: content
  std::vector<RegexPattern> regex = {};    // ReplaceRegex: one
  bool only_at_start = false;              // Prepend: at the start of the whole text only
  bool unless_there = false;               // Prepend: not if the text begins with it
  bool left = false, right = false;        // Strip
};

// Rewrites a stretch of text before it is cut into pieces.
class Normalizer {
 public:
  void add(NormalizerStep step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  // `at_start`: the stretch begins where the whole text does.
  Result<void> apply(std::string& text, bool at_start) const;

 private:
  std::vector<NormalizerStep> steps_;
};

// Replaces every `pattern`, from left to right.
void replace_all(std::string& text, std::string_view pattern, std::string_view content);

}  // namespace plumb
