// SPDX-License-Identifier: Apache-2.0
#include "replay/rounded_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace plumb {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;  // kept; a step is judged several times in a row

// Gemma's norms are stored less 1 where they are made a short type.
void shorten(const std::string& type, double offset, std::span<float> values, Threads& threads) {
  const auto round = referee::short_float(type);
  constexpr size_t kAtOnce = 1 << 16;
  threads.run(values.size(), kAtOnce, [&](size_t begin, size_t end) {
    for (float& x : values.subspan(begin, end - begin))
      x = static_cast<float>(round(static_cast<double>(x) - offset) + offset);
  });
}

// Each matrix by itself; of a large one the rows that are scaled together, in parallel.
std::vector<referee::Undecided> scale(const std::string& kind, const Weight& weight,
                                      std::span<float> values, Threads& threads) {
  const size_t together = referee::is_per_tensor(kind) ? weight.rows : 128;
  const size_t parts = (weight.rows + together - 1) / together;
  std::vector<std::vector<referee::Undecided>> of_part(weight.matrices * parts);
  threads.run(of_part.size(), 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const size_t first = i / parts * weight.rows + i % parts * together;
      const size_t rows = std::min(together, weight.rows - i % parts * together);
      of_part[i] = referee::round_weight(
          kind, rows, values.subspan(first * weight.columns, rows * weight.columns));
      for (auto& value : of_part[i]) value.row += first;
    }
  });
  std::vector<referee::Undecided> all;
  for (const auto& part : of_part) all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

RoundedWeights::Made RoundedWeights::make(const WeightPtr& weight, const std::string& kind,
                                          bool less_one, Threads& threads) {
  const std::scoped_lock lock(mutex_);
  if (const auto known = made_.find({weight, kind}); known != made_.end()) return known->second;
  auto values = weight->values();
  Made made;
  if (is_scaled(kind))
    made.undecided = std::make_shared<const std::vector<referee::Undecided>>(
        scale(kind, *weight, values, threads));
  else shorten(kind, less_one ? 1 : 0, values, threads);
  auto copy = std::make_shared<Weight>(*weight);
  copy->dtype = DType::F32;
  copy->storage.resize(values.size() * sizeof(float));
  std::memcpy(copy->storage.data(), values.data(), copy->storage.size());
  copy->bytes = copy->storage;
  made_bytes_ += copy->storage.size();
  made.weight = std::move(copy);
  if (made_bytes_ > kMostBytes) {
    made_.clear();
    made_bytes_ = made.weight->storage.size();
  }
  return made_[{weight, kind}] = made;
}

RoundedStep RoundedWeights::of(const Step& step, const std::string& inside, const std::string& made,
                               Threads& threads) {
  RoundedStep out{step, {}};
  if (inside != "f32") {
    const bool less_one = is_norm(step.op) && architecture_.starts_with("gemma");
    for (auto* weight : {&out.step.weight, &out.step.bias})
      if (*weight && !is_quantized((*weight)->dtype))
        *weight = make(*weight, inside, less_one, threads).weight;
  }
  if (!made.empty() && is_product(step.op)) {
    const auto rounded = make(out.step.weight, made, false, threads);
    out.step.weight = rounded.weight;
    out.undecided = rounded.undecided;
  }
  return out;
}

void RoundedStep::allow_undecided(const BoundedValue& input, const BoundedValue* experts,
                                  std::vector<double>& bounds) const {
  if (!undecided) return;
  const size_t rows = step.weight->rows;
  const size_t n = step.weight->columns;
  const double gain = std::fabs(step.gain);
  for (size_t r = 0; r < input.rows; ++r)
    for (const auto& value : *undecided) {
      const double* x = input.value.data() + r * input.width;
      if (experts == nullptr) {
        bounds[r * rows + value.row] += gain * value.step * std::fabs(x[value.column]);
        continue;
      }
      const size_t used = step.experts.used;
      for (size_t k = 0; k < used; ++k) {
        const auto chosen = referee::expert_at(experts->matrix(), r, k, step.experts.count);
        if (!chosen || *chosen != value.row / rows) continue;
        const size_t from = input.width == n ? 0 : k * n;
        bounds[(r * used + k) * rows + value.row % rows] +=
            gain * value.step * std::fabs(x[from + value.column]);
      }
    }
}

}  // namespace plumb
