// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"
#include "core/half.h"
#include "quant/blocks.h"

namespace plumb::cpu::scalar {
namespace {

// How a row of keys or values is stored; each value is exact as a float.
struct F32Row {
  static float at(const char* row, size_t i) {
    float v;
    __builtin_memcpy(&v, row + i * sizeof(v), sizeof(v));
    return v;
  }
};
struct F16Row {
  static float at(const char* row, size_t i) {
    uint16_t v;
    __builtin_memcpy(&v, row + i * sizeof(v), sizeof(v));
    return f16_to_f32(v);
  }
};
struct Q8Row {
  static float at(const char* row, size_t i) {
    const BlockQ8_0& block = reinterpret_cast<const BlockQ8_0*>(row)[i / 32];
    return f16_to_f32(block.d) * static_cast<float>(block.q[i % 32]);
  }
};

// `k_bytes` from one row to the next.
template <class Row>
void scores(float* out, const float* q, const void* k, size_t k_bytes, size_t keys, size_t head_dim,
            float scale) {
  for (size_t j = 0; j < keys; ++j) {
    const char* row = static_cast<const char*>(k) + j * k_bytes;
    float sum = 0.0F;
    for (size_t i = 0; i < head_dim; ++i) sum += q[i] * Row::at(row, i);
    out[j] = scale * sum;
  }
}

template <class Row>
void mix(float* out, const float* weights, const void* v, size_t v_bytes, size_t keys,
         size_t head_dim) {
  for (size_t i = 0; i < head_dim; ++i) out[i] = 0.0F;
  for (size_t j = 0; j < keys; ++j) {
    const char* row = static_cast<const char*>(v) + j * v_bytes;
    for (size_t i = 0; i < head_dim; ++i) out[i] += weights[j] * Row::at(row, i);
  }
}

template <class Row>
void scores_group(float* out, size_t out_stride, const float* q, size_t q_stride, size_t queries,
                  const void* k, size_t k_bytes, size_t keys, size_t head_dim, float scale) {
  for (size_t g = 0; g < queries; ++g)
    scores<Row>(out + g * out_stride, q + g * q_stride, k, k_bytes, keys, head_dim, scale);
}

template <class Row>
void mix_group(float* out, size_t out_stride, const float* weights, size_t weights_stride,
               size_t queries, const void* v, size_t v_bytes, size_t keys, size_t head_dim) {
  for (size_t g = 0; g < queries; ++g)
    mix<Row>(out + g * out_stride, weights + g * weights_stride, v, v_bytes, keys, head_dim);
}

}  // namespace

void attention_scores(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                      size_t head_dim, float scale) {
  scores<F32Row>(out, q, k, k_stride * sizeof(float), keys, head_dim, scale);
}

void attention_mix(float* out, const float* weights, const float* v, size_t v_stride, size_t keys,
                   size_t head_dim) {
  mix<F32Row>(out, weights, v, v_stride * sizeof(float), keys, head_dim);
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
  scores<F16Row>(out, q, k, k_stride, keys, head_dim, scale);
}

void attention_mix_f16(float* out, const float* weights, const void* v, size_t v_stride,
                       size_t keys, size_t head_dim) {
  mix<F16Row>(out, weights, v, v_stride, keys, head_dim);
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
  scores<Q8Row>(out, q, k, k_stride, keys, head_dim, scale);
}

void attention_mix_q8_0(float* out, const float* weights, const void* v, size_t v_stride,
                        size_t keys, size_t head_dim) {
  mix<Q8Row>(out, weights, v, v_stride, keys, head_dim);
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

}  // namespace plumb::cpu::scalar
