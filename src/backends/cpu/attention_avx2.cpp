// SPDX-License-Identifier: Apache-2.0
// Each row of keys or values is read once for a group of queries. Every tile shape does the same
// operations in the same order for one query, so a group has the bits of its queries alone; and as
// each stored value is exact as a float, an f16 or q8_0 cache has the bits of its values in float.
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"
#include "quant/blocks.h"

namespace plumb::cpu::avx2 {
namespace {

constexpr size_t kTileQueries = 4;
constexpr size_t kMixKeys = 32;  // rows of values that stay in the L1 cache for all queries

// How a row of keys or values is stored. kStep values share one `Scale`; load() gives 8 of them.
struct F32Row {
  static constexpr size_t kStep = 8;
  struct Scale {};
  static Scale scale(const char*, size_t) { return {}; }
  static __m256 load(const char* row, size_t i, Scale) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + i);
  }
  static __m256 load_tail(const char* row, size_t i, size_t rest) {
    return load_part(reinterpret_cast<const float*>(row) + i, rest);
  }
};

struct F16Row {
  static constexpr size_t kStep = 8;
  struct Scale {};
  static Scale scale(const char*, size_t) { return {}; }
  static __m256 load(const char* row, size_t i, Scale) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * i)));
  }
  static __m256 load_tail(const char* row, size_t i, size_t rest) {
    alignas(16) char padded[16] = {};
    __builtin_memcpy(padded, row + 2 * i, 2 * rest);
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(padded)));
  }
};

struct Q8Row {
  static constexpr size_t kStep = 32;
  using Scale = __m256;
  static const BlockQ8_0& block(const char* row, size_t i) {
    return reinterpret_cast<const BlockQ8_0*>(row)[i / 32];
  }
  static Scale scale(const char* row, size_t i) {
    return _mm256_set1_ps(_cvtsh_ss(block(row, i).d));
  }
  static __m256 load(const char* row, size_t i, Scale scale) {
    const auto* q = reinterpret_cast<const __m128i*>(block(row, i).q + i % 32);
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(q))));
  }
  static __m256 load_tail(const char* row, size_t i, size_t) { return load(row, i, scale(row, i)); }
};

struct Rows {
  const char* first;
  size_t stride;  // bytes
  const char* at(size_t j) const { return first + j * stride; }
};

struct Queries {
  const float* first;
  size_t stride;
  const float* at(size_t g) const { return first + g * stride; }
};

// K keys x Q queries. `out` at their first element.
template <class Row, size_t Q, size_t K>
void scores_tile(float* out, size_t out_stride, Queries q, Rows k, size_t head_dim, float scale) {
  constexpr size_t kCount = (K * Q + 3) / 4 * 4;
  __m256 sums[kCount];
  for (size_t s = 0; s < kCount; ++s) sums[s] = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + Row::kStep <= head_dim; i += Row::kStep) {
    for (size_t j = 0; j < K; ++j) {
      const auto scale_of_row = Row::scale(k.at(j), i);
      for (size_t c = i; c < i + Row::kStep; c += 8) {
        const __m256 key = Row::load(k.at(j), c, scale_of_row);
        for (size_t g = 0; g < Q; ++g)
          sums[j * Q + g] = _mm256_fmadd_ps(_mm256_loadu_ps(q.at(g) + c), key, sums[j * Q + g]);
      }
    }
  }
  if (i < head_dim) {
    const size_t rest = head_dim - i;
    for (size_t j = 0; j < K; ++j) {
      const __m256 key = Row::load_tail(k.at(j), i, rest);
      for (size_t g = 0; g < Q; ++g)
        sums[j * Q + g] = _mm256_fmadd_ps(load_part(q.at(g) + i, rest), key, sums[j * Q + g]);
    }
  }
  alignas(16) float dots[kCount];
  const __m128 factor = _mm_set1_ps(scale);
  for (size_t s = 0; s < kCount; s += 4)
    _mm_store_ps(dots + s,
                 _mm_mul_ps(factor, sum_lanes4(sums[s], sums[s + 1], sums[s + 2], sums[s + 3])));
  for (size_t j = 0; j < K; ++j)
    for (size_t g = 0; g < Q; ++g) out[g * out_stride + j] = dots[j * Q + g];
}

// All keys with Q queries; K keys at a time, as many as the registers hold.
template <class Row, size_t Q>
void scores_strip(float* out, size_t out_stride, Queries q, Rows k, size_t keys, size_t head_dim,
                  float scale) {
  constexpr size_t K = Q == 1 ? 8 : Q == 4 ? 2 : 4;
  size_t j = 0;
  for (; j + K <= keys; j += K)
    scores_tile<Row, Q, K>(out + j, out_stride, q, {k.at(j), k.stride}, head_dim, scale);
  for (; j < keys; ++j)
    scores_tile<Row, Q, 1>(out + j, out_stride, q, {k.at(j), k.stride}, head_dim, scale);
}

