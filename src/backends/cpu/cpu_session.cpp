// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/cpu_session.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "backends/referee/evaluate.h"
#include "core/check.h"
#include "quant/dequantize.h"

namespace plumb::cpu {
namespace {

// Rows of a prefill computed at a time: enough to use each unpacked weight often, few enough that
// the activations stay in the second-level cache. The bits do not depend on it.
constexpr size_t kBatch = 256;

// Which buffer holds each value. A buffer is used again once its last reader has run.
struct Buffers {
  std::vector<size_t> slot;    // of each step
  std::vector<size_t> widths;  // of each slot
};

Buffers plan_buffers(const Plan& plan) {
  const size_t count = plan.steps.size();
  std::vector<size_t> last_use(count);
  for (size_t i = 0; i < count; ++i) {
    last_use[i] = i;
    for (const size_t input : plan.steps[i].inputs) last_use[input] = i;
    // Scores, Softmax and Mix run as one when Mix is reached: the queries live until then.
    if (plan.steps[i].op == Op::Mix)
      last_use[plan.steps[plan.steps[plan.steps[i].inputs[0]].inputs[0]].inputs[0]] = i;
  }
  Buffers buffers;
  buffers.slot.resize(count);
  std::vector<size_t> free_from;  // the step from which on a slot is free
  for (size_t i = 0; i < count; ++i) {
    const size_t width = plan.steps[i].width;
    size_t slot = 0;
    while (slot < free_from.size() && (free_from[slot] > i || buffers.widths[slot] != width))
      ++slot;
    if (slot == free_from.size()) {
      free_from.push_back(0);
      buffers.widths.push_back(width);
    }
    buffers.slot[i] = slot;
    free_from[slot] = last_use[i] + 1;
  }
  return buffers;
}

size_t batch_of(const Plan& plan, size_t capacity) {
  return std::min(capacity, can_split(plan) ? kBatch : capacity);
}

// Bytes of `width` values in a cache.
size_t cache_row_bytes(KvType type, size_t width) {
  switch (type) {
    case KvType::F32: return width * sizeof(float);
    case KvType::F16: return width * sizeof(uint16_t);
    case KvType::Q8_0: return width / 32 * 34;
  }
  CHECK(false);
}

class CpuSession : public Session {
 public:
  CpuSession(const Kernels& kernels, const Model& model, const Plan& plan,
             const SessionOptions& options, Threads& threads)
      : kernels_(kernels),
        model_(model),
        plan_(plan),
        capacity_(options.capacity),
        kv_(options.kv_cache),
        threads_(threads),
        buffers_(plan_buffers(plan)) {
    max_batch_ = batch_of(plan, capacity_);
    for (const size_t width : buffers_.widths) slots_.emplace_back(width * max_batch_);
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      const auto& step = plan.steps[i];
      if (step.op == Op::Scores || step.op == Op::Mix) {
        const size_t from = step.inputs[1];
        const size_t row = cache_row_bytes(kv_, plan.steps[from].width);
        cache_.try_emplace(from, std::vector<std::byte>(capacity_ * row));
        if (step.op == Op::Mix) last_mix_ = i;
      }
      keep_vector(step.bias);
      if (is_norm(step.op) || step.op == Op::Bias) keep_vector(step.weight);
    }
  }

  size_t position() const override { return position_; }

  Result<std::vector<float>> forward(std::span<const Token> tokens, Outputs outputs,
                                     Observer* observer) override {
    TRY(check_tokens(tokens, model_, position_, capacity_));
    std::vector<float> logits;
    for (size_t begin = 0; begin < tokens.size(); begin += max_batch_) {
      const size_t count = std::min(max_batch_, tokens.size() - begin);
      const bool wanted = outputs == Outputs::AllPositions || begin + count == tokens.size();
      run(tokens.subspan(begin, count), outputs, observer, wanted);
      if (!wanted) continue;
      const auto last = values(plan_.steps.size() - 1);
      logits.insert(logits.end(), last,
                    last + rows_of(plan_.steps.size() - 1) * plan_.steps.back().width);
    }
    return logits;
  }

 private:
  // Steps behind the last attention work row by row: where one row of logits is asked for, one row
  // is computed.
  size_t rows_of(size_t step) const { return last_only_ && step > last_mix_ ? 1 : rows_; }

  void keep_vector(const WeightPtr& vector) {
    if (vector && !vectors_.contains(vector.get())) vectors_[vector.get()] = vector->values();
  }

