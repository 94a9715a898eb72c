// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <immintrin.h>

namespace plumb::cpu::avx2 {

// e^x for each lane, within 1 ulp of the true value down to the smallest subnormal; 0 below,
// infinity above, NaN for NaN. x = k ln2 + r, |r| <= ln2 / 2: the Taylor terms to r^7 leave less
// than 2^-27.
[[maybe_unused]] static inline __m256 exp8(__m256 x) {
  // max/min give their second operand if one is NaN.
  const __m256 low = _mm256_set1_ps(-105.0F);
  const __m256 high = _mm256_set1_ps(89.0F);
  const __m256 v = _mm256_min_ps(high, _mm256_max_ps(low, x));
  const __m256 k = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(0x1.715476p+0F)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln2 in two parts; the first has 9 trailing zero bits, so k * first is exact.
  __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0x1.62e4p-1F), v);
  r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0x1.7f7d1cp-20F), r);
  __m256 p = _mm256_set1_ps(1.0F / 5040.0F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F / 720.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F / 120.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F / 24.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F / 6.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
  // 2^k in two factors: k reaches from -152 to 128, beyond the exponents of one float.
  const __m256i whole = _mm256_cvtps_epi32(k);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

}  // namespace plumb::cpu::avx2