template <class Row>
void scores_group(float* out, size_t out_stride, const float* q, size_t q_stride, size_t queries,
                  const void* k, size_t k_bytes, size_t keys, size_t head_dim, float scale) {
  constexpr size_t kKeys = 16;  // rows of keys that stay in the L1 cache for all queries
  const size_t block = queries > kTileQueries ? kKeys : keys;
  for (size_t j = 0; j < keys; j += block) {
    const Rows rows = {static_cast<const char*>(k) + j * k_bytes, k_bytes};
    const size_t count = keys - j < block ? keys - j : block;
    for (size_t g = 0; g < queries;) {
      const size_t rest = queries - g;
      const Queries from = {q + g * q_stride, q_stride};
      float* to = out + g * out_stride + j;
      // 5 as 3 + 2, 6 as 3 + 3, 7 as 4 + 3.
      const size_t width = rest == 5 || rest == 6 ? 3 : rest < kTileQueries ? rest : kTileQueries;
      if (width == 1) scores_strip<Row, 1>(to, out_stride, from, rows, count, head_dim, scale);
      if (width == 2) scores_strip<Row, 2>(to, out_stride, from, rows, count, head_dim, scale);
      if (width == 3) scores_strip<Row, 3>(to, out_stride, from, rows, count, head_dim, scale);
      if (width == 4) scores_strip<Row, 4>(to, out_stride, from, rows, count, head_dim, scale);
      g += width;
    }
  }
}

// Adds to V * 8 outputs, from value i on, of Q queries; the last vector only in `rest` lanes if
// kPart.
template <class Row, size_t Q, size_t V, bool kPart>
void mix_tile(float* out, size_t out_stride, Queries weights, Rows v, size_t keys, size_t i,
              size_t rest) {
  static_assert(!kPart || V == 1);
  __m256 sums[Q][V];
  for (size_t g = 0; g < Q; ++g) {
    const float* from = out + g * out_stride + i;
    for (size_t c = 0; c < V; ++c)
      sums[g][c] = kPart ? load_part(from, rest) : _mm256_loadu_ps(from + 8 * c);
  }
  for (size_t j = 0; j < keys; ++j) {
    const char* row = v.at(j);
    auto scale = Row::scale(row, i);
    for (size_t c = 0; c < V; ++c) {
      if (c != 0 && 8 * c % Row::kStep == 0) scale = Row::scale(row, i + 8 * c);
      const __m256 value = kPart ? Row::load_tail(row, i, rest) : Row::load(row, i + 8 * c, scale);
      for (size_t g = 0; g < Q; ++g)
        sums[g][c] = _mm256_fmadd_ps(_mm256_broadcast_ss(weights.at(g) + j), value, sums[g][c]);
    }
  }
  for (size_t g = 0; g < Q; ++g) {
    float* to = out + g * out_stride + i;
    for (size_t c = 0; c < V; ++c) {
      if (kPart) {
        store_part(to, sums[g][c], rest);
      } else {
        _mm256_storeu_ps(to + 8 * c, sums[g][c]);
      }
    }
  }
}

// All values of some keys, for Q queries.
template <class Row, size_t Q>
void mix_strip(float* out, size_t out_stride, Queries weights, Rows v, size_t keys,
               size_t head_dim) {
  constexpr size_t V = Q == 1 ? 8 : Q == 4 ? 2 : 4;
  size_t i = 0;
  for (; i + 8 * V <= head_dim; i += 8 * V)
    mix_tile<Row, Q, V, false>(out, out_stride, weights, v, keys, i, 8);
  if constexpr (V > 4) {
    for (; i + 32 <= head_dim; i += 32)
      mix_tile<Row, Q, 4, false>(out, out_stride, weights, v, keys, i, 8);
  }
  for (; i + 8 <= head_dim; i += 8)
    mix_tile<Row, Q, 1, false>(out, out_stride, weights, v, keys, i, 8);
  if (i < head_dim) mix_tile<Row, Q, 1, true>(out, out_stride, weights, v, keys, i, head_dim - i);
}

