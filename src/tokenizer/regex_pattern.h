// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "tokenizer/split_patterns.h"
#include "tokenizer/unicode_categories.h"

namespace plumb {

// A regular expression as tokenizer.json writes it (Oniguruma's syntax), matched by PCRE2. What the
// two read differently is refused or rewritten. Copies share the compiled code; match() may run in
// several threads at once.
class RegexPattern {
 public:
  static Result<RegexPattern> create(std::string_view regex, UnicodeVersion version);
  // A pattern for a literal text.
  static Result<RegexPattern> literal(std::string_view text, UnicodeVersion version);

  struct Match {
    size_t begin, end;  // equal where the pattern matches between two points
  };
  // All matches from left to right, none overlapping. Matches see nothing outside `text`.
  Result<void> match(PointSpan text, std::vector<Match>& matches) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  UnicodeVersion version_ = UnicodeVersion::V16_0;
  bool asks_categories_ = false;
};

}  // namespace plumb
