// SPDX-License-Identifier: Apache-2.0
#include "inspect/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "core/mapped_file.h"
#include "quant/target_clones.h"
#include "quant/values.h"

namespace plumb {
namespace {

constexpr size_t kChunk = 4096;  // values: 16 KiB stay in the first cache
constexpr size_t kLanes = 16;  // partial results side by side, which the compiler keeps in vectors

struct Pass {
  float min = std::numeric_limits<float>::infinity();
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0, squares = 0;
  uint64_t zeros = 0;
  bool finite = true;
  bool zero_block = false;  // 16 aligned zeros: every run of 31 or more holds such a block
};

struct Lanes {
  float min[kLanes], max[kLanes], sum[kLanes], squares[kLanes];
  uint32_t zeros[kLanes], exponents[kLanes];
};

// Plain loops over 16 lanes: each lane adds its own values in order, so every clone of the function
// gives the same bits. The lanes are a local copy: through the reference they might lie in `x`, and
// the compiler would store them after each value.
PLUMB_TARGET_CLONES void add_lanes(const float* x, size_t count, Lanes& result,
                                   uint32_t& zero_blocks) {
  Lanes lanes = result;
  uint32_t blocks = 0;
  for (size_t i = 0; i < count; i += kLanes) {
    uint32_t any = 0;
    for (size_t l = 0; l < kLanes; ++l) {
      const float v = x[i + l];
      const uint32_t magnitude = std::bit_cast<uint32_t>(v) & 0x7FFFFFFFU;
      lanes.min[l] = v < lanes.min[l] ? v : lanes.min[l];
      lanes.max[l] = v > lanes.max[l] ? v : lanes.max[l];
      lanes.sum[l] += v;
      lanes.squares[l] += v * v;
      lanes.zeros[l] += magnitude == 0 ? 1U : 0U;
      lanes.exponents[l] = magnitude > lanes.exponents[l] ? magnitude : lanes.exponents[l];
      any |= magnitude;
    }
    blocks += any == 0 ? 1U : 0U;
  }
  zero_blocks += blocks;
  result = lanes;
}

// One chunk, value by value, in double: for the tail and for chunks whose float sums overflow.
void add_slowly(std::span<const float> x, Pass& pass) {
  for (const float v : x) {
    if (!std::isfinite(v)) {
      pass.finite = false;
      continue;
    }
    pass.min = std::min(pass.min, v);
    pass.max = std::max(pass.max, v);
    pass.sum += static_cast<double>(v);
    pass.squares += static_cast<double>(v) * static_cast<double>(v);
    pass.zeros += v == 0 ? 1 : 0;
  }
}

Pass pass_over(std::span<const float> x) {
  Pass pass;
  const size_t whole = x.size() / kLanes * kLanes;
  Lanes lanes{};
  std::ranges::fill(lanes.min, std::numeric_limits<float>::infinity());
  std::ranges::fill(lanes.max, -std::numeric_limits<float>::infinity());
  uint32_t zero_blocks = 0;
  add_lanes(x.data(), whole, lanes, zero_blocks);
  pass.zero_block = zero_blocks > 0;
  const bool odd = *std::ranges::max_element(lanes.exponents) >= 0x7F800000U;
  const bool overflow =
      std::ranges::any_of(lanes.squares, [](float v) { return !std::isfinite(v); });
  if (odd || overflow) {
    add_slowly(x, pass);
    return pass;
  }
  for (size_t l = 0; l < kLanes; ++l) {
    pass.min = std::min(pass.min, lanes.min[l]);
    pass.max = std::max(pass.max, lanes.max[l]);
    pass.sum += static_cast<double>(lanes.sum[l]);
    pass.squares += static_cast<double>(lanes.squares[l]);
    pass.zeros += lanes.zeros[l];
  }
  add_slowly(x.subspan(whole), pass);
  return pass;
}

// Follows runs of zeros over chunk borders.
class ZeroRuns {
 public:
  void add(std::span<const float> x, uint64_t begin, bool may_hold_long_run) {
    if (!may_hold_long_run) {
      // Only what touches the borders can be part of a long run.
      size_t head = 0;
      while (head < x.size() && x[head] == 0) ++head;
      extend(begin, head);
      close();
      size_t tail = x.size();
      while (tail > 0 && x[tail - 1] == 0) --tail;
      extend(begin + tail, x.size() - tail);
      return;
    }
    for (size_t i = 0; i < x.size(); ++i) {
      if (x[i] == 0) extend(begin + i, 1);
      else close();
    }
  }
  void finish(TensorStatistics& statistics) {
    close();
    if (longest_ < kZeroRun) return;
    statistics.zero_run = longest_;
    statistics.zero_run_begin = longest_begin_;
  }

