// SPDX-License-Identifier: Apache-2.0
// What an engine's declared arithmetic does to the inputs of a step, in the referee's doubles.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace plumb::referee {

double round_to_f32(double x);
double round_to_f16(double x);
double round_to_bf16(double x);
double round_to_tf32(double x);  // 10 bits of a float's 23, ties away from 0 (PTX cvt.rna.tf32)
double cut_to_tf32(double x);    // what a tensor core reads of a float that nobody rounded
double round_to_e4m3(double x);  // OCP FP8, saturating
double round_to_e5m2(double x);

// Whether `kind` ("f32", "int8/32", …) is known here.
bool is_known_rounding(const std::string& kind);

// Floats of fewer bits, each value by itself: f16, bf16, tf32, tf32/cut.
// What rounds to one; null for any other kind.
double (*short_float(const std::string& kind))(double);
inline bool is_short_float(const std::string& kind) { return short_float(kind) != nullptr; }

// Rounds a row in place. Block kinds need no whole number of blocks; the last one may be short.
//   f32, f16, bf16, tf32, tf32/cut    each value
//   int8/32           scale = max|x|/127 in float, round half to even: plumb's own, exact to the
//   bit int8/128, int8/row, int8/tensor: the same for 128 values, for the row, for the whole tensor
//   int8/32/f16scale  as llama.cpp's Q8_0: the scale is kept as f16, values round half away from 0;
//   int8/32/f16scale/even: its code for x86, half to even
//   int8/256          as ggml's Q8_K: scale = signed max / -127 for 256 values
//   q4_0              as ggml's Q4_0: scale = signed max / -8, kept as f16, for 32 values
//   fp8e4m3, fp8e5m2  8-bit floats (OCP FP8, half to even), what is too large becomes the largest
//   fp8e4m3/128, /row, /tensor: the same of x / scale, scale = max|x| / 448 (E5M2: 57344)
// `largest` is max|x| of the tensor that the row is a part of, for the kinds that ask for it.
void round_row(const std::string& kind, std::span<double> row, std::optional<float> largest = {});

// max|x| in float; NaN if there is one.
float largest_magnitude(std::span<const double> values);
// Whether one scale holds for all rows of a tensor.
bool is_per_tensor(const std::string& kind);

// Engines scale in their own order of float operations: x / (max / 127), x * (1 / (max / 127)),
// x * (127 / max). A value that one of them rounds up and another down, and by how much.
struct Undecided {
  size_t row = 0, column = 0;
  double step = 0;
};
// Those of a row before it is rounded; none for kinds that are not scaled.
std::vector<Undecided> undecided_values(const std::string& kind, std::span<const double> row,
                                        std::optional<float> largest = {});

// Makes a weight of `rows` rows what an engine makes of it that keeps it in `kind`: scaled for the
// tensor, for each row, or, for "/128", for blocks of 128 x 128.
std::vector<Undecided> round_weight(const std::string& kind, size_t rows, std::span<float> values);

// "…/hadamard": queries, keys and values are turned by an orthonormal Walsh-Hadamard matrix before
// they are rounded (llama.cpp's quantized caches). Turns each `n` (a power of two) values; its own
// inverse.
bool turns_first(const std::string& kind);
std::string without_turn(const std::string& kind);
void turn_hadamard(std::span<double> row, size_t n);

// ggml's Q8_1, which stands for Q8_0 where weights have an offset: the scale times the sum of the
// whole numbers is kept as a half. What it is more than the sum of the rounded values. `block`: 32
// values as they were.
bool keeps_block_sums(const std::string& kind);
double block_sum_excess(const std::string& kind, std::span<const double> block);

// The standard deviation of the rounding error of each value, for judging a kind whose exact form
// is unknown: a uniform error of one step has deviation step / sqrt(12).
void rounding_deviation(const std::string& kind, std::span<const double> row,
                        std::span<double> deviation);

}  // namespace plumb::referee
