// SPDX-License-Identifier: Apache-2.0
#include "backends/referee/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <vector>

#include "backends/referee/rounding.h"
#include "core/check.h"
#include "core/half.h"
#include "quant/dequantize.h"

namespace plumb::referee {
namespace {

// Rows of the input that are multiplied side by side: each sum keeps its own order, from the first
// column to the last, so the bits do not depend on how many there are.
constexpr size_t kTile = 8;

struct Job {
  const Step& step;
  std::span<const Matrix> inputs;
  const Rows& rows;
  Threads& threads;
  std::span<double> out;
  size_t count() const { return rows.positions.size(); }
};

void embed(const Job& job) {
  const auto& weight = *job.step.weight;
  std::vector<float> row(weight.columns);
  for (size_t r = 0; r < job.count(); ++r) {
    const auto vocabulary = static_cast<int64_t>(weight.rows);
    const int64_t token = job.rows.tokens[r] + job.step.token_shift;
    dequantize(weight.dtype, weight.row(static_cast<size_t>((token + vocabulary) % vocabulary)),
               row.size(), row.data());
    std::ranges::copy(row, job.out.begin() + static_cast<ptrdiff_t>(r * row.size()));
  }
}

void add_positions(const Job& job) {
  const auto& table = *job.step.weight;
  std::vector<float> row(table.columns);
  for (size_t r = 0; r < job.count(); ++r) {
    const auto position = static_cast<size_t>(job.rows.positions[r]);
    if (position < table.rows) dequantize(table.dtype, table.row(position), row.size(), row.data());
    else std::ranges::fill(row, NAN);  // a trace that is longer than the table
    for (size_t i = 0; i < row.size(); ++i)
      job.out[r * row.size() + i] = job.inputs[0].row(r)[i] + static_cast<double>(row[i]);
  }
}

// Gamma or beta of a norm: as many values as the row, or as a part of it that repeats (a head, even
// where a fault norms whole rows).
double norm_value(const std::vector<float>& values, size_t at) {
  return static_cast<double>(values[at % values.size()]);
}

void norm(const Job& job) {
  const size_t width = job.step.width;
  const size_t n = norm_group(job.step);
  const bool centred = job.step.op == Op::LayerNorm;
  const auto gamma = job.step.weight ? job.step.weight->values() : std::vector<float>();
  const auto beta = job.step.bias ? job.step.bias->values() : std::vector<float>();
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t first = 0; first < width; first += n) {
      const double* x = job.inputs[0].row(r) + first;
      double* y = &job.out[r * width + first];
      double mean = 0;
      if (centred) {
        for (size_t i = 0; i < n; ++i) mean += x[i];
        mean /= static_cast<double>(n);
      }
      double squares = 0;
      for (size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
      const double factor = norm_factor(job.step, squares / static_cast<double>(n));
      for (size_t i = 0; i < n; ++i) {
        y[i] = (x[i] - mean) * factor;
        if (!gamma.empty() && job.step.use_gamma) y[i] *= norm_value(gamma, first + i);
        if (!beta.empty()) y[i] += norm_value(beta, first + i);
      }
    }
}

// The inputs, kTile rows at a time, column by column: tile[t][i * kTile + lane].
std::vector<std::vector<double>> tiles_of(const Matrix& x, size_t rows,
                                          const std::string& activations) {
  std::vector<std::vector<double>> tiles;
  std::vector<double> row(x.width);
  for (size_t r = 0; r < rows; ++r) {
    if (r % kTile == 0) tiles.emplace_back(x.width * kTile, 0.0);
    std::copy_n(x.row(r), x.width, row.begin());
    round_row(activations, row);
    for (size_t i = 0; i < x.width; ++i) tiles.back()[i * kTile + r % kTile] = row[i];
  }
  return tiles;
}

void multiply_tile(const std::vector<float>& weight, const std::vector<double>& tile,
                   double (&sums)[kTile]) {
  std::fill_n(sums, kTile, 0.0);
  const double* x = tile.data();
  for (const float w : weight) {
    for (size_t lane = 0; lane < kTile; ++lane) sums[lane] += static_cast<double>(w) * x[lane];
    x += kTile;
  }
}

// ggml multiplies Q4_1 and Q5_1 with Q8_1, which keeps the sum of each block as a half of its own:
// what that is more than the sum of the rounded values meets the block's offset. (rows, blocks);
// empty for other types and roundings.
std::vector<double> excess_of_sums(const Job& job, const std::string& activations) {
  const DType dtype = job.step.weight->dtype;
  if ((dtype != DType::Q4_1 && dtype != DType::Q5_1) || !keeps_block_sums(activations)) return {};
  const auto& x = job.inputs[0];
  std::vector<double> excess;
  std::vector<double> block(32);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t begin = 0; begin < x.width; begin += block.size()) {
      std::copy_n(x.row(r) + begin, block.size(), block.begin());
      excess.push_back(block_sum_excess(activations, block));
    }
  return excess;
}

double offset_of_block(const Weight& weight, size_t row, size_t block) {
  const size_t bytes = info(weight.dtype).block_bytes;
  uint16_t m = 0;  // behind the scale
  std::memcpy(&m, weight.row(row) + block * bytes + sizeof(m), sizeof(m));
  return static_cast<double>(f16_to_f32(m));
}

void mat_mul(const Job& job, const std::string& activations) {
  const auto& weight = *job.step.weight;
  const size_t rows = job.count();
  const auto tiles = tiles_of(job.inputs[0], rows, activations);
  const auto excess = excess_of_sums(job, activations);
  const size_t blocks = excess.size() / std::max(rows, size_t{1});
  std::vector<float> bias;
  if (job.step.bias) bias = job.step.bias->values();
  job.threads.run(weight.rows, 1, [&](size_t begin, size_t end) {
    std::vector<float> row(weight.columns);
    double sums[kTile];
    for (size_t j = begin; j < end; ++j) {
      dequantize(weight.dtype, weight.row(j), row.size(), row.data());
      for (size_t t = 0; t < tiles.size(); ++t) {
        multiply_tile(row, tiles[t], sums);
        for (size_t lane = 0; lane < kTile && t * kTile + lane < rows; ++lane)
          job.out[(t * kTile + lane) * weight.rows + j] =
              sums[lane] + (bias.empty() ? 0.0 : static_cast<double>(bias[j]));
      }
      for (size_t b = 0; b < blocks; ++b) {
        const double offset = offset_of_block(weight, j, b);
        for (size_t r = 0; r < rows; ++r)
          job.out[r * weight.rows + j] += offset * excess[r * blocks + b];
      }
    }
  });
}

void add_bias(const Job& job) {
  const auto bias = job.step.weight->values();
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t i = 0; i < bias.size(); ++i)
      job.out[r * bias.size() + i] = job.inputs[0].row(r)[i] + static_cast<double>(bias[i]);
}

