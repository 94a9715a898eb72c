// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "core/result.h"
#include "model/model.h"

namespace plumb::cli {

struct Prompt {
  size_t line = 0;  // in the file, from 1
  std::vector<Token> tokens;
};

// The prompts of a file of UTF-8, one per line; empty lines are skipped, a byte order mark and the
// carriage returns of another system are no part of a prompt. "-" is standard input. Fails, naming
// the line, where the file holds no prompt, a line is no UTF-8 or gives no tokens, where prompt and
// `decode` tokens exceed the context of either model, and where the two tokenizers disagree.
Result<std::vector<Prompt>> read_prompts(const std::string& path, const Model& baseline,
                                         const Model& candidate, size_t decode);

}  // namespace plumb::cli
