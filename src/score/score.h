// SPDX-License-Identifier: Apache-2.0
// How well a model predicts a text, and how far two runs of it are apart.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "score/divergence.h"
#include "score/logit_reader.h"

namespace plumb {

// Tokens that are fed together, and the positions, ascending, whose prediction of the next token
// counts. The last token predicts one that is not there: only two runs can be compared by it.
struct Sequence {
  std::vector<Token> tokens;
  std::vector<size_t> scored;
};

// llama-perplexity's cut of a text: chunks of `context` tokens without overlap, what is left over
// is not used. Of each, the first half is context only: positions context/2 to context-2 are
// scored. `bos` replaces the first token of each chunk. Fails with fewer than two chunks' tokens.
struct Chunking {
  size_t context = 512;
  size_t chunks = 0;  // at most; 0: all
  std::optional<Token> bos;
};
Result<std::vector<Sequence>> cut_into_chunks(std::span<const Token> tokens,
                                              const Chunking& chunking);

// All of a trace whose logits it has; of two traces those that both have. Fails if the tokens
// differ or no position is left.
Result<Sequence> sequence_of(const Trace& trace, const Trace* other);

struct ScoreOptions {
  std::vector<size_t> top_k = {5, 10};
  // After each part: sequences done, the perplexity of A so far.
  std::function<void(size_t done, double perplexity)> on_progress = [](size_t, double) {};
};

struct Score {
  Mean nll;                     // of A's right tokens
  std::vector<Mean> sequences;  // the same of each sequence
  std::optional<Divergence> divergence;
  size_t fed = 0;  // tokens that models were given
};

// Scores A, and with B compares the two position by position. Sums are in double and in order, so
// that threads change no digit. Fails where logits are no numbers.
Result<Score> score(LogitReader& a, LogitReader* b, std::span<const Sequence> sequences,
                    Threads& threads, const ScoreOptions& options);

// Whether two models give their ids the same meaning; if not, where they differ first.
Result<void> check_same_vocabulary(const Model& a, const Model& b);

}  // namespace plumb