void rotate(const Job& job) {
  const auto& rope = job.step.rope;
  const size_t width = job.step.width;
  const size_t half = rope.dimensions / 2;
  const size_t rotated = rotated_width(job.step);
  const auto frequencies = rope_frequencies(rope);
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].row(r);
    double* y = &job.out[r * width];
    std::copy_n(x, width, y);
    for (size_t pair = 0; pair < half; ++pair) {
      const double angle = rope_angle(rope, frequencies, job.rows.positions[r], pair);
      const double cosine = rope.magnitude * std::cos(angle);
      const double sine = rope.magnitude * std::sin(angle);
      const auto [first, second] = rope_pair(rope, pair);
      for (size_t head = 0; head < rotated; head += job.step.head_dim) {
        y[head + first] = x[head + first] * cosine - x[head + second] * sine;
        y[head + second] = x[head + first] * sine + x[head + second] * cosine;
      }
    }
  }
}

// A copy of K or V, rounded to the type of the cache.
std::vector<double> cached(const Matrix& m, const std::string& kind, size_t turn) {
  std::vector<double> copy(m.data, m.data + m.rows * m.width);
  for (size_t r = 0; r < m.rows; ++r) {
    const auto row = std::span(copy).subspan(r * m.width, m.width);
    if (turns_first(kind)) turn_hadamard(row, turn);
    round_row(without_turn(kind), row);
  }
  return copy;
}

