// SPDX-License-Identifier: Apache-2.0
#include "replay/bounds.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backends/referee/rounding.h"
#include "core/check.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

// Six deviations: one right value in 5 * 10^8 would lie outside if every deviation below were
// exact. They are upper estimates; a 7B model has 3 * 10^8 values at 100 positions.
constexpr double kSigmas = 6;
const double kUniform =
    1 / std::sqrt(3.0);             // deviation of a rounding error that is uniform in [-u, u]
constexpr double kTiny = 0x1p-149;  // half the smallest float, twice: results near zero
constexpr double kUnitFloat = 0x1p-24;
constexpr size_t kBlock = 32;

// Of one elementary operation inside a step that works in a short type.
double inside_unit(const Arithmetic& arithmetic) {
  if (arithmetic.inside == "f16") return 0x1p-11;
  return arithmetic.inside == "bf16" ? 0x1p-8 : 0;
}

double output_rounding(double y, const Units& u) {
  // Below the smallest normal number the spacing is fixed: 2^-24 in half precision.
  return std::max(u.output * std::fabs(y), u.output == 0x1p-11 ? 0x1p-25 : 0) + kTiny;
}

// A sum of n products in an order that has nothing to do with their signs, in any split: its
// partial sums have mean square k/n S2 + (k/n)^2 y^2, each addition rounds one of them, each
// product once.
double sum_bound(double n, double squares, double y, double u) {
  return kSigmas * kUniform * u * std::sqrt(n * (squares / 2 + y * y / 3) + squares);
}

// A tensor core adds four products at a time and cuts what is behind the last bit off: a quarter of
// n cuts, each of u on average, all toward 0. The partial sums as in sum_bound:
// E|p_k| <= sqrt(k/n S) + k/n |y|.
double cut_bound(const std::string& kind, double n, double squares, double y, double u) {
  if (!kind.starts_with("tf32")) return 0;
  return n / 4 * u * (2.0 / 3 * std::sqrt(squares) + std::fabs(y) / 2);
}

bool has_offset(DType dtype) {
  switch (dtype) {
    case DType::Q4_0:
    case DType::Q4_1:
    case DType::Q5_0:
    case DType::Q5_1:
    case DType::Q2_K:
    case DType::Q3_K:
    case DType::Q4_K:
    case DType::Q5_K:
    case DType::Q6_K: return true;
    default: return false;
  }
}

struct Job {
  const Step& step;
  std::span<const BoundedValue> inputs;
  const referee::Rows& rows;
  std::span<const double> out;
  const Arithmetic& arithmetic;
  Units u;
  bool deviation;
  std::vector<double>& bound;

  double in_bound(size_t input, size_t index) const {
    return inputs[input].bound.empty() ? 0 : inputs[input].bound[index];
  }
  size_t count() const { return rows.positions.size(); }
};

// What is known of a group of neighbours that are normed together.
struct Group {
  double mean = 0, factor = 0;
  double mean_error = 0, factor_error = 0;  // of the mean; of the factor, relative
  double moved = 0, moved_mean = 0;         // by the bounds of the inputs: the factor, the mean
};

Group group_of(const Job& job, size_t first) {
  const auto n = static_cast<double>(norm_group(job.step));
  const double* x = job.inputs[0].value.data() + first;
  const double u = job.u.accumulate;
  Group g;
  double squares = 0;
  for (size_t i = 0; i < norm_group(job.step); ++i) {
    g.mean += x[i] / n;
    squares += x[i] * x[i];
    g.moved_mean += job.in_bound(0, first + i) / n;
  }
  if (job.step.op == Op::LayerNorm) g.mean_error = sum_bound(n, squares, n * g.mean, u) / n;
  else g.mean = g.moved_mean = 0;
  double variance = 0;
  for (size_t i = 0; i < norm_group(job.step); ++i) {
    variance += (x[i] - g.mean) * (x[i] - g.mean) / n;
    g.moved += std::fabs(x[i] - g.mean) * job.in_bound(0, first + i) / n;
  }
  const double total = variance + job.step.epsilon;
  g.factor = total > 0 ? referee::norm_factor(job.step, variance) : 0;
  g.factor_error = u * (kSigmas * kUniform * std::sqrt(n / 3) / 2 + 4);
  // A file may hold epsilon as a float, an engine the decimal number that it stands for: half a
  // rounding of float apart, which shows where the row is small.
  if (total > 0) g.factor_error += kUnitFloat / 2 * job.step.epsilon / total;
  // Each x - mean is rounded before it is squared: relative to the variance, by Cauchy-Schwarz.
  if (job.step.op == Op::LayerNorm)
    g.factor_error += g.factor * (u * (std::sqrt(squares / n) + std::fabs(g.mean)) + g.mean_error);
  return g;
}

