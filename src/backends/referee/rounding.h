// SPDX-License-Identifier: Apache-2.0
// What an engine's declared arithmetic does to the inputs of a step, in the referee's doubles.
#pragma once
#include <span>
#include <string>

namespace plumb::referee {

double round_to_f32(double x);
double round_to_f16(double x);
double round_to_bf16(double x);

// Whether `kind` ("f32", "int8/32", …) is known here.
bool is_known_rounding(const std::string& kind);

// Rounds a row in place. Block kinds need no whole number of blocks; the last one may be short.
//   f32, f16, bf16    each value
//   int8/32           scale = max|x|/127 in float, round half to even: plumb's own, exact to the
//   bit int8/32/f16scale  as llama.cpp's Q8_0: the scale is kept as f16, values round half away
//   from 0; int8/32/f16scale/even: its code for x86, half to even. int8/256          as ggml's
//   Q8_K: scale = signed max / -127 for 256 values int8/row one scale for the row
void round_row(const std::string& kind, std::span<double> row);

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