// Flash attention keeps the softmax weights as they are; so do engines whose cache holds blocks or
// 8-bit floats. ggml multiplies a key of 4-bit blocks with a query of 8-bit blocks.
std::string queries_kind(const Rounding& rounding) {
  const auto& kind = rounding.attention;
  if (kind == "f16/flash") return "f16";
  if (kind.starts_with("fp8")) return "f32";
  if (kind.starts_with("q4_0"))
    return turns_first(kind) ? "int8/32/f16scale/even/hadamard" : "int8/32/f16scale/even";
  return kind;
}
std::string weights_kind(const Rounding& rounding) {
  return is_short_float(rounding.attention) ? rounding.attention : "f32";
}

// What a fault makes of the scores or weights that were computed.
void change_lines(const Job& job) {
  const auto& a = job.step.attention;
  if (!a.quirk || !a.quirk->value) return;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h)
      for (size_t key = 0; key < job.rows.keys; ++key) {
        if (!sees(a, job.rows.positions[r], job.rows.visible[r], key)) continue;
        double& x = job.out[(r * a.heads + h) * job.rows.keys + key];
        x = a.quirk->value(static_cast<size_t>(job.rows.positions[r]), h, key, x);
      }
}

void scores(const Job& job, const Rounding& rounding) {
  const auto& a = job.step.attention;
  const auto k = cached(job.inputs[1], rounding.kv_cache, key_turn(a.head_dim));
  const auto queries = cached(job.inputs[0], queries_kind(rounding), key_turn(a.head_dim));
  const size_t q_width = job.inputs[0].width;
  const size_t k_width = job.inputs[1].width;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  job.threads.run(job.count(), 1, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r)
      for (size_t h = 0; h < a.heads; ++h)
        for (size_t key = 0; key < keys; ++key) {
          if (!in_cache(job.rows, r, key)) continue;  // The mask belongs to the softmax.
          const double* q = queries.data() + r * q_width + h * a.head_dim;
          const auto from = cache_row(a, job.rows.positions[r], key);
          const double* row = k.data() + from.value_or(0) * k_width + kv_head_of(a, h) * a.head_dim;
          double sum = 0;
          for (size_t i = 0; i < a.head_dim && from; ++i) sum += q[i] * row[i];
          job.out[(r * a.heads + h) * keys + key] = score_of(a, job.rows.positions[r], h, key, sum);
        }
  });
  change_lines(job);
}

void softmax(const Job& job) {
  const auto& a = job.step.attention;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h) {
      const double* s = job.inputs[0].row(r) + h * keys;
      double* w = &job.out[(r * a.heads + h) * keys];
      const auto seen = [&](size_t key) {
        return sees(a, job.rows.positions[r], job.rows.visible[r], key);
      };
      double max = -INFINITY;
      for (size_t key = 0; key < keys; ++key)
        if (seen(key)) max = std::max(max, s[key]);
      const auto quirk = a.quirk ? a.quirk->softmax : SoftmaxQuirk::None;
      if (quirk == SoftmaxQuirk::NeverScaled) max = -INFINITY;
      double sum = quirk == SoftmaxQuirk::ExtraKey ? std::exp(-max) : 0;
      double last = 0;
      for (size_t key = 0; key < keys; ++key) {
        if (!seen(key)) continue;
        if (quirk == SoftmaxQuirk::NeverScaled) max = std::max(max, s[key]);
        sum += last = w[key] = std::exp(s[key] - max);
      }
      if (quirk == SoftmaxQuirk::LastKeyMissed && sum > last) sum -= last;
      for (size_t key = 0; key < keys; ++key) w[key] /= sum;
    }
  change_lines(job);
}

