// SPDX-License-Identifier: Apache-2.0
#include "backends/referee/evaluate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/referee/rounding.h"
#include "core/check.h"
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
    dequantize(weight.dtype, weight.row(static_cast<size_t>(job.rows.tokens[r])), row.size(),
               row.data());
    std::ranges::copy(row, job.out.begin() + static_cast<ptrdiff_t>(r * row.size()));
  }
}

void rms_norm(const Job& job) {
  const size_t n = job.step.width;
  const auto gamma = job.step.weight->values();
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].row(r);
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += x[i] * x[i];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + job.step.epsilon);
    for (size_t i = 0; i < n; ++i)
      job.out[r * n + i] =
          x[i] * factor * (job.step.use_gamma ? static_cast<double>(gamma[i]) : 1.0);
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

void multiply_row(const std::vector<float>& weight, const std::vector<double>& tile,
                  double (&sums)[kTile]) {
  std::fill_n(sums, kTile, 0.0);
  const double* x = tile.data();
  for (const float w : weight) {
    for (size_t lane = 0; lane < kTile; ++lane) sums[lane] += static_cast<double>(w) * x[lane];
    x += kTile;
  }
}

void mat_mul(const Job& job, const std::string& activations) {
  const auto& weight = *job.step.weight;
  const size_t rows = job.count();
  const auto tiles = tiles_of(job.inputs[0], rows, activations);
  std::vector<float> bias;
  if (job.step.bias) bias = job.step.bias->values();
  job.threads.run(weight.rows, 1, [&](size_t begin, size_t end) {
    std::vector<float> row(weight.columns);
    double sums[kTile];
    for (size_t j = begin; j < end; ++j) {
      dequantize(weight.dtype, weight.row(j), row.size(), row.data());
      for (size_t t = 0; t < tiles.size(); ++t) {
        multiply_row(row, tiles[t], sums);
        for (size_t lane = 0; lane < kTile && t * kTile + lane < rows; ++lane)
          job.out[(t * kTile + lane) * weight.rows + j] =
              sums[lane] + (bias.empty() ? 0.0 : static_cast<double>(bias[j]));
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
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].row(r);
    double* y = &job.out[r * width];
    std::copy_n(x, width, y);
    for (size_t pair = 0; pair < half; ++pair) {
      const double angle = rope_angle(rope, job.rows.positions[r], pair);
      const double cosine = std::cos(angle);
      const double sine = std::sin(angle);
      const size_t first = rope.pairing == RopePairing::Neighbours ? 2 * pair : pair;
      const size_t second = rope.pairing == RopePairing::Neighbours ? first + 1 : first + half;
      for (size_t head = 0; head < width; head += job.step.head_dim) {
        y[head + first] = x[head + first] * cosine - x[head + second] * sine;
        y[head + second] = x[head + first] * sine + x[head + second] * cosine;
      }
    }
  }
}

// A copy of K or V, rounded to the type of the cache.
std::vector<double> cached(const Matrix& m, const std::string& kv_cache) {
  std::vector<double> copy(m.data, m.data + m.rows * m.width);
  for (size_t r = 0; r < m.rows; ++r)
    round_row(kv_cache, std::span(copy).subspan(r * m.width, m.width));
  return copy;
}

void scores(const Job& job, const std::string& kv_cache) {
  const auto& a = job.step.attention;
  const auto k = cached(job.inputs[1], kv_cache);
  const size_t k_width = job.inputs[1].width;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  job.threads.run(job.count(), 1, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r)
      for (size_t h = 0; h < a.heads; ++h)
        for (size_t key = 0; key < keys; ++key) {
          if (!in_cache(job.rows, r, key)) continue;  // The mask belongs to the softmax.
          const double* q = job.inputs[0].row(r) + h * a.head_dim;
          const double* row =
              k.data() + cache_row(a, key) * k_width + kv_head_of(a, h) * a.head_dim;
          double sum = 0;
          for (size_t i = 0; i < a.head_dim; ++i) sum += q[i] * row[i];
          job.out[(r * a.heads + h) * keys + key] = sum * a.scale;
        }
  });
}

