// SPDX-License-Identifier: Apache-2.0
#include "backends/cpu/kernels_internal.h"
#include "core/half.h"

namespace plumb::cpu::scalar {
namespace {

constexpr size_t kLanes = 8;  // independent sums: a shorter chain of roundings

struct F32 {
  using Stored = float;
  static float widen(float v) { return v; }
};
struct F16 {
  using Stored = uint16_t;
  static float widen(uint16_t v) { return f16_to_f32(v); }
};
struct BF16 {
  using Stored = uint16_t;
  static float widen(uint16_t v) { return bf16_to_f32(v); }
};

template <class W>
float dot(const char* row, const float* x, size_t n) {
  float sums[kLanes] = {};
  const auto add = [&](size_t i, size_t lane) {
    typename W::Stored stored;
    __builtin_memcpy(&stored, row + i * sizeof(stored), sizeof(stored));
    sums[lane] += W::widen(stored) * x[i];
  };
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  for (size_t lane = 0; i + lane < n; ++lane) add(i + lane, lane);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

template <class W>
void matmul(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
            size_t n, const float* x, size_t tokens) {
  for (size_t r = row_begin; r < row_end; ++r) {
    const char* row = static_cast<const char*>(weight) + r * n * sizeof(typename W::Stored);
    for (size_t t = 0; t < tokens; ++t) out[t * out_stride + r] = dot<W>(row, x + t * n, n);
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

}  // namespace plumb::cpu::scalar
