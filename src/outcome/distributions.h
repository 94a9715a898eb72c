// SPDX-License-Identifier: Apache-2.0
// The few distributions that intervals are made of. Probabilities are shares from 0 to 1.
#pragma once
#include <cstddef>

namespace plumb {

struct Interval {
  double low = 0, high = 0;
};

// I_x(a, b), the regularized incomplete beta function: the distribution of a beta variable. By the
// continued fraction of Lentz (Numerical Recipes, 6.4); good to about 1e-14. a, b > 0; 0 <= x <= 1.
double incomplete_beta(double a, double b, double x);

double normal_cdf(double z);
double normal_quantile(double p);                     // 0 < p < 1
double student_t_quantile(double p, double freedom);  // 0 < p < 1, freedom > 0

// Clopper and Pearson (1934): the shares of a binomial that `events` of `count` do not contradict.
// Exact, so it holds at least as often as `confidence` says, for any count > 0.
Interval binomial_interval(size_t events, size_t count, double confidence);

// The largest share that can have given no event in `count` independent trials with probability
// 1 - confidence: 1 - (1 - confidence)^(1/count), about 3/count at 95 % ("rule of three").
// `count` = 0 says nothing: 1.
double zero_event_bound(size_t count, double confidence);

}  // namespace plumb