  // A cache of floats takes keys and values as they are computed.
  float* values(size_t step) {
    if (const auto found = cache_.find(step); found != cache_.end() && kv_ == KvType::F32)
      return reinterpret_cast<float*>(found->second.data()) + position_ * plan_.steps[step].width;
    return slots_[buffers_.slot[step]].data();
  }

  // A cache of another type is written once a step is done.
  void store(size_t step) {
    const auto found = cache_.find(step);
    if (found == cache_.end() || kv_ == KvType::F32) return;
    const size_t width = plan_.steps[step].width;
    const size_t row = cache_row_bytes(kv_, width);
    const float* from = values(step);
    std::byte* to = found->second.data() + position_ * row;
    for (size_t r = 0; r < rows_; ++r)
      if (kv_ == KvType::F16)
        kernels_.store_f16(reinterpret_cast<uint16_t*>(to + r * row), from + r * width, width);
      else kernels_.store_q8_0(to + r * row, from + r * width, width);
  }

  // The rows of an input that a step works on: the last ones, if it has fewer rows than the input.
  const float* input(size_t step, size_t index) {
    const size_t from = plan_.steps[step].inputs[index];
    return values(from) + (rows_of(from) - rows_of(step)) * plan_.steps[from].width;
  }

  void run(std::span<const Token> tokens, Outputs outputs, Observer* observer, bool logits_wanted) {
    rows_ = tokens.size();
    last_only_ = outputs == Outputs::LastPosition;
    quantized_.reset();
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      if (last_only_ && !logits_wanted && i > last_mix_) break;
      const auto& step = plan_.steps[i];
      if (is_on_request(step.op)) continue;  // runs with its Mix
      compute(i, tokens, observer);
      apply_edit(i);
      store(i);
      if (observer != nullptr && observer->wants(step))
        observer->on_value(step, position_ + rows_ - rows_of(i), rows_of(i),
                           std::span<const float>(values(i), rows_of(i) * step.width));
    }
    // The logits are read after this, and they are not in the cache: the position may move on.
    position_ += rows_;
  }

  void compute(size_t i, std::span<const Token> tokens, Observer* observer) {
    const auto& step = plan_.steps[i];
    if (!is_plain(step) && step.op != Op::Mix && !is_on_request(step.op))
      return by_referee(i, tokens);
    switch (step.op) {
      case Op::Embedding: return embed(i, tokens);
      case Op::Positions: return add_positions(i);
      case Op::RmsNorm:
      case Op::LayerNorm: return norm(i);
      case Op::MatMul: return mat_mul(i);
      case Op::Rope: return rotate(i);
      case Op::Mix: return attend(i, observer);
      case Op::TopExperts: return top_experts(i);
      case Op::ExpertWeights: return expert_weights(i);
      case Op::ExpertMatMul: return expert_mat_mul(i);
      case Op::ExpertSum: return expert_sum(i);
      case Op::Scores:
      case Op::Softmax: return;
      default: return element_wise(i);
    }
  }

  void element_wise(size_t i) {
    const auto& step = plan_.steps[i];
    const size_t n = step.width;
    const float* a = input(i, 0);
    const float* b = step.inputs.size() > 1 ? input(i, 1) : nullptr;
    // Found before the threads start: what they share they only read.
    if (step.op == Op::Bias) b = vectors_.at(step.weight.get()).data();
    float* out = values(i);
    const auto factor = static_cast<float>(step.factor);
    each_row(rows_of(i), [&](size_t r) {
      float* y = out + r * n;
      const float* x = a + r * n;
      switch (step.op) {
        case Op::Bias: return kernels_.add(y, x, b, n);
        case Op::Add: return kernels_.add(y, x, b + r * n, n);
        case Op::Multiply: return kernels_.multiply(y, x, b + r * n, n);
        case Op::MultiplyRow: return kernels_.scale(y, x, n, b[r]);
        case Op::Scale: return kernels_.scale(y, x, n, factor);
        case Op::SoftCap: return kernels_.softcap(y, x, n, factor);
        case Op::Silu: return kernels_.silu(y, x, n);
        case Op::GeluTanh: return kernels_.gelu_tanh(y, x, n);
        case Op::GeluErf: return kernels_.gelu_erf(y, x, n);
        case Op::Sigmoid: return kernels_.sigmoid(y, x, n);
        default: CHECK(false);
      }
    });
  }

