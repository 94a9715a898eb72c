// SPDX-License-Identifier: Apache-2.0
// All in double, rounded once, as on the scalar level. e^-|t| only: nothing overflows.
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_exp.h"
#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

__m256d constant(double v) { return _mm256_set1_pd(v); }
__m256d sign_bit() { return constant(-0.0); }

// The sign bit of v chooses `negative`.
__m256d choose(__m256d v, __m256d negative, __m256d positive) {
  return _mm256_blendv_pd(positive, negative, v);
}

__m256d minus_magnitude(__m256d v) { return _mm256_or_pd(v, sign_bit()); }
__m256d magnitude(__m256d v) { return _mm256_andnot_pd(sign_bit(), v); }

__m256d gelu_tanh4(__m256d v) {
  const __m256d square = _mm256_mul_pd(v, v);
  const __m256d factor = constant(2.0 * 0.7978845608028654);  // 2 sqrt(2 / pi)
  const __m256d cubic = _mm256_fmadd_pd(_mm256_mul_pd(constant(0.044715), square), v, v);
  const __m256d e = exp4_of_negative(minus_magnitude(_mm256_mul_pd(factor, cubic)));
  const __m256d top = choose(v, _mm256_mul_pd(v, e), v);
  return _mm256_div_pd(top, _mm256_add_pd(constant(1.0), e));
}

// (1 + 2a) e^(a^2) erfc(a) for a >= 0, as a polynomial in q = (a - 2.5) / (a + 2.5), fitted at
// Chebyshev nodes of a in [0, 12]: relative error below 2^-34. Above 12 erfc(a) < 2^-200, too
// small to be a float even times x.
__m256d scaled_erfc4(__m256d a) {
  const __m256d v = _mm256_min_pd(constant(12.0), a);  // gives its second operand if one is NaN
  const __m256d shift = constant(2.5);
  const __m256d q = _mm256_div_pd(_mm256_sub_pd(v, shift), _mm256_add_pd(v, shift));
  __m256d p = constant(0x1.06678a3a043c6p-17);
  constexpr double kTerms[] = {
      0x1.32756171a3472p-21, -0x1.9de5f3278da57p-14, -0x1.4a501c6661275p-14, 0x1.480f8c9d93875p-11,
      0x1.fe37356cedf99p-12, -0x1.1f18ac017d53ep-8,  0x1.e9437ada8f671p-11,  0x1.0c604a1f7511fp-5,
      -0x1.a5c0efd4cda33p-4, 0x1.42d37a6f34af6p-3,   -0x1.959abfd15ec4cp-4,  -0x1.f52c5d8571c7ep-4,
      0x1.43cc6f6c6a13cp+0};
  for (const double term : kTerms) p = _mm256_fmadd_pd(p, q, constant(term));
  return p;
}

__m256d gelu_erf4(__m256d v) {
  const __m256d a = _mm256_mul_pd(magnitude(v), constant(0.7071067811865476));  // 1 / sqrt(2)
  const __m256d e =
      exp4_of_negative(minus_magnitude(_mm256_mul_pd(constant(0.5), _mm256_mul_pd(v, v))));
  const __m256d bottom = _mm256_fmadd_pd(constant(2.0), a, constant(1.0));
  const __m256d scaled = _mm256_mul_pd(_mm256_mul_pd(constant(0.5), e), scaled_erfc4(a));
  // Beyond the largest double nothing is left: 0 / infinity.
  const __m256d tail = _mm256_div_pd(scaled, bottom);  // 0.5 erfc(|x| / sqrt(2))
  return _mm256_mul_pd(v, choose(v, tail, _mm256_sub_pd(constant(1.0), tail)));
}

__m256d sigmoid4(__m256d v) {
  const __m256d e = exp4_of_negative(minus_magnitude(v));
  return _mm256_div_pd(choose(v, e, constant(1.0)), _mm256_add_pd(constant(1.0), e));
}

// tanh |v| = (1 - e) / (1 + e), e = e^-2|v|; below 2^-12, where 1 - e would lose bits, |v| - |v|^3
// / 3 leaves out 2/15 |v|^5 < 2^-50 |v|.
__m256d tanh4(__m256d v) {
  const __m256d a = magnitude(v);
  const __m256d one = constant(1.0);
  const __m256d e = exp4_of_negative(_mm256_mul_pd(a, constant(-2.0)));
  const __m256d large = _mm256_div_pd(_mm256_sub_pd(one, e), _mm256_add_pd(one, e));
  const __m256d third = _mm256_mul_pd(_mm256_mul_pd(a, a), constant(1.0 / 3.0));
  const __m256d small = _mm256_fnmadd_pd(third, a, a);
  const __m256d is_small = _mm256_cmp_pd(a, constant(0x1p-12), _CMP_LT_OQ);
  const __m256d tanh = _mm256_blendv_pd(large, small, is_small);
  return _mm256_or_pd(tanh, _mm256_and_pd(v, sign_bit()));
}

template <class Function>
[[gnu::always_inline]] inline void map(float* out, const float* x, size_t n, Function function) {
  for (size_t i = 0; i < n; i += 8) {
    const Doubles8 v = widen(load_part(x + i, n - i));
    store_part(out + i, narrow({function(v.low), function(v.high)}), n - i);
  }
}

}  // namespace

void gelu_tanh(float* out, const float* x, size_t n) { map(out, x, n, gelu_tanh4); }

void gelu_erf(float* out, const float* x, size_t n) { map(out, x, n, gelu_erf4); }

void sigmoid(float* out, const float* x, size_t n) { map(out, x, n, sigmoid4); }

void softcap(float* out, const float* x, size_t n, float cap) {
  const __m256d bound = constant(cap);
  map(out, x, n,
      [bound](__m256d v) { return _mm256_mul_pd(bound, tanh4(_mm256_div_pd(v, bound))); });
}

}  // namespace plumb::cpu::avx2
