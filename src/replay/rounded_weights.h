// SPDX-License-Identifier: Apache-2.0
// Weights as an engine keeps them that does not take them as they are in the file: in a short type,
// or scaled to 8 bits.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/referee/rounding.h"
#include "model/plan.h"
#include "replay/bounds.h"

namespace plumb {

// A step with such weights. `undecided` are values of its matrix that another engine may round to
// the next step: `row` counts through all matrices.
struct RoundedStep {
  Step step;
  std::shared_ptr<const std::vector<referee::Undecided>> undecided;  // null: none

  // Adds to the bounds of `out`, (rows, width) of the step, what the undecided weights bring.
  void allow_undecided(const BoundedValue& input, const BoundedValue* experts,
                       std::vector<double>& bounds) const;
};

class RoundedWeights {
 public:
  explicit RoundedWeights(std::string architecture) : architecture_(std::move(architecture)) {}

  // `inside` (f16, bf16) is what an engine works in throughout: all its weights but those of block
  // types. `made` is what those of a product are made, of all types; empty: nothing.
  RoundedStep of(const Step& step, const std::string& inside, const std::string& made,
                 Threads& threads);

 private:
  struct Made {
    WeightPtr weight;
    std::shared_ptr<const std::vector<referee::Undecided>> undecided;
  };
  Made make(const WeightPtr& weight, const std::string& kind, bool less_one, Threads& threads);

  std::string architecture_;
  std::mutex mutex_;
  std::map<std::pair<WeightPtr, std::string>, Made> made_;
  size_t made_bytes_ = 0;
};

}  // namespace plumb
