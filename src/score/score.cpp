// SPDX-License-Identifier: Apache-2.0
#include "score/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/log_softmax.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

// Logits of one part take at most about this, so that a vocabulary of 262,144 does not need 500 MB.
constexpr size_t kPartBytes = size_t{64} << 20;

size_t part_rows(size_t vocabulary) {
  return std::clamp<size_t>(kPartBytes / (vocabulary * sizeof(float)), 16, 512);
}

// Positions that lie one behind the other.
struct Part {
  size_t first, count;
};

std::vector<Part> parts_of(std::span<const size_t> positions, size_t longest) {
  std::vector<Part> parts;
  for (const size_t position : positions) {
    if (!parts.empty() && parts.back().first + parts.back().count == position &&
        parts.back().count < longest)
      ++parts.back().count;
    else parts.push_back({position, 1});
  }
  return parts;
}

class Scorer {
 public:
  Scorer(LogitReader& a, LogitReader* b, Threads& threads, const ScoreOptions& options)
      : a_(a), b_(b), threads_(threads), options_(options) {
    if (b != nullptr) result.divergence.emplace(options.top_k);
  }

  Result<void> add(const Sequence& sequence) {
    sequence_ = &sequence;
    result.sequences.emplace_back();
    TRY(a_.begin(sequence.tokens));
    if (b_ != nullptr) TRY(b_->begin(sequence.tokens));
    for (const auto& part : parts_of(sequence.scored, part_rows(a_.vocabulary()))) {
      TRY_ASSIGN(const auto rows_a, a_.rows(part.first, part.count));
      std::span<const float> rows_b;
      if (b_ != nullptr) {
        TRY_ASSIGN(rows_b, b_->rows(part.first, part.count));
      }
      TRY(b_ == nullptr ? add_rows(part, rows_a) : add_pairs(part, rows_a, rows_b));
      options_.on_progress(result.sequences.size() - 1, perplexity(result.nll).value);
    }
    return {};
  }

  Score result;

 private:
  std::optional<Token> right(size_t position) const {
    if (position + 1 >= sequence_->tokens.size()) return std::nullopt;
    return sequence_->tokens[position + 1];
  }
  void add_nll(double nll) {
    result.nll.add(nll);
    result.sequences.back().add(nll);
  }
  Result<void> no_number(const LogitReader& reader, size_t position) const {
    return fail(ErrorCode::Corrupt,
                fmt::format("{}: the logits at position {} of part {} hold a value that is not a "
                            "number (NaN or infinity); 'plumb trace' shows where it comes from",
                            reader.label(), position, result.sequences.size()));
  }

  Result<void> add_rows(const Part& part, std::span<const float> rows) {
    const size_t n = a_.vocabulary();
    std::vector<double> totals(part.count);
    threads_.run(part.count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) totals[i] = log_sum_exp(rows.subspan(i * n, n));
    });
    for (size_t i = 0; i < part.count; ++i) {
      if (std::isnan(totals[i])) return no_number(a_, part.first + i);
      if (const auto token = right(part.first + i))
        add_nll(totals[i] - rows[i * n + static_cast<size_t>(*token)]);
    }
    return {};
  }

  Result<void> add_pairs(const Part& part, std::span<const float> rows_a,
                         std::span<const float> rows_b) {
    const size_t n = a_.vocabulary();
    std::vector<PairRow> pairs(part.count);
    threads_.run(part.count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i)
        pairs[i] = compare_rows(rows_a.subspan(i * n, n), rows_b.subspan(i * n, n),
                                right(part.first + i), options_.top_k);
    });
    for (size_t i = 0; i < part.count; ++i) {
      if (std::isnan(pairs[i].kl))
        return no_number(std::isnan(log_sum_exp(rows_a.subspan(i * n, n))) ? a_ : *b_,
                         part.first + i);
      if (pairs[i].nll_a) add_nll(*pairs[i].nll_a);
      result.divergence->add(pairs[i]);
    }
    return {};
  }

  LogitReader& a_;
  LogitReader* b_;
  Threads& threads_;
  const ScoreOptions& options_;
  const Sequence* sequence_ = nullptr;
};

Result<void> check_tokens_fit(const Sequence& sequence, const LogitReader& reader) {
  for (size_t i = 0; i < sequence.tokens.size(); ++i)
    if (sequence.tokens[i] < 0 || static_cast<size_t>(sequence.tokens[i]) >= reader.vocabulary())
      return fail(ErrorCode::NotComparable,
                  fmt::format("{}: token {} at position {} is outside its vocabulary of {}",
                              reader.label(), sequence.tokens[i], i, reader.vocabulary()));
  return {};
}

}  // namespace

