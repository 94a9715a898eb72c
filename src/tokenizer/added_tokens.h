// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace plumb {

// A stretch of text, or the added token that stands there.
struct Fragment {
  size_t begin = 0, end = 0;
  std::optional<Token> token;
};

// Finds the texts of added tokens: a tree of bytes.
class AddedTokens {
 public:
  // `contents`, where given, stand in for the tokens' own (they may have been normalized).
  AddedTokens(std::vector<AddedToken> tokens, bool longest_first);
  AddedTokens() = default;

  bool empty() const { return tokens_.empty(); }
  // The text in order, in stretches that are not empty. Without parse_special, special tokens stay
  // text.
  std::vector<Fragment> partition(std::string_view text, bool parse_special) const;

 private:
  struct Node {
    int32_t first_child = -1, sibling = -1;
    int32_t token = -1;  // index into tokens_
    uint8_t byte = 0;
  };
  struct Found {
    size_t begin, end;
    int32_t token;
  };
  int32_t child(int32_t node, uint8_t byte) const;
  void insert(int32_t index);
  std::vector<Found> find_all(std::string_view text, bool parse_special, bool overlapping) const;
  std::vector<Fragment> in_passes(std::string_view text, std::vector<int32_t> present) const;
  std::vector<Fragment> leftmost(std::string_view text, std::span<const Found> found) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_{};
  bool longest_first_ = false;
};

}  // namespace plumb
