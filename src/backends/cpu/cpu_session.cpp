// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/cpu_session.h"

#include <algorithm>
#include <cmath>
#include <map>

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

class CpuSession : public Session {
 public:
  CpuSession(const Kernels& kernels, const Model& model, const Plan& plan, size_t capacity,
             Threads& threads)
      : kernels_(kernels),
        model_(model),
        plan_(plan),
        capacity_(capacity),
        threads_(threads),
        buffers_(plan_buffers(plan)) {
    max_batch_ = std::min(capacity, is_causal(plan) ? kBatch : capacity);
    for (const size_t width : buffers_.widths) slots_.emplace_back(width * max_batch_);
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      const auto& step = plan.steps[i];
      if (step.op == Op::Scores || step.op == Op::Mix) {
        const size_t from = step.inputs[1];
        cache_.try_emplace(from, std::vector<float>(capacity * plan.steps[from].width));
        if (step.op == Op::Mix) last_mix_ = i;
      }
      for (const auto& vector : {step.weight, step.bias})
        if (vector && vector->rows == 1 && step.op != Op::Embedding &&
            !vectors_.contains(vector.get()))
          vectors_[vector.get()] = vector->values();
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

  float* values(size_t step) {
    if (const auto found = cache_.find(step); found != cache_.end())
      return found->second.data() + position_ * plan_.steps[step].width;
    return slots_[buffers_.slot[step]].data();
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
      if (observer != nullptr && observer->wants(step))
        observer->on_value(step, position_ + rows_ - rows_of(i), rows_of(i),
                           std::span<const float>(values(i), rows_of(i) * step.width));
    }
    // The logits are read after this, and they are not in the cache: the position may move on.
    position_ += rows_;
  }

  void compute(size_t i, std::span<const Token> tokens, Observer* observer) {
    const auto& step = plan_.steps[i];
    switch (step.op) {
      case Op::Embedding: return embed(i, tokens);
      case Op::MatMul: return mat_mul(i);
      case Op::Rope: return rotate(i);
      case Op::Mix: return attend(i, observer);
      case Op::Scores:
      case Op::Softmax: return;
      default: break;
    }
    const size_t n = step.width;
    const float* a = input(i, 0);
    const float* b = step.inputs.size() > 1 ? input(i, 1) : nullptr;
    float* out = values(i);
    // Found before the threads start: what they share they only read.
    const float* vector = step.op == Op::RmsNorm || step.op == Op::Bias ? vector_of(step) : nullptr;
    each_row(rows_of(i), [&](size_t r) {
      const size_t at = r * n;
      switch (step.op) {
        case Op::RmsNorm:
          kernels_.rmsnorm(out + at, a + at, vector, n, static_cast<float>(step.epsilon));
          break;
        case Op::Bias: kernels_.add(out + at, a + at, vector, n); break;
        case Op::Add: kernels_.add(out + at, a + at, b + at, n); break;
        case Op::Multiply: kernels_.multiply(out + at, a + at, b + at, n); break;
        default: kernels_.silu(out + at, a + at, n); break;
      }
    });
  }

  // Row by row, spread over the threads where there are enough rows to pay for waking them.
  void each_row(size_t rows, const std::function<void(size_t)>& body) {
    threads_.run(rows, 4, [&](size_t begin, size_t end) {
      for (size_t r = begin; r < end; ++r) body(r);
    });
  }

  // The weight of a norm or a bias, or ones for a norm that leaves its weight out (a fault).
  const float* vector_of(const Step& step) {
    if (step.use_gamma) return vectors_.at(step.weight.get()).data();
    if (ones_.size() < step.width) ones_.assign(step.width, 1.0F);
    return ones_.data();
  }