  void norm(size_t i) {
    const auto& step = plan_.steps[i];
    const size_t group = norm_group(step);
    const auto epsilon = static_cast<float>(step.epsilon);
    const float* x = input(i, 0);
    float* out = values(i);
    const auto vector = [&](const WeightPtr& weight) {
      return weight ? vectors_.at(weight.get()).data() : nullptr;
    };
    const float* gamma = step.use_gamma ? vector(step.weight) : nullptr;
    const float* beta = vector(step.bias);
    // Either one weight for all groups, or each group has its own.
    const bool own_gamma = step.weight && step.weight->count() != group;
    const bool own_beta = step.bias && step.bias->count() != group;
    if (gamma == nullptr && step.op == Op::RmsNorm) {
      if (ones_.size() < group) ones_.assign(group, 1.0F);
      gamma = ones_.data();
    }
    each_row(rows_of(i), [&](size_t r) {
      for (size_t first = 0; first < step.width; first += group) {
        const size_t at = r * step.width + first;
        const float* g = gamma == nullptr || !own_gamma || !step.use_gamma ? gamma : gamma + first;
        const float* b = beta == nullptr || !own_beta ? beta : beta + first;
        if (step.op == Op::RmsNorm) kernels_.rmsnorm(out + at, x + at, g, group, epsilon);
        else kernels_.layernorm(out + at, x + at, g, b, group, epsilon);
      }
    });
  }

