// SPDX-License-Identifier: Apache-2.0
// The meaning of each step: plain loops, dequantized weights, double. Everything faster is judged
// by it, so it is never traded for speed: it only spreads rows over threads.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "core/threads.h"
#include "model/plan.h"
#include "trace/arithmetic.h"

namespace plumb::referee {

struct Matrix {
  const double* data = nullptr;
  size_t rows = 0, width = 0;
  const double* row(size_t index) const { return data + index * width; }
};

// Where the rows of a step stand in the sequence.
struct Rows {
  std::span<const int32_t> positions;
  std::span<const Token> tokens;  // of each row; used by Embedding
  std::span<const size_t>
      visible;      // keys in the cache when the row was computed: what a missing mask would show
  size_t keys = 0;  // columns of Scores and Softmax for each head
};

// What inputs are rounded to before a step computes: Arithmetic's words.
struct Rounding {
  std::string activations = "f32";  // inputs of products with weights
  std::string kv_cache = "f32";     // keys and values
  std::string attention = "f32";    // queries and softmax weights
  std::string functions = "f32";    // arguments of GELU
};

// Computes `step` for the given rows. Inputs of Scores (second) and Mix (second) hold all positions
// from 0 on; all others hold the given rows. `rounding` says what the inputs are rounded
// to first. out has rows * width values; width of Scores and Softmax is heads * keys.
void evaluate(const Step& step, std::span<const Matrix> inputs, const Rows& rows,
              const Rounding& rounding, Threads& threads, std::span<double> out);

// What a norm multiplies by, of the mean of the squares.
double norm_factor(const Step& step, double mean_square);
// The channels of a row that belong to heads which are rotated.
size_t rotated_width(const Step& step);
// ALiBi's slope of a head, also of a faulty one.
double slope_of(const Attention& attention, size_t head);
// The angle of pair `pair` of a head at `position`, in radians.
double rope_angle(const Rope& rope, std::span<const double> frequencies, int32_t position,
                  size_t pair);
// A score of the product of a query and a key: scaled, capped, lowered with the distance.
double score_of(const Attention& attention, int32_t position, size_t head, size_t key,
                double product);
// The number of a chosen expert; nothing for what is no expert's number (an odd trace).
std::optional<size_t> expert_at(const Matrix& chosen, size_t row, size_t slot, size_t count);

// Whether `key` was in the cache when the row was computed.
bool in_cache(const Rows& rows, size_t row, size_t key);
// Whether `key` takes part in a mix: the mask gives a hidden key the weight 0, and then what lies
// in the cache for it, perhaps no number, is not touched.
bool mixes(const Attention& attention, const Rows& rows, size_t row, size_t key, double weight);
// Whether the query at `position` (which had `visible` keys in its cache) sees `key`.
bool sees(const Attention& attention, int32_t position, size_t visible, size_t key);
// How many values of a head are turned together before a quantized cache rounds them.
// Whether ggml has, or had, a table of the function in half precision.
bool has_table(Op op);
// Whether the step has an exponential or a tanh.
bool is_fast_function(Op op);
constexpr size_t kValueTurn = 64;
size_t key_turn(size_t head_dim);
size_t kv_head_of(const Attention& attention, size_t head);
// The cache row that the query at `position` reads for `key`; nothing: zeros.
std::optional<size_t> cache_row(const Attention& attention, int32_t position, size_t key);

// What a fault makes of computed rows: `row_at` gives the row of a position as it was computed, or
// nothing where it is not known, which gives NaN. Bounds move with their values, but
// `with_values` is false for them.
using RowAt = std::function<const double*(int32_t position)>;
void rearrange(const Quirk& quirk, std::span<const int32_t> positions, size_t width,
               const RowAt& row_at, bool with_values, std::span<double> out);

}  // namespace plumb::referee