void mix(const Job& job, const Rounding& rounding) {
  const auto& a = job.step.attention;
  const auto v = cached(job.inputs[1], rounding.kv_cache, kValueTurn);
  const auto weights = cached(job.inputs[0], weights_kind(rounding), 1);
  const size_t v_width = job.inputs[1].width;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h) {
      const double* w = weights.data() + r * job.inputs[0].width + h * keys;
      double* y = &job.out[r * job.step.width + h * a.head_dim];
      for (size_t key = 0; key < keys; ++key) {
        if (!mixes(a, job.rows, r, key, w[key])) continue;
        const auto from = cache_row(a, job.rows.positions[r], key);
        if (!from) continue;
        const double* row = v.data() + *from * v_width + kv_head_of(a, h) * a.head_dim;
        for (size_t i = 0; i < a.head_dim; ++i) y[i] += w[key] * row[i];
      }
      if (turns_first(rounding.kv_cache)) turn_hadamard({y, a.head_dim}, kValueTurn);
    }
}

double unary(const Step& step, double x) {
  switch (step.op) {
    case Op::Scale: return x * step.factor;
    case Op::SoftCap: return step.factor * std::tanh(x / step.factor);
    case Op::Silu: return x / (1 + std::exp(-x));
    case Op::Sigmoid: return 1 / (1 + std::exp(-x));
    case Op::GeluErf: return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
    case Op::GeluTanh: {
      // (1 + tanh z) / 2 = 1 / (1 + exp(-2z)): no digits are lost where tanh is near -1.
      const double z = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * z));
    }
    case Op::Relu: return std::max(x, 0.0);
    case Op::QuickGelu: return x / (1 + std::exp(-1.702 * x));
    default: CHECK(false);
  }
}

void element_wise(const Job& job, const std::string& functions) {
  const size_t count = job.out.size();
  const bool table = has_table(job.step.op) && functions == "f16/table";
  const double* a = job.inputs[0].data;
  const double* b = job.inputs.size() > 1 ? job.inputs[1].data : nullptr;
  for (size_t i = 0; i < count; ++i) {
    if (job.step.op == Op::Add) job.out[i] = a[i] + job.step.factor * b[i];
    else if (job.step.op == Op::Multiply) job.out[i] = a[i] * b[i];
    else job.out[i] = unary(job.step, table ? round_to_f16(a[i]) : a[i]);
  }
}

void multiply_row(const Job& job) {
  const size_t width = job.step.width;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t i = 0; i < width; ++i)
      job.out[r * width + i] = job.inputs[0].row(r)[i] * job.inputs[1].row(r)[0];
}

