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

enum class Op {
  Embedding,
  Positions,  // input + the row of the position in a table
  RmsNorm,
  LayerNorm,
  MatMul,
  Bias,
  Rope,
  Scores,
  Softmax,
  Mix,
  Add,
  Multiply,
  MultiplyRow,  // a row times one number of its own, the second input
  Scale,
  SoftCap,
  Silu,
  GeluTanh,
  GeluErf,
  Sigmoid,
  TopExperts,     // the numbers of the experts with the largest router logits, the largest first
  ExpertWeights,  // what the output of each chosen expert is multiplied by
  ExpertMatMul,   // each chosen expert's matrix times the row, or times its own part of the row
  ExpertSum,
};

// YaRN (Peng et al. 2023): pairs that turn often in the original context keep their frequency, slow
// ones are divided by `factor`, between them it goes over linearly.
struct Yarn {
  double factor = 1, beta_fast = 32, beta_slow = 1;
  double original_context = 0;
  bool truncate = true;
  friend bool operator==(const Yarn&, const Yarn&) = default;
};

struct Rope {
  double base = 10000;
  double linear_factor = 1;  // positions are divided by it
  size_t dimensions = 0;     // of each head; the rest stays as it is
  RopePairing pairing = RopePairing::Neighbours;
  WeightPtr factors = {};  // null, or dimensions/2 divisors of the frequencies (rope_freqs)
  std::optional<Yarn> yarn = {};
  double magnitude = 1;        // cos and sin are multiplied by it
  int32_t position_shift = 0;  // a fault: added to every position
  friend bool operator==(const Rope&, const Rope&) = default;
};
// The two values of a head that pair number `pair` turns.
std::pair<size_t, size_t> rope_pair(const Rope& rope, size_t pair);
// The angle of each pair for one step of the position, in radians: base^(-2p/dimensions), scaled.
std::vector<double> rope_frequencies(const Rope& rope);

enum class HeadMap {
  Grouped,
  Modulo
};  // kv head of head h: h / (heads / kv_heads), or (a fault) h % kv_heads

// Scores, Softmax and Mix of one layer share this.
struct Attention {
  size_t heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 1;
  bool causal = true;
  size_t window = 0;          // 0: none
  double softcap = 0;         // scores become cap · tanh(score / cap); 0: none
  double alibi_max_bias = 0;  // ALiBi (Press et al. 2021): scores fall with the distance; 0: none
  // Scores are multiplied by 1 + beta · ln(1 + floor(position / length)).
  double temperature_beta = 0;
  size_t temperature_length = 0;
  HeadMap head_map = HeadMap::Grouped;
  std::optional<int32_t> stale_position =
      {};  // a fault: the cache row of this position holds the one before it
};

// ALiBi's slope of a head: powers of 2^(-max_bias / n) for the n heads that are a power of two,
// those of twice as many for the rest.
double alibi_slope(const Attention& attention, size_t head);

// The experts of one layer.
struct Experts {
  size_t count = 0, used = 0;
  bool normalize = true;  // the chosen ones' weights sum to 1
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
  WeightPtr bias =
      {};              // MatMul: added to the product, where that has no step of its own; LayerNorm
  double epsilon = 0;  // norms
  size_t group = 0;  // norms: so many neighbours (0: the whole row) are normed together; the weight
                     // has as many values, or as many as the row
  bool use_gamma = true;  // norms; false is a fault
  double factor = 1;      // Scale; the cap of SoftCap
  size_t head_dim = 0;    // Rope
  Rope rope = {};
  Attention attention = {};
  Experts experts = {};
  std::optional<ValueEdit> edit = {};  // a fault of one value
  double gain = 1;  // other than 1: a fault, or noise of one ulp; the result is multiplied by it
};

// How many neighbours a norm takes together.
inline size_t norm_group(const Step& step) { return step.group == 0 ? step.width : step.group; }

struct Plan {
  std::vector<Step> steps;
  std::optional<size_t> find(const std::string& name) const;
};

// The plan of a model. Unsupported architectures were refused by load_model. `tokens`: how many
// will be fed in all, which some scalings of RoPE depend on (longrope, dynamic); 0: not more than
// the original context.
Plan make_plan(const Model& model, size_t tokens = 0);

// Whether the input is multiplied with a matrix, and so may be rounded first.
inline bool is_product(Op op) { return op == Op::MatMul || op == Op::ExpertMatMul; }
inline bool is_norm(Op op) { return op == Op::RmsNorm || op == Op::LayerNorm; }

// Steps that are recorded on request only, since they grow with the square of the tokens.
bool is_on_request(Op op);
const char* to_text(Op op);
// Whether every query sees only keys up to its own position; if not (a fault), a prefill cannot be
// split.
bool is_causal(const Plan& plan);

}  // namespace plumb
