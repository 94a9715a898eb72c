// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "model/unicode_bytes.h"

namespace plumb {

// Cuts text into the pieces that byte-pair merging may not cross. Copies share the compiled
// patterns; split() may run in several threads at once.
class PreTokenizer {
 public:
  // `name` as GGUF's tokenizer.ggml.pre has it: "gpt-2" or "smollm".
  static Result<PreTokenizer> create(std::string_view name);

  // The end of each piece; the pieces are not empty and cover all points. Needs every point <=
  // kMaxPoint. Which points are letters and digits is up to the Unicode version of the PCRE2 at
  // hand.
  Result<std::vector<size_t>> split(std::span<const CodePoint> points) const;

 private:
  struct Pattern;
  std::vector<std::shared_ptr<const Pattern>> patterns_;
};

}  // namespace plumb
