// SPDX-License-Identifier: Apache-2.0
// Feeds one prompt to two models side by side and keeps a few numbers for each position; logits are
// never held for more than one part of the prompt.
#pragma once
#include "outcome/prompt_set.h"
#include "record/record.h"

namespace plumb {

// The prompt as a batch to both (in parts of at most 64 MB of logits, which changes no bit), then
// `decode` tokens one by one: those that the baseline decodes greedily. Both models must have the
// same vocabulary size and room for prompt and decoded tokens; `prompt` must not be empty.
Result<PromptOutcome> run_prompt(const RunSetup& baseline, const RunSetup& candidate,
                                 std::span<const Token> prompt, size_t decode);

// Runs the baseline again on the same tokens, beside `noise`: a run that nobody could call wrong.
// Fills in the floor, and the tie floor of each position whose best token changed. The prefill of
// `noise` is also cut in two.
Result<void> measure_prompt_floor(const RunSetup& baseline, const RunSetup& noise,
                                  PromptOutcome& outcome);

}  // namespace plumb
