// SPDX-License-Identifier: Apache-2.0
// What a model computes, as data: a flat list of named steps. Each step gives one value, which
// later steps name by its index. Backends loop over it, replay takes one step, a fault is an edit
// of one step.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/result.h"
#include "model/model.h"

namespace plumb {

enum class Op { Embedding, RmsNorm, MatMul, Bias, Rope, Scores, Softmax, Mix, Add, Silu, Multiply };

struct Rope {
  double base = 10000;
  double linear_factor = 1;  // positions are divided by it
  size_t dimensions = 0;     // of each head; the rest stays as it is
  RopePairing pairing = RopePairing::Neighbours;
  WeightPtr factors = {};      // null, or dimensions/2 divisors of the frequencies (rope_freqs)
  int32_t position_shift = 0;  // a fault: added to every position
  friend bool operator==(const Rope&, const Rope&) = default;
};

enum class HeadMap {
  Grouped,
  Modulo
};  // kv head of head h: h / (heads / kv_heads), or (a fault) h % kv_heads

// Scores, Softmax and Mix of one layer share this.
struct Attention {
  size_t heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 1;
  bool causal = true;
  size_t window = 0;  // 0: none
  HeadMap head_map = HeadMap::Grouped;
  std::optional<int32_t> stale_position =
      {};  // a fault: the cache row of this position holds the one before it
};

// A fault of one value: x * multiply + add at one position and channel, after the step.
struct ValueEdit {
  int32_t position = 0;
  size_t channel = 0;
  double multiply = 1, add = 0;
};

struct Step {
  Op op;
  std::string name;  // "layer.3.attn.q_rope"
  std::vector<size_t> inputs =
      {};                 // indices of earlier steps; Embedding has none and takes the tokens
  size_t width = 0;       // values in a row; 0 for Scores and Softmax: heads * keys
  WeightPtr weight = {};  // null where the op has none
  WeightPtr bias = {};    // MatMul: added to the product, where that has no step of its own
  double epsilon = 0;     // RmsNorm
  bool use_gamma = true;  // RmsNorm; false is a fault
  size_t head_dim = 0;    // Rope
  Rope rope = {};
  Attention attention = {};
  std::optional<ValueEdit> edit = {};  // a fault of one value
  double gain = 1;  // other than 1: a fault, or noise of one ulp; the result is multiplied by it
};

struct Plan {
  std::vector<Step> steps;
  std::optional<size_t> find(const std::string& name) const;
};

// The plan of a model. Unsupported architectures were refused by load_model.
Plan make_plan(const Model& model);

// Steps that are recorded on request only, since they grow with the square of the tokens.
bool is_on_request(Op op);
const char* to_text(Op op);
// Whether every query sees only keys up to its own position; if not (a fault), a prefill cannot be
// split.
bool is_causal(const Plan& plan);

}  // namespace plumb
