// SPDX-License-Identifier: Apache-2.0
// Tiles of rows x tokens, 8 lanes for each element; every tile shape does the same operations in
// the same order for one (row, token).
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::avx2 {
namespace {

constexpr size_t kTileRows = 4;
constexpr size_t kTileTokens = 3;
constexpr size_t kSingleTokenRows = 8;  // independent chains that hide the latency of an FMA
constexpr size_t kBlockFloats = 65536;  // of activations, for the L2 cache

struct F32 {
  static constexpr size_t kBytes = 4;
  static __m256 load(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};
struct F16 {
  static constexpr size_t kBytes = 2;
  static __m256 load(const char* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct BF16 {
  static constexpr size_t kBytes = 2;
  static __m256 load(const char* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};

// `rows` and `x` at the first row and token, `out` at their element.
template <class W, size_t R, size_t T>
void tile(float* out, size_t out_stride, const char* rows, size_t n, const float* x) {
  __m256 sums[T][R];
  for (size_t t = 0; t < T; ++t)
    for (size_t r = 0; r < R; ++r) sums[t][r] = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 xs[T];
    for (size_t t = 0; t < T; ++t) xs[t] = _mm256_loadu_ps(x + t * n + i);
    for (size_t r = 0; r < R; ++r) {
      const __m256 w = W::load(rows + (r * n + i) * W::kBytes);
      for (size_t t = 0; t < T; ++t) sums[t][r] = _mm256_fmadd_ps(w, xs[t], sums[t][r]);
    }
  }
  if (i < n) {
    const __m256i lanes = first_lanes(static_cast<int>(n - i));
    __m256 xs[T];
    for (size_t t = 0; t < T; ++t) xs[t] = _mm256_maskload_ps(x + t * n + i, lanes);
    for (size_t r = 0; r < R; ++r) {
      alignas(32) char padded[8 * W::kBytes] = {};
      __builtin_memcpy(padded, rows + (r * n + i) * W::kBytes, (n - i) * W::kBytes);
      const __m256 w = W::load(padded);
      for (size_t t = 0; t < T; ++t) sums[t][r] = _mm256_fmadd_ps(w, xs[t], sums[t][r]);
    }
  }
  for (size_t t = 0; t < T; ++t)
    for (size_t r = 0; r < R; ++r) out[t * out_stride + r] = sum_lanes(sums[t][r]);
}

template <class W, size_t R>
void strip(float* out, size_t out_stride, const char* rows, size_t n, const float* x,
           size_t tokens) {
  size_t t = 0;
  if constexpr (R <= kTileRows) {
    for (; t + kTileTokens <= tokens; t += kTileTokens)
      tile<W, R, kTileTokens>(out + t * out_stride, out_stride, rows, n, x + t * n);
  }
  for (; t < tokens; ++t) tile<W, R, 1>(out + t * out_stride, out_stride, rows, n, x + t * n);
}

template <class W>
void matmul(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
            size_t n, const float* x, size_t tokens) {
  const char* rows = static_cast<const char*>(weight);
  const size_t row_bytes = n * W::kBytes;
  const size_t block = (kBlockFloats / (n + 1) / kTileTokens + 1) * kTileTokens;  // of tokens
  for (size_t t = 0; t < tokens; t += block) {
    const size_t count = tokens - t < block ? tokens - t : block;
    float* to = out + t * out_stride;
    const float* from = x + t * n;
    size_t r = row_begin;
    if (count < kTileTokens) {
      for (; r + kSingleTokenRows <= row_end; r += kSingleTokenRows)
        strip<W, kSingleTokenRows>(to + r, out_stride, rows + r * row_bytes, n, from, count);
    }
    for (; r + kTileRows <= row_end; r += kTileRows)
      strip<W, kTileRows>(to + r, out_stride, rows + r * row_bytes, n, from, count);
    for (; r < row_end; ++r) strip<W, 1>(to + r, out_stride, rows + r * row_bytes, n, from, count);
  }
}

}  // namespace

void matmul_f32(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
                size_t n, const float* x, size_t tokens) {
  matmul<F32>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_f16(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
                size_t n, const float* x, size_t tokens) {
  matmul<F16>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_bf16(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, const float* x, size_t tokens) {
  matmul<BF16>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

}  // namespace plumb::cpu::avx2
