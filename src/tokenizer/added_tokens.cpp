// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "tokenizer/unicode_categories.h"

namespace plumb {
namespace {

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The traits of the character that ends before, or begins at, `at`.
uint8_t traits_at(std::string_view text, size_t begin, size_t size) {
  auto points = decode_utf8_loosely(text.substr(begin, size), 0);
  if (!points || points->empty()) return 0;
  return trait_table(UnicodeVersion::V16_0)[points->front()];
}

size_t previous_start(std::string_view text, size_t at) {
  size_t start = at - 1;
  while (start > 0 && at - start < 4 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

// \w: letters, numbers, marks and connecting punctuation.
bool is_word(std::string_view text, size_t begin, size_t end) {
  constexpr uint8_t kWord = trait::kLetter | trait::kNumber | trait::kMark;
  return text[begin] == '_' || (traits_at(text, begin, end - begin) & kWord) != 0;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(text, previous_start(text, begin), begin)) return false;
  return end >= text.size() || !is_word(text, end, std::min(text.size(), end + 4));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, bool longest_first)
    : tokens_(std::move(tokens)), longest_first_(longest_first) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::ranges::sort(tokens_, [](const AddedToken& a, const AddedToken& b) {
    return std::pair(b.content.size(), a.id) < std::pair(a.content.size(), b.id);
  });
  roots_.fill(-1);
  for (size_t i = 0; i < tokens_.size(); ++i) insert(static_cast<int32_t>(i));
}

int32_t AddedTokens::child(int32_t node, uint8_t byte) const {
  for (int32_t at = nodes_[static_cast<size_t>(node)].first_child; at >= 0;
       at = nodes_[static_cast<size_t>(at)].sibling)
    if (nodes_[static_cast<size_t>(at)].byte == byte) return at;
  return -1;
}

void AddedTokens::insert(int32_t index) {
  int32_t node = -1;
  for (const char c : tokens_[static_cast<size_t>(index)].content) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = node < 0 ? roots_[byte] : child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      Node added;
      added.byte = byte;
      if (node >= 0) {
        auto& parent = nodes_[static_cast<size_t>(node)];
        added.sibling = parent.first_child;
        parent.first_child = next;
      } else {
        roots_[byte] = next;
      }
      nodes_.push_back(added);
    }
    node = next;
  }
  auto& last = nodes_[static_cast<size_t>(node)];
  if (last.token < 0) last.token = index;  // of equal texts the first
}

// Every occurrence, or the longest at each place, going on behind it.
std::vector<AddedTokens::Found> AddedTokens::find_all(std::string_view text, bool parse_special,
                                                      bool overlapping) const {
  std::vector<Found> found;
  for (size_t at = 0; at < text.size();) {
    int32_t node = roots_[static_cast<uint8_t>(text[at])];
    size_t next = at + 1;
    std::optional<Found> longest;
    for (size_t end = at + 1; node >= 0; ++end) {
      const int32_t token = nodes_[static_cast<size_t>(node)].token;
      if (token >= 0) {
        const bool wanted = parse_special || !tokens_[static_cast<size_t>(token)].special;
        if (overlapping && wanted) found.push_back({at, end, token});
        longest = Found{at, end, token};
      }
      if (end >= text.size()) break;
      node = child(node, static_cast<uint8_t>(text[end]));
    }
    if (!overlapping && longest) {
      const auto& token = tokens_[static_cast<size_t>(longest->token)];
      // One that does not count still hides what lies within it.
      next = longest->end;
      if ((parse_special || !token.special) &&
          (!token.single_word || stands_alone(text, longest->begin, longest->end)))
        found.push_back(*longest);
    }
    at = next;
  }
  return found;
}

// llama.cpp's way: one pass over the text for each token, the longest first, so that a longer one
// wins wherever it stands.
std::vector<Fragment> AddedTokens::in_passes(std::string_view text,
                                             std::vector<int32_t> present) const {
  std::vector<Fragment> fragments = {{0, text.size(), std::nullopt}};
  std::ranges::sort(present);
  present.erase(std::unique(present.begin(), present.end()), present.end());
  for (const int32_t index : present) {
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    std::vector<Fragment> finer;
    for (const Fragment& fragment : fragments) {
      size_t begin = fragment.begin;
      const std::string_view visible = text.substr(0, fragment.end);
      for (size_t at = 0; !fragment.token &&
                          (at = visible.find(token.content, begin)) != std::string_view::npos;) {
        size_t left = at;
        while (token.lstrip && left > begin && is_ascii_space(text[left - 1])) --left;
        if (left > begin) finer.push_back({begin, left, std::nullopt});
        begin = at + token.content.size();
        finer.push_back({at, begin, token.id});
        while (token.rstrip && begin < fragment.end && is_ascii_space(text[begin])) ++begin;
      }
      if (fragment.token) {
        finer.push_back(fragment);
      } else if (begin < fragment.end) {
        finer.push_back({begin, fragment.end, std::nullopt});
      }
    }
    fragments = std::move(finer);
  }
  return fragments;
}

std::vector<Fragment> AddedTokens::leftmost(std::string_view text,
                                            std::span<const Found> found) const {
  std::vector<Fragment> fragments;
  const uint8_t* traits = trait_table(UnicodeVersion::V16_0);
  const auto is_space = [&](size_t begin, size_t end) {
    auto points = decode_utf8_loosely(text.substr(begin, end - begin), 0);
    return points && points->size() == 1 && (traits[points->front()] & trait::kSpace) != 0;
  };
  size_t done = 0;
  for (const Found& match : found) {
    if (match.begin < done) continue;  // within the spaces that an earlier one took along
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t left = match.begin;
    size_t right = match.end;
    while (token.lstrip && left > done && is_space(previous_start(text, left), left))
      left = previous_start(text, left);
    while (token.rstrip && right < text.size()) {
      size_t next = right + 1;
      while (next < text.size() && (static_cast<uint8_t>(text[next]) & 0xC0) == 0x80) ++next;
      if (!is_space(right, next)) break;
      right = next;
    }
    if (left > done) fragments.push_back({done, left, std::nullopt});
    fragments.push_back({match.begin, match.end, token.id});
    done = right;
  }
  if (done < text.size()) fragments.push_back({done, text.size(), std::nullopt});
  return fragments;
}

std::vector<Fragment> AddedTokens::partition(std::string_view text, bool parse_special) const {
  if (text.empty()) return {};
  if (tokens_.empty()) return {{0, text.size(), std::nullopt}};
  const auto found = find_all(text, parse_special, longest_first_);
  if (!longest_first_) return leftmost(text, found);
  std::vector<int32_t> present;
  for (const Found& match : found) present.push_back(match.token);
  return in_passes(text, std::move(present));
}

}  // namespace plumb
