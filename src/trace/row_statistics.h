// SPDX-License-Identifier: Apache-2.0
// What a trace can hold of a row in place of its values: eight figures, and a sketch of 64 values
// that keeps distances. docs/steps.md defines both, for other engines too.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace plumb {

// The eight figures of one row, in the order of the file. Those behind `non_finite` are of the
// finite values; without one they are NaN, and `largest` is -1.
struct RowStatistics {
  double count = 0;       // values in the row
  double non_finite = 0;  // how many of them are NaN or infinite
  double mean = 0;
  double deviation = 0;  // standard deviation of the population
  double minimum = 0;
  double maximum = 0;
  double norm = 0;      // L2
  double largest = -1;  // index of the first value of the largest magnitude
};
constexpr size_t kStatisticsSize = 8;
static_assert(sizeof(RowStatistics) == kStatisticsSize * sizeof(double));

constexpr size_t kSketchSize = 64;
using Sketch = std::array<float, kSketchSize>;

// How the 64 channels from 64 * block on go into a sketch: bit k of `signs` says that channel k of
// them is subtracted; it goes into value (k + turn) mod 64.
struct SketchBlock {
  uint64_t signs = 0;
  size_t turn = 0;
};
SketchBlock sketch_block(size_t block);

// Statistics and sketches of rows of `width` values (at least one) that lie behind each other. The
// same values give the same bits, however many rows come at once and on every processor. Floats are
// summed as floats within 256 values and as doubles beyond, so mean, deviation and norm are good to
// seven digits; doubles are summed as such. Where a value is too large for a float the sketch is
// not finite.
void summarize(std::span<const float> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches);
void summarize(std::span<const double> rows, size_t width, std::span<RowStatistics> statistics,
               std::span<Sketch> sketches);

// Standard error of the squared length of a sketch, relative to the squared length of the row:
// sqrt(2/64). docs/steps.md derives it.
constexpr double kSketchSquareError = 0.17677669529663687;
// Of a distance itself: half of it, as long as it is small.
constexpr double kSketchError = kSketchSquareError / 2;
// Distances below this, relative to the length of the rows, are rounding of the sketches.
double sketch_resolution(double width);

// The distance of the two sketches, which estimates that of the rows.
double sketch_distance(const Sketch& a, const Sketch& b);

}  // namespace plumb
