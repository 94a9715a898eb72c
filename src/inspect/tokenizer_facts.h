// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/model_file.h"

namespace plumb {

struct SpecialToken {
  std::string role;  // "bos", "eos"
  int64_t id = 0;
  std::string text;  // empty: not known
};

// What a file says about its tokenizer, without building it.
struct TokenizerFacts {
  bool present = false;
  std::string kind;  // "gpt2 (byte-level BPE), pre-tokenizer smollm"
  uint64_t tokens = 0, merges = 0, control_tokens = 0;
  std::vector<SpecialToken> special;
  std::optional<bool> add_bos, add_eos;
  std::string chat_template, chat_family;  // the template's text; "chatml", "llama-3" … or empty
  std::vector<std::string> problems;       // what contradicts itself
};

TokenizerFacts tokenizer_facts(const ModelFile& file);

}  // namespace plumb
