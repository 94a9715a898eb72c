// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "core/check.h"
#include "model/unicode_bytes.h"

namespace plumb {
namespace {

// Model files often name one end token only, while chat models stop at others. These are the
// names that published vocabularies use.
constexpr std::string_view kEndNames[] = {
    "<|im_end|>",      "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",    "<|end|>",
    "<|end_of_text|>", "<|return|>",    "<|call|>",   "<end_of_turn>", "<end_of_utterance>",
    "<EOT>",           "[EOT]",         "[EOS]",      "<eos>",         "</s>",
};

bool has_end_name(std::string_view text) {
  return std::ranges::find(kEndNames, text) != std::end(kEndNames);
}

// Texts to ids. The keys are views: whatever they point to must stay.
class SymbolTable {
 public:
  Result<void> add_tokens(const std::vector<std::string>& tokens) {
    ids_.reserve(tokens.size() * 2);
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i].empty()) continue;
      const auto [found, added] = ids_.emplace(tokens[i], static_cast<int32_t>(i));
      if (!added) {
        return fail(ErrorCode::Corrupt, fmt::format("tokens {} and {} are both \"{}\"",
                                                    found->second, i, printable(tokens[i])));
      }
    }
    next_ = static_cast<int32_t>(tokens.size());
    return {};
  }

  int32_t find(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? -1 : found->second;
  }

  int32_t intern(std::string_view text) {
    if (const int32_t known = find(text); known >= 0) return known;
    ids_.emplace(owned_.emplace_back(text), next_);
    return next_++;
  }

 private:
  std::unordered_map<std::string_view, int32_t> ids_;
  std::deque<std::string> owned_;
  int32_t next_ = 0;
};

Result<void> check_id(const Vocabulary& vocabulary, std::string_view what,
                      std::optional<Token> id) {
  if (!id || (*id >= 0 && static_cast<size_t>(*id) < vocabulary.tokens.size())) return {};
  return fail(ErrorCode::Corrupt, fmt::format("the {} token is {}, outside a vocabulary of {}",
                                              what, *id, vocabulary.tokens.size()));
}

Result<void> check_vocabulary(const Vocabulary& vocabulary) {
  if (vocabulary.model != "gpt2") {
    return fail(ErrorCode::Unsupported,
                fmt::format("tokenizer model \"{}\" is not supported (\"gpt2\" is)",
                            printable(vocabulary.model)));
  }
  // Merges may add up to three symbols each, and ids are 32 bits wide.
  constexpr size_t kMaxEntries = std::numeric_limits<int32_t>::max() / 8;
  if (vocabulary.tokens.size() > kMaxEntries || vocabulary.merges.size() > kMaxEntries) {
    return fail(ErrorCode::Unsupported,
                fmt::format("{} tokens and {} merges are too many", vocabulary.tokens.size(),
                            vocabulary.merges.size()));
  }
  if (vocabulary.tokens.empty()) return fail(ErrorCode::Corrupt, "the vocabulary has no tokens");
  if (!vocabulary.types.empty() && vocabulary.types.size() != vocabulary.tokens.size()) {
    return fail(ErrorCode::Corrupt, fmt::format("{} token types for {} tokens",
                                                vocabulary.types.size(), vocabulary.tokens.size()));
  }
  for (size_t i = 0; i < vocabulary.types.size(); ++i) {
    const int32_t type = vocabulary.types[i];
    if (type < 0 || type > static_cast<int32_t>(TokenType::Byte)) {
      return fail(ErrorCode::Corrupt, fmt::format("token {} has the unknown type {}", i, type));
    }
  }
  TRY(check_id(vocabulary, "BOS", vocabulary.bos));
  TRY(check_id(vocabulary, "EOS", vocabulary.eos));
  TRY(check_id(vocabulary, "EOT", vocabulary.eot));
  TRY(check_id(vocabulary, "unknown", vocabulary.unknown));
  TRY(check_id(vocabulary, "padding", vocabulary.padding));
  if (vocabulary.add_bos.value_or(false) && !vocabulary.bos) {
    return fail(ErrorCode::Corrupt, "the model asks for a BOS token and names none");
  }
  if (vocabulary.add_eos.value_or(false) && !vocabulary.eos) {
    return fail(ErrorCode::Corrupt, "the model asks for an EOS token and names none");
  }
  return {};
}

// Files exist that mark end tokens as normal text; they are control tokens all the same.
TokenType type_of(const Vocabulary& vocabulary, size_t id) {
  if (has_end_name(vocabulary.tokens[id])) return TokenType::Control;
  return vocabulary.types.empty() ? TokenType::Normal
                                  : static_cast<TokenType>(vocabulary.types[id]);
}

bool is_special(TokenType type) {
  return type == TokenType::Control || type == TokenType::Unknown || type == TokenType::UserDefined;
}