 private:
  void extend(uint64_t begin, uint64_t count) {
    if (length_ == 0) begin_ = begin;
    length_ += count;
  }
  void close() {
    if (length_ > longest_) {
      longest_ = length_;
      longest_begin_ = begin_;
    }
    length_ = 0;
  }
  uint64_t begin_ = 0, length_ = 0, longest_ = 0, longest_begin_ = 0;
};

void count_odd(std::span<const float> x, uint64_t begin, TensorStatistics& statistics) {
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) && statistics.nans++ == 0) statistics.first_nan = begin + i;
    if (std::isinf(x[i]) && statistics.infinities++ == 0) statistics.first_infinity = begin + i;
  }
}

template <class F>
void each_chunk(const TensorView& view, F&& use) {
  const uint64_t count = element_count(view.shape).value_or(0);
  std::array<float, kChunk> values;
  for (uint64_t begin = 0; begin < count; begin += kChunk) {
    const auto size = static_cast<size_t>(std::min<uint64_t>(kChunk, count - begin));
    read_values(view, begin, size, values.data());
    use(std::span<const float>(values.data(), size), begin);
  }
}

}  // namespace

double TensorStatistics::deviation() const {
  return std::sqrt(std::max(0.0, rms * rms - mean * mean));
}

TensorStatistics measure(const TensorView& view, MeasureOptions options) {
  TensorStatistics statistics;
  statistics.count = element_count(view.shape).value_or(0);
  std::optional<Sha256> hash;
  if (options.sha256) hash.emplace();
  Pass total;
  ZeroRuns runs;
  each_chunk(view, [&](std::span<const float> x, uint64_t begin) {
    const Pass pass = pass_over(x);
    total.min = std::min(total.min, pass.min);
    total.max = std::max(total.max, pass.max);
    total.sum += pass.sum;
    total.squares += pass.squares;
    total.zeros += pass.zeros;
    if (!pass.finite) count_odd(x, begin, statistics);
    runs.add(x, begin, pass.zero_block || !pass.finite || pass.zeros * 2 > x.size());
    if (hash) hash->add(std::as_bytes(x));
  });
  runs.finish(statistics);
  statistics.zeros = total.zeros;
  const uint64_t finite = statistics.count - statistics.nans - statistics.infinities;
  if (finite > 0) {
    statistics.min = total.min;
    statistics.max = total.max;
    statistics.mean = total.sum / static_cast<double>(finite);
    statistics.rms = std::sqrt(total.squares / static_cast<double>(finite));
  }
  statistics.constant =
      statistics.count > 1 && finite == statistics.count && statistics.min == statistics.max;
  if (hash) statistics.sha256 = hash->hex();
  return statistics;
}

Histogram histogram(const TensorView& view, const TensorStatistics& statistics) {
  Histogram histogram;
  histogram.low = static_cast<double>(statistics.min);
  histogram.high = static_cast<double>(statistics.max);
  const double width = histogram.high - histogram.low;
  const double scale = width > 0 ? static_cast<double>(histogram.bins.size()) / width : 0;
  each_chunk(view, [&](std::span<const float> x, uint64_t) {
    for (const float v : x) {
      if (!std::isfinite(v)) continue;
      const auto bin = static_cast<size_t>((static_cast<double>(v) - histogram.low) * scale);
      ++histogram.bins[std::min(bin, histogram.bins.size() - 1)];
    }
  });
  return histogram;
}

}  // namespace plumb