// Of equal logits the expert with the lower number comes first.
void top_experts(const Job& job) {
  const size_t used = job.step.experts.used;
  std::vector<size_t> order(job.step.experts.count);
  for (size_t r = 0; r < job.count(); ++r) {
    const double* logits = job.inputs[0].row(r);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::sort(order, [&](size_t a, size_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    for (size_t k = 0; k < used; ++k)
      job.out[r * used + k] =
          static_cast<double>((order[k] + job.step.experts.shift) % job.step.experts.count);
  }
}

// Softmax over all experts, or, where the chosen ones' weights sum to 1, over these alone, which is
// the same as dividing by their sum.
void expert_weights(const Job& job) {
  const auto& e = job.step.experts;
  for (size_t r = 0; r < job.count(); ++r) {
    const double* logits = job.inputs[0].row(r);
    double* out = &job.out[r * e.used];
    const double max = *std::max_element(logits, logits + e.count);
    double sum = 0;
    const auto share = [&](double logit) {
      return e.sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit - max);
    };
    for (size_t i = 0; i < e.count && !e.normalize && !e.sigmoid; ++i) sum += share(logits[i]);
    for (size_t k = 0; k < e.used; ++k) {
      const auto chosen = expert_at(job.inputs[1], r, k, e.count);
      out[k] = chosen ? share(logits[*chosen]) : NAN;
      if (k + e.dropped >= e.used) out[k] = 0;
      if (e.normalize) sum += out[k];
    }
    if (sum == 0) sum = 1;  // sigmoids that are taken as they are
    for (size_t k = 0; k < e.used; ++k)
      out[k] = e.uniform ? 1 / static_cast<double>(e.used) : out[k] / sum;
  }
}

// Each chosen expert's matrix times the row, or times that expert's part of it.
void expert_mat_mul(const Job& job, const std::string& activations) {
  const auto& weight = *job.step.weight;
  const auto& e = job.step.experts;
  const bool shared = job.inputs[0].width == weight.columns;
  job.threads.run(job.count() * e.used, 1, [&](size_t begin, size_t end) {
    std::vector<double> x(weight.columns);
    std::vector<float> row(weight.columns);
    for (size_t at = begin; at < end; ++at) {
      const size_t r = at / e.used;
      const size_t k = at % e.used;
      std::copy_n(job.inputs[0].row(r) + (shared ? 0 : k * weight.columns), weight.columns,
                  x.begin());
      round_row(activations, x);
      const auto chosen = expert_at(job.inputs[1], r, k, e.count);
      for (size_t j = 0; j < weight.rows; ++j) {
        double sum = chosen ? 0 : NAN;
        if (chosen) {
          dequantize(weight.dtype, weight.row(*chosen * weight.rows + j), row.size(), row.data());
          for (size_t i = 0; i < row.size(); ++i) sum += static_cast<double>(row[i]) * x[i];
        }
        job.out[at * weight.rows + j] = sum;
      }
    }
  });
}

void expert_sum(const Job& job) {
  const size_t width = job.step.width;
  const size_t used = job.step.experts.used;
  std::ranges::fill(job.out, 0.0);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t k = 0; k < used; ++k)
      for (size_t i = 0; i < width; ++i)
        job.out[r * width + i] += job.inputs[1].row(r)[k] * job.inputs[0].row(r)[k * width + i];
}

void apply_edit(const Job& job) {
  const auto& edit = *job.step.edit;
  const size_t width = job.out.size() / job.count();
  for (size_t r = 0; r < job.count(); ++r)
    if (job.rows.positions[r] == edit.position && edit.channel < width) {
      double& x = job.out[r * width + edit.channel];
      x = x * edit.multiply + edit.add;
    }
}

}  // namespace

double norm_factor(const Step& step, double mean_square) {
  if (step.epsilon_outside) return 1 / (std::sqrt(mean_square) + step.epsilon);
  return 1 / std::sqrt(mean_square + step.epsilon);
}

size_t rotated_width(const Step& step) {
  if (step.rope.first_heads == 0) return step.width;
  return std::min(step.width, step.rope.first_heads * step.head_dim);
}

double slope_of(const Attention& attention, size_t head) {
  if (attention.quirk && attention.quirk->slope) return attention.quirk->slope(head);
  return alibi_slope(attention, head);
}

double rope_angle(const Rope& rope, std::span<const double> frequencies, int32_t position,
                  size_t pair) {
  const int32_t shift = position >= rope.shift_from ? rope.position_shift : 0;
  return static_cast<double>(position + shift) * frequencies[pair];
}

std::optional<size_t> expert_at(const Matrix& chosen, size_t row, size_t slot, size_t count) {
  const double number = chosen.row(row)[slot];
  if (!(number >= 0 && number < static_cast<double>(count)) || number != std::floor(number))
    return std::nullopt;
  return static_cast<size_t>(number);
}

double score_of(const Attention& a, int32_t position, size_t head, size_t key, double product) {
  if (a.quirk && a.quirk->cap_before_scale && a.softcap != 0)
    return a.scale * a.softcap * std::tanh(product / a.softcap);
  double score = product * a.scale;
  if (a.temperature_beta != 0)
    score *=
        1 + a.temperature_beta * std::log1p(std::floor(static_cast<double>(position) /
                                                       static_cast<double>(a.temperature_length)));
  if (a.softcap != 0) score = a.softcap * std::tanh(score / a.softcap);
  if (a.alibi_max_bias != 0)
    score += slope_of(a, head) * (static_cast<double>(key) - static_cast<double>(position));
  return score;
}

