// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_exp.h"
#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {

// exp of -|x| only, so that nothing overflows: x / (1 + e^-x) = x * e^x / (1 + e^x) for x < 0.
void silu(float* out, const float* x, size_t n) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  for (size_t i = 0; i < n; i += 8) {
    const __m256 v = load_part(x + i, n - i);
    const __m256 z = exp8(_mm256_or_ps(v, sign));
    const __m256 top = _mm256_blendv_ps(v, _mm256_mul_ps(v, z), v);
    store_part(out + i, _mm256_div_ps(top, _mm256_add_ps(_mm256_set1_ps(1.0F), z)), n - i);
  }
}

}  // namespace plumb::cpu::avx2
