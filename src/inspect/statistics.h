// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/tensor.h"

namespace plumb {

// What one pass over a tensor's values (as float) tells.
struct TensorStatistics {
  uint64_t count = 0, zeros = 0, nans = 0, infinities = 0;
  uint64_t first_nan = 0, first_infinity = 0;  // indices in row-major order, where there is one
  // Of the finite values. Sums are made of float sums over 4096 values, so mean and rms carry a
  // relative error of about 1e-5; they are for people and for checks by orders of magnitude.
  float min = 0, max = 0;
  double mean = 0, rms = 0;
  bool constant = false;  // all values are the same, and there is more than one
  // The longest run of zeros, if it is at least kZeroRun long; shorter ones are not looked for.
  uint64_t zero_run = 0, zero_run_begin = 0;
  std::string sha256;  // of the values as little-endian float32; empty if not asked for

  double deviation() const;  // standard deviation
};
inline constexpr uint64_t kZeroRun = 32;

struct Histogram {
  double low = 0, high = 0;
  std::array<uint64_t, 41> bins{};
};

struct MeasureOptions {
  bool sha256 = false;
};
TensorStatistics measure(const TensorView& view, MeasureOptions options = {});

// Equal bins from the smallest to the largest finite value.
Histogram histogram(const TensorView& view, const TensorStatistics& statistics);

}  // namespace plumb
