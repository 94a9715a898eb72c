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
#include <utility>
#include <vector>

#include "core/result.h"
#include "model/pretokenizer.h"

namespace plumb {

using Token = int32_t;

enum class TokenType : int32_t {
  Undefined = 0,
  Normal = 1,
  Unknown = 2,
  Control = 3,
  UserDefined = 4,
  Unused = 5,
  Byte = 6,
};

// What a model file says, in its own words.
struct Vocabulary {
  std::string model;  // tokenizer.ggml.model: "gpt2"
  std::string pre;    // tokenizer.ggml.pre: "smollm"
  std::vector<std::string> tokens;
  std::vector<int32_t> types;       // empty: all normal
  std::vector<std::string> merges;  // "left right"
  std::optional<Token> bos, eos, eot, unknown, padding;
  std::optional<bool> add_bos, add_eos;
};

// Byte-level byte-pair encoding. Gives llama.cpp's ids, except where llama.cpp drops bytes that
// have no token: that is an error here. Immutable, so threads may share one.
class Tokenizer {
 public:
  // Unsupported for a model other than "gpt2" and a pre-tokenizer other than "smollm" and "gpt-2";
  // Corrupt where the vocabulary contradicts itself. Empty token texts may repeat: they are holes
  // that no text reaches.
  static Result<Tokenizer> create(Vocabulary vocabulary);

  // Any bytes, up to 2 GiB. add_special: BOS and EOS as the model asks. parse_special: control,
  // unknown and user-defined tokens in the text become their ids, the longest first; without it
  // only user-defined ones do.
  Result<std::vector<Token>> encode(std::string_view text, bool add_special,
                                    bool parse_special) const;

  // The exact bytes of a token; a control token gives its own text. Nothing for an id outside
  // the vocabulary.
  std::string piece(Token id) const;
  std::string decode(std::span<const Token> ids) const;

  // Whether generation stops at this token: EOS, EOT, and tokens that go by a known end name.
  bool is_end(Token id) const;

  size_t size() const { return pieces_.size(); }
  std::optional<Token> bos() const { return bos_; }
  bool adds_bos() const { return add_bos_; }

 private:
  // A text that merging can produce. Ids below size() are the tokens; those above are texts that
  // only merges mention.
  using Symbol = int32_t;

  struct Merge {
    int32_t rank;
    Symbol joined;
  };
  struct Special {
    Token id;
    bool always;  // matched without parse_special too
  };
  struct Fragment {
    size_t begin, end;
    std::optional<Token> token;
  };
  struct Workspace;

  explicit Tokenizer(PreTokenizer pre_tokenizer) : pre_tokenizer_(std::move(pre_tokenizer)) {}

  Result<void> fill(const Vocabulary& vocabulary);
  void fill_tokens(const Vocabulary& vocabulary);
  std::vector<Fragment> partition(std::string_view text, bool parse_special) const;
  Result<void> encode_text(std::string_view text, size_t base, Workspace& work,
                           std::vector<Token>& out) const;
  void propose(int32_t left, Workspace& work) const;
  void merge_piece(std::string_view piece, Workspace& work) const;
  Result<void> emit_piece(std::string_view piece, const Workspace& work,
                          std::vector<Token>& out) const;

  PreTokenizer pre_tokenizer_;
  std::vector<std::string> pieces_;
  std::vector<bool> ends_;
  std::vector<Special> specials_;  // longest text first, then lowest id
  std::array<Symbol, 256> byte_symbols_{};
  std::array<Token, 256> byte_tokens_{};  // -1: none
  std::unordered_map<uint64_t, Merge> merges_;
  std::optional<Token> bos_, eos_;
  bool add_bos_ = false;
  bool add_eos_ = false;
};

// Turns tokens into text as they come, never cutting a UTF-8 sequence in two. Bytes that can not
// become valid UTF-8 pass through. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The bytes that are complete by now.
  std::string feed(Token id);
  // What was held back, and starts afresh.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
};

}  // namespace plumb