Result<std::vector<Sequence>> cut_into_chunks(std::span<const Token> tokens,
                                              const Chunking& chunking) {
  const size_t context = chunking.context;
  if (context < 3)
    return fail(ErrorCode::Usage,
                fmt::format("a context of {} tokens leaves none to score: at least 3", context));
  if (tokens.size() / 2 < context)
    return fail(ErrorCode::Usage,
                fmt::format("the text has {} tokens; a context of {} needs at least {}: give a "
                            "longer text or a smaller --context",
                            tokens.size(), context, 2 * context));
  size_t chunks = tokens.size() / context;
  if (chunking.chunks != 0) chunks = std::min(chunks, chunking.chunks);
  std::vector<Sequence> sequences(chunks);
  for (size_t i = 0; i < chunks; ++i) {
    // The last token is predicted, never fed.
    const auto chunk = tokens.subspan(i * context, context);
    sequences[i].tokens.assign(chunk.begin(), chunk.end());
    if (chunking.bos) sequences[i].tokens[0] = *chunking.bos;
    for (size_t at = context / 2; at + 1 < context; ++at) sequences[i].scored.push_back(at);
  }
  return sequences;
}

Result<Sequence> sequence_of(const Trace& trace, const Trace* other) {
  const auto* logits = trace.find("logits");
  CHECK(logits != nullptr);
  Sequence sequence{trace.tokens, {logits->positions.begin(), logits->positions.end()}};
  if (other == nullptr) return sequence;
  if (trace.tokens != other->tokens) {
    const auto [a, b] = std::ranges::mismatch(trace.tokens, other->tokens);
    return fail(ErrorCode::NotComparable,
                fmt::format("{} and {} were fed different tokens: {} and {}, the first difference "
                            "at position {}",
                            trace.label, other->label, trace.tokens.size(), other->tokens.size(),
                            a - trace.tokens.begin()));
  }
  const auto* others = other->find("logits");
  CHECK(others != nullptr);
  std::erase_if(sequence.scored, [&](size_t position) {
    return !std::ranges::binary_search(others->positions, static_cast<int32_t>(position));
  });
  if (sequence.scored.empty())
    return fail(ErrorCode::NotComparable,
                fmt::format("{} and {} have the logits of no position in common", trace.label,
                            other->label));
  return sequence;
}

Result<Score> score(LogitReader& a, LogitReader* b, std::span<const Sequence> sequences,
                    Threads& threads, const ScoreOptions& options) {
  if (b != nullptr && a.vocabulary() != b->vocabulary())
    return fail(ErrorCode::NotComparable,
                fmt::format("the vocabularies differ: {} has {} tokens, {} has {}; probabilities "
                            "of different tokens cannot be compared",
                            a.label(), a.vocabulary(), b->label(), b->vocabulary()));
  for (const auto& sequence : sequences) {
    TRY(check_tokens_fit(sequence, a));
    if (b != nullptr) TRY(check_tokens_fit(sequence, *b));
  }
  Scorer scorer(a, b, threads, options);
  const size_t fed = a.fed() + (b != nullptr ? b->fed() : 0);
  for (const auto& sequence : sequences) TRY(scorer.add(sequence));
  scorer.result.fed = a.fed() + (b != nullptr ? b->fed() : 0) - fed;
  return std::move(scorer.result);
}

Result<void> check_same_vocabulary(const Model& a, const Model& b) {
  const auto differ = [&](const std::string& what) {
    return fail(ErrorCode::NotComparable,
                fmt::format("the vocabularies differ: {}; probabilities of different tokens cannot "
                            "be compared",
                            what));
  };
  if (a.config.vocabulary != b.config.vocabulary)
    return differ(fmt::format("{} has {} tokens, {} has {}", a.path, a.config.vocabulary, b.path,
                              b.config.vocabulary));
  if (!a.tokenizer || !b.tokenizer) return {};  // sizes are all that can be known
  const size_t size = std::max(a.tokenizer->size(), b.tokenizer->size());
  for (size_t i = 0; i < size; ++i) {
    const auto id = static_cast<Token>(i);
    const auto text_a = a.tokenizer->piece(id);
    const auto text_b = b.tokenizer->piece(id);
    if (text_a != text_b)
      return differ(fmt::format("token {} is '{}' in {}, '{}' in {}", id, printable(text_a, 40),
                                a.path, printable(text_b, 40), b.path));
  }
  return {};
}

}  // namespace plumb
