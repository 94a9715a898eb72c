// SPDX-License-Identifier: Apache-2.0
// The same bits as the scalar level: each float operation is the same.
#include <immintrin.h>
#include <math.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"
#include "quant/blocks.h"

namespace plumb::cpu::avx2 {
namespace {

__m128i to_halves(__m256 v) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// The largest |x| of 32, or a NaN if one is among them: the bits of magnitudes have their order,
// with NaN on top.
float largest_magnitude(const float* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i largest = _mm256_setzero_si256();
  for (size_t i = 0; i < 32; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
  }
  __m128i v = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0x4E));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0xB1));
  return _mm_cvtss_f32(_mm_castsi128_ps(v));
}

// Half away from zero. The difference from the integer part is exact, where v + 0.5 may round up.
__m256i round_away(__m256 v) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  const __m256 whole = _mm256_round_ps(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  const __m256 rest = _mm256_andnot_ps(sign, _mm256_sub_ps(v, whole));
  const __m256 up = _mm256_cmp_ps(rest, _mm256_set1_ps(0.5F), _CMP_GE_OQ);
  const __m256 one = _mm256_or_ps(_mm256_and_ps(v, sign), _mm256_set1_ps(1.0F));
  return _mm256_cvttps_epi32(_mm256_add_ps(whole, _mm256_and_ps(one, up)));
}

__m256i round_values(const float* x, float inverse) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const auto part = [&](size_t i) {
    return round_away(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
  };
  const __m256i low = _mm256_packs_epi32(part(0), part(8));
  const __m256i high = _mm256_packs_epi32(part(16), part(24));
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

void store_f16(uint16_t* out, const float* x, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), to_halves(_mm256_loadu_ps(x + i)));
  if (i == n) return;
  alignas(16) uint16_t padded[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(padded), to_halves(load_part(x + i, n - i)));
  __builtin_memcpy(out + i, padded, (n - i) * sizeof(uint16_t));
}

void store_q8_0(void* out, const float* x, size_t n) {
  auto* block = static_cast<BlockQ8_0*>(out);
  for (size_t b = 0; b < n / 32; ++b, ++block, x += 32) {
    const float max = largest_magnitude(x);
    const float d = max / 127.0F;
    const float inverse = 1.0F / d;
    const bool usable = max < INFINITY && inverse < INFINITY;
    block->d = static_cast<uint16_t>(_cvtss_sh(d, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block->q),
                        usable ? round_values(x, inverse) : _mm256_setzero_si256());
  }
}

}  // namespace plumb::cpu::avx2