void bound_norm(const Job& job) {
  const size_t n = norm_group(job.step);
  const auto gamma = job.step.weight ? job.step.weight->values() : std::vector<float>();
  const auto beta = job.step.bias ? job.step.bias->values() : std::vector<float>();
  const auto value = [&](const std::vector<float>& of, size_t column) {
    return std::fabs(static_cast<double>(of[column % of.size()]));
  };
  const double u = job.u.accumulate;
  for (size_t first = 0; first < job.out.size(); first += n) {
    const Group g = group_of(job, first);
    for (size_t at = first; at < first + n; ++at) {
      const size_t column = at % job.step.width;
      const double weight = gamma.empty() || !job.step.use_gamma ? 1 : value(gamma, column);
      const double shift = beta.empty() ? 0 : value(beta, column);
      const double x = job.inputs[0].value[at];
      const double size = weight * std::fabs(x - g.mean) * g.factor;  // without the shift
      // The normed value is rounded before the weight meets it.
      double own = (g.factor_error + inside_unit(job.arithmetic)) * size +
                   output_rounding(job.out[at], job.u);
      if (job.step.op == Op::LayerNorm)
        own += weight * g.factor * (g.mean_error + u * (std::fabs(x) + std::fabs(g.mean))) +
               2 * u * (size + shift);
      const double carried = weight * g.factor * (job.in_bound(0, at) + g.moved_mean) +
                             size * g.factor * g.factor * g.moved;
      job.bound[at] = own + carried;
    }
  }
}

void bound_matmul(const Job& job, Threads& threads) {
  const auto& weight = *job.step.weight;
  const size_t n = weight.columns;
  threads.run(weight.rows, 1, [&](size_t begin, size_t end) {
    std::vector<float> row(n);
    for (size_t j = begin; j < end; ++j) {
      dequantize(weight.dtype, weight.row(j), n, row.data());
      for (size_t r = 0; r < job.count(); ++r) {
        const std::span x(job.inputs[0].value.data() + r * n, n);
        double carried = 0;
        if (!job.inputs[0].bound.empty())
          for (size_t i = 0; i < n; ++i)
            carried += std::fabs(static_cast<double>(row[i])) * job.inputs[0].bound[r * n + i];
        const size_t at = r * weight.rows + j;
        job.bound[at] =
            matmul_bound(job.step, row, x, job.out[at], job.arithmetic, job.deviation) + carried;
      }
    }
  });
}

void bound_rope(const Job& job) {
  const auto& rope = job.step.rope;
  const size_t width = job.step.width;
  const size_t half = rope.dimensions / 2;
  const auto frequencies = rope_frequencies(rope);
  // The frequency is a power, often made by repeated products: pair roundings, and a few for the
  // function; YaRN's ramp takes a few more.
  const double steps = rope.yarn ? 10 : 4;
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].value.data() + r * width;
    double* b = &job.bound[r * width];
    for (size_t i = 0; i < width; ++i)
      b[i] = job.in_bound(0, r * width + i) + output_rounding(job.out[r * width + i], job.u);
    for (size_t pair = 0; pair < half; ++pair) {
      const double angle =
          std::fabs(referee::rope_angle(rope, frequencies, job.rows.positions[r], pair));
      // In a short type sine, cosine and both products are rounded.
      const double own = std::fabs(rope.magnitude) *
                         (job.u.accumulate * (6 + angle * (steps + static_cast<double>(pair))) +
                          2 * inside_unit(job.arithmetic));
      const auto [first, second] = rope_pair(rope, pair);
      for (size_t head = 0; head < referee::rotated_width(job.step); head += job.step.head_dim) {
        const double both =
            std::fabs(rope.magnitude) * (job.in_bound(0, r * width + head + first) +
                                         job.in_bound(0, r * width + head + second));
        const double size = std::fabs(x[head + first]) + std::fabs(x[head + second]);
        b[head + first] += own * size + both;
        b[head + second] += own * size + both;
      }
    }
  }
}

// Functions of a GPU's fast arithmetic (CUDA's __expf, tanh.approx, __fdividef): how far exp(-x)
// may lie, relative, by CUDA's tables: 2 + 1.173 |x| units in the last place; tanh 2^-10.987; a
// quotient 2 units.
constexpr double kFastTanh = 0x1.03p-11;
constexpr double kFastQuotient = 2 * 0x1p-23;
double fast_exponential(double x) { return (2 + 1.173 * std::fabs(x)) * 0x1p-23; }

