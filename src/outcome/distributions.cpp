// SPDX-License-Identifier: Apache-2.0
#include "outcome/distributions.h"

#include <cmath>

#include "core/check.h"

namespace plumb {
namespace {

// The x in (low, high) at which the increasing `function` takes the value `p`. Halving 200 times
// leaves no representable number between the ends.
template <class F>
double invert(const F& function, double p, double low, double high) {
  for (int i = 0; i < 200; ++i) {
    const double middle = low + (high - low) / 2;
    if (function(middle) < p) low = middle;
    else high = middle;
  }
  return low + (high - low) / 2;
}

// The continued fraction of the incomplete beta function, for x below the mean.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;  // in place of a zero that would be divided by
  const auto guard = [](double v) { return std::fabs(v) < kTiny ? kTiny : v; };
  double c = 1;
  double d = 1 / guard(1 - (a + b) * x / (a + 1));
  double result = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / guard(1 + even * d);
    c = guard(1 + even / c);
    result *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / guard(1 + odd * d);
    c = guard(1 + odd / c);
    result *= d * c;
    if (std::fabs(d * c - 1) < 1e-15) break;
  }
  return result;
}

double student_t_cdf(double t, double freedom) {
  const double tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2;
  return t > 0 ? 1 - tail : tail;
}

}  // namespace

double incomplete_beta(double a, double b, double x) {
  CHECK(a > 0 && b > 0 && x >= 0 && x <= 1);
  if (x == 0 || x == 1) return x;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double normal_cdf(double z) { return std::erfc(-z / std::sqrt(2.0)) / 2; }

double normal_quantile(double p) {
  CHECK(p > 0 && p < 1);
  return invert(normal_cdf, p, -40, 40);
}

double student_t_quantile(double p, double freedom) {
  CHECK(p > 0 && p < 1 && freedom > 0);
  return invert([&](double t) { return student_t_cdf(t, freedom); }, p, -1e9, 1e9);
}

Interval binomial_interval(size_t events, size_t count, double confidence) {
  CHECK(count > 0 && events <= count);
  const auto x = static_cast<double>(events);
  const auto n = static_cast<double>(count);
  const double tail = (1 - confidence) / 2;
  const auto share = [&](double a, double b, double p) {
    return invert([&](double s) { return incomplete_beta(a, b, s); }, p, 0, 1);
  };
  return {.low = events == 0 ? 0 : share(x, n - x + 1, tail),
          .high = events == count ? 1 : share(x + 1, n - x, 1 - tail)};
}

double zero_event_bound(size_t count, double confidence) {
  if (count == 0) return 1;
  return -std::expm1(std::log1p(-confidence) / static_cast<double>(count));
}

}  // namespace plumb
