// SPDX-License-Identifier: Apache-2.0
// Small vector helpers of the AVX2 level; `static`, so that other levels share no copy of them.
#pragma once
#include <immintrin.h>
#include <stddef.h>

namespace plumb::cpu::avx2 {

// The first `count` of 8 lanes: all if count >= 8, none if count <= 0.
[[maybe_unused]] static inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

[[maybe_unused]] static inline __m256i lanes_of(size_t rest) {
  return first_lanes(rest < 8 ? static_cast<int>(rest) : 8);
}

// The first `rest` values, at most 8; the other lanes are 0 and are not touched in memory.
[[maybe_unused]] static inline __m256 load_part(const float* p, size_t rest) {
  return rest >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes_of(rest));
}

[[maybe_unused]] static inline void store_part(float* p, __m256 v, size_t rest) {
  if (rest >= 8) {
    _mm256_storeu_ps(p, v);
  } else {
    _mm256_maskstore_ps(p, lanes_of(rest), v);
  }
}

// Four sums of 8 lanes each, all in the order ((0+1) + (2+3)) + ((4+5) + (6+7)).
[[maybe_unused]] static inline __m128 sum_lanes4(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 v = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

// The same sum for one: the same bits.
[[maybe_unused]] static inline float sum_lanes(__m256 a) {
  return _mm_cvtss_f32(sum_lanes4(a, a, a, a));
}

// 1 in the first `rest` lanes, 0 after.
[[maybe_unused]] static inline __m256 ones_part(size_t rest) {
  return _mm256_and_ps(_mm256_castsi256_ps(lanes_of(rest)), _mm256_set1_ps(1.0F));
}

// 8 values in double.
struct Doubles8 {
  __m256d low;
  __m256d high;
};

[[maybe_unused]] static inline Doubles8 widen(__m256 v) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}

[[maybe_unused]] static inline __m256 narrow(Doubles8 v) {
  return _mm256_set_m128(_mm256_cvtpd_ps(v.high), _mm256_cvtpd_ps(v.low));
}

[[maybe_unused]] static inline double sum_lanes(__m256d v) {
  alignas(32) double lanes[4];
  _mm256_store_pd(lanes, v);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace plumb::cpu::avx2
