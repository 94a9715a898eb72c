// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "core/result.h"
#include "formats/model_file.h"
#include "tokenizer/tokenizer.h"

namespace plumb {

// The tokenizer of a model in any format: a GGUF's or an APR's metadata; tokenizer.json,
// tokenizer.model, or vocab.json with merges.txt beside the weights of a Hugging Face folder.
// NotFound: there is none. Unsupported: a kind that is not supported, by its name. Corrupt: it
// contradicts itself.
Result<Tokenizer> load_tokenizer(const ModelFile& file);

}  // namespace plumb
