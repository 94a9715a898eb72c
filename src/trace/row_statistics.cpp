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
constexpr size_t kChunk = 4 * kBlock;  // summed in float, then added to the sums of the row
constexpr size_t kLanes = 8;

// Vectors of the compiler, not of a processor: where there is no AVX they become two halves.
typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

// Steele, Lea, Flood 2014: output number `index` of the generator that was started with kSeed.
constexpr uint64_t splitmix64(uint64_t index) {
  constexpr uint64_t kSeed = 0x706C756D62;  // "plumb"
  uint64_t z = kSeed + (index + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

SketchBlock block_of(size_t block) {
  return {splitmix64(2 * block), splitmix64(2 * block + 1) >> 58};
}

// What is known of a row after some of its chunks.
struct RowState {
  double sum = 0, squares = 0, non_finite = 0;
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  double largest = -1;
  size_t largest_from = 0;  // where to look for it
  // Two of them take turns, so that no addition waits for the one before it; twice as long as the
  // sketch, so that a turned block stays in one piece.
  float sums[2][2 * kSketchSize] = {};
};

void note_range(RowState& state, double low, double high, size_t from) {
  state.low = std::min(state.low, low);
  state.high = std::max(state.high, high);
  const double magnitude = std::max(-low, high);
  if (magnitude <= state.largest) return;
  state.largest = magnitude;
  state.largest_from = from;
}

// Any values from `first`, a multiple of 64, on: the end of a row, doubles, and a row whose squares
// leave the range of a float or that holds values which are not finite.
template <class T>
void add_any(RowState& state, const T* row, size_t first, size_t end) {
  SketchBlock how;
  for (size_t i = first; i < end; ++i) {
    const size_t k = i % kBlock;
    if (k == 0) how = block_of(i / kBlock);
    if (!std::isfinite(row[i])) {
      ++state.non_finite;
      continue;
    }
    const auto value = static_cast<double>(row[i]);
    state.sum += value;
    state.squares += value * value;
    note_range(state, value, value, i);
    const auto narrow = static_cast<float>(row[i]);
    state.sums[(i / kBlock) % 2][how.turn + k] += (how.signs >> k) % 2 == 0 ? narrow : -narrow;
  }
}

// Sums of a chunk, each lane by itself.
struct ChunkSums {
  Floats sum, squares, low, high;
};

// 64 values. The signs are made on the way: a table of them would have left the cache between two
// steps of a run.
[[gnu::always_inline]] inline void add_block(ChunkSums& sums, float* sketch, const float* x,
                                             uint64_t signs) {
  constexpr Words kLane = {0, 1, 2, 3, 4, 5, 6, 7};
  for (uint32_t k = 0; k < kBlock; k += kLanes) {
    Floats value;
    Words bits;
    Floats sketched;
    std::memcpy(&value, x + k, sizeof(value));
    std::memcpy(&bits, &value, sizeof(bits));
    std::memcpy(&sketched, sketch + k, sizeof(sketched));
    sums.low = value < sums.low ? value : sums.low;
    sums.high = value > sums.high ? value : sums.high;
    sums.sum += value;
    sums.squares += value * value;
    const auto half = static_cast<uint32_t>(signs >> (k / 32 * 32));
    bits ^= ((Words{} + half) >> (kLane + k % 32)) << 31;
    std::memcpy(&value, &bits, sizeof(value));
    sketched += value;
    std::memcpy(sketch + k, &sketched, sizeof(sketched));
  }
}

// Adds the lanes of a chunk to the row. False if its squares cannot be summed as floats: a value is
// not finite, or they are too large or too small for that.
[[gnu::always_inline]] inline bool add_sums(RowState& state, const ChunkSums& sums, size_t first) {
  constexpr float kSmallest = 0x1p-80F;  // far above where squares of floats lose bits
  float sum[kLanes];
  float square[kLanes];
  float low[kLanes];
  float high[kLanes];
  std::memcpy(sum, &sums.sum, sizeof(sum));
  std::memcpy(square, &sums.squares, sizeof(square));
  std::memcpy(low, &sums.low, sizeof(low));
  std::memcpy(high, &sums.high, sizeof(high));
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t l = 0; l < width; ++l) {
      sum[l] += sum[l + width];
      square[l] += square[l + width];
      low[l] = std::min(low[l], low[l + width]);
      high[l] = std::max(high[l], high[l + width]);
    }
  const bool in_range = square[0] >= kSmallest && square[0] <= std::numeric_limits<float>::max();
  if (!in_range && !(low[0] == 0 && high[0] == 0 && square[0] == 0)) return false;
  state.sum += static_cast<double>(sum[0]);
  state.squares += static_cast<double>(square[0]);
  note_range(state, static_cast<double>(low[0]), static_cast<double>(high[0]), first);
  return true;
}

// The whole blocks of a row of floats, a chunk at a time. False if the row needs add_any.
[[gnu::always_inline]] inline bool add_whole_blocks(RowState& state, const float* row,
                                                    size_t width) {
  const size_t whole = width - width % kBlock;
  for (size_t first = 0; first < whole; first += kChunk) {
    ChunkSums sums{};
    std::memcpy(&sums.low, row + first, sizeof(sums.low));
    sums.high = sums.low;
    for (size_t i = first; i < std::min(first + kChunk, whole); i += kBlock) {
      const auto how = block_of(i / kBlock);
      add_block(sums, state.sums[(i / kBlock) % 2] + how.turn, row + i, how.signs);
    }
    if (!add_sums(state, sums, first)) return false;
  }
  return true;
}

// The first channel from `from` on whose magnitude is `largest`, which one of them has. Steps of a
// few values without a branch between them are vector code.
template <class T>
[[gnu::always_inline]] inline size_t find_largest(const T* row, size_t from, size_t width,
                                                  double largest) {
  constexpr size_t kStep = 32;
  const auto wanted = static_cast<T>(largest);
  for (; from + kStep <= width; from += kStep) {
    uint32_t found = 0;
    for (size_t k = 0; k < kStep; ++k)
      found |= static_cast<uint32_t>(row[from + k] == wanted) |
               static_cast<uint32_t>(row[from + k] == -wanted);
    if (found != 0) break;
  }
  while (row[from] != wanted && row[from] != -wanted) ++from;
  return from;
}

template <class T>
[[gnu::always_inline]] inline void finish_row(const RowState& state, const T* row, size_t width,
                                              RowStatistics& out, Sketch& sketch) {
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
  out.minimum = state.low;
  out.maximum = state.high;
  out.norm = std::sqrt(state.squares);
  const bool constant = out.minimum == out.maximum;  // rounding of the sums must not hide it
  out.mean = constant ? out.minimum : state.sum / n;
  out.deviation = constant ? 0 : std::sqrt(std::max(0.0, state.squares / n - out.mean * out.mean));
  out.largest = static_cast<double>(find_largest(row, state.largest_from, width, state.largest));
}

PLUMB_TARGET_CLONES
void summarize_row(const float* row, size_t width, RowStatistics& statistics, Sketch& sketch) {
  RowState state;
  if (add_whole_blocks(state, row, width)) {
    add_any(state, row, width - width % kBlock, width);
  } else {
    state = {};
    add_any(state, row, 0, width);
  }
  finish_row(state, row, width, statistics, sketch);
}

template <class T>
void check_sizes(std::span<const T> rows, size_t width, std::span<RowStatistics> statistics,
                 std::span<Sketch> sketches) {
  CHECK(width > 0 && rows.size() == statistics.size() * width &&
        sketches.size() == statistics.size());
}

}  // namespace

void summarize(std::span<const float> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches) {
  check_sizes(rows, width, statistics, sketches);
  for (size_t r = 0; r < statistics.size(); ++r)
    summarize_row(rows.data() + r * width, width, statistics[r], sketches[r]);
}

void summarize(std::span<const double> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches) {
  check_sizes(rows, width, statistics, sketches);
  for (size_t r = 0; r < statistics.size(); ++r) {
    RowState state;
    const double* row = rows.data() + r * width;
    add_any(state, row, 0, width);
    finish_row(state, row, width, statistics[r], sketches[r]);
  }
}

SketchBlock sketch_block(size_t block) { return block_of(block); }

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