// From the product of a query and a key to the score: a scale, a soft cap whose slope is at most 1,
// ALiBi's distance.
double score_bound(const Job& job, size_t r, double sum, double squares, double carried, double y,
                   size_t head, size_t key) {
  const auto& a = job.step.attention;
  const double u = job.u.accumulate;
  Attention plain = a;
  plain.softcap = plain.alibi_max_bias = 0;
  const double scale = std::fabs(referee::score_of(plain, job.rows.positions[r], head, key, 1.0));
  const auto n = static_cast<double>(a.head_dim);
  const double own = scale * sum_bound(n, squares, sum, u) +
                     scale * cut_bound(job.arithmetic.attention, n, squares, sum, u) +
                     2 * u * scale * std::fabs(sum);
  // The product, then what scales and caps it.
  const double inside = inside_unit(job.arithmetic);
  double rest =
      (2 * u + (a.softcap != 0 ? 5 : 2) * inside) * std::fabs(y) + output_rounding(y, job.u);
  if (a.temperature_beta != 0) rest += 4 * u * std::fabs(y);
  if (a.softcap != 0) rest += u * (std::min(scale * std::fabs(sum), a.softcap) + 8 * std::fabs(y));
  if (a.softcap != 0 && job.arithmetic.functions == "fast") rest += kFastTanh * std::fabs(y);
  if (a.alibi_max_bias != 0)
    rest += 3 * u * std::fabs(referee::slope_of(a, head)) *
            std::fabs(static_cast<double>(key) - static_cast<double>(job.rows.positions[r]));
  return own + scale * carried + rest;
}

// By how much each value of a turned block of 32 may move that is rounded to `steps` steps of its
// largest. `error` is how far two engines may have turned a value apart.
void find_undecided(std::span<const double> block, double steps, double error,
                    std::span<double> moved) {
  const auto [lowest, highest] = std::ranges::minmax(block);
  const double largest = std::max(highest, -lowest);
  if (largest <= error) {
    std::ranges::fill(moved, 2 * error);
    return;
  }
  const double scale = largest / steps;
  // The scale is kept as a half, and has the sign of the largest value in blocks of 4 bits.
  const double apart = referee::round_to_f16((largest + error) / steps) -
                       referee::round_to_f16((largest - error) / steps);
  const bool either_sign = steps < 127 && std::fabs(highest + lowest) <= 2 * error;
  for (size_t i = 0; i < block.size(); ++i) {
    const double at = block[i] / scale;
    const double around = error / scale * (1 + std::fabs(at) / steps) + 4 * kUnitFloat * steps;
    const bool falls = std::nearbyint(at + around) != std::nearbyint(at - around);
    moved[i] = apart * std::fabs(at) + (falls || either_sign ? scale : 0);
  }
}

// Values that are turned in float and rounded to steps then: one that lies between two steps may
// fall to either.
struct Turned {
  std::vector<double> values, moved;    // turned; by how much each may move
  std::vector<double> largest, length;  // of a head: max|x|, its L2 norm
  std::vector<double> all_moved;        // of a head: the sum
  bool empty() const { return values.empty(); }
};
Turned turned_heads(const Job& job, size_t input, size_t turn) {
  const auto& kind = job.arithmetic.attention;
  if (!referee::turns_first(kind)) return {};
  const size_t d = job.step.attention.head_dim;
  const double steps = input == 1 && kind.starts_with("q4_0") ? 8 : 127;
  Turned out;
  out.values.assign(job.inputs[input].value.begin(), job.inputs[input].value.end());
  referee::turn_hadamard(out.values, turn);
  out.moved.resize(out.values.size());
  for (size_t at = 0; at < out.values.size(); at += d) {
    const auto head = std::span<const double>(out.values).subspan(at, d);
    const auto moved = std::span(out.moved).subspan(at, d);
    double squares = 0;
    for (const double x : head) squares += x * x;
    const double largest = referee::largest_magnitude(head);
    const auto n = static_cast<double>(turn);
    const double error = sum_bound(n, squares / n, largest, kUnitFloat);
    for (size_t begin = 0; begin < d; begin += kBlock)
      find_undecided(head.subspan(begin, kBlock), steps, error, moved.subspan(begin, kBlock));
    out.largest.push_back(largest);
    out.length.push_back(std::sqrt(squares));
    out.all_moved.push_back(std::accumulate(moved.begin(), moved.end(), 0.0));
  }
  return out;
}

