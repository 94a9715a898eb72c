// SPDX-License-Identifier: Apache-2.0
// What a difference of two models does to the outcome of many prompts, and how sure that is.
// docs/outcome.md says what each figure means and where its formula comes from.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "outcome/bootstrap.h"
#include "tokenizer/tokenizer.h"

namespace plumb {

// One fed position: what A and B predict behind it.
struct PositionOutcome {
  double kl = 0;  // KL(A || B) in nats; infinite where a side has logits that are no numbers
  bool finite = true;
  bool changed = false;    // the best token is another one, or a side has none
  double margin = 0;       // A's, between its best token and B's, in logits; only where it changed
  Token from = 0, to = 0;  // A's best token and B's; only where it changed
  std::optional<double> tie;        // the tie floor of this position, where it was measured
  std::optional<double> log_ratio;  // ln pB - ln pA of the token that follows in the prompt
  bool is_tie() const { return changed && finite && tie && margin <= *tie; }
};

struct PromptOutcome {
  size_t line = 0;            // in the file, from 1
  std::vector<Token> tokens;  // the prompt, then what A decoded greedily: both sides were fed these
  size_t prompt = 0;
  std::vector<PositionOutcome> positions;
  bool identical = true;        // all logits have the same bits
  double distance = 0;          // largest relative L2 distance of the logits of a position
  std::optional<double> floor;  // the same between two equivalent runs of A; measured where needed

  double kl_mean() const;
  double kl_max() const;
  size_t changes() const;
  size_t ties() const;
  // The first position, of those whose prediction is generated, at which the best token changes. A
  // greedy run of B on its own would part from A's just there: up to there both were fed the same.
  std::optional<size_t> parting_position() const;
  // The index of that token: 0 is the one after the prompt.
  std::optional<size_t> parting() const;
  bool above_floor() const { return !identical && (!floor || distance > *floor); }
};

// A share of independent prompts.
struct PromptShare {
  size_t events = 0, count = 0;
  Interval interval;      // Clopper and Pearson
  double detectable = 0;  // a change of the share that would be seen; without events (or only
                          // with them) the bound of `zero_event_bound`
};

struct SetOutcome {
  std::string file;
  std::vector<PromptOutcome> prompts;
  size_t decode = 0;  // tokens decoded behind each prompt; so decode + 1 predictions are generated
  size_t positions = 0;  // of all prompts
  BootstrapOptions options;
  Blocks blocks;

  BootstrapEstimate kl;         // mean over positions
  BootstrapEstimate changed;    // share of positions whose best token changes
  BootstrapEstimate log_ratio;  // mean over the prompts' own tokens, B less A
  PromptShare parted;           // prompts that part within decode + 1 tokens
  PromptShare touched;          // prompts with any difference of any logit
  size_t changes = 0, ties = 0, not_finite = 0;
  // Where no best token changed: the largest share that can have gone unseen, if the positions
  // are independent, and whatever holds inside a prompt.
  double unseen_by_positions = 0, unseen_by_prompts = 0;

  size_t chosen = 0;            // the prompt that is judged step by step
  bool chosen_differs = false;  // it is the first whose logits differ by more than the floor; if
                                // not, the first of all
};

// Nothing but arithmetic; `prompts` must not be empty.
SetOutcome summarize(std::vector<PromptOutcome> prompts, size_t decode,
                     const BootstrapOptions& options);

}  // namespace plumb
