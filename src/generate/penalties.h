// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <deque>
#include <limits>
#include <span>
#include <unordered_map>

#include "core/result.h"
#include "tokenizer/tokenizer.h"

namespace plumb {

struct PenaltyOptions {
  double repeat = 1;     // 1: none
  double presence = 0;   // subtracted once from the logit of a token that was there
  double frequency = 0;  // subtracted as often as it was there
  int last = 64;         // how many tokens back, the prompt's too; 0: none, -1: all
  bool active() const { return (repeat != 1 || presence != 0 || frequency != 0) && last != 0; }
};

// Usage, saying which option is wrong and what it may be.
Result<void> check(const PenaltyOptions& options);

// Makes tokens that were there less likely, as llama.cpp's penalty sampler does, in float: for each
// token among the last ones, a positive logit is divided by `repeat`, another multiplied, and then
// count · frequency + presence is subtracted.
class Penalties {
 public:
  explicit Penalties(PenaltyOptions options) : options_(options) {}
  void add(Token token);
  void apply(std::span<float> logits) const;

 private:
  PenaltyOptions options_;
  std::deque<Token> last_;
  std::unordered_map<Token, size_t> counts_;
};

}  // namespace plumb