  void embed(size_t i, std::span<const Token> tokens) {
    const auto& weight = *plan_.steps[i].weight;
    float* out = values(i);
    each_row(tokens.size(), [&](size_t r) {
      dequantize(weight.dtype, weight.row(static_cast<size_t>(tokens[r])), weight.columns,
                 out + r * weight.columns);
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
      if (quantized)
        int8_kernel(weight.dtype)(out, step.width, weight.bytes.data(), begin, end, n, int8_rows,
                                  rows);
      else if (is_quantized(weight.dtype))
        widened_rows(out, step.width, weight, begin, end, x, rows);
      else float_kernel(weight.dtype)(out, step.width, weight.bytes.data(), begin, end, n, x, rows);
      if (bias == nullptr) return;
      for (size_t r = 0; r < rows; ++r)
        for (size_t j = begin; j < end; ++j) out[r * step.width + j] += bias[j];
    });
  }

  // A block type without a kernel of its own: a few rows at a time are turned into float.
  void widened_rows(float* out, size_t width, const Weight& weight, size_t begin, size_t end,
                    const float* x, size_t rows) const {
    constexpr size_t kRows = 16;
    std::vector<float> values(kRows * weight.columns);
    for (size_t row = begin; row < end; row += kRows) {
      const size_t count = std::min(kRows, end - row);
      dequantize(weight.dtype, weight.row(row), count * weight.columns, values.data());
      kernels_.matmul_f32(out + row, width, values.data(), 0, count, weight.columns, x, rows);
    }
  }

