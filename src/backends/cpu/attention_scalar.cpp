// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"

namespace plumb::cpu::scalar {

void attention_scores(float* out, const float* q, const float* k, size_t k_stride, size_t keys,
                      size_t head_dim, float scale) {
  for (size_t j = 0; j < keys; ++j) {
    float sum = 0.0F;
    for (size_t i = 0; i < head_dim; ++i) sum += q[i] * k[j * k_stride + i];
    out[j] = scale * sum;
  }
}

void attention_mix(float* out, const float* weights, const float* v, size_t v_stride, size_t keys,
                   size_t head_dim) {
  for (size_t i = 0; i < head_dim; ++i) out[i] = 0.0F;
  for (size_t j = 0; j < keys; ++j)
    for (size_t i = 0; i < head_dim; ++i) out[i] += weights[j] * v[j * v_stride + i];
}

}  // namespace plumb::cpu::scalar
