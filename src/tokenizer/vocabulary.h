// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"

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

// What a GGUF or an APR file says, in its own words; read by llama.cpp's rules.
struct Vocabulary {
  std::string model;  // tokenizer.ggml.model: "gpt2", "llama", "gemma4"
  std::string pre;    // tokenizer.ggml.pre: "smollm"
  std::vector<std::string> tokens;
  std::vector<int32_t> types;       // empty: all normal
  std::vector<float> scores;        // "llama" only
  std::vector<std::string> merges;  // "left right"
  std::optional<Token> bos, eos, eot, eom, unknown, padding;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  // "phi-3" takes the spaces behind its special tokens along; llama.cpp tells it by the name.
  std::string model_name;
  std::string source = "GGUF metadata";
};

// A token that is cut out of the text before anything else.
struct AddedToken {
  Token id = 0;
  std::string content;
  bool special = true;                  // only where special tokens are looked for
  bool lstrip = false, rstrip = false;  // takes the spaces on that side along
  bool single_word = false;             // not within a word
  bool normalized = false;              // looked for behind the normalizer
};

// Everything that encoding does, whatever file it came from.
struct TokenizerRules {
  std::string description;
  std::vector<std::string> tokens;  // as the vocabulary writes them
  std::vector<TokenType> types;
  std::vector<bool> unreachable;  // by merging; empty: none

  enum class Units : uint8_t { Bytes, Characters };
  Units units = Units::Bytes;                               // what merging begins with
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  bool by_score = false;         // merge whatever gives a token, the best score first
  std::vector<float> scores;     // of each token
  bool ignore_merges = false;    // a piece that is a token is that token
  bool line_ends_whole = false;  // the same for pieces of line ends only
  // Characters: those without a token become byte tokens before merging (tokenizers library); else
  // after it (llama.cpp).
  bool bytes_before_merging = false;
  bool byte_fallback = true;     // characters without a token may become byte tokens
  std::optional<Token> unknown;  // in place of what has no token; nothing: an error
  bool fuse_unknown = false;

  std::vector<AddedToken> added;
  bool longest_first = false;  // added tokens: the longest anywhere (llama.cpp), not the leftmost
  Normalizer normalizer;       // before normalized added tokens are looked for
  Normalizer word_normalizer;  // behind that
  PreTokenizer pre_tokenizer;

  bool spaces_as_2581 = false;  // U+2581 in tokens is a space
  enum class SpacePrefix : uint8_t { None, First, Always };
  SpacePrefix space_prefix = SpacePrefix::None;  // which decoding takes away again

  std::vector<Token> prefix, suffix;  // what add_special puts around the text
  std::optional<Token> bos, eos;
  std::vector<Token> end_tokens;
};

// Vocabulary to rules, as llama.cpp reads it. Unsupported for a kind of tokenizer or pre-tokenizer
// that is not known; Corrupt where the vocabulary contradicts itself.
Result<TokenizerRules> make_rules(Vocabulary vocabulary);

// Whether generation ends at a token of this text, whatever the file says of it.
bool is_end_text(std::string_view text);

}  // namespace plumb
