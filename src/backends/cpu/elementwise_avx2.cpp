// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {

void add(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; i += 8) {
    const size_t rest = n - i;
    store_part(out + i, _mm256_add_ps(load_part(a + i, rest), load_part(b + i, rest)), rest);
  }
}

void multiply(float* out, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; i += 8) {
    const size_t rest = n - i;
    store_part(out + i, _mm256_mul_ps(load_part(a + i, rest), load_part(b + i, rest)), rest);
  }
}

void scale(float* out, const float* x, size_t n, float factor) {
  const __m256 factors = _mm256_set1_ps(factor);
  for (size_t i = 0; i < n; i += 8)
    store_part(out + i, _mm256_mul_ps(load_part(x + i, n - i), factors), n - i);
}

}  // namespace plumb::cpu::avx2