// What the undecided values of a query and a key do to their product.
double undecided_product(const Turned& q, size_t head_q, const Turned& k, size_t head_k, size_t d) {
  double sum = 0;
  if (q.all_moved[head_q] == 0 && k.all_moved[head_k] == 0) return sum;
  for (size_t i = 0; i < d; ++i) {
    const double moved_q = q.moved[head_q * d + i];
    const double moved_k = k.moved[head_k * d + i];
    sum += std::fabs(q.values[head_q * d + i]) * moved_k +
           std::fabs(k.values[head_k * d + i]) * moved_q + moved_q * moved_k;
  }
  return sum;
}

void bound_scores(const Job& job) {
  const auto& a = job.step.attention;
  const auto turned_q = turned_heads(job, 0, referee::key_turn(a.head_dim));
  const auto turned_k = turned_heads(job, 1, referee::key_turn(a.head_dim));
  const size_t keys = job.rows.keys;
  const size_t q_width = job.inputs[0].width;
  const size_t k_width = job.inputs[1].width;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h)
      for (size_t key = 0; key < keys; ++key) {
        if (!referee::in_cache(job.rows, r, key)) continue;
        const size_t q = r * q_width + h * a.head_dim;
        const auto from = referee::cache_row(a, job.rows.positions[r], key);
        if (!from) continue;
        const size_t k = *from * k_width + referee::kv_head_of(a, h) * a.head_dim;
        double squares = 0;
        double carried = 0;
        double sum = 0;
        for (size_t i = 0; i < a.head_dim; ++i) {
          const double product = job.inputs[0].value[q + i] * job.inputs[1].value[k + i];
          sum += product;
          squares += product * product;
          carried += std::fabs(job.inputs[0].value[q + i]) * job.in_bound(1, k + i) +
                     std::fabs(job.inputs[1].value[k + i]) * job.in_bound(0, q + i);
        }
        if (!turned_q.empty()) {
          const size_t head_q = q / a.head_dim;
          const size_t head_k = k / a.head_dim;
          carried += undecided_product(turned_q, head_q, turned_k, head_k, a.head_dim);
          // The products of turned values are others; the turn keeps the length of a head.
          squares =
              std::max(squares, std::pow(turned_q.largest[head_q] * turned_k.length[head_k], 2));
        }
        const size_t at = (r * a.heads + h) * keys + key;
        job.bound[at] = score_bound(job, r, sum, squares, carried, job.out[at], h, key);
      }
}

void bound_softmax(const Job& job) {
  const auto& a = job.step.attention;
  const size_t keys = job.rows.keys;
  for (size_t line = 0; line < job.count() * a.heads; ++line) {
    const size_t r = line / a.heads;
    const double* s = job.inputs[0].value.data() + line * keys;
    const double* w = job.out.data() + line * keys;
    double max = -INFINITY;
    double carried = 0;
    double seen = 0;
    for (size_t key = 0; key < keys; ++key) {
      if (!referee::sees(a, job.rows.positions[r], job.rows.visible[r], key)) continue;
      max = std::max(max, s[key]);
      carried += w[key] * job.in_bound(0, line * keys + key);
      ++seen;
    }
    const bool fast = job.arithmetic.functions == "fast";
    double fast_sum = 0;  // relative: of the sum of all exponentials
    for (size_t key = 0; key < keys && fast; ++key)
      if (referee::sees(a, job.rows.positions[r], job.rows.visible[r], key))
        fast_sum += w[key] * fast_exponential(max - s[key]);
    // exp turns the rounding of its argument into a relative error; four ulp for the function, the
    // sum is of positive terms.
    for (size_t key = 0; key < keys; ++key) {
      if (!referee::sees(a, job.rows.positions[r], job.rows.visible[r], key)) continue;
      double own =
          job.u.accumulate * (2 * (max - s[key]) + 8 + kSigmas * kUniform * std::sqrt(seen / 3));
      if (fast) own += fast_exponential(max - s[key]) + fast_sum + kFastQuotient;
      job.bound[line * keys + key] = w[key] * (own + job.in_bound(0, line * keys + key) + carried) +
                                     output_rounding(w[key], job.u) + 0x1p-126;
    }
  }
}

