// SPDX-License-Identifier: Apache-2.0
// How far a right step may lie from the referee, for each element, given the arithmetic it
// declares. Derivations: docs/bounds.md.
#pragma once
#include <span>
#include <vector>

#include "backends/referee/evaluate.h"
#include "trace/arithmetic.h"

namespace plumb {

// A value of the referee and how far an engine's may lie from it. `bound` is empty where the value
// was recorded: then every side agrees on it.
struct BoundedValue {
  std::vector<double> value, bound;
  size_t rows = 0, width = 0;
  referee::Matrix matrix() const { return {value.data(), rows, width}; }
};

struct Units {
  double accumulate;  // half a unit in the last place, relative: 2^-53, 2^-24, 2^-11
  double output;
};
Units units_of(const Arithmetic& arithmetic);

// The bound of every element of `out`: the rounding of the step itself and what its inputs bring.
// `deviation` says that the exact form of the rounding of activations is not known: its deviation
// is added.
std::vector<double> error_bound(const Step& step, std::span<const BoundedValue> inputs,
                                const referee::Rows& rows, std::span<const double> out,
                                const Arithmetic& arithmetic, bool deviation, Threads& threads);

// A MatMul has too many elements to bound each exactly. This lower limit of its bound needs only
// the result…
double cheap_matmul_bound(const Step& step, double y, const Arithmetic& arithmetic);
// …and this is the bound of one element, for those that pass the lower limit.
double matmul_bound(const Step& step, std::span<const float> weight_row, std::span<const double> x,
                    double y, const Arithmetic& arithmetic, bool deviation);

}  // namespace plumb