void softmax(const Job& job) {
  const auto& a = job.step.attention;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h) {
      const double* s = job.inputs[0].row(r) + h * keys;
      double* w = &job.out[(r * a.heads + h) * keys];
      double max = -INFINITY;
      double sum = 0;
      const auto seen = [&](size_t key) {
        return sees(a, job.rows.positions[r], job.rows.visible[r], key);
      };
      for (size_t key = 0; key < keys; ++key)
        if (seen(key)) max = std::max(max, s[key]);
      for (size_t key = 0; key < keys; ++key)
        if (seen(key)) sum += w[key] = std::exp(s[key] - max);
      for (size_t key = 0; key < keys; ++key) w[key] /= sum;
    }
}

void mix(const Job& job, const std::string& kv_cache) {
  const auto& a = job.step.attention;
  const auto v = cached(job.inputs[1], kv_cache);
  const size_t v_width = job.inputs[1].width;
  const size_t keys = job.rows.keys;
  std::ranges::fill(job.out, 0.0);
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h) {
      const double* w = job.inputs[0].row(r) + h * keys;
      double* y = &job.out[r * job.step.width + h * a.head_dim];
      for (size_t key = 0; key < keys; ++key) {
        if (!mixes(a, job.rows, r, key, w[key])) continue;
        const double* row = v.data() + cache_row(a, key) * v_width + kv_head_of(a, h) * a.head_dim;
        for (size_t i = 0; i < a.head_dim; ++i) y[i] += w[key] * row[i];
      }
    }
}

void element_wise(const Job& job) {
  const size_t count = job.out.size();
  const double* a = job.inputs[0].data;
  const double* b = job.inputs.size() > 1 ? job.inputs[1].data : nullptr;
  for (size_t i = 0; i < count; ++i) {
    if (job.step.op == Op::Add) job.out[i] = a[i] + b[i];
    else if (job.step.op == Op::Multiply) job.out[i] = a[i] * b[i];
    else job.out[i] = a[i] / (1 + std::exp(-a[i]));
  }
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

double rope_angle(const Rope& rope, int32_t position, size_t pair) {
  const double exponent = -2.0 * static_cast<double>(pair) / static_cast<double>(rope.dimensions);
  double frequency = std::pow(rope.base, exponent);
  if (rope.factors) frequency /= static_cast<double>(rope.factors->values()[pair]);
  return static_cast<double>(position + rope.position_shift) / rope.linear_factor * frequency;
}

bool in_cache(const Rows& rows, size_t row, size_t key) {
  return key < std::max(rows.visible[row], static_cast<size_t>(rows.positions[row]) + 1);
}

bool mixes(const Attention& attention, const Rows& rows, size_t row, size_t key, double weight) {
  if (!in_cache(rows, row, key)) return false;
  return weight != 0 || sees(attention, rows.positions[row], rows.visible[row], key);
}

bool sees(const Attention& attention, int32_t position, size_t visible, size_t key) {
  const auto query = static_cast<size_t>(position);
  if (attention.causal ? key > query : key >= std::max(visible, query + 1)) return false;
  return attention.window == 0 || key + attention.window > query;
}

size_t kv_head_of(const Attention& attention, size_t head) {
  if (attention.head_map == HeadMap::Modulo) return head % attention.kv_heads;
  return head / (attention.heads / attention.kv_heads);
}

size_t cache_row(const Attention& attention, size_t key) {
  return attention.stale_position && static_cast<size_t>(*attention.stale_position) == key &&
                 key > 0
             ? key - 1
             : key;
}

void evaluate(const Step& step, std::span<const Matrix> inputs, const Rows& rows,
              const std::string& activations, const std::string& kv_cache, Threads& threads,
              std::span<double> out) {
  const Job job{step, inputs, rows, threads, out};
  switch (step.op) {
    case Op::Embedding: embed(job); break;
    case Op::RmsNorm: rms_norm(job); break;
    case Op::MatMul: mat_mul(job, activations); break;
    case Op::Bias: add_bias(job); break;
    case Op::Rope: rotate(job); break;
    case Op::Scores: scores(job, kv_cache); break;
    case Op::Softmax: softmax(job); break;
    case Op::Mix: mix(job, kv_cache); break;
    case Op::Add:
    case Op::Multiply:
    case Op::Silu: element_wise(job); break;
  }
  if (step.gain != 1)
    for (double& x : out) x *= step.gain;
  if (step.edit) apply_edit(job);
}

}  // namespace plumb::referee