// Half-precision attention. Flash: each partial sum is a half, and is scaled each time that a
// larger score comes. Else the weights are halves: where they are known only within a bound, one
// may fall to the next half.
double mix_rounding(const Job& job, double seen, double squares, double y) {
  const auto& kind = job.arithmetic.attention;
  const double half = kind == "bf16" ? 0x1p-8 : 0x1p-11;
  if (kind == "f16/flash") return sum_bound(2 * seen, squares, y, half) + 0x1p-25;
  const double own = sum_bound(seen, squares, y, job.u.accumulate) +
                     cut_bound(kind, seen, squares, y, job.u.accumulate);
  if (!referee::is_short_float(kind) || job.inputs[0].bound.empty()) return own;
  return own + kSigmas * kUniform * 2 * half * std::sqrt(squares) + 0x1p-25;
}

// A mix of turned values, before it is turned back: its largest value, and what the sum of `n`
// products that turns it back is made of.
struct TurnedResult {
  double largest = 0, squares = 0, n = static_cast<double>(referee::kValueTurn);
};
TurnedResult turned_result(const Job& job, size_t row, size_t head) {
  TurnedResult out;
  if (!referee::turns_first(job.arithmetic.attention)) return out;
  const size_t d = job.step.attention.head_dim;
  const auto values = job.out.subspan(row * job.step.width + head * d, d);
  std::vector<double> turned(values.begin(), values.end());
  referee::turn_hadamard(turned, referee::kValueTurn);
  out.largest = referee::largest_magnitude(turned);
  for (const double x : turned) out.squares += x * x / out.n;
  return out;
}

void bound_mix(const Job& job) {
  const auto& a = job.step.attention;
  const auto turned_v = turned_heads(job, 1, referee::kValueTurn);
  const size_t keys = job.rows.keys;
  const size_t v_width = job.inputs[1].width;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h) {
      const auto turned = turned_result(job, r, h);
      for (size_t i = 0; i < a.head_dim; ++i) {
        double squares = 0;
        double squares_turned = 0;
        double carried = 0;
        double seen = 0;
        for (size_t key = 0; key < keys; ++key) {
          const size_t w = (r * a.heads + h) * keys + key;
          if (!referee::mixes(a, job.rows, r, key, job.inputs[0].value[w])) continue;
          const auto from = referee::cache_row(a, job.rows.positions[r], key);
          if (!from) continue;
          const size_t v = *from * v_width + referee::kv_head_of(a, h) * a.head_dim + i;
          const double product = job.inputs[0].value[w] * job.inputs[1].value[v];
          squares += product * product;
          if (!turned_v.empty()) {  // a value of a head is seen by all that are turned with it
            carried += job.inputs[0].value[w] * turned_v.all_moved[v / a.head_dim] /
                       std::sqrt(static_cast<double>(referee::kValueTurn));
            squares_turned +=
                std::pow(job.inputs[0].value[w] * turned_v.largest[v / a.head_dim], 2);
          }
          carried += std::fabs(job.inputs[1].value[v]) * job.in_bound(0, w) +
                     job.inputs[0].value[w] * job.in_bound(1, v);
          ++seen;
        }
        const size_t at = r * job.step.width + h * a.head_dim + i;
        const double own = turned_v.empty()
                               ? mix_rounding(job, seen, squares, job.out[at])
                               : mix_rounding(job, seen, squares_turned, turned.largest) +
                                     sum_bound(turned.n, turned.squares, job.out[at], kUnitFloat);
        job.bound[at] = own + carried + output_rounding(job.out[at], job.u);
      }
    }
}

void bound_embedding(const Job& job) {
  // Float weights are copied: any difference is one. Block types are unpacked with two roundings,
  // fused or not.
  const bool exact = !is_quantized(job.step.weight->dtype);
  for (size_t r = 0; r < job.count(); ++r) {
    double largest = 0;
    for (size_t i = 0; i < job.step.width; ++i)
      largest = std::max(largest, std::fabs(job.out[r * job.step.width + i]));
    for (size_t i = 0; i < job.step.width; ++i)
      job.bound[r * job.step.width + i] =
          (exact ? 0 : 4 * 0x1p-24 * largest) +
          (job.arithmetic.output == "f32" && exact
               ? 0
               : output_rounding(job.out[r * job.step.width + i], job.u));
  }
}

