// SPDX-License-Identifier: Apache-2.0
#include "trace/row_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "quant/target_clones.h"

namespace plumb {
namespace {

constexpr size_t kBlock = kSketchSize;
constexpr size_t kLanes = 8;
constexpr size_t kRowsAtOnce = 4;  // share the signs of a block

// Vectors of the compiler, not of a processor: where there is no AVX they become two halves.
typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef float HalfFloats __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(32)));

// Steele, Lea, Flood 2014: output number `index` of the generator that was started with kSeed.
uint64_t splitmix64(uint64_t index) {
  constexpr uint64_t kSeed = 0x706C756D62;  // "plumb"
  uint64_t z = kSeed + (index + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// What is known of a row after some of its blocks.
struct RowState {
  double sum = 0, squares = 0, non_finite = 0;
  float low[kLanes], high[kLanes];
  double double_low = std::numeric_limits<double>::infinity();
  double double_high = -std::numeric_limits<double>::infinity();
  double largest = -1;
  size_t largest_at = 0;  // the block, or the channel once it is known
  bool at_channel = false;
  // Two of them take turns, so that no addition waits for the one before it; twice as long as the
  // sketch, so that a turned block stays in one piece.
  float sums[2][2 * kSketchSize] = {};
  RowState() {
    std::fill_n(low, kLanes, std::numeric_limits<float>::infinity());
    std::fill_n(high, kLanes, -std::numeric_limits<float>::infinity());
  }
};

double total(const double* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Any block: cut short at the end of a row, with values that are not finite, or of doubles. The
// order of the additions is that of add_whole_block.
template <class T>
void add_any_block(RowState& state, const T* x, size_t count, size_t block, const uint32_t* signs,
                   size_t turn) {
  double sums[kLanes] = {};
  double squares[kLanes] = {};
  float* sketch = state.sums[block % 2] + turn;
  for (size_t k = 0; k < count; ++k) {
    if (!std::isfinite(x[k])) {
      ++state.non_finite;
      continue;
    }
    const auto value = static_cast<double>(x[k]);
    sums[k % kLanes] += value;
    squares[k % kLanes] += value * value;
    state.double_low = std::min(state.double_low, value);
    state.double_high = std::max(state.double_high, value);
    if (std::fabs(value) > state.largest) {
      state.largest = std::fabs(value);
      state.largest_at = block * kBlock + k;
      state.at_channel = true;
    }
    const auto narrow = static_cast<float>(x[k]);
    sketch[k] += std::bit_cast<float>(std::bit_cast<uint32_t>(narrow) ^ signs[k]);
  }
  state.sum += total(sums);
  state.squares += total(squares);
}

// 64 floats. False, and nothing is changed, if one of them is not finite.
[[gnu::always_inline]] inline bool add_whole_block(RowState& state, const float* x, size_t block,
                                                   const uint32_t* signs, size_t turn) {
  Doubles sums[2] = {};
  Doubles squares[2] = {};
  Floats low;
  Floats high;
  std::memcpy(&low, x, sizeof(low));
  high = low;
  for (size_t k = 0; k < kBlock; k += kLanes) {
    Floats v;
    std::memcpy(&v, x + k, sizeof(v));
    low = v < low ? v : low;
    high = v > high ? v : high;
    for (size_t half = 0; half < 2; ++half) {
      HalfFloats narrow;
      std::memcpy(&narrow, x + k + half * 4, sizeof(narrow));
      const Doubles wide = __builtin_convertvector(narrow, Doubles);
      sums[half] += wide;
      squares[half] += wide * wide;
    }
  }
  double lanes[kLanes];
  std::memcpy(lanes, squares, sizeof(lanes));
  const double square = total(lanes);
  if (!(square <= std::numeric_limits<double>::max())) return false;
  state.squares += square;
  std::memcpy(lanes, sums, sizeof(lanes));
  state.sum += total(lanes);
  float* sketch = state.sums[block % 2] + turn;
  for (size_t k = 0; k < kBlock; k += kLanes) {
    Words bits;
    Words sign;
    Floats sum;
    std::memcpy(&bits, x + k, sizeof(bits));
    std::memcpy(&sign, signs + k, sizeof(sign));
    std::memcpy(&sum, sketch + k, sizeof(sum));
    bits ^= sign;
    Floats signed_value;
    std::memcpy(&signed_value, &bits, sizeof(bits));
    sum += signed_value;
    std::memcpy(sketch + k, &sum, sizeof(sum));
  }
  const Floats magnitude = high > -low ? high : -low;
  float most[kLanes];
  std::memcpy(most, &magnitude, sizeof(most));
  const float best = std::max(std::max(std::max(most[0], most[4]), std::max(most[1], most[5])),
                              std::max(std::max(most[2], most[6]), std::max(most[3], most[7])));
  if (static_cast<double>(best) > state.largest) {
    state.largest = static_cast<double>(best);
    state.largest_at = block;
    state.at_channel = false;
  }
  Floats row_low;
  Floats row_high;
  std::memcpy(&row_low, state.low, sizeof(row_low));
  std::memcpy(&row_high, state.high, sizeof(row_high));
  row_low = low < row_low ? low : row_low;
  row_high = high > row_high ? high : row_high;
  std::memcpy(state.low, &row_low, sizeof(row_low));
  std::memcpy(state.high, &row_high, sizeof(row_high));
  return true;
}

void expand_signs(uint64_t word, uint32_t* signs) {
  const auto low = static_cast<uint32_t>(word);
  const auto high = static_cast<uint32_t>(word >> 32);
  for (uint32_t k = 0; k < 32; ++k) {
    signs[k] = (low >> k) << 31;
    signs[k + 32] = (high >> k) << 31;
  }
}

template <class T>
void finish_row(RowState& state, const T* row, size_t width, RowStatistics& out, Sketch& sketch) {
  const auto n = static_cast<double>(width) - state.non_finite;
  out.count = static_cast<double>(width);
  out.non_finite = state.non_finite;
  for (size_t j = 0; j < kSketchSize; ++j)
    sketch[j] = (state.sums[0][j] + state.sums[0][j + kSketchSize]) +
                (state.sums[1][j] + state.sums[1][j + kSketchSize]);
  if (n == 0) {
    out.mean = out.deviation = out.minimum = out.maximum = out.norm =
        std::numeric_limits<double>::quiet_NaN();
    out.largest = -1;
    return;
  }
  out.minimum = std::min(state.double_low,
                         static_cast<double>(*std::min_element(state.low, state.low + kLanes)));
  out.maximum = std::max(state.double_high,
                         static_cast<double>(*std::max_element(state.high, state.high + kLanes)));
  out.norm = std::sqrt(state.squares);
  const bool constant = out.minimum == out.maximum;  // rounding of the sums must not hide it
  out.mean = constant ? out.minimum : state.sum / n;
  out.deviation = constant ? 0 : std::sqrt(std::max(0.0, state.squares / n - out.mean * out.mean));
  size_t at = state.largest_at;
  if (!state.at_channel) {
    at *= kBlock;
    while (std::fabs(static_cast<double>(row[at])) != state.largest) ++at;
  }
  out.largest = static_cast<double>(at);
}

PLUMB_TARGET_CLONES
void summarize_floats(const float* rows, size_t count, size_t width, RowStatistics* statistics,
                      Sketch* sketches) {
  RowState states[kRowsAtOnce];
  alignas(32) uint32_t signs[kBlock];
  for (size_t first = 0; first < width; first += kBlock) {
    const size_t block = first / kBlock;
    const auto how = sketch_block(block);
    expand_signs(how.signs, signs);
    for (size_t r = 0; r < count; ++r) {
      const float* x = rows + r * width + first;
      if (first + kBlock > width || !add_whole_block(states[r], x, block, signs, how.turn))
        add_any_block(states[r], x, std::min(kBlock, width - first), block, signs, how.turn);
    }
  }
  for (size_t r = 0; r < count; ++r)
    finish_row(states[r], rows + r * width, width, statistics[r], sketches[r]);
}

}  // namespace

SketchBlock sketch_block(size_t block) {
  return {splitmix64(2 * block), splitmix64(2 * block + 1) >> 58};
}

void summarize(std::span<const float> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches) {
  CHECK(width > 0 && rows.size() == statistics.size() * width &&
        sketches.size() == statistics.size());
  for (size_t r = 0; r < statistics.size(); r += kRowsAtOnce)
    summarize_floats(rows.data() + r * width, std::min(kRowsAtOnce, statistics.size() - r), width,
                     &statistics[r], &sketches[r]);
}

void summarize(std::span<const double> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches) {
  CHECK(width > 0 && rows.size() == statistics.size() * width &&
        sketches.size() == statistics.size());
  uint32_t signs[kBlock];
  for (size_t r = 0; r < statistics.size(); ++r) {
    RowState state;
    const double* row = rows.data() + r * width;
    for (size_t first = 0; first < width; first += kBlock) {
      const auto how = sketch_block(first / kBlock);
      expand_signs(how.signs, signs);
      add_any_block(state, row + first, std::min(kBlock, width - first), first / kBlock, signs,
                    how.turn);
    }
    finish_row(state, row, width, statistics[r], sketches[r]);
  }
}

double sketch_resolution(double width) {
  return 0x1p-23 * (2 + std::sqrt(width / static_cast<double>(kSketchSize)));
}

double sketch_distance(const Sketch& a, const Sketch& b) {
  double sum = 0;
  for (size_t j = 0; j < kSketchSize; ++j) {
    const double d = static_cast<double>(a[j]) - static_cast<double>(b[j]);
    sum += d * d;
  }
  return std::sqrt(sum);
}

}  // namespace plumb