  MatMulInt8 int8_kernel(DType dtype) const {
    switch (dtype) {
      case DType::Q4_0: return kernels_.matmul_q4_0;
      case DType::Q4_1: return kernels_.matmul_q4_1;
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

  // cos and sin of each row and pair, from angles in double.
  void prepare_rope(const Rope& rope) {
    if (rope_ == rope && rope_first_ == position_ && rope_rows_ == rows_) return;
    const size_t half = rope.dimensions / 2;
    std::vector<double> frequencies(half);
    const auto factors = rope.factors ? rope.factors->values() : std::vector<float>(half, 1.0F);
    for (size_t p = 0; p < half; ++p)
      frequencies[p] = std::pow(rope.base, -2.0 * static_cast<double>(p) /
                                               static_cast<double>(rope.dimensions)) /
                       static_cast<double>(factors[p]);
    cosines_.resize(rows_ * half);
    sines_.resize(rows_ * half);
    for (size_t r = 0; r < rows_; ++r) {
      const double position =
          (static_cast<double>(position_ + r) + rope.position_shift) / rope.linear_factor;
      for (size_t p = 0; p < half; ++p) {
        cosines_[r * half + p] = static_cast<float>(std::cos(position * frequencies[p]));
        sines_[r * half + p] = static_cast<float>(std::sin(position * frequencies[p]));
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

  // The cache of K or V as a step reads it; a stale row (a fault) needs a copy.
  const float* cache_of(size_t step, const Attention& attention, std::vector<float>& copy) {
    const auto& cache = cache_.at(step);
    const size_t width = plan_.steps[step].width;
    const auto stale = attention.stale_position;
    if (!stale || *stale < 1 || static_cast<size_t>(*stale) >= capacity_) return cache.data();
    copy = cache;
    std::copy_n(&cache[static_cast<size_t>(*stale - 1) * width], width,
                &copy[static_cast<size_t>(*stale) * width]);
    return copy.data();
  }

  // Scores, Softmax and Mix of one layer in one pass, one query and head at a time; the taps see
  // all three.
  void attend(size_t i, Observer* observer) {
    const auto& mix = plan_.steps[i];
    const auto& softmax = plan_.steps[mix.inputs[0]];
    const auto& scores = plan_.steps[softmax.inputs[0]];
    const size_t heads = mix.attention.heads;
    std::vector<float> stale_k;
    std::vector<float> stale_v;
    const float* k = cache_of(scores.inputs[1], scores.attention, stale_k);
    const float* v = cache_of(mix.inputs[1], mix.attention, stale_v);
    const float* q = values(scores.inputs[0]);
    float* out = values(i);
    const bool tap_scores = observer != nullptr && observer->wants(scores);
    const bool tap_weights = observer != nullptr && observer->wants(softmax);
    scores_tap_.assign(tap_scores ? rows_ * heads * capacity_ : 0, 0.0F);
    weights_tap_.assign(tap_weights ? rows_ * heads * capacity_ : 0, 0.0F);
    threads_.run(rows_ * heads, 1, [&](size_t begin, size_t end) {
      std::vector<float> line(position_ + rows_);
      for (size_t at = begin; at < end; ++at) {
        float* s = tap_scores ? &scores_tap_[at * capacity_] : nullptr;
        float* w = tap_weights ? &weights_tap_[at * capacity_] : nullptr;
        attend_one(scores, softmax, mix, q, k, v, out, at, line.data(), s, w);
      }
    });
    if (tap_scores)
      observer->on_value(scores, position_, rows_, std::span<const float>(scores_tap_));
    if (tap_weights)
      observer->on_value(softmax, position_, rows_, std::span<const float>(weights_tap_));
  }

  void attend_one(const Step& scores, const Step& softmax, const Step& mix, const float* q,
                  const float* k, const float* v, float* out, size_t at, float* line,
                  float* scores_tap, float* weights_tap) const {
    const size_t heads = mix.attention.heads;
    const size_t dim = mix.attention.head_dim;
    const size_t row = at / heads;
    const size_t head = at % heads;
    const size_t query = position_ + row;
    const size_t end = softmax.attention.causal ? query + 1 : position_ + rows_;
    const size_t window = softmax.attention.window;
    const size_t begin = window != 0 && query + 1 > window ? query + 1 - window : 0;
    const size_t k_width = plan_.steps[scores.inputs[1]].width;
    const size_t v_width = plan_.steps[mix.inputs[1]].width;
    const auto kv_head = [&](const Attention& a) {
      return a.head_map == HeadMap::Modulo ? head % a.kv_heads : head / (a.heads / a.kv_heads);
    };
    kernels_.attention_scores(line, q + row * heads * dim + head * dim,
                              k + begin * k_width + kv_head(scores.attention) * dim, k_width,
                              end - begin, dim, static_cast<float>(scores.attention.scale));
    if (scores_tap !=
        nullptr) {  // Scores exist for every key; a window hides some from the softmax only.
      kernels_.attention_scores(scores_tap, q + row * heads * dim + head * dim,
                                k + kv_head(scores.attention) * dim, k_width, begin, dim,
                                static_cast<float>(scores.attention.scale));
      std::copy_n(line, end - begin, scores_tap + begin);
    }
    kernels_.softmax(line, end - begin);
    if (weights_tap != nullptr) std::copy_n(line, end - begin, weights_tap + begin);
    kernels_.attention_mix(out + row * heads * dim + head * dim, line,
                           v + begin * v_width + kv_head(mix.attention) * dim, v_width, end - begin,
                           dim);
  }

  void apply_edit(size_t i) {
    const auto& step = plan_.steps[i];
    if (step.gain != 1)
      for (float& x : std::span(values(i), rows_of(i) * step.width))
        x = static_cast<float>(static_cast<double>(x) * step.gain);
    if (!step.edit) return;
    const size_t first = position_ + rows_ - rows_of(i);
    const auto position = static_cast<size_t>(step.edit->position);
    if (position < first || position >= first + rows_of(i) || step.edit->channel >= step.width)
      return;
    float& x = values(i)[(position - first) * step.width + step.edit->channel];
    x = static_cast<float>(static_cast<double>(x) * step.edit->multiply + step.edit->add);
  }

  const Kernels& kernels_;
  const Model& model_;
  const Plan& plan_;
  size_t capacity_, max_batch_ = 0, position_ = 0, rows_ = 0, last_mix_ = 0;
  bool last_only_ = false;
  Threads& threads_;
  Buffers buffers_;
  std::vector<std::vector<float>> slots_;
  std::map<size_t, std::vector<float>> cache_;  // K and V of all positions, by step
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
                                              const Plan& plan, size_t capacity, Threads& threads) {
  return std::make_unique<CpuSession>(kernels, model, plan, capacity, threads);
}

}  // namespace plumb::cpu
