// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/result.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/pair_merger.h"
#include "tokenizer/vocabulary.h"

namespace plumb {

// Text to tokens and back, by merging pairs. From a GGUF it gives llama.cpp's ids, from a
// tokenizer.json those of the tokenizers library, except where these drop bytes that have no token:
// that is an error here. Immutable, so threads may share one.
class Tokenizer {
 public:
  static Result<Tokenizer> create(Vocabulary vocabulary);
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
  // Corrupt where the rules contradict themselves. Empty token texts may repeat: they are holes
  // that no text reaches.
  static Result<Tokenizer> create(TokenizerRules rules);

  // Any bytes, up to 2 GiB. add_special: BOS and EOS as the model asks. parse_special: control and
  // unknown tokens in the text become their ids; without it only user-defined ones do.
  Result<std::vector<Token>> encode(std::string_view text, bool add_special,
                                    bool parse_special) const;

  // The bytes that a token stands for; a control token gives its own text. Nothing for an id
  // outside the vocabulary.
  std::string piece(Token id) const;
  // The text of the whole: the space that encoding puts in front is taken away again.
  std::string decode(std::span<const Token> ids) const;

  // Whether generation stops at this token: EOS, EOT, EOM, and tokens of a known end name.
  bool is_end(Token id) const;
  std::vector<Token> end_tokens() const { return rules_.end_tokens; }

  size_t size() const { return rules_.tokens.size(); }
  std::optional<Token> bos() const { return rules_.bos; }
  std::optional<Token> eos() const { return rules_.eos; }
  // Whether the text begins with BOS, and ends with EOS, where special tokens are added.
  bool adds_bos() const;
  bool adds_eos() const;

  // How the vocabulary writes a token; nothing for an id outside of it.
  std::string text(Token id) const;
  TokenType type(Token id) const;  // Undefined for an id outside the vocabulary
  std::optional<Token> find(std::string_view text) const;  // by what text() gives
  const std::string& description() const { return rules_.description; }

  // The space that decode() takes away, at the start and behind added tokens.
  TokenizerRules::SpacePrefix space_prefix() const { return rules_.space_prefix; }
  bool is_added(Token id) const;

 private:
  struct Workspace;
  class Symbols;

  explicit Tokenizer(TokenizerRules rules) : rules_(std::move(rules)) {}

  Result<void> fill();
  Result<void> check() const;
  void fill_units(Symbols& symbols);
  Result<void> add_merges(Symbols& symbols);
  void add_scored_pairs(Symbols& symbols);
  void find_cuts();
  Result<void> fill_added();
  bool reachable(size_t id) const;

  Result<void> encode_fragment(std::string_view text, size_t base, bool parse_special,
                               Workspace& work, std::vector<Token>& out) const;
  Result<void> encode_stretch(std::string_view text, size_t base, bool at_start, Workspace& work,
                              std::vector<Token>& out) const;
  Result<void> encode_pieces(std::string_view text, size_t base, Workspace& work,
                             std::vector<Token>& out) const;
  Result<void> encode_piece(std::string_view piece, Workspace& work, std::vector<Token>& out) const;
  Result<void> encode_characters(std::string_view piece, Workspace& work,
                                 std::vector<Token>& out) const;
  std::optional<Token> whole_token(std::string_view piece) const;
  void read_units(std::string_view piece, Workspace& work) const;
  void add_character(std::string_view piece, uint32_t begin, uint32_t size, Workspace& work) const;
  Result<void> merge_and_emit(std::string_view piece, Workspace& work,
                              std::vector<Token>& out) const;
  Result<void> emit_bytes(std::string_view bytes, std::string_view piece, bool fuse,
                          std::vector<Token>& out) const;

  TokenizerRules rules_;
  std::vector<std::string> pieces_;
  std::vector<bool> added_;                          // by id
  std::unordered_map<std::string_view, Token> ids_;  // texts of rules_.tokens
  std::unordered_map<std::string, Token> whole_;     // pieces in bytes, for ignore_merges
  std::array<Symbol, 256> byte_symbols_{};           // units of bytes
  std::array<Token, 256> byte_tokens_{};             // -1: none
  std::unordered_map<uint64_t, Symbol> characters_;  // units of characters
  PairTable pairs_;
  // Characters that some token has in front of U+2581. A text may be cut between any other one and
  // U+2581, since no merge crosses there.
  std::unordered_set<uint64_t> before_mark_;
  AddedTokens raw_added_, normalized_added_;
};

// Turns tokens into text as they come, never cutting a UTF-8 sequence in two. Bytes that can not
// become valid UTF-8 pass through. `at_start`: the first token begins a text, whose first space
// decode() would drop; not so when it goes on from a prompt. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool at_start = false);

  // The bytes that are complete by now.
  std::string feed(Token id);
  // What was held back, and starts afresh.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
  bool drop_space_;
};

}  // namespace plumb
