// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "core/result.h"
#include "tokenizer/vocabulary.h"

namespace plumb {

// tokenizer.json of the tokenizers library: a BPE model with its normalizer, pre-tokenizer, added
// tokens, post-processor and decoder. Unsupported names the part that is not known.
Result<TokenizerRules> parse_tokenizer_json(std::string_view text);
Result<TokenizerRules> read_tokenizer_json(const nlohmann::json& tokenizer);

}  // namespace plumb