std::string bytes_of(TokenType type, const std::string& text) {
  unsigned value = 0;
  if (type == TokenType::Byte && text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
      std::from_chars(text.data() + 3, text.data() + 5, value, 16).ptr == text.data() + 5) {
    return std::string(1, static_cast<char>(value));
  }
  return from_byte_alphabet(text);
}

Result<std::pair<std::string_view, std::string_view>> split_merge(std::string_view merge,
                                                                  size_t index) {
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
      merge.find(' ', space + 1) != std::string_view::npos) {
    return fail(ErrorCode::Corrupt, fmt::format("merge {} is \"{}\", not two texts with a space "
                                                "between",
                                                index, printable(merge)));
  }
  return std::pair(merge.substr(0, space), merge.substr(space + 1));
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

// Buffers of one encode() call, reused from piece to piece.
struct Tokenizer::Workspace {
  // A run of bytes; -1 for a neighbour means none, for a symbol that it was merged away.
  struct Node {
    Symbol symbol;
    int32_t previous, next;
    uint32_t begin, end;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;
    Symbol left_symbol, right_symbol, joined;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };

  std::vector<Node> nodes;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
};

Result<Tokenizer> Tokenizer::create(Vocabulary vocabulary) {
  TRY(check_vocabulary(vocabulary));
  TRY_ASSIGN(PreTokenizer pre_tokenizer, PreTokenizer::create(vocabulary.pre));
  Tokenizer made(std::move(pre_tokenizer));
  TRY(made.fill(vocabulary));
  return made;
}

Result<void> Tokenizer::fill(const Vocabulary& vocabulary) {
  SymbolTable symbols;
  TRY(symbols.add_tokens(vocabulary.tokens));
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string text = to_byte_alphabet(static_cast<uint8_t>(byte));
    byte_tokens_[byte] = symbols.find(text);
    if (byte_tokens_[byte] < 0) {
      const Token id = symbols.find(fmt::format("<0x{:02X}>", byte));
      if (id >= 0 && type_of(vocabulary, static_cast<size_t>(id)) == TokenType::Byte) {
        byte_tokens_[byte] = id;
      }
    }
    byte_symbols_[byte] = symbols.intern(text);
  }
  merges_.reserve(vocabulary.merges.size());
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    TRY_ASSIGN(const auto halves, split_merge(vocabulary.merges[i], i));
    const uint64_t key = pair_key(symbols.intern(halves.first), symbols.intern(halves.second));
    const Symbol joined = symbols.intern(std::string(halves.first) + std::string(halves.second));
    const auto [found, added] = merges_.emplace(key, Merge{static_cast<int32_t>(i), joined});
    if (!added) {
      return fail(ErrorCode::Corrupt,
                  fmt::format("merges {} and {} are both \"{}\"", found->second.rank, i,
                              printable(vocabulary.merges[i])));
    }
  }
  fill_tokens(vocabulary);
  bos_ = vocabulary.bos;
  eos_ = vocabulary.eos;
  add_bos_ = vocabulary.add_bos.value_or(false);
  add_eos_ = vocabulary.add_eos.value_or(false);
  return {};
}

void Tokenizer::fill_tokens(const Vocabulary& vocabulary) {
  const size_t count = vocabulary.tokens.size();
  pieces_.reserve(count);
  ends_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& text = vocabulary.tokens[i];
    const auto id = static_cast<Token>(i);
    const TokenType type = type_of(vocabulary, i);
    const bool special = is_special(type);
    pieces_.push_back(special ? text : bytes_of(type, text));
    ends_[i] = vocabulary.eos == id || vocabulary.eot == id || has_end_name(text);
    if (special && !text.empty()) specials_.push_back({id, type == TokenType::UserDefined});
  }
  std::ranges::sort(specials_, [this](const Special& a, const Special& b) {
    const size_t a_size = pieces_[static_cast<size_t>(a.id)].size();
    const size_t b_size = pieces_[static_cast<size_t>(b.id)].size();
    return a_size != b_size ? a_size > b_size : a.id < b.id;
  });
}

Result<std::vector<Token>> Tokenizer::encode(std::string_view text, bool add_special,
                                             bool parse_special) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return fail(ErrorCode::Unsupported,
                fmt::format("a text of {} bytes is too long to tokenize", text.size()));
  }
  std::vector<Token> ids;
  if (add_special && add_bos_) ids.push_back(*bos_);
  Workspace work;
  for (const Fragment& fragment : partition(text, parse_special)) {
    if (fragment.token) {
      ids.push_back(*fragment.token);
    } else {
      TRY(encode_text(text.substr(fragment.begin, fragment.end - fragment.begin), fragment.begin,
                      work, ids));
    }
  }
  if (add_special && add_eos_) ids.push_back(*eos_);
  return ids;
}