// What a function of one value adds by itself, and how steep it is at most.
struct Unary {
  double own, slope;
};
Unary unary_bound(const Step& step, double x, double y, double u) {
  const double size = std::fabs(x);
  switch (step.op) {
    case Op::Scale: return {3 * u * y, std::fabs(step.factor)};
    case Op::SoftCap: return {u * (std::min(size, step.factor) + 8 * y), 1};
    // exp turns the rounding of its argument into a relative error.
    case Op::Silu: return {0x1p-120 + u * (size + 8) * y, 1.1};
    case Op::Sigmoid: return {0x1p-120 + u * (size + 8) * y, 0.25};
    case Op::Relu: return {0, 1};
    case Op::QuickGelu: return {0x1p-120 + u * (2 * size + 8) * y, 1.1};
    // As x/2 (1 + f): 1 + f has an absolute error where f is near -1. f's argument is rounded too,
    // which changes y by at most u |x| (slope 1.13 of GELU, whose argument has a few roundings).
    default: return {0x1p-120 + u * (8 * size + 8 * y), 1.13};
  }
}

// A function that is written out in operations of a short type: 1 + tanh has an absolute error, the
// others a few relative ones.
double inside_function(const Job& job, double x, double y) {
  const double unit = inside_unit(job.arithmetic);
  const bool gelu = job.step.op == Op::GeluTanh || job.step.op == Op::GeluErf;
  return unit * (3 * y + (gelu ? 2 * std::fabs(x) : 0));
}

double fast_function(const Step& step, double x, double y) {
  switch (step.op) {
    case Op::SoftCap: return kFastTanh * y;
    case Op::GeluTanh: return kFastTanh * std::fabs(x) / 2;
    case Op::Silu:
    case Op::Sigmoid: return y * (fast_exponential(x) + kFastQuotient);
    case Op::QuickGelu: return y * (fast_exponential(1.702 * x) + kFastQuotient);
    default: return 0;
  }
}

void bound_element_wise(const Job& job) {
  for (size_t i = 0; i < job.out.size(); ++i) {
    const double y = std::fabs(job.out[i]);
    const double x = job.inputs[0].value[i];
    double b = job.in_bound(0, i);
    if (job.step.op == Op::Add) {
      // Three terms in any order: input + attention + feed-forward where the two stand side by
      // side.
      const double second = std::fabs(job.step.factor * job.inputs[1].value[i]);
      b += std::fabs(job.step.factor) * job.in_bound(1, i) +
           job.u.accumulate * (std::fabs(x) + second);
      // A product, and a factor that is read off the values.
      if (job.step.factor != 1) b += (2 * job.u.accumulate + inside_unit(job.arithmetic)) * second;
    } else if (job.step.op == Op::Multiply) {
      b = b * std::fabs(job.inputs[1].value[i]) + std::fabs(x) * job.in_bound(1, i) +
          b * job.in_bound(1, i);
    } else if (job.step.op != Op::Bias) {
      // What was declared of accumulators says nothing of exp, erf and tanh: engines have several
      // formulas for them, in float.
      const bool function = job.step.op != Op::Scale;
      const auto unary = unary_bound(
          job.step, x, y, function ? std::max(job.u.accumulate, kUnitFloat) : job.u.accumulate);
      b = unary.slope * b + unary.own + inside_function(job, x, y);
      // A half-precision table: its result is a half, and an argument that is known only within a
      // bound may fall to the next half.
      if (job.arithmetic.functions == "fast") b += fast_function(job.step, x, y);
      if (job.arithmetic.functions == "f16/table" && referee::has_table(job.step.op))
        b += 0x1p-11 * y + 0x1p-24 +
             (job.inputs[0].bound.empty() ? 0 : unary.slope * 0x1p-10 * std::fabs(x));
    }
    job.bound[i] = b + 2 * job.u.accumulate * y + output_rounding(y, job.u);
  }
}

void bound_multiply_row(const Job& job) {
  const size_t width = job.step.width;
  for (size_t i = 0; i < job.out.size(); ++i) {
    const size_t r = i / width;
    const double in = job.in_bound(0, i);
    const double share = job.in_bound(1, r);
    const double y = std::fabs(job.out[i]);
    job.bound[i] = in * std::fabs(job.inputs[1].value[r]) +
                   std::fabs(job.inputs[0].value[i]) * share + in * share +
                   2 * job.u.accumulate * y + output_rounding(y, job.u);
  }
}

// A table of floats is copied; blocks are unpacked with two roundings.
void bound_positions(const Job& job) {
  const auto& table = *job.step.weight;
  for (size_t i = 0; i < job.out.size(); ++i) {
    const double y = std::fabs(job.out[i]);
    const double unpacked = is_quantized(table.dtype)
                                ? 4 * 0x1p-24 * std::fabs(job.out[i] - job.inputs[0].value[i])
                                : 0;
    job.bound[i] = job.in_bound(0, i) + unpacked + job.u.accumulate * y + output_rounding(y, job.u);
  }
}

