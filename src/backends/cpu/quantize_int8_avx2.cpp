// SPDX-License-Identifier: Apache-2.0
// The same bits as the scalar level: each float operation is the same, integer sums are exact.
#include <immintrin.h>

#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

constexpr int kInfinity = 0x7F800000;   // bits; NaNs lie above
constexpr float kSmallest = 0x1p-119F;  // below it 127 / max could overflow: rounds to zeros

// The largest |x| as bits, whose order is that of the magnitudes with NaN on top.
int largest_magnitude(const float* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i largest = _mm256_setzero_si256();
  for (size_t i = 0; i < 32; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
  }
  __m128i v = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0x4E));
  v = _mm_max_epi32(v, _mm_shuffle_epi32(v, 0xB1));
  return _mm_cvtsi128_si32(v);
}

// 32 values in their order; all lie in [-127, 127].
__m256i round_values(const float* x, float inverse) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const auto part = [&](size_t i) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
  };
  const __m256i low = _mm256_packs_epi32(part(0), part(8));
  const __m256i high = _mm256_packs_epi32(part(16), part(24));
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

void quantize_int8(int8_t* values, float* scales, float* sums, const float* x, size_t n) {
  for (size_t b = 0; b < n / 32; ++b, x += 32, values += 32, sums += 2) {
    const int bits = largest_magnitude(x);
    float max;
    __builtin_memcpy(&max, &bits, sizeof(max));
    // Values stay 0 if an input is NaN or infinite; the scale then makes every result NaN.
    const bool usable = bits < kInfinity && max >= kSmallest;
    const float scale = usable || bits >= kInfinity ? max / 127.0F : 0.0F;
    const __m256i q = usable ? round_values(x, 127.0F / max) : _mm256_setzero_si256();
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), q);
    scales[b] = scale;
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4E));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xB1));
    sums[0] = scale * static_cast<float>(_mm256_extract_epi32(sum, 0));
    sums[1] = scale * static_cast<float>(_mm256_extract_epi32(sum, 4));
  }
}

}  // namespace plumb::cpu::avx2
