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

// e^x for each lane of x <= 0, with a relative error below 2^-46; 0 below -708 (before the
// subnormals), NaN for NaN. The Taylor terms to r^11 leave r^12 / 12! < 2^-47.
[[maybe_unused]] static inline __m256d exp4_of_negative(__m256d x) {
  const __m256d low = _mm256_set1_pd(-708.0);
  const __m256d v = _mm256_max_pd(low, x);  // gives its second operand if one is NaN
  const __m256d k = _mm256_round_pd(_mm256_mul_pd(v, _mm256_set1_pd(0x1.71547652b82fep+0)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln2 in two parts; the first has 20 trailing zero bits, so k * first is exact.
  __m256d r = _mm256_fnmadd_pd(k, _mm256_set1_pd(0x1.62e42fefp-1), v);
  r = _mm256_fnmadd_pd(k, _mm256_set1_pd(0x1.473de6af278edp-34), r);
  __m256d p = _mm256_set1_pd(1.0 / 39916800.0);
  constexpr double kTerms[] = {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                               1.0 / 720,     1.0 / 120,    1.0 / 24,    1.0 / 6,
                               0.5,           1.0,          1.0};
  for (const double term : kTerms) p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(term));
  const __m128i whole = _mm_add_epi32(_mm256_cvtpd_epi32(k), _mm_set1_epi32(1023));
  const __m256i power = _mm256_slli_epi64(_mm256_cvtepi32_epi64(whole), 52);
  const __m256d in_range = _mm256_cmp_pd(x, low, _CMP_NLT_UQ);
  return _mm256_and_pd(_mm256_mul_pd(p, _mm256_castsi256_pd(power)), in_range);
}

}  // namespace plumb::cpu::avx2