// Engines choose by float probabilities: two logits that these cannot tell apart may change places.
void bound_top_experts(const Job& job) {
  const auto& e = job.step.experts;
  for (size_t r = 0; r < job.count(); ++r) {
    std::vector<std::pair<double, double>> order;  // logit, its bound
    for (size_t i = 0; i < e.count; ++i)
      order.emplace_back(job.inputs[0].value[r * e.count + i], job.in_bound(0, r * e.count + i));
    std::ranges::sort(order, std::greater{});
    const auto near = [&](size_t a, size_t b) {
      const double own = 8 * job.u.accumulate * (2 + order[0].first - order[b].first);
      return order[a].first - order[b].first <= own + order[a].second + order[b].second;
    };
    for (size_t k = 0; k < e.used; ++k) {
      const bool tie = (k > 0 && near(k - 1, k)) || (k + 1 < e.count && near(k, k + 1));
      job.bound[r * e.used + k] = tie ? static_cast<double>(e.count) : 0;
    }
  }
}

void bound_expert_weights(const Job& job) {
  const auto& e = job.step.experts;
  for (size_t r = 0; r < job.count(); ++r) {
    const std::span logits(job.inputs[0].value.data() + r * e.count, e.count);
    const double max = *std::ranges::max_element(logits);
    double carried = 0;  // of the sum: at most the largest bound of any logit
    for (size_t i = 0; i < e.count; ++i)
      carried = std::max(carried, job.in_bound(0, r * e.count + i));
    for (size_t k = 0; k < e.used; ++k) {
      const size_t at = r * e.used + k;
      const double y = std::fabs(job.out[at]);
      const auto chosen = referee::expert_at(job.inputs[1].matrix(), r, k, e.count);
      const double below = chosen ? max - logits[*chosen] : 0;
      // As in the softmax: the argument's rounding, a few for exp, sum, division and renormalizing.
      const double own = job.u.accumulate * (2 * below + 12 + static_cast<double>(e.count));
      job.bound[at] = y * (own + 2 * carried) + output_rounding(y, job.u) + 0x1p-126;
    }
  }
}

void bound_expert_mat_mul(const Job& job, Threads& threads) {
  const auto& weight = *job.step.weight;
  const auto& e = job.step.experts;
  const size_t n = weight.columns;
  const bool shared = job.inputs[0].width == n;
  threads.run(job.count() * e.used, 1, [&](size_t begin, size_t end) {
    std::vector<float> row(n);
    for (size_t at = begin; at < end; ++at) {
      const auto chosen =
          referee::expert_at(job.inputs[1].matrix(), at / e.used, at % e.used, e.count);
      if (!chosen) continue;
      const size_t from = at / e.used * job.inputs[0].width + (shared ? 0 : at % e.used * n);
      const std::span x(job.inputs[0].value.data() + from, n);
      for (size_t j = 0; j < weight.rows; ++j) {
        dequantize(weight.dtype, weight.row(*chosen * weight.rows + j), n, row.data());
        double carried = 0;
        if (!job.inputs[0].bound.empty())
          for (size_t i = 0; i < n; ++i)
            carried += std::fabs(static_cast<double>(row[i])) * job.inputs[0].bound[from + i];
        const size_t to = at * weight.rows + j;
        job.bound[to] =
            matmul_bound(job.step, row, x, job.out[to], job.arithmetic, job.deviation) + carried;
      }
    }
  });
}

void bound_expert_sum(const Job& job) {
  const size_t width = job.step.width;
  const size_t used = job.step.experts.used;
  for (size_t at = 0; at < job.out.size(); ++at) {
    const size_t r = at / width;
    double squares = 0;
    double carried = 0;
    for (size_t k = 0; k < used; ++k) {
      const size_t from = (r * used + k) * width + at % width;
      const double value = job.inputs[0].value[from];
      const double share = job.inputs[1].value[r * used + k];
      squares += value * value * share * share;
      carried += std::fabs(value) * job.in_bound(1, r * used + k) +
                 (std::fabs(share) + job.in_bound(1, r * used + k)) * job.in_bound(0, from);
    }
    // Added to the sum one by one: product and sum are rounded each time.
    const double inside =
        2 * inside_unit(job.arithmetic) * static_cast<double>(used) * std::sqrt(squares);
    job.bound[at] = sum_bound(static_cast<double>(used), squares, job.out[at], job.u.accumulate) +
                    inside + carried + output_rounding(job.out[at], job.u);
  }
}

}  // namespace

