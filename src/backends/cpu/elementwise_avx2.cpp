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

}  // namespace plumb::cpu::avx2
