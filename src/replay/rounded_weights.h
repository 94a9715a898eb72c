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

// Whether the weights of a step are made `weights` before it is computed: of a product, to a scaled
// kind, or to a float of fewer bits that is not the file's. (With `inside`, that is their type.)
bool makes_weights(const Step& step, const std::string& inside, const std::string& weights);

class RoundedWeights {
 public:
  explicit RoundedWeights(std::string architecture) : architecture_(std::move(architecture)) {}

  // `inside` (f16, bf16) is what an engine works in throughout: all its weights but those of block
  // types. `weights` is what those of products are made, of all types: see makes_weights.
  RoundedStep of(const Step& step, const std::string& inside, const std::string& weights,
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
