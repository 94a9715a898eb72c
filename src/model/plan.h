// SPDX-License-Identifier: Apache-2.0
// What a model computes, as data: a flat list of named steps. Each step gives one value, which
// later steps name by its index. Backends loop over it, replay takes one step, a fault is an edit
// of one step.
#pragma once
#include <functional>
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
  Relu,           // only as a fault
  QuickGelu,      // x · sigmoid(1.702 x); only as a fault
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
  double magnitude = 1;  // cos and sin are multiplied by it
  // What only a faulty engine does:
  int32_t position_shift = 0;       // added to every position…
  int32_t shift_from = 0;           // …from this one on
  double direction = 1;             // -1: turned the other way
  size_t frequency_dimensions = 0;  // the exponent's divisor, where it is not `dimensions`
  size_t first_channel = 0;         // of each head: where the rotated part begins
  size_t first_heads = 0;           // so many heads are rotated, the others not; 0: all
  bool factors_multiply = false;    // the frequencies are multiplied by `factors`
  friend bool operator==(const Rope&, const Rope&) = default;
};
// The two values of a head that pair number `pair` turns.
std::pair<size_t, size_t> rope_pair(const Rope& rope, size_t pair);
// The angle of each pair for one step of the position, in radians: base^(-2p/dimensions), scaled.
std::vector<double> rope_frequencies(const Rope& rope);

// How a faulty softmax sums up.
enum class SoftmaxQuirk {
  None,
  ExtraKey,      // one key more, with the score 0
  NeverScaled,   // a running maximum whose terms are not scaled when it rises
  LastKeyMissed  // the sum leaves the last key out
};

// What only a faulty engine does in attention. Functions that are not set mean: as it should be.
struct AttentionQuirk {
  // Whether a query sees a key: in place of the causal mask and the window. `visible`: keys in the
  // cache when the query was computed.
  std::function<bool(size_t query, size_t visible, size_t key)> sees = {};
  // The row of the cache that is read for a key; nothing: zeros.
  std::function<std::optional<size_t>(size_t query, size_t key)> cache_row = {};
  std::function<size_t(size_t head)> kv_head = {};
  std::function<double(size_t head)> slope = {};  // of ALiBi
  bool cap_before_scale = false;
  SoftmaxQuirk softmax = SoftmaxQuirk::None;
  // What becomes of the score or the weight of a key that is seen.
  std::function<double(size_t query, size_t head, size_t key, double value)> value = {};
};

// Scores, Softmax and Mix of one layer share this. Query head h reads KV head h / (heads /
// kv_heads).
struct Attention {
  size_t heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 1;
  size_t window = 0;          // 0: none
  double softcap = 0;         // scores become cap · tanh(score / cap); 0: none
  double alibi_max_bias = 0;  // ALiBi (Press et al. 2021): scores fall with the distance; 0: none
  // Scores are multiplied by 1 + beta · ln(1 + floor(position / length)).
  double temperature_beta = 0;
  size_t temperature_length = 0;
  std::shared_ptr<const AttentionQuirk> quirk = {};  // null: none
};

// ALiBi's slope of a head: powers of 2^(-max_bias / n) for the n heads that are a power of two,
// those of twice as many for the rest.
double alibi_slope(const Attention& attention, size_t head);

// The experts of one layer.
struct Experts {
  size_t count = 0, used = 0;
  bool normalize = true;  // the chosen ones' weights sum to 1
  // What only a faulty engine does:
  size_t dropped = 0;    // so many of the chosen ones, the last, get the weight 0
  size_t shift = 0;      // added to the number of each chosen one
  bool uniform = false;  // all weights are 1 / used
  bool sigmoid = false;  // weights by sigmoid in place of softmax
};

// A fault of one value: x * multiply + add at one position and channel, after the step.
struct ValueEdit {
  int32_t position = 0;
  size_t channel = 0;
  double multiply = 1, add = 0;
};

// A faulty rearrangement of the values of a step, after it was computed.
struct Quirk {
  // The position whose row stands at a position; nothing: zeros. Never a later one.
  std::function<std::optional<int32_t>(int32_t position)> row = {};
  // The channel whose value stands in a channel; nothing: 0.
  std::function<std::optional<size_t>(size_t channel)> channel = {};
  // What becomes of a value; with a slope of at most 1.
  std::function<double(int32_t position, size_t channel, double value)> value = {};
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
  bool use_gamma = true;         // norms; false is a fault
  bool epsilon_outside = false;  // norms; a fault: x / (root + epsilon)
  int32_t token_shift = 0;       // Embedding; a fault: added to the token's number
  double factor = 1;             // Scale; the cap of SoftCap; Add, a fault: of the second input
  size_t head_dim = 0;           // Rope
  Rope rope = {};
  Attention attention = {};
  Experts experts = {};
  std::optional<ValueEdit> edit = {};       // a fault of one value
  std::shared_ptr<const Quirk> quirk = {};  // null: none
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
// Whether a prefill may be split: every query sees only keys up to its own position, and no fault
// looks further.
bool can_split(const Plan& plan);
// Whether a step computes what models have, for fast kernels. What only a faulty engine does is
// left to the referee's rules, in one place. Says nothing of `quirk`, `edit` and `gain`, which come
// after a step.
bool is_plain(const Step& step);

}  // namespace plumb
