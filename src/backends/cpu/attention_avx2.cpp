// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

// 4 dot products; the same bits for a key whatever its place.
__m128 scores4(const float* q, const float* const k[4], size_t head_dim) {
  __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                    _mm256_setzero_ps()};
  size_t i = 0;
  for (; i + 8 <= head_dim; i += 8) {
    const __m256 x = _mm256_loadu_ps(q + i);
    for (size_t j = 0; j < 4; ++j) sums[j] = _mm256_fmadd_ps(x, _mm256_loadu_ps(k[j] + i), sums[j]);
  }
  if (i < head_dim) {
    const __m256i lanes = lanes_of(head_dim - i);
    const __m256 x = _mm256_maskload_ps(q + i, lanes);
    for (size_t j = 0; j < 4; ++j)
      sums[j] = _mm256_fmadd_ps(x, _mm256_maskload_ps(k[j] + i, lanes), sums[j]);
  }
  return sum_lanes4(sums[0], sums[1], sums[2], sums[3]);
}

// kVectors * 8 outputs, the last vector only in `lanes`.
template <size_t kVectors>
void mix(float* out, const float* weights, const float* v, size_t v_stride, size_t keys,
         __m256i lanes) {
  constexpr size_t kLast = (kVectors - 1) * 8;
  __m256 sums[kVectors];
  for (size_t c = 0; c < kVectors; ++c) sums[c] = _mm256_setzero_ps();
  for (size_t j = 0; j < keys; ++j, v += v_stride) {
    const __m256 weight = _mm256_broadcast_ss(weights + j);
    for (size_t c = 0; c + 1 < kVectors; ++c)
      sums[c] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(v + 8 * c), sums[c]);
    sums[kVectors - 1] =
        _mm256_fmadd_ps(weight, _mm256_maskload_ps(v + kLast, lanes), sums[kVectors - 1]);
  }
  for (size_t c = 0; c + 1 < kVectors; ++c) _mm256_storeu_ps(out + 8 * c, sums[c]);
  _mm256_maskstore_ps(out + kLast, lanes, sums[kVectors - 1]);
}

}  // namespace

void attention_scores(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                      size_t head_dim, float scale) {
  const __m128 factor = _mm_set1_ps(scale);
  for (size_t j = 0; j < keys; j += 4) {
    const size_t last = keys - j < 4 ? keys - j - 1 : 3;
    const float* rows[4];
    for (size_t i = 0; i < 4; ++i) rows[i] = k + (j + (i < last ? i : last)) * k_stride;
    const __m128 scores = _mm_mul_ps(factor, scores4(q, rows, head_dim));
    if (last == 3) {
      _mm_storeu_ps(out + j, scores);
    } else {
      alignas(16) float padded[4];
      _mm_store_ps(padded, scores);
      for (size_t i = 0; i <= last; ++i) out[j + i] = padded[i];
    }
  }
}

void attention_mix(float* out, const float* weights, const float* v, size_t v_stride, size_t keys,
                   size_t head_dim) {
  const __m256i all = _mm256_set1_epi32(-1);
  size_t i = 0;
  for (; i + 64 <= head_dim; i += 64) mix<8>(out + i, weights, v + i, v_stride, keys, all);
  for (; i + 32 <= head_dim; i += 32) mix<4>(out + i, weights, v + i, v_stride, keys, all);
  for (; i < head_dim; i += 8)
    mix<1>(out + i, weights, v + i, v_stride, keys, lanes_of(head_dim - i));
}

}  // namespace plumb::cpu::avx2
