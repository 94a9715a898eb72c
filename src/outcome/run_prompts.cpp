// SPDX-License-Identifier: Apache-2.0
#include "outcome/run_prompts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "score/divergence.h"

namespace plumb {
namespace {

constexpr size_t kPartBytes = size_t{64} << 20;

using Row = std::span<const float>;

bool all_finite(Row row) {
  return std::ranges::all_of(row, [](float x) { return std::isfinite(x); });
}

bool same_bits(Row a, Row b) { return std::memcmp(a.data(), b.data(), a.size_bytes()) == 0; }

// How far row b lies from row a: relative L2 distance, and the largest change of one value.
struct Distance {
  double relative = 0, largest = 0;
};
Distance distance_of(Row a, Row b) {
  double error = 0;
  double size = 0;
  Distance distance;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(b[i]) - static_cast<double>(a[i]);
    error += d * d;
    size += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    distance.largest = std::max(distance.largest, std::fabs(d));
  }
  distance.relative = error == 0 ? 0 : size > 0 ? std::sqrt(error / size) : std::sqrt(error);
  return distance;
}

PositionOutcome compare_position(Row a, Row b, std::optional<Token> next) {
  PositionOutcome outcome;
  outcome.finite = all_finite(a) && all_finite(b);
  if (!outcome.finite) {
    outcome.kl = INFINITY;
    outcome.changed = true;
    return outcome;
  }
  if (same_bits(a, b)) {  // exactly nothing, and cheap
    if (next) outcome.log_ratio = 0;
    return outcome;
  }
  const auto pair = compare_rows(a, b, next, {});
  outcome.kl = pair.kl;
  if (next) outcome.log_ratio = *pair.nll_a - *pair.nll_b;
  const Token from = argmax(a);
  const Token to = argmax(b);
  if (from == to) return outcome;
  outcome.changed = true;
  outcome.from = from;
  outcome.to = to;
  outcome.margin = static_cast<double>(a[static_cast<size_t>(from)]) -
                   static_cast<double>(a[static_cast<size_t>(to)]);
  return outcome;
}

Result<std::unique_ptr<Session>> open(const RunSetup& setup, size_t capacity) {
  return setup.backend.open(setup.model, setup.plan,
                            {.capacity = capacity, .kv_cache = setup.kv_cache}, setup.threads);
}

// Tokens of the prompt that are fed at once. A plan that looks ahead (a fault) cannot be cut.
size_t part_size(const RunSetup& a, const RunSetup& b, size_t prompt) {
  if (!can_split(a.plan) || !can_split(b.plan)) return prompt;
  const size_t rows = kPartBytes / (a.model.config.vocabulary * sizeof(float));
  return std::min(prompt, std::clamp<size_t>(rows, 16, 512));
}

// The rows of one part in which both sides are there, put beside each other.
class PairedRun {
 public:
  PairedRun(const RunSetup& a, const RunSetup& b, PromptOutcome& outcome)
      : a_(a), outcome_(outcome), width_(a.model.config.vocabulary) {
    CHECK(b.model.config.vocabulary == width_);
  }

  // Rows for the positions from `first` on.
  void add(size_t first, const std::vector<float>& a, const std::vector<float>& b) {
    const size_t count = a.size() / width_;
    CHECK(b.size() == a.size());
    std::vector<PositionOutcome> positions(count);
    std::vector<double> distances(count);
    std::vector<char> same(count);  // of its own byte each, since threads write beside each other
    a_.threads.run(count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        const auto row_a = Row(a).subspan(i * width_, width_);
        const auto row_b = Row(b).subspan(i * width_, width_);
        same[i] = same_bits(row_a, row_b) ? 1 : 0;
        if (same[i] == 0) distances[i] = distance_of(row_a, row_b).relative;
        positions[i] = compare_position(row_a, row_b, next_in_prompt(first + i));
      }
    });
    for (size_t i = 0; i < count; ++i) {
      outcome_.positions.push_back(positions[i]);
      outcome_.identical = outcome_.identical && same[i] != 0;
      // Not finite counts as infinitely far.
      outcome_.distance =
          std::max(outcome_.distance, std::isfinite(distances[i]) ? distances[i] : INFINITY);
    }
  }

 private:
  // Decoded tokens are the baseline's own choice: judged by them, the candidate could only lose.
  std::optional<Token> next_in_prompt(size_t position) const {
    if (position + 1 >= outcome_.prompt) return {};
    return outcome_.tokens[position + 1];
  }

  const RunSetup& a_;
  PromptOutcome& outcome_;
  size_t width_;
};

}  // namespace

Result<PromptOutcome> run_prompt(const RunSetup& baseline, const RunSetup& candidate,
                                 std::span<const Token> prompt, size_t decode) {
  CHECK(!prompt.empty());
  PromptOutcome outcome;
  outcome.tokens.assign(prompt.begin(), prompt.end());
  outcome.prompt = prompt.size();
  TRY_ASSIGN(auto a, open(baseline, prompt.size() + decode));
  TRY_ASSIGN(auto b, open(candidate, prompt.size() + decode));
  PairedRun run(baseline, candidate, outcome);
  const size_t part = part_size(baseline, candidate, prompt.size());
  Token next = 0;
  for (size_t at = 0; at < prompt.size() + decode;) {
    if (at >= prompt.size()) outcome.tokens.push_back(next);
    const size_t count = at >= prompt.size() ? 1 : std::min(part, prompt.size() - at);
    const auto fed = std::span(outcome.tokens).subspan(at, count);
    TRY_ASSIGN(const auto rows_a, a->forward(fed, Outputs::AllPositions, nullptr));
    TRY_ASSIGN(const auto rows_b, b->forward(fed, Outputs::AllPositions, nullptr));
    run.add(at, rows_a, rows_b);
    next = argmax(Row(rows_a).last(baseline.model.config.vocabulary));
    at += count;
  }
  return outcome;
}

Result<void> measure_prompt_floor(const RunSetup& baseline, const RunSetup& noise,
                                  PromptOutcome& outcome) {
  const std::span<const Token> tokens = outcome.tokens;
  const size_t width = baseline.model.config.vocabulary;
  TRY_ASSIGN(auto plain, open(baseline, tokens.size()));
  TRY_ASSIGN(auto noisy, open(noise, tokens.size()));
  const size_t part = part_size(baseline, noise, outcome.prompt);
  outcome.floor = 0;
  for (size_t at = 0; at < tokens.size();) {
    const size_t count = at >= outcome.prompt ? 1 : std::min(part, outcome.prompt - at);
    const auto fed = tokens.subspan(at, count);
    TRY_ASSIGN(const auto base, plain->forward(fed, Outputs::AllPositions, nullptr));
    const size_t half = can_split(noise.plan) ? (count + 1) / 2 : count;
    TRY_ASSIGN(auto other, noisy->forward(fed.first(half), Outputs::AllPositions, nullptr));
    if (half < count) {
      TRY_ASSIGN(const auto rest,
                 noisy->forward(fed.subspan(half), Outputs::AllPositions, nullptr));
      other.insert(other.end(), rest.begin(), rest.end());
    }
    for (size_t i = 0; i < count; ++i) {
      const auto distance =
          distance_of(Row(base).subspan(i * width, width), Row(other).subspan(i * width, width));
      outcome.floor = std::max(*outcome.floor, distance.relative);
      // Two logits may move against each other.
      if (auto& position = outcome.positions[at + i]; position.changed)
        position.tie = 2 * distance.largest;
    }
    at += count;
  }
  return {};
}

}  // namespace plumb
