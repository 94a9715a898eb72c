// SPDX-License-Identifier: Apache-2.0
#include "replay/bounds.h"

#include <algorithm>
#include <cmath>

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
constexpr size_t kBlock = 32;

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

bool has_offset(DType dtype) {
  return dtype == DType::Q4_0 || dtype == DType::Q4_1 || dtype == DType::Q4_K ||
         dtype == DType::Q6_K;
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

void bound_norm(const Job& job) {
  const size_t n = job.step.width;
  const auto gamma = job.step.weight->values();
  const double own =
      job.u.accumulate * (kSigmas * kUniform * std::sqrt(static_cast<double>(n) / 3) / 2 + 4);
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].value.data() + r * n;
    double squares = 0;
    double moved = 0;
    for (size_t i = 0; i < n; ++i) {
      squares += x[i] * x[i];
      moved += std::fabs(x[i]) * job.in_bound(0, r * n + i);
    }
    const double mean = squares / static_cast<double>(n) + job.step.epsilon;
    const double factor = mean > 0 ? 1 / std::sqrt(mean) : 0;
    for (size_t i = 0; i < n; ++i) {
      const double g = job.step.use_gamma ? std::fabs(static_cast<double>(gamma[i])) : 1;
      const double y = job.out[r * n + i];
      job.bound[r * n + i] = own * std::fabs(y) + g * factor * job.in_bound(0, r * n + i) +
                             std::fabs(y) * factor * factor * moved / static_cast<double>(n) +
                             output_rounding(y, job.u);
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
  for (size_t r = 0; r < job.count(); ++r) {
    const double* x = job.inputs[0].value.data() + r * width;
    double* b = &job.bound[r * width];
    for (size_t i = 0; i < width; ++i)
      b[i] = job.in_bound(0, r * width + i) + output_rounding(job.out[r * width + i], job.u);
    for (size_t pair = 0; pair < half; ++pair) {
      // The frequency is a power, often made by repeated products: pair roundings, and a few for
      // the function.
      const double angle = std::fabs(referee::rope_angle(rope, job.rows.positions[r], pair));
      const double own = job.u.accumulate * (4 + angle * (4 + static_cast<double>(pair)));
      const size_t first = rope.pairing == RopePairing::Neighbours ? 2 * pair : pair;
      const size_t second = rope.pairing == RopePairing::Neighbours ? first + 1 : first + half;
      for (size_t head = 0; head < width; head += job.step.head_dim) {
        const double both =
            job.in_bound(0, r * width + head + first) + job.in_bound(0, r * width + head + second);
        const double size = std::fabs(x[head + first]) + std::fabs(x[head + second]);
        b[head + first] += own * size + both;
        b[head + second] += own * size + both;
      }
    }
  }
}

void bound_scores(const Job& job) {
  const auto& a = job.step.attention;
  const size_t keys = job.rows.keys;
  const size_t q_width = job.inputs[0].width;
  const size_t k_width = job.inputs[1].width;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h)
      for (size_t key = 0; key < keys; ++key) {
        if (!referee::in_cache(job.rows, r, key)) continue;
        const size_t q = r * q_width + h * a.head_dim;
        const size_t k =
            referee::cache_row(a, key) * k_width + referee::kv_head_of(a, h) * a.head_dim;
        double squares = 0;
        double carried = 0;
        for (size_t i = 0; i < a.head_dim; ++i) {
          const double product = job.inputs[0].value[q + i] * job.inputs[1].value[k + i];
          squares += product * product;
          carried += std::fabs(job.inputs[0].value[q + i]) * job.in_bound(1, k + i) +
                     std::fabs(job.inputs[1].value[k + i]) * job.in_bound(0, q + i);
        }
        const size_t at = (r * a.heads + h) * keys + key;
        const double y = job.out[at];
        job.bound[at] = a.scale * (sum_bound(static_cast<double>(a.head_dim), squares, y / a.scale,
                                             job.u.accumulate) +
                                   carried) +
                        2 * job.u.accumulate * std::fabs(y) + output_rounding(y, job.u);
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
    // exp turns the rounding of its argument into a relative error; four ulp for the function, the
    // sum is of positive terms.
    for (size_t key = 0; key < keys; ++key) {
      if (!referee::sees(a, job.rows.positions[r], job.rows.visible[r], key)) continue;
      const double own =
          job.u.accumulate * (2 * (max - s[key]) + 8 + kSigmas * kUniform * std::sqrt(seen / 3));
      job.bound[line * keys + key] = w[key] * (own + job.in_bound(0, line * keys + key) + carried) +
                                     output_rounding(w[key], job.u) + 0x1p-126;
    }
  }
}

void bound_mix(const Job& job) {
  const auto& a = job.step.attention;
  const size_t keys = job.rows.keys;
  const size_t v_width = job.inputs[1].width;
  for (size_t r = 0; r < job.count(); ++r)
    for (size_t h = 0; h < a.heads; ++h)
      for (size_t i = 0; i < a.head_dim; ++i) {
        double squares = 0;
        double carried = 0;
        double seen = 0;
        for (size_t key = 0; key < keys; ++key) {
          const size_t w = (r * a.heads + h) * keys + key;
          if (!referee::mixes(a, job.rows, r, key, job.inputs[0].value[w])) continue;
          const size_t v =
              referee::cache_row(a, key) * v_width + referee::kv_head_of(a, h) * a.head_dim + i;
          const double product = job.inputs[0].value[w] * job.inputs[1].value[v];
          squares += product * product;
          carried += std::fabs(job.inputs[1].value[v]) * job.in_bound(0, w) +
                     job.inputs[0].value[w] * job.in_bound(1, v);
          ++seen;
        }
        const size_t at = r * job.step.width + h * a.head_dim + i;
        job.bound[at] = sum_bound(seen, squares, job.out[at], job.u.accumulate) + carried +
                        output_rounding(job.out[at], job.u);
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

void bound_element_wise(const Job& job) {
  for (size_t i = 0; i < job.out.size(); ++i) {
    const double y = std::fabs(job.out[i]);
    const double x = job.inputs[0].value[i];
    double b = job.in_bound(0, i);
    if (job.step.op == Op::Add) b += job.in_bound(1, i);
    else if (job.step.op == Op::Multiply)
      b = b * std::fabs(job.inputs[1].value[i]) + std::fabs(x) * job.in_bound(1, i) +
          b * job.in_bound(1, i);
    else if (job.step.op == Op::Silu)
      b = 0x1p-120 + 1.1 * b +
          job.u.accumulate * (std::fabs(x) + 8) * y;  // 1.1: the steepest slope
    job.bound[i] = b + 2 * job.u.accumulate * y + output_rounding(y, job.u);
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
  const double own =
      sum_bound(static_cast<double>(n), squares, product, u.accumulate) +
      (is_quantized(step.weight->dtype) ? kSigmas * kUniform * 2 * u.accumulate * std::sqrt(squares)
                                        : 0);
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
    case Op::RmsNorm: bound_norm(job); break;
    case Op::MatMul: bound_matmul(job, threads); break;
    case Op::Rope: bound_rope(job); break;
    case Op::Scores: bound_scores(job); break;
    case Op::Softmax: bound_softmax(job); break;
    case Op::Mix: bound_mix(job); break;
    case Op::Bias:
    case Op::Add:
    case Op::Multiply:
    case Op::Silu: bound_element_wise(job); break;
  }
  if (step.gain != 1)
    for (double& b : bound) b *= std::fabs(step.gain);
  return bound;
}

}  // namespace plumb
