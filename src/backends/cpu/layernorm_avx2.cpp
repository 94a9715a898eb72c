// SPDX-License-Identifier: Apache-2.0
// All in double, rounded once.
#include <immintrin.h>
#include <math.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

double sum_of(const float* x, size_t n) {
  Doubles8 sum = {_mm256_setzero_pd(), _mm256_setzero_pd()};
  for (size_t i = 0; i < n; i += 8) {
    const Doubles8 v = widen(load_part(x + i, n - i));
    sum.low = _mm256_add_pd(sum.low, v.low);
    sum.high = _mm256_add_pd(sum.high, v.high);
  }
  return sum_lanes(_mm256_add_pd(sum.low, sum.high));
}

// The sum of (x - mean)^2.
double sum_of_deviations(const float* x, size_t n, double mean) {
  const __m256d center = _mm256_set1_pd(mean);
  __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
  for (size_t i = 0; i < n; i += 8) {
    const Doubles8 present = widen(ones_part(n - i));  // lanes after the end count 0
    const Doubles8 v = widen(load_part(x + i, n - i));
    const __m256d a = _mm256_mul_pd(_mm256_sub_pd(v.low, center), present.low);
    const __m256d b = _mm256_mul_pd(_mm256_sub_pd(v.high, center), present.high);
    sum[0] = _mm256_fmadd_pd(a, a, sum[0]);
    sum[1] = _mm256_fmadd_pd(b, b, sum[1]);
  }
  return sum_lanes(_mm256_add_pd(sum[0], sum[1]));
}

}  // namespace

void layernorm(float* out, const float* x, const float* weight, const float* bias, size_t n,
               float epsilon) {
  const double mean = sum_of(x, n) / static_cast<double>(n);
  const double variance = sum_of_deviations(x, n, mean) / static_cast<double>(n);
  const __m256d scale = _mm256_set1_pd(1.0 / sqrt(variance + epsilon));
  const __m256d center = _mm256_set1_pd(mean);
  for (size_t i = 0; i < n; i += 8) {
    Doubles8 y = widen(load_part(x + i, n - i));
    y.low = _mm256_mul_pd(_mm256_sub_pd(y.low, center), scale);
    y.high = _mm256_mul_pd(_mm256_sub_pd(y.high, center), scale);
    if (weight != nullptr) {
      const Doubles8 w = widen(load_part(weight + i, n - i));
      y.low = _mm256_mul_pd(y.low, w.low);
      y.high = _mm256_mul_pd(y.high, w.high);
    }
    if (bias != nullptr) {
      const Doubles8 b = widen(load_part(bias + i, n - i));
      y.low = _mm256_add_pd(y.low, b.low);
      y.high = _mm256_add_pd(y.high, b.high);
    }
    store_part(out + i, narrow(y), n - i);
  }
}

}  // namespace plumb::cpu::avx2