// One pass over the text per special token, so that a longer one wins wherever it stands.
std::vector<Tokenizer::Fragment> Tokenizer::partition(std::string_view text,
                                                      bool parse_special) const {
  std::vector<Fragment> fragments;
  if (!text.empty()) fragments.push_back({0, text.size(), std::nullopt});
  for (const Special& special : specials_) {
    if (!parse_special && !special.always) continue;
    const std::string& name = pieces_[static_cast<size_t>(special.id)];
    std::vector<Fragment> finer;
    for (const Fragment& fragment : fragments) {
      if (fragment.token) {
        finer.push_back(fragment);
        continue;
      }
      size_t begin = fragment.begin;
      const std::string_view visible = text.substr(0, fragment.end);
      for (size_t at; (at = visible.find(name, begin)) != std::string_view::npos;) {
        if (at > begin) finer.push_back({begin, at, std::nullopt});
        begin = at + name.size();
        finer.push_back({at, begin, special.id});
      }
      if (begin < fragment.end) finer.push_back({begin, fragment.end, std::nullopt});
    }
    fragments = std::move(finer);
  }
  return fragments;
}

Result<void> Tokenizer::encode_text(std::string_view text, size_t base, Workspace& work,
                                    std::vector<Token>& out) const {
  TRY_ASSIGN(const std::vector<CodePoint> points, decode_utf8_loosely(text, base));
  TRY_ASSIGN(const std::vector<size_t> ends, pre_tokenizer_.split(points));
  std::string piece;
  size_t at = 0;
  for (const size_t end : ends) {
    piece.clear();
    for (; at < end; ++at) append_utf8(points[at], piece);
    merge_piece(piece, work);
    TRY(emit_piece(piece, work, out));
  }
  return {};
}

void Tokenizer::propose(int32_t left, Workspace& work) const {
  if (left < 0) return;
  const auto& node = work.nodes[static_cast<size_t>(left)];
  if (node.next < 0) return;
  const Symbol right_symbol = work.nodes[static_cast<size_t>(node.next)].symbol;
  const auto found = merges_.find(pair_key(node.symbol, right_symbol));
  if (found == merges_.end()) return;
  work.queue.push({found->second.rank, left, node.symbol, right_symbol, found->second.joined});
}

// The lowest rank first, the leftmost on ties; n log n in the length of the piece.
void Tokenizer::merge_piece(std::string_view piece, Workspace& work) const {
  auto& nodes = work.nodes;
  nodes.clear();
  const auto count = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto begin = static_cast<uint32_t>(i);
    nodes.push_back({byte_symbols_[static_cast<uint8_t>(piece[begin])], i - 1,
                     i + 1 < count ? i + 1 : -1, begin, begin + 1});
  }
  for (int32_t i = 0; i + 1 < count; ++i) propose(i, work);
  while (!work.queue.empty()) {
    const Workspace::Candidate candidate = work.queue.top();
    work.queue.pop();
    auto& left = nodes[static_cast<size_t>(candidate.left)];
    // Out of date when either side has been merged since.
    if (left.symbol != candidate.left_symbol || left.next < 0) continue;
    auto& right = nodes[static_cast<size_t>(left.next)];
    if (right.symbol != candidate.right_symbol) continue;
    left.symbol = candidate.joined;
    left.end = right.end;
    left.next = right.next;
    right.symbol = -1;
    if (left.next >= 0) nodes[static_cast<size_t>(left.next)].previous = candidate.left;
    propose(left.previous, work);
    propose(candidate.left, work);
  }
}

Result<void> Tokenizer::emit_piece(std::string_view piece, const Workspace& work,
                                   std::vector<Token>& out) const {
  for (const auto& node : work.nodes) {
    if (node.symbol < 0) continue;
    if (static_cast<size_t>(node.symbol) < pieces_.size()) {
      out.push_back(node.symbol);
      continue;
    }
    for (uint32_t i = node.begin; i < node.end; ++i) {
      const auto byte = static_cast<uint8_t>(piece[i]);
      if (byte_tokens_[byte] < 0) {
        return fail(ErrorCode::Unsupported,
                    fmt::format("the vocabulary has no token for byte 0x{:02x} of \"{}\"", byte,
                                printable(piece)));
      }
      out.push_back(byte_tokens_[byte]);
    }
  }
  return {};
}

std::string Tokenizer::piece(Token id) const {
  if (id < 0 || static_cast<size_t>(id) >= pieces_.size()) return {};
  return pieces_[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const Token> ids) const {
  std::string bytes;
  for (const Token id : ids) bytes += piece(id);
  return bytes;
}

bool Tokenizer::is_end(Token id) const {
  return id >= 0 && static_cast<size_t>(id) < ends_.size() && ends_[static_cast<size_t>(id)];
}

std::string StreamDecoder::feed(Token id) {
  held_ += tokenizer_->piece(id);
  const size_t complete = held_.size() - unfinished_utf8_tail(held_);
  std::string ready = held_.substr(0, complete);
  held_.erase(0, complete);
  return ready;
}

std::string StreamDecoder::flush() { return std::exchange(held_, {}); }

}  // namespace plumb
