// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/result.h"
#include "tokenizer/regex_pattern.h"
#include "tokenizer/split_patterns.h"

namespace plumb {

// What becomes of a match, in the words of the tokenizers library. A tokenizer that drops text
// ("Removed") is not supported.
enum class SplitBehavior : uint8_t { Isolated, MergedWithPrevious, MergedWithNext, Contiguous };

// One pass over the pieces so far, each of which it may cut further.
struct SplitPass {
  std::variant<SplitPattern, RegexPattern> pattern;
  SplitBehavior behavior = SplitBehavior::Isolated;
  bool invert = false;  // what lies between the matches counts as the match
};

// Cuts text into the pieces that merging may not cross. split() may run in several threads at once.
class PreTokenizer {
 public:
  // `name` as GGUF's tokenizer.ggml.pre has it, read as llama.cpp does.
  static Result<PreTokenizer> create(std::string_view name);
  // No pass at all: the text is one piece.
  explicit PreTokenizer(UnicodeVersion version = UnicodeVersion::V16_0) : version_(version) {}

  void add(SplitPass pass) { passes_.push_back(std::move(pass)); }
  // A regular expression, by a hand-written matcher where there is one.
  Result<void> add_regex(std::string_view regex, SplitBehavior behavior = SplitBehavior::Isolated,
                         bool invert = false);

  UnicodeVersion version() const { return version_; }
  bool empty() const { return passes_.empty(); }

  // The end of each piece; the pieces are not empty and cover all points. Needs every point <=
  // kMaxPoint, with the traits of version(). `scratch` is room to work in.
  Result<void> split(PointSpan text, std::vector<size_t>& ends, std::vector<size_t>& scratch) const;
  Result<std::vector<size_t>> split(std::span<const CodePoint> points) const;

 private:
  UnicodeVersion version_;
  std::vector<SplitPass> passes_;
};

// What llama.cpp ties to the name of a pre-tokenizer, besides its patterns.
struct PreTokenizerTraits {
  bool ignore_merges = false;   // a piece that is a token is that token
  bool add_bos = false;         // unless the file says otherwise
  bool spaces_as_2581 = false;  // characters instead of bytes; U+2581 for spaces
};
// Nothing for an unknown name.
std::optional<PreTokenizerTraits> pretokenizer_traits(std::string_view name);

}  // namespace plumb