template <class Row>
void mix_group(float* out, size_t out_stride, const float* weights, size_t weights_stride,
               size_t queries, const void* v, size_t v_bytes, size_t keys, size_t head_dim) {
  for (size_t g = 0; g < queries; ++g)
    __builtin_memset(out + g * out_stride, 0, head_dim * sizeof(float));
  for (size_t j = 0; j < keys; j += kMixKeys) {
    const Rows rows = {static_cast<const char*>(v) + j * v_bytes, v_bytes};
    const size_t count = keys - j < kMixKeys ? keys - j : kMixKeys;
    for (size_t g = 0; g < queries;) {
      const size_t rest = queries - g;
      const Queries from = {weights + g * weights_stride + j, weights_stride};
      float* to = out + g * out_stride;
      const size_t width = rest == 5 || rest == 6 ? 3 : rest < kTileQueries ? rest : kTileQueries;
      if (width == 1) mix_strip<Row, 1>(to, out_stride, from, rows, count, head_dim);
      if (width == 2) mix_strip<Row, 2>(to, out_stride, from, rows, count, head_dim);
      if (width == 3) mix_strip<Row, 3>(to, out_stride, from, rows, count, head_dim);
      if (width == 4) mix_strip<Row, 4>(to, out_stride, from, rows, count, head_dim);
      g += width;
    }
  }
}

}  // namespace

void attention_scores(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                      size_t head_dim, float scale) {
  scores_group<F32Row>(out, 0, q, 0, 1, k, k_stride * sizeof(float), keys, head_dim, scale);
}

void attention_mix(float* out, const float* weights, const float* v, size_t v_stride, size_t keys,
                   size_t head_dim) {
  mix_group<F32Row>(out, 0, weights, 0, 1, v, v_stride * sizeof(float), keys, head_dim);
}

void attention_scores_group(float* out, size_t out_stride, const float* q, size_t q_stride,
                            size_t queries, const float* k, size_t k_stride, size_t keys,
                            size_t head_dim, float scale) {
  scores_group<F32Row>(out, out_stride, q, q_stride, queries, k, k_stride * sizeof(float), keys,
                       head_dim, scale);
}

void attention_mix_group(float* out, size_t out_stride, const float* weights, size_t weights_stride,
                         size_t queries, const float* v, size_t v_stride, size_t keys,
                         size_t head_dim) {
  mix_group<F32Row>(out, out_stride, weights, weights_stride, queries, v, v_stride * sizeof(float),
                    keys, head_dim);
}

void attention_scores_f16(float* out, const float* q, const void* k, size_t k_stride, size_t keys,
                          size_t head_dim, float scale) {
  scores_group<F16Row>(out, 0, q, 0, 1, k, k_stride, keys, head_dim, scale);
}

void attention_mix_f16(float* out, const float* weights, const void* v, size_t v_stride,
                       size_t keys, size_t head_dim) {
  mix_group<F16Row>(out, 0, weights, 0, 1, v, v_stride, keys, head_dim);
}

void attention_scores_group_f16(float* out, size_t out_stride, const float* q, size_t q_stride,
                                size_t queries, const void* k, size_t k_stride, size_t keys,
                                size_t head_dim, float scale) {
  scores_group<F16Row>(out, out_stride, q, q_stride, queries, k, k_stride, keys, head_dim, scale);
}

void attention_mix_group_f16(float* out, size_t out_stride, const float* weights,
                             size_t weights_stride, size_t queries, const void* v, size_t v_stride,
                             size_t keys, size_t head_dim) {
  mix_group<F16Row>(out, out_stride, weights, weights_stride, queries, v, v_stride, keys, head_dim);
}

void attention_scores_q8_0(float* out, const float* q, const void* k, size_t k_stride, size_t keys,
                           size_t head_dim, float scale) {
  scores_group<Q8Row>(out, 0, q, 0, 1, k, k_stride, keys, head_dim, scale);
}

void attention_mix_q8_0(float* out, const float* weights, const void* v, size_t v_stride,
                        size_t keys, size_t head_dim) {
  mix_group<Q8Row>(out, 0, weights, 0, 1, v, v_stride, keys, head_dim);
}

void attention_scores_group_q8_0(float* out, size_t out_stride, const float* q, size_t q_stride,
                                 size_t queries, const void* k, size_t k_stride, size_t keys,
                                 size_t head_dim, float scale) {
  scores_group<Q8Row>(out, out_stride, q, q_stride, queries, k, k_stride, keys, head_dim, scale);
}

void attention_mix_group_q8_0(float* out, size_t out_stride, const float* weights,
                              size_t weights_stride, size_t queries, const void* v, size_t v_stride,
                              size_t keys, size_t head_dim) {
  mix_group<Q8Row>(out, out_stride, weights, weights_stride, queries, v, v_stride, keys, head_dim);
}

}  // namespace plumb::cpu::avx2