bool in_cache(const Rows& rows, size_t row, size_t key) {
  return key < std::max(rows.visible[row], static_cast<size_t>(rows.positions[row]) + 1);
}

bool mixes(const Attention& attention, const Rows& rows, size_t row, size_t key, double weight) {
  if (!in_cache(rows, row, key)) return false;
  return weight != 0 || sees(attention, rows.positions[row], rows.visible[row], key);
}

bool is_fast_function(Op op) {
  return op == Op::Softmax || op == Op::SoftCap || op == Op::GeluTanh || op == Op::Silu ||
         op == Op::Sigmoid || op == Op::QuickGelu;
}
bool has_table(Op op) { return op == Op::GeluTanh || op == Op::GeluErf || op == Op::Silu; }

bool sees(const Attention& attention, int32_t position, size_t visible, size_t key) {
  const auto query = static_cast<size_t>(position);
  if (attention.quirk && attention.quirk->sees)
    return key < std::max(visible, query + 1) && attention.quirk->sees(query, visible, key);
  if (key > query) return false;
  return attention.window == 0 || key + attention.window > query;
}

// As llama.cpp chooses it: the largest power of two from 64 on that divides a head; values by 64.
size_t key_turn(size_t head_dim) {
  size_t n = kValueTurn;
  while (head_dim % (2 * n) == 0) n *= 2;
  return n;
}

size_t kv_head_of(const Attention& attention, size_t head) {
  if (attention.quirk && attention.quirk->kv_head) return attention.quirk->kv_head(head);
  return head / (attention.heads / attention.kv_heads);
}

std::optional<size_t> cache_row(const Attention& attention, int32_t position, size_t key) {
  if (attention.quirk && attention.quirk->cache_row)
    return attention.quirk->cache_row(static_cast<size_t>(position), key);
  return key;
}

void rearrange(const Quirk& quirk, std::span<const int32_t> positions, size_t width,
               const RowAt& row_at, bool with_values, std::span<double> out) {
  for (size_t r = 0; r < positions.size(); ++r) {
    const auto from = quirk.row ? quirk.row(positions[r]) : std::optional(positions[r]);
    const double* row = from ? row_at(*from) : nullptr;
    for (size_t i = 0; i < width; ++i) {
      const auto channel = quirk.channel ? quirk.channel(i) : std::optional(i);
      double x = !from || !channel ? 0 : row == nullptr ? NAN : row[*channel];
      if (with_values && quirk.value) x = quirk.value(positions[r], i, x);
      out[r * width + i] = x;
    }
  }
}

void evaluate(const Step& step, std::span<const Matrix> inputs, const Rows& rows,
              const Rounding& rounding, Threads& threads, std::span<double> out) {
  const Job job{step, inputs, rows, threads, out};
  switch (step.op) {
    case Op::Embedding: embed(job); break;
    case Op::Positions: add_positions(job); break;
    case Op::RmsNorm:
    case Op::LayerNorm: norm(job); break;
    case Op::MatMul: mat_mul(job, rounding.activations); break;
    case Op::Bias: add_bias(job); break;
    case Op::Rope: rotate(job); break;
    case Op::Scores: scores(job, rounding); break;
    case Op::Softmax: softmax(job); break;
    case Op::Mix: mix(job, rounding); break;
    case Op::MultiplyRow: multiply_row(job); break;
    case Op::TopExperts: top_experts(job); break;
    case Op::ExpertWeights: expert_weights(job); break;
    case Op::ExpertMatMul: expert_mat_mul(job, rounding.activations); break;
    case Op::ExpertSum: expert_sum(job); break;
    case Op::Add:
    case Op::Multiply:
    case Op::Scale:
    case Op::SoftCap:
    case Op::Silu:
    case Op::GeluTanh:
    case Op::GeluErf:
    case Op::Sigmoid:
    case Op::Relu:
    case Op::QuickGelu: element_wise(job, rounding.functions); break;
  }
  if (step.gain != 1)
    for (double& x : out) x *= step.gain;
  if (step.edit) apply_edit(job);
}

}  // namespace plumb::referee
