// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>
#include <math.h>

#include "backends/cpu/kernels_avx2_exp.h"
#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

__m256 maximum(const float* x, size_t n) {
  const __m256 lowest = _mm256_set1_ps(-INFINITY);
  __m256 max = lowest;
  for (size_t j = 0; j < n; j += 8) {
    const __m256 lanes = _mm256_castsi256_ps(lanes_of(n - j));
    max = _mm256_max_ps(_mm256_blendv_ps(lowest, load_part(x + j, n - j), lanes), max);
  }
  max = _mm256_max_ps(max, _mm256_permute2f128_ps(max, max, 1));
  max = _mm256_max_ps(max, _mm256_permute_ps(max, 0x4E));
  return _mm256_max_ps(max, _mm256_permute_ps(max, 0xB1));
}

}  // namespace

// A NaN may be lost in the maximum, but its exp makes the sum and so every entry NaN.
void softmax(float* x, size_t n) {
  const __m256 max = maximum(x, n);
  __m256 sums = _mm256_setzero_ps();
  for (size_t j = 0; j < n; j += 8) {
    const __m256 e = exp8(_mm256_sub_ps(load_part(x + j, n - j), max));
    store_part(x + j, e, n - j);
    sums = _mm256_add_ps(sums, _mm256_and_ps(e, _mm256_castsi256_ps(lanes_of(n - j))));
  }
  const __m256 sum = _mm256_set1_ps(sum_lanes(sums));
  for (size_t j = 0; j < n; j += 8)
    store_part(x + j, _mm256_div_ps(load_part(x + j, n - j), sum), n - j);
}

}  // namespace plumb::cpu::avx2