Units units_of(const Arithmetic& arithmetic) {
  const auto unit = [](const std::string& type) {
    if (type == "f64") return 0x1p-53;
    if (type == "f16") return 0x1p-11;
    if (type == "bf16") return 0x1p-8;
    return 0x1p-24;
  };
  return {unit(arithmetic.accumulate), unit(arithmetic.output)};
}

double cheap_matmul_bound(const Step& step, double y, const Arithmetic& arithmetic) {
  if (step.bias) return 0;  // what the sum was before the bias is not known here
  const Units u = units_of(arithmetic);
  return std::fabs(step.gain) *
             sum_bound(static_cast<double>(step.weight->columns), 0, y, u.accumulate) +
         output_rounding(y, u);
}

double matmul_bound(const Step& step, std::span<const float> weight_row, std::span<const double> x,
                    double y, const Arithmetic& arithmetic, bool deviation) {
  const Units u = units_of(arithmetic);
  const size_t n = weight_row.size();
  double squares = 0;
  double product = 0;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = std::min(n, begin + kBlock);
    double largest = 0;
    for (size_t i = begin; i < end; ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(weight_row[i])));
    for (size_t i = begin; i < end; ++i) {
      // A type with an offset sums q and the offset apart: terms of up to twice the block's largest
      // weight.
      const double w =
          has_offset(step.weight->dtype) ? 2 * largest : static_cast<double>(weight_row[i]);
      squares += w * w * x[i] * x[i];
      product += static_cast<double>(weight_row[i]) * x[i];
    }
  }
  // The weights of block types are products of scales themselves: two roundings more for each term.
  const bool scaled = is_quantized(step.weight->dtype) || is_scaled(arithmetic.weights);
  const auto terms = static_cast<double>(n);
  const double own = sum_bound(terms, squares, product, u.accumulate) +
                     cut_bound(arithmetic.activations, terms, squares, product, u.accumulate) +
                     (scaled ? kSigmas * kUniform * 2 * u.accumulate * std::sqrt(squares) : 0);
  double rounding = 0;
  if (deviation) {
    std::vector<double> sigma(n);
    referee::rounding_deviation(arithmetic.activations, x, sigma);
    for (size_t i = 0; i < n; ++i)
      rounding += std::pow(static_cast<double>(weight_row[i]) * sigma[i], 2);
  }
  return std::fabs(step.gain) * (own + kSigmas * std::sqrt(rounding)) +
         (step.bias ? 2 * u.accumulate * (std::fabs(product) + std::fabs(y)) : 0) +
         output_rounding(y, u);
}

std::vector<double> error_bound(const Step& step, std::span<const BoundedValue> inputs,
                                const referee::Rows& rows, std::span<const double> out,
                                const Arithmetic& arithmetic, bool deviation, Threads& threads) {
  std::vector<double> bound(out.size(), 0.0);
  const Job job{step, inputs, rows, out, arithmetic, units_of(arithmetic), deviation, bound};
  switch (step.op) {
    case Op::Embedding: bound_embedding(job); break;
    case Op::Positions: bound_positions(job); break;
    case Op::RmsNorm:
    case Op::LayerNorm: bound_norm(job); break;
    case Op::MatMul: bound_matmul(job, threads); break;
    case Op::Rope: bound_rope(job); break;
    case Op::Scores: bound_scores(job); break;
    case Op::Softmax: bound_softmax(job); break;
    case Op::Mix: bound_mix(job); break;
    case Op::MultiplyRow: bound_multiply_row(job); break;
    case Op::TopExperts: bound_top_experts(job); break;
    case Op::ExpertWeights: bound_expert_weights(job); break;
    case Op::ExpertMatMul: bound_expert_mat_mul(job, threads); break;
    case Op::ExpertSum: bound_expert_sum(job); break;
    case Op::Bias:
    case Op::Add:
    case Op::Multiply:
    case Op::Scale:
    case Op::SoftCap:
    case Op::Silu:
    case Op::GeluTanh:
    case Op::GeluErf:
    case Op::Sigmoid:
    case Op::Relu:
    case Op::QuickGelu: bound_element_wise(job); break;
  }
  // Two roundings more: of the factor, which is read off the values where a fault is looked for,
  // and of the product.
  if (step.gain != 1)
    for (size_t i = 0; i < bound.size(); ++i)
      bound[i] = std::fabs(step.gain) * bound[i] + 2 * output_rounding(out[i], job.u);
  return bound;
}

}  // namespace plumb