  // What only faulty engines do: by the referee's rules, rounded to float.
  void by_referee(size_t i, std::span<const Token> tokens) {
    const auto& step = plan_.steps[i];
    const size_t rows = rows_of(i);
    std::vector<std::vector<double>> copies;
    std::vector<referee::Matrix> inputs;
    for (size_t k = 0; k < step.inputs.size(); ++k) {
      const size_t width = plan_.steps[step.inputs[k]].width;
      copies.emplace_back(input(i, k), input(i, k) + rows * width);
    }
    for (size_t k = 0; k < step.inputs.size(); ++k)
      inputs.push_back({copies[k].data(), rows, plan_.steps[step.inputs[k]].width});
    std::vector<int32_t> positions(rows);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(position_ + rows_ - rows));
    const std::vector<size_t> visible(rows, position_ + rows_);
    std::vector<double> out(rows * step.width);
    referee::evaluate(step, inputs, {positions, tokens.last(rows), visible, 0}, {}, threads_, out);
    std::ranges::transform(out, values(i), [](double x) { return static_cast<float>(x); });
  }

  // Row by row, spread over the threads where there are enough rows to pay for waking them.
  void each_row(size_t rows, const std::function<void(size_t)>& body) {
    threads_.run(rows, 4, [&](size_t begin, size_t end) {
      for (size_t r = begin; r < end; ++r) body(r);
    });
  }

  void embed(size_t i, std::span<const Token> tokens) {
    const auto& weight = *plan_.steps[i].weight;
    float* out = values(i);
    each_row(tokens.size(), [&](size_t r) {
      dequantize(weight.dtype, weight.row(static_cast<size_t>(tokens[r])), weight.columns,
                 out + r * weight.columns);
    });
  }

  void add_positions(size_t i) {
    const auto& table = *plan_.steps[i].weight;
    const float* x = input(i, 0);
    float* out = values(i);
    each_row(rows_, [&](size_t r) {
      std::vector<float> row(table.columns);
      dequantize(table.dtype, table.row(position_ + r), row.size(), row.data());
      kernels_.add(out + r * row.size(), x + r * row.size(), row.data(), row.size());
    });
  }

  void mat_mul(size_t i) {
    const auto& step = plan_.steps[i];
    const auto& weight = *step.weight;
    const size_t rows = rows_of(i);
    const size_t n = weight.columns;
    const float* x = input(i, 0);
    float* out = values(i);
    const float* bias = step.bias ? vectors_.at(step.bias.get()).data() : nullptr;
    const bool quantized = has_int8_kernel(weight.dtype);
    if (quantized) quantize(step.inputs[0], x, rows, n);
    const Int8Rows int8_rows{int8_.data(), scales_.data(), sums_.data()};
    // Eight rows are a cache line of one output row: two threads never write into the same one.
    threads_.run(weight.rows, 16, [&](size_t begin, size_t end) {
      multiply(out, step.width, weight, weight.bytes.data(), begin, end, x, int8_rows, rows);
      if (bias == nullptr) return;
      for (size_t r = 0; r < rows; ++r)
        for (size_t j = begin; j < end; ++j) out[r * step.width + j] += bias[j];
    });
  }

  // Rows of one matrix of a weight, which begins at `matrix`, times rows of x.
  void multiply(float* out, size_t width, const Weight& weight, const std::byte* matrix,
                size_t begin, size_t end, const float* x, Int8Rows int8_rows, size_t rows) const {
    const size_t n = weight.columns;
    if (has_int8_kernel(weight.dtype))
      int8_kernel(weight.dtype)(out, width, matrix, begin, end, n, int8_rows, rows);
    else if (is_quantized(weight.dtype))
      widened_rows(out, width, weight, matrix, begin, end, x, rows);
    else float_kernel(weight.dtype)(out, width, matrix, begin, end, n, x, rows);
  }

  // A block type without a kernel of its own: a few rows at a time are turned into float.
  void widened_rows(float* out, size_t width, const Weight& weight, const std::byte* matrix,
                    size_t begin, size_t end, const float* x, size_t rows) const {
    constexpr size_t kRows = 16;
    std::vector<float> values(kRows * weight.columns);
    for (size_t row = begin; row < end; row += kRows) {
      const size_t count = std::min(kRows, end - row);
      dequantize(weight.dtype, matrix + row * bytes_of(weight.dtype, weight.columns),
                 count * weight.columns, values.data());
      kernels_.matmul_f32(out + row, width, values.data(), 0, count, weight.columns, x, rows);
    }
  }

  MatMulInt8 int8_kernel(DType dtype) const {
    switch (dtype) {
      case DType::Q4_0: return kernels_.matmul_q4_0;
      case DType::Q4_1: return kernels_.matmul_q4_1;
      case DType::Q5_0: return kernels_.matmul_q5_0;
      case DType::Q5_1: return kernels_.matmul_q5_1;
      case DType::Q2_K: return kernels_.matmul_q2_k;
      case DType::Q3_K: return kernels_.matmul_q3_k;
      case DType::Q5_K: return kernels_.matmul_q5_k;
      case DType::IQ4_NL: return kernels_.matmul_iq4_nl;
      case DType::IQ4_XS: return kernels_.matmul_iq4_xs;
      case DType::Q8_0: return kernels_.matmul_q8_0;
      case DType::Q4_K: return kernels_.matmul_q4_k;
      case DType::Q6_K: return kernels_.matmul_q6_k;
      default: CHECK(false);  // has_int8_kernel() says which types come here
    }
  }
  MatMulFloat float_kernel(DType dtype) const {
    return dtype == DType::F16    ? kernels_.matmul_f16
           : dtype == DType::BF16 ? kernels_.matmul_bf16
                                  : kernels_.matmul_f32;
  }

  // q, k and v (and gate and up) share their input: it is rounded once.
  void quantize(size_t from, const float* x, size_t rows, size_t n) {
    if (quantized_ == std::pair(from, rows)) return;
    int8_.resize(std::max(int8_.size(), max_batch_ * n));
    scales_.resize(std::max(scales_.size(), max_batch_ * n / 32));
    sums_.resize(std::max(sums_.size(), max_batch_ * n / 16));
    each_row(rows, [&](size_t r) {
      kernels_.quantize_int8(&int8_[r * n], &scales_[r * n / 32], &sums_[r * n / 16], x + r * n, n);
    });
    quantized_ = std::pair(from, rows);
  }

  void top_experts(size_t i) {
    const auto& e = plan_.steps[i].experts;
    const float* logits = input(i, 0);
    float* out = values(i);
    std::vector<size_t> order(e.count);
    for (size_t r = 0; r < rows_of(i); ++r) {
      const float* row = logits + r * e.count;
      std::iota(order.begin(), order.end(), size_t{0});
      std::ranges::sort(
          order, [&](size_t a, size_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
      for (size_t k = 0; k < e.used; ++k) out[r * e.used + k] = static_cast<float>(order[k]);
    }
  }

  void expert_weights(size_t i) {
    const auto& e = plan_.steps[i].experts;
    const float* logits = input(i, 0);
    const float* chosen = input(i, 1);
    float* out = values(i);
    std::vector<float> shares(e.count);
    for (size_t r = 0; r < rows_of(i); ++r) {
      const size_t count = e.normalize ? e.used : e.count;
      for (size_t k = 0; k < count; ++k)
        shares[k] =
            logits[r * e.count + (e.normalize ? static_cast<size_t>(chosen[r * e.used + k]) : k)];
      kernels_.softmax(shares.data(), count);
      for (size_t k = 0; k < e.used; ++k)
        out[r * e.used + k] = shares[e.normalize ? k : static_cast<size_t>(chosen[r * e.used + k])];
    }
  }

  // Rows that go through the same expert are brought together, so that its matrix is read once.
  void expert_mat_mul(size_t i) {
    const auto& step = plan_.steps[i];
    const auto& weight = *step.weight;
    const auto& e = step.experts;
    const size_t n = weight.columns;
    const size_t count = rows_of(i) * e.used;
    const bool shared = plan_.steps[step.inputs[0]].width == n;
    const float* x = input(i, 0);
    const float* chosen = input(i, 1);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::sort(order, [&](size_t a, size_t b) {
      return chosen[a] != chosen[b] ? chosen[a] < chosen[b] : a < b;
    });
    std::vector<float> gathered(count * n);
    for (size_t at = 0; at < count; ++at)
      std::copy_n(x + (shared ? order[at] / e.used : order[at]) * n, n, &gathered[at * n]);
    std::vector<int8_t> int8;
    std::vector<float> scales;
    std::vector<float> sums;
    if (has_int8_kernel(weight.dtype)) {
      int8.resize(count * n);
      scales.resize(count * n / 32);
      sums.resize(count * n / 16);
      each_row(count, [&](size_t r) {
        kernels_.quantize_int8(&int8[r * n], &scales[r * n / 32], &sums[r * n / 16],
                               &gathered[r * n], n);
      });
    }
    std::vector<float> products(count * weight.rows);
    const size_t matrix_bytes = weight.rows * bytes_of(weight.dtype, n);
    threads_.run(weight.rows, 16, [&](size_t begin, size_t end) {
      for (size_t first = 0; first < count;) {
        size_t last = first + 1;
        while (last < count && chosen[order[last]] == chosen[order[first]]) ++last;
        const auto expert = static_cast<size_t>(chosen[order[first]]);
        const Int8Rows rows{int8.data() + (int8.empty() ? 0 : first * n),
                            scales.data() + (int8.empty() ? 0 : first * n / 32),
                            sums.data() + (int8.empty() ? 0 : first * n / 16)};
        multiply(&products[first * weight.rows], weight.rows, weight,
                 weight.bytes.data() + expert * matrix_bytes, begin, end, &gathered[first * n],
                 rows, last - first);
        first = last;
      }
    });
    float* out = values(i);
    for (size_t at = 0; at < count; ++at)
      std::copy_n(&products[at * weight.rows], weight.rows, out + order[at] * weight.rows);
  }

  void expert_sum(size_t i) {
    const auto& step = plan_.steps[i];
    const size_t used = step.experts.used;
    const float* parts = input(i, 0);
    const float* shares = input(i, 1);
    float* out = values(i);
    each_row(rows_of(i), [&](size_t r) {
      float* y = out + r * step.width;
      std::fill_n(y, step.width, 0.0F);
      for (size_t k = 0; k < used; ++k)
        for (size_t c = 0; c < step.width; ++c)
          y[c] += shares[r * used + k] * parts[(r * used + k) * step.width + c];
    });
  }

  // cos and sin of each row and pair, from angles in double.
  void prepare_rope(const Rope& rope) {
    if (rope_ == rope && rope_first_ == position_ && rope_rows_ == rows_) return;
    const size_t half = rope.dimensions / 2;
    const auto frequencies = rope_frequencies(rope);
    cosines_.resize(rows_ * half);
    sines_.resize(rows_ * half);
    for (size_t r = 0; r < rows_; ++r) {
      const auto position = static_cast<int32_t>(position_ + r);
      for (size_t p = 0; p < half; ++p) {
        const double angle = referee::rope_angle(rope, frequencies, position, p);
        cosines_[r * half + p] = static_cast<float>(rope.magnitude * std::cos(angle));
        sines_[r * half + p] = static_cast<float>(rope.magnitude * std::sin(angle));
      }
    }
    rope_ = rope;
    rope_first_ = position_;
    rope_rows_ = rows_;
  }

  void rotate(size_t i) {
    const auto& step = plan_.steps[i];
    prepare_rope(step.rope);
    const size_t half = step.rope.dimensions / 2;
    const bool neighbours = step.rope.pairing == RopePairing::Neighbours;
    const float* in = input(i, 0);
    float* out = values(i);
    each_row(rows_, [&](size_t r) {
      const float* cosine = &cosines_[r * half];
      const float* sine = &sines_[r * half];
      for (size_t head = 0; head < step.width; head += step.head_dim) {
        const float* x = in + r * step.width + head;
        float* y = out + r * step.width + head;
        for (size_t p = 0; p < half; ++p) {
          const size_t first = neighbours ? 2 * p : p;
          const size_t second = neighbours ? first + 1 : first + half;
          y[first] = x[first] * cosine[p] - x[second] * sine[p];
          y[second] = x[first] * sine[p] + x[second] * cosine[p];
        }
        std::copy(x + 2 * half, x + step.head_dim, y + 2 * half);
      }
    });
  }

  // One layer's attention: its three steps and where its inputs and its output lie.
  struct Layer {
    const Step &scores, &softmax, &mix;
    const float* q;
    const std::byte *k, *v;
    float* out;
  };

  // Scores, Softmax and Mix of one layer in one pass, one query and head at a time; the taps see
  // all three.
  void attend(size_t i, Observer* observer) {
    const auto& mix = plan_.steps[i];
    const auto& softmax = plan_.steps[mix.inputs[0]];
    const auto& scores = plan_.steps[softmax.inputs[0]];
    const size_t heads = mix.attention.heads;
    if (!is_plain(scores) || !is_plain(softmax) || !is_plain(mix))
      return attend_by_referee(i, observer);
    const Layer layer{scores,
                      softmax,
                      mix,
                      values(scores.inputs[0]),
                      cache_.at(scores.inputs[1]).data(),
                      cache_.at(mix.inputs[1]).data(),
                      values(i)};
    const bool tap_scores = observer != nullptr && observer->wants(scores);
    const bool tap_weights = observer != nullptr && observer->wants(softmax);
    scores_tap_.assign(tap_scores ? rows_ * heads * capacity_ : 0, 0.0F);
    weights_tap_.assign(tap_weights ? rows_ * heads * capacity_ : 0, 0.0F);
    threads_.run(rows_ * heads, 1, [&](size_t begin, size_t end) {
      std::vector<float> line(position_ + rows_);
      for (size_t at = begin; at < end; ++at) {
        float* s = tap_scores ? &scores_tap_[at * capacity_] : nullptr;
        float* w = tap_weights ? &weights_tap_[at * capacity_] : nullptr;
        attend_one(layer, at, line.data(), s, w);
      }
    });
    if (tap_scores)
      observer->on_value(scores, position_, rows_, std::span<const float>(scores_tap_));
    if (tap_weights)
      observer->on_value(softmax, position_, rows_, std::span<const float>(weights_tap_));
  }

  // The first `count` rows of a cache.
  std::vector<double> cached_rows(size_t step, size_t count) const {
    const size_t width = plan_.steps[step].width;
    const auto* from = cache_.at(step).data();
    std::vector<float> row(width);
    std::vector<double> out;
    const DType dtype = kv_ == KvType::F32   ? DType::F32
                        : kv_ == KvType::F16 ? DType::F16
                                             : DType::Q8_0;
    for (size_t r = 0; r < count; ++r) {
      dequantize(dtype, from + r * cache_row_bytes(kv_, width), width, row.data());
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }

  // Attention as only faulty engines compute it: the three steps by the referee's rules, each
  // rounded to float.
  void attend_by_referee(size_t i, Observer* observer) {
    const auto& mix = plan_.steps[i];
    const auto& softmax = plan_.steps[mix.inputs[0]];
    const auto& scores = plan_.steps[softmax.inputs[0]];
    const size_t keys = position_ + rows_;
    const auto width_of = [&](size_t step) { return plan_.steps[step].width; };
    std::vector<int32_t> positions(rows_);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(position_));
    const std::vector<size_t> visible(rows_, keys);
    const referee::Rows rows{positions, {}, visible, keys};
    const auto run = [&](const Step& step, const std::vector<referee::Matrix>& inputs,
                         size_t width) {
      std::vector<double> out(rows_ * width);
      referee::evaluate(step, inputs, rows, {}, threads_, out);
      std::ranges::transform(out, out.begin(),
                             [](double x) { return static_cast<double>(static_cast<float>(x)); });
      if (is_on_request(step.op) && observer != nullptr && observer->wants(step))
        show_wide(step, out, keys, *observer);
      return out;
    };
    const size_t from_q = scores.inputs[0];
    const std::vector<double> q(values(from_q), values(from_q) + rows_ * width_of(from_q));
    const auto k = cached_rows(scores.inputs[1], keys);
    const auto v = cached_rows(mix.inputs[1], keys);
    const size_t line = mix.attention.heads * keys;
    const auto s = run(
        scores, {{q.data(), rows_, width_of(from_q)}, {k.data(), keys, width_of(scores.inputs[1])}},
        line);
    const auto w = run(softmax, {{s.data(), rows_, line}}, line);
    const auto out =
        run(mix, {{w.data(), rows_, line}, {v.data(), keys, width_of(mix.inputs[1])}}, mix.width);
    std::ranges::transform(out, values(i), [](double x) { return static_cast<float>(x); });
  }

  // Rows of Scores and Softmax, widened to the capacity.
  void show_wide(const Step& step, const std::vector<double>& values, size_t keys,
                 Observer& observer) const {
    std::vector<float> wide(rows_ * step.attention.heads * capacity_, 0.0F);
    for (size_t line = 0; line * keys < values.size(); ++line)
      std::transform(values.begin() + static_cast<ptrdiff_t>(line * keys),
                     values.begin() + static_cast<ptrdiff_t>((line + 1) * keys),
                     wide.begin() + static_cast<ptrdiff_t>(line * capacity_),
                     [](double x) { return static_cast<float>(x); });
    observer.on_value(step, position_, rows_, std::span<const float>(wide));
  }

  // The scores of one query and head for keys from `first` on.
  void score_keys(const Layer& layer, size_t row, size_t head, size_t first, size_t count,
                  float* out) const {
    const auto& a = layer.scores.attention;
    const size_t width = plan_.steps[layer.scores.inputs[1]].width;
    const size_t row_bytes = cache_row_bytes(kv_, width);
    const size_t kv_head = referee::kv_head_of(a, head);
    const float* q = layer.q + (row * a.heads + head) * a.head_dim;
    const std::byte* k = layer.k + first * row_bytes + cache_row_bytes(kv_, kv_head * a.head_dim);
    const size_t query = position_ + row;
    const auto scale = static_cast<float>(a.scale * temperature(a, query));
    switch (kv_) {
      case KvType::F32:
        kernels_.attention_scores(out, q, reinterpret_cast<const float*>(k), width, count,
                                  a.head_dim, scale);
        break;
      case KvType::F16:
        kernels_.attention_scores_f16(out, q, k, row_bytes, count, a.head_dim, scale);
        break;
      case KvType::Q8_0:
        kernels_.attention_scores_q8_0(out, q, k, row_bytes, count, a.head_dim, scale);
        break;
    }
    if (a.softcap != 0) kernels_.softcap(out, out, count, static_cast<float>(a.softcap));
    if (a.alibi_max_bias == 0) return;
    const auto slope = static_cast<float>(alibi_slope(a, head));
    for (size_t key = 0; key < count; ++key)
      out[key] += slope * (static_cast<float>(first + key) - static_cast<float>(query));
  }

  static double temperature(const Attention& a, size_t query) {
    if (a.temperature_beta == 0) return 1;
    return 1 +
           a.temperature_beta * std::log1p(std::floor(static_cast<double>(query) /
                                                      static_cast<double>(a.temperature_length)));
  }

  void mix_values(const Layer& layer, size_t row, size_t head, size_t first, size_t count,
                  const float* weights) const {
    const auto& a = layer.mix.attention;
    const size_t width = plan_.steps[layer.mix.inputs[1]].width;
    const size_t row_bytes = cache_row_bytes(kv_, width);
    const std::byte* v = layer.v + first * row_bytes +
                         cache_row_bytes(kv_, referee::kv_head_of(a, head) * a.head_dim);
    float* out = layer.out + (row * a.heads + head) * a.head_dim;
    switch (kv_) {
      case KvType::F32:
        return kernels_.attention_mix(out, weights, reinterpret_cast<const float*>(v), width, count,
                                      a.head_dim);
      case KvType::F16:
        return kernels_.attention_mix_f16(out, weights, v, row_bytes, count, a.head_dim);
      case KvType::Q8_0:
        return kernels_.attention_mix_q8_0(out, weights, v, row_bytes, count, a.head_dim);
    }
  }

  void attend_one(const Layer& layer, size_t at, float* line, float* scores_tap,
                  float* weights_tap) const {
    const size_t row = at / layer.mix.attention.heads;
    const size_t head = at % layer.mix.attention.heads;
    const size_t query = position_ + row;
    const auto& a = layer.softmax.attention;
    const size_t end = query + 1;
    const size_t begin = a.window != 0 && query + 1 > a.window ? query + 1 - a.window : 0;
    score_keys(layer, row, head, begin, end - begin, line);
    if (scores_tap != nullptr) {
      // Scores exist for every key; a window hides some from the softmax only.
      score_keys(layer, row, head, 0, begin, scores_tap);
      std::copy_n(line, end - begin, scores_tap + begin);
    }
    kernels_.softmax(line, end - begin);
    if (weights_tap != nullptr) std::copy_n(line, end - begin, weights_tap + begin);
    mix_values(layer, row, head, begin, end - begin, line);
  }

  void apply_edit(size_t i) {
    const auto& step = plan_.steps[i];
    if (step.gain != 1)
      for (float& x : std::span(values(i), rows_of(i) * step.width))
        x = static_cast<float>(static_cast<double>(x) * step.gain);
    const size_t first = position_ + rows_ - rows_of(i);
    if (step.quirk) rearrange(i, first);
    if (!step.edit) return;
    const auto position = static_cast<size_t>(step.edit->position);
    if (position < first || position >= first + rows_of(i) || step.edit->channel >= step.width)
      return;
    float& x = values(i)[(position - first) * step.width + step.edit->channel];
    x = static_cast<float>(static_cast<double>(x) * step.edit->multiply + step.edit->add);
  }

  void rearrange(size_t i, size_t first) {
    const auto& step = plan_.steps[i];
    auto& plain = before_quirk_[i];
    plain.resize((first + rows_of(i)) * step.width, NAN);
    std::ranges::copy(std::span(values(i), rows_of(i) * step.width),
                      plain.begin() + static_cast<ptrdiff_t>(first * step.width));
    std::vector<int32_t> positions(rows_of(i));
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
    std::vector<double> out(rows_of(i) * step.width);
    const auto row_at = [&](int32_t position) {
      return &plain[static_cast<size_t>(position) * step.width];
    };
    referee::rearrange(*step.quirk, positions, step.width, row_at, true, out);
    std::ranges::transform(out, values(i), [](double x) { return static_cast<float>(x); });
  }

  const Kernels kernels_;
  const Model& model_;
  const Plan& plan_;
  size_t capacity_;
  KvType kv_;
  size_t max_batch_ = 0, position_ = 0, rows_ = 0, last_mix_ = 0;
  bool last_only_ = false;
  Threads& threads_;
  Buffers buffers_;
  std::vector<std::vector<float>> slots_;
  std::map<size_t, std::vector<std::byte>> cache_;      // K and V of all positions, by step
  std::map<size_t, std::vector<double>> before_quirk_;  // what faulty steps computed, all positions
  std::map<const Weight*, std::vector<float>> vectors_;
  std::vector<float> ones_;
  std::vector<int8_t> int8_;
  std::vector<float> scales_, sums_, cosines_, sines_, scores_tap_, weights_tap_;
  std::optional<std::pair<size_t, size_t>> quantized_;  // the step and rows that int8_ holds
  Rope rope_;
  size_t rope_first_ = 0, rope_rows_ = 0;
};

}  // namespace

Result<std::unique_ptr<Session>> open_session(const Kernels& kernels, const Model& model,
                                              const Plan& plan, const SessionOptions& options,
                                              Threads& threads) {
  TRY(check_options(model, plan, options));
  return std::make_unique<CpuSession>(kernels, model, plan, options, threads);
}

uint64_t session_bytes(const Plan& plan, const SessionOptions& options) {
  uint64_t floats = 0;
  uint64_t cache = 0;
  std::set<size_t> cached;
  for (const size_t width : plan_buffers(plan).widths) floats += width;
  for (const auto& step : plan.steps)
    if ((step.op == Op::Scores || step.op == Op::Mix) && cached.insert(step.inputs[1]).second)
      cache += cache_row_bytes(options.kv_cache, plan.steps[step.inputs[1]].width);
  return options.capacity * cache + batch_of(plan, options.capacity) * floats * sizeof(float);
}

}  // namespace plumb::cpu
