// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace plumb {

// A mean of many values with its standard error: sqrt((E[x²] - E[x]²) / (count - 1)).
struct Estimate {
  double value = 0, error = 0;
};

class Mean {
 public:
  void add(double x) {
    sum_ += x;
    squares_ += x * x;
    ++count_;
  }
  size_t count() const { return count_; }
  double sum() const { return sum_; }
  Estimate estimate() const;

 private:
  double sum_ = 0, squares_ = 0;
  size_t count_ = 0;
};

// e to the mean of -ln p of the right tokens; the error is that of the mean times the value.
Estimate perplexity(const Mean& nll);

}  // namespace plumb
