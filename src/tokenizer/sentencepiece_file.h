// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <span>

#include "core/result.h"
#include "tokenizer/vocabulary.h"

namespace plumb {

// tokenizer.model, SentencePiece's protocol buffer: pieces with scores and types, and how text is
// normalized. Unsupported: a model other than BPE, and a normalizer that rewrites characters.
Result<Vocabulary> parse_sentencepiece(std::span<const std::byte> bytes);

}  // namespace plumb
