// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>
#include <math.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

double sum_of_squares(const float* x, size_t n) {
  __m256d low = _mm256_setzero_pd();
  __m256d high = _mm256_setzero_pd();
  for (size_t i = 0; i < n; i += 8) {
    const __m256 v = load_part(x + i, n - i);
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  alignas(32) double lanes[4];
  _mm256_store_pd(lanes, _mm256_add_pd(low, high));
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace

void rmsnorm(float* out, const float* x, const float* weight, size_t n, float epsilon) {
  const double mean = sum_of_squares(x, n) / static_cast<double>(n);
  const __m256 scale = _mm256_set1_ps(static_cast<float>(1.0 / sqrt(mean + epsilon)));
  for (size_t i = 0; i < n; i += 8) {
    const __m256 scaled = _mm256_mul_ps(load_part(x + i, n - i), scale);
    store_part(out + i, _mm256_mul_ps(scaled, load_part(weight + i, n - i)), n - i);
  }
}

}  // namespace plumb::cpu::avx2
