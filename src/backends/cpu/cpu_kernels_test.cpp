// SPDX-License-Identifier: Apache-2.0
// Each kernel of each level against double. u = 2^-24 is the rounding of one float operation; a sum
// of terms that passes through m roundings is off by at most m * u * (sum of the magnitudes), to
// first order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"
#include "core/half.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"
#include "quant/quantize.h"

namespace plumb::cpu {
namespace {

constexpr double kU = 0x1p-24;
constexpr double kTiny = 0x1p-149;  // the smallest float: results below are off by that at most
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<Kernels> levels() {
  std::vector<Kernels> out = {scalar_kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    out.push_back(avx2_kernels());
#endif
  return out;
}

std::mt19937& generator() {
  static std::mt19937 generator(1);
  return generator;
}

std::vector<float> randoms(size_t n, float span = 1.0F) {
  std::uniform_real_distribution<float> pick(-span, span);
  std::vector<float> out(n);
  for (float& v : out) v = pick(generator());
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Quantized {
  std::vector<int8_t> values;
  std::vector<float> scales, sums;
  Int8Rows rows() const { return {values.data(), scales.data(), sums.data()}; }
};

Quantized quantize(const Kernels& kernels, const std::vector<float>& x) {
  Quantized q = {std::vector<int8_t>(x.size()), std::vector<float>(x.size() / 32),
                 std::vector<float>(x.size() / 16)};
  kernels.quantize_int8(q.values.data(), q.scales.data(), q.sums.data(), x.data(), x.size());
  return q;
}

class KernelsTest : public testing::TestWithParam<Kernels> {};

INSTANTIATE_TEST_SUITE_P(Levels, KernelsTest, testing::ValuesIn(levels()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(KernelsTest, QuantizeInt8FollowsItsDefinition) {
  std::vector<float> x = randoms(32 * 5, 3.0F);
  std::fill(x.begin() + 32, x.begin() + 64, 0.0F);
  const Quantized q = quantize(GetParam(), x);
  for (size_t b = 0; b < 5; ++b) {
    float max = 0.0F;
    for (size_t i = 0; i < 32; ++i) max = std::fmax(max, std::fabs(x[b * 32 + i]));
    EXPECT_EQ(q.scales[b], max / 127.0F);
    int sums[2] = {0, 0};
    for (size_t i = 0; i < 32; ++i) {
      const float scaled = max == 0.0F ? 0.0F : x[b * 32 + i] * (127.0F / max);
      EXPECT_EQ(q.values[b * 32 + i], static_cast<int>(std::nearbyint(scaled)));
      sums[i / 16] += q.values[b * 32 + i];
    }
    EXPECT_EQ(q.sums[2 * b], q.scales[b] * static_cast<float>(sums[0]));
    EXPECT_EQ(q.sums[2 * b + 1], q.scales[b] * static_cast<float>(sums[1]));
  }
}

TEST_P(KernelsTest, QuantizeInt8HasTheBitsOfTheScalarLevel) {
  std::vector<float> x;
  const float spans[] = {1.0F, 1e-38F, 1e-44F, 0x1p-119F, 3e38F, 1e-20F};
  for (const float span : spans)
    for (const float v : randoms(64, span)) x.push_back(v);
  for (int i = 0; i < 32; ++i) x.push_back(static_cast<float>(i - 16) + 0.5F);  // ties at scale 1:
  x.back() = 127.0F;
  for (const float bad : {kInf, -kInf, kNan}) {
    for (const float v : randoms(32)) x.push_back(v);
    x[x.size() - 5] = bad;
  }
  const Quantized a = quantize(scalar_kernels(), x);
  const Quantized b = quantize(GetParam(), x);
  EXPECT_EQ(a.values, b.values);
  EXPECT_TRUE(same_bits(a.scales, b.scales));
  EXPECT_TRUE(same_bits(a.sums, b.sums));
}

struct Type {
  DType dtype;
  MatMulInt8 Kernels::* matmul;
  double amplitude;  // bound of |scale * q| + |offset| for halves up to 0.01
  size_t halves_at;  // the first byte of the halves of a block
  size_t halves;
};

constexpr Type kTypes[] = {
    {DType::Q4_0, &Kernels::matmul_q4_0, 0.01 * (15 + 8), 0, 1},
    {DType::Q4_1, &Kernels::matmul_q4_1, 0.01 * (15 + 1), 0, 2},
    {DType::Q5_0, &Kernels::matmul_q5_0, 0.01 * (31 + 16), 0, 1},
    {DType::Q5_1, &Kernels::matmul_q5_1, 0.01 * (31 + 1), 0, 2},
    {DType::Q8_0, &Kernels::matmul_q8_0, 0.01 * 128, 0, 1},
    {DType::Q2_K, &Kernels::matmul_q2_k, 0.01 * (15 * 3 + 15), 80, 2},
    {DType::Q3_K, &Kernels::matmul_q3_k, 0.01 * 32 * (7 + 4), 108, 1},
    {DType::Q4_K, &Kernels::matmul_q4_k, 0.01 * (63 * 15 + 63), 0, 2},
    {DType::Q5_K, &Kernels::matmul_q5_k, 0.01 * (63 * 31 + 63), 0, 2},
    {DType::Q6_K, &Kernels::matmul_q6_k, 0.01 * 128 * (63 + 32), 208, 1},
    {DType::IQ4_NL, &Kernels::matmul_iq4_nl, 0.01 * 127, 0, 1},
    {DType::IQ4_XS, &Kernels::matmul_iq4_xs, 0.01 * 32 * 127, 0, 1},
};

// Random bits with halves of magnitude up to 0.01.
std::vector<std::byte> random_weights(const Type& type, size_t count) {
  std::vector<std::byte> out(bytes_of(type.dtype, count));
  for (std::byte& b : out) b = static_cast<std::byte>(generator()() & 255U);
  const size_t step = info(type.dtype).block_bytes;
  for (size_t at = type.halves_at; at < out.size(); at += step) {
    for (size_t h = 0; h < type.halves; ++h) {
      const uint16_t half = f32_to_f16(randoms(1, 0.0099F)[0]);
      std::memcpy(&out[at + 2 * h], &half, sizeof(half));
    }
  }
  return out;
}

struct Problem {
  size_t rows, n, tokens;
};

std::vector<float> run(const Kernels& kernels, const Type& type,
                       const std::vector<std::byte>& weight, const Quantized& x, Problem p) {
  std::vector<float> out(p.rows * p.tokens);
  (kernels.*type.matmul)(out.data(), p.rows, weight.data(), 0, p.rows, p.n, x.rows(), p.tokens);
  return out;
}

// Of each part of 16 values the kernel rounds: the weight's scale, its product with the scale of
// the activations, the integer sum, the product, the sum of the activations; the reference
// rounds each weight twice or three times: 8 in all. Then at most 2 additions for each part, 3 over
// the lanes.
void expect_close(const Type& type, const std::vector<std::byte>& weight, const Quantized& x,
                  Problem p, const std::vector<float>& out) {
  std::vector<float> w(p.rows * p.n);
  dequantize(type.dtype, weight.data(), w.size(), w.data());
  for (size_t t = 0; t < p.tokens; ++t) {
    double magnitude = 0.0;
    std::vector<double> values(p.n);
    for (size_t i = 0; i < p.n; ++i) {
      values[i] = static_cast<double>(x.scales[(t * p.n + i) / 32]) * x.values[t * p.n + i];
      magnitude += std::fabs(values[i]);
    }
    const double roundings = 2.0 * static_cast<double>(p.n / 16) + 3 + 8;
    const double bound = roundings * kU * type.amplitude * magnitude;
    for (size_t r = 0; r < p.rows; ++r) {
      double expected = 0.0;
      for (size_t i = 0; i < p.n; ++i) expected += w[r * p.n + i] * values[i];
      ASSERT_NEAR(out[t * p.rows + r], expected, bound)
          << info(type.dtype).name << " n " << p.n << " row " << r << " token " << t;
    }
  }
}

TEST_P(KernelsTest, MatMulInt8IsCloseToDouble) {
  for (const Type& type : kTypes) {
    for (const size_t n : {32U, 64U, 96U, 576U, 1536U, 256U, 512U, 1024U, 1280U}) {
      if (n % info(type.dtype).block_elements != 0) continue;
      for (const size_t tokens : {1U, 2U, 5U, 9U}) {
        const Problem p = {11, n, tokens};
        const std::vector<std::byte> weight = random_weights(type, p.rows * n);
        const Quantized x = quantize(GetParam(), randoms(n * tokens, 2.0F));
        expect_close(type, weight, x, p, run(GetParam(), type, weight, x, p));
      }
    }
  }
}

// What byte `at` of a block is for values and integer scales of the largest magnitude.
std::byte extreme_byte(DType dtype, size_t at) {
  if (dtype == DType::Q8_0) return std::byte{128};                            // -128
  if (dtype == DType::Q6_K && at >= 192) return std::byte{128};               // scales of -128
  if (dtype == DType::Q3_K && at >= 96) return std::byte{0};                  // scales of 0 - 32
  if (dtype == DType::IQ4_NL || dtype == DType::IQ4_XS) return std::byte{0};  // -127, -32
  return std::byte{255};
}

// The largest integers that a 16-bit sum meets.
TEST_P(KernelsTest, MatMulInt8DoesNotSaturate) {
  for (const Type& type : kTypes) {
    const Problem p = {4, 256, 2};
    std::vector<std::byte> weight = random_weights(type, p.rows * p.n);
    const size_t step = info(type.dtype).block_bytes;
    for (size_t i = 0; i < weight.size(); ++i) {
      const size_t at = i % step;
      if (at < type.halves_at || at >= type.halves_at + 2 * type.halves)
        weight[i] = extreme_byte(type.dtype, at);
    }
    for (const float sign : {1.0F, -1.0F}) {
      const Quantized x = quantize(GetParam(), std::vector<float>(p.n * p.tokens, sign));
      expect_close(type, weight, x, p, run(GetParam(), type, weight, x, p));
    }
  }
}

TEST_P(KernelsTest, MatMulInt8HasTheSameBitsInEveryBatchAndRowSplit) {
  for (const Type& type : kTypes) {
    for (const Problem p : {Problem{13, 1536, 9}, Problem{7, 512, 70}, Problem{2100, 256, 1},
                            Problem{23, 576, 9}, Problem{9, 32, 3}}) {
      if (p.n % info(type.dtype).block_elements != 0) continue;
      const std::vector<std::byte> weight = random_weights(type, p.rows * p.n);
      const Quantized x = quantize(GetParam(), randoms(p.n * p.tokens));
      const std::vector<float> whole = run(GetParam(), type, weight, x, p);
      std::vector<float> parts(whole.size());
      const MatMulInt8 matmul = GetParam().*type.matmul;
      for (size_t t = 0; t < p.tokens; ++t) {
        const Int8Rows row = {x.values.data() + t * p.n, x.scales.data() + t * p.n / 32,
                              x.sums.data() + t * p.n / 16};
        const size_t split = 1 + t % (p.rows - 1);
        float* out = parts.data() + t * p.rows;
        matmul(out, p.rows, weight.data(), 0, split, p.n, row, 1);
        matmul(out, p.rows, weight.data(), split, p.rows, p.n, row, 1);
      }
      EXPECT_TRUE(same_bits(whole, parts)) << info(type.dtype).name << " rows " << p.rows;
      matmul(parts.data(), p.rows, weight.data(), 0, 5, p.n, x.rows(), p.tokens);
      matmul(parts.data(), p.rows, weight.data(), 5, p.rows, p.n, x.rows(), p.tokens);
      EXPECT_TRUE(same_bits(whole, parts)) << info(type.dtype).name << " rows " << p.rows;
    }
  }
}

TEST_P(KernelsTest, MatMulInt8CarriesNonFiniteInputs) {
  for (const Type& type : kTypes) {
    for (const float bad : {kInf, -kInf, kNan}) {
      const Problem p = {5, 256, 3};
      const std::vector<std::byte> weight = random_weights(type, p.rows * p.n);
      std::vector<float> input = randoms(p.n * p.tokens);
      input[p.n + 77] = bad;
      const std::vector<float> out = run(GetParam(), type, weight, quantize(GetParam(), input), p);
      for (size_t i = 0; i < out.size(); ++i)
        EXPECT_EQ(std::isfinite(out[i]), i / p.rows != 1) << info(type.dtype).name << " " << bad;
    }
  }
}

struct FloatType {
  DType dtype;
  MatMulFloat Kernels::* matmul;
};

constexpr FloatType kFloatTypes[] = {{DType::F32, &Kernels::matmul_f32},
                                     {DType::F16, &Kernels::matmul_f16},
                                     {DType::BF16, &Kernels::matmul_bf16}};

std::vector<std::byte> float_weights(DType dtype, size_t count) {
  const std::vector<float> values = randoms(count);
  std::vector<std::byte> out(bytes_of(dtype, count));
  for (size_t i = 0; i < count; ++i) {
    const uint16_t half = dtype == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    if (dtype == DType::F32) {
      std::memcpy(&out[i * 4], &values[i], 4);
    } else {
      std::memcpy(&out[i * 2], &half, 2);
    }
  }
  return out;
}

// Products and additions of one element: at most n + 1 roundings on any path, and 3 over the lanes.
TEST_P(KernelsTest, MatMulFloatIsCloseToDouble) {
  for (const FloatType& type : kFloatTypes) {
    for (const size_t n : {1U, 7U, 8U, 9U, 31U, 33U, 64U, 100U, 576U}) {
      for (size_t tokens = 1; tokens <= 9; ++tokens) {
        const size_t rows = 13;
        const std::vector<std::byte> weight = float_weights(type.dtype, rows * n);
        const std::vector<float> x = randoms(n * tokens);
        std::vector<float> w(rows * n);
        dequantize(type.dtype, weight.data(), w.size(), w.data());
        std::vector<float> out(rows * tokens);
        (GetParam().*type.matmul)(out.data(), rows, weight.data(), 0, rows, n, x.data(), tokens);
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t r = 0; r < rows; ++r) {
            double sum = 0.0;
            double magnitude = 0.0;
            for (size_t i = 0; i < n; ++i) {
              const double product = static_cast<double>(w[r * n + i]) * x[t * n + i];
              sum += product;
              magnitude += std::fabs(product);
            }
            ASSERT_NEAR(out[t * rows + r], sum, static_cast<double>(n + 4) * kU * magnitude)
                << info(type.dtype).name << " n " << n << " tokens " << tokens;
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, MatMulFloatHasTheSameBitsInEveryBatchAndRowSplit) {
  for (const FloatType& type : kFloatTypes) {
    for (const size_t n : {7U, 64U, 100U, 3000U}) {
      const size_t rows = 21;
      const size_t tokens = 31;
      const std::vector<std::byte> weight = float_weights(type.dtype, rows * n);
      const std::vector<float> x = randoms(n * tokens);
      std::vector<float> whole(rows * tokens);
      std::vector<float> parts(rows * tokens);
      const MatMulFloat matmul = GetParam().*type.matmul;
      matmul(whole.data(), rows, weight.data(), 0, rows, n, x.data(), tokens);
      for (size_t t = 0; t < tokens; ++t) {
        const size_t split = 1 + t % (rows - 1);
        float* out = parts.data() + t * rows;
        matmul(out, rows, weight.data(), 0, split, n, x.data() + t * n, 1);
        matmul(out, rows, weight.data(), split, rows, n, x.data() + t * n, 1);
      }
      EXPECT_TRUE(same_bits(whole, parts)) << info(type.dtype).name << " n " << n;
    }
  }
}

// The sum is taken in double; then the scale, and two products, are rounded once each.
TEST_P(KernelsTest, RmsNorm) {
  for (const size_t n : {1U, 7U, 8U, 9U, 64U, 100U, 576U}) {
    const std::vector<float> x = randoms(n, 5.0F);
    const std::vector<float> weight = randoms(n);
    std::vector<float> out(n);
    GetParam().rmsnorm(out.data(), x.data(), weight.data(), n, 1e-5F);
    double sum = 0.0;
    for (const float v : x) sum += static_cast<double>(v) * v;
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(1e-5F));
    for (size_t i = 0; i < n; ++i) {
      const double expected = x[i] * scale * weight[i];
      EXPECT_NEAR(out[i], expected, 3.01 * kU * std::fabs(expected) + kTiny) << n;
    }
  }
}

// head_dim + 1 roundings for products and additions, 3 over the lanes, 1 for the scale.
TEST_P(KernelsTest, AttentionScores) {
  for (const size_t dim : {1U, 7U, 8U, 9U, 31U, 33U, 64U, 100U, 128U}) {
    const size_t stride = dim + 3;
    const size_t keys = 11;
    const std::vector<float> q = randoms(dim);
    const std::vector<float> k = randoms((keys - 1) * stride + dim);
    std::vector<float> out(keys);
    GetParam().attention_scores(out.data(), q.data(), k.data(), stride, keys, dim, 0.125F);
    for (size_t j = 0; j < keys; ++j) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (size_t i = 0; i < dim; ++i) {
        sum += static_cast<double>(q[i]) * k[j * stride + i];
        magnitude += std::fabs(static_cast<double>(q[i]) * k[j * stride + i]);
      }
      EXPECT_NEAR(out[j], 0.125 * sum, static_cast<double>(dim + 5) * kU * 0.125 * magnitude);
      float alone = 0.0F;
      GetParam().attention_scores(&alone, q.data(), k.data() + j * stride, stride, 1, dim, 0.125F);
      EXPECT_EQ(alone, out[j]);
    }
  }
}

// A product and an addition for each key.
TEST_P(KernelsTest, AttentionMix) {
  for (const size_t dim : {1U, 7U, 8U, 9U, 31U, 33U, 64U, 100U, 128U}) {
    for (const size_t keys : {0U, 1U, 2U, 9U, 50U}) {
      const size_t stride = dim + 5;
      const std::vector<float> weights = randoms(keys);
      const std::vector<float> v = randoms(keys * stride + dim);
      std::vector<float> out(dim, 7.0F);
      GetParam().attention_mix(out.data(), weights.data(), v.data(), stride, keys, dim);
      for (size_t i = 0; i < dim; ++i) {
        double sum = 0.0;
        double magnitude = 0.0;
        for (size_t j = 0; j < keys; ++j) {
          sum += static_cast<double>(weights[j]) * v[j * stride + i];
          magnitude += std::fabs(static_cast<double>(weights[j]) * v[j * stride + i]);
        }
        EXPECT_NEAR(out[i], sum, static_cast<double>(keys + 1) * kU * magnitude);
      }
    }
  }
}

// Relative: |x - max| * u from the rounded difference, 4 u (2 ulp) from exp, for the entry and for
// the sum; n u from the additions; u from the division.
TEST_P(KernelsTest, Softmax) {
  for (const size_t n : {1U, 2U, 7U, 8U, 9U, 31U, 33U, 100U}) {
    std::vector<float> x = randoms(n, 20.0F);
    if (n > 8) x[n - 2] = -kInf;
    std::vector<float> out = x;
    GetParam().softmax(out.data(), n);
    const float max = *std::max_element(x.begin(), x.end());
    double sum = 0.0;
    for (const float v : x) sum += std::exp(static_cast<double>(v) - max);
    const double bound = (2 * 40 + 8 + static_cast<double>(n) + 1) * kU;
    for (size_t j = 0; j < n; ++j) {
      const double expected = std::exp(static_cast<double>(x[j]) - max) / sum;
      EXPECT_NEAR(out[j], expected, bound * expected + kTiny);
    }
    if (n > 8) {
      EXPECT_EQ(out[n - 2], 0.0F);
    }
  }
}

TEST_P(KernelsTest, SoftmaxOfHardInputs) {
  std::vector<float> x = {3e38F, -3e38F, 1.0F};
  GetParam().softmax(x.data(), 3);
  EXPECT_EQ(x, (std::vector<float>{1, 0, 0}));
  for (size_t at = 0; at < 11; ++at) {
    std::vector<float> bad = randoms(11);
    bad[at] = kNan;
    GetParam().softmax(bad.data(), bad.size());
    for (const float v : bad) EXPECT_TRUE(std::isnan(v)) << at;
  }
}

// Softmax of {0, v} is e / (1 + e): 4 u for exp (2 ulp), half of that and u for the sum, u for the
// division; below the normal floats, 2 units of the last place.
TEST_P(KernelsTest, ExpIsAccurateOverItsRange) {
  for (float v = 0.0F; v > -110.0F; v -= 0.00137F) {
    float x[2] = {0.0F, v};
    GetParam().softmax(x, 2);
    const double e = std::exp(static_cast<double>(v));
    const double expected = e / (1.0 + e);
    ASSERT_NEAR(x[1], expected, 8 * kU * expected + 2 * kTiny) << v;
  }
}

// 4 u for exp (2 ulp) in the numerator and less in the denominator; 3 operations.
TEST_P(KernelsTest, Silu) {
  std::vector<float> x = {0.0F, -0.0F, 3e38F, -3e38F, 100.0F, -100.0F, -88.0F, 1e-40F, kInf};
  for (float v = -110.0F; v < 110.0F; v += 0.037F) x.push_back(v);
  std::vector<float> out(x.size());
  GetParam().silu(out.data(), x.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == kInf) {
      EXPECT_EQ(out[i], kInf);
      continue;
    }
    const double expected = x[i] / (1.0 + std::exp(-static_cast<double>(x[i])));
    // Where exp is subnormal its last place is kTiny, and x multiplies it.
    const double last = kTiny * (1 + 2 * std::fmin(std::fabs(x[i]), 110));
    const double bound = 11 * kU * std::fabs(expected) + last;
    EXPECT_NEAR(out[i], expected, bound) << x[i];
    float alone = 0.0F;
    GetParam().silu(&alone, &x[i], 1);
    EXPECT_EQ(alone, out[i]) << "tail and body differ at " << x[i];
  }
  GetParam().silu(out.data(), &kNan, 1);
  EXPECT_TRUE(std::isnan(out[0]));
}

// Values of every exponent, both signs, and special ones.
std::vector<float> all_exponents(size_t each) {
  std::vector<float> out = {0.0F, -0.0F, 3e38F, -3e38F, 1e-45F, -1e-45F, 1.0F, -1.0F};
  std::uniform_real_distribution<float> mantissa(1.0F, 2.0F);
  for (int e = -149; e < 127; ++e) {
    for (size_t i = 0; i < each; ++i) {
      out.push_back(std::ldexp(mantissa(generator()), e));
      out.push_back(-std::ldexp(mantissa(generator()), e));
    }
  }
  std::uniform_real_distribution<float> middle(-15.0F, 15.0F);  // where the functions bend
  for (size_t i = 0; i < 300 * each; ++i) out.push_back(middle(generator()));
  return out;
}

// Computed in double with a relative error below 2^-33 (the polynomial of erfc has 2^-34), then
// rounded once; below the normal floats by half of kTiny. The vector must not read or write
// beyond its end, and the tail has the bits of the body.
template <class Function>
void expect_rounded_once(const std::function<void(float*, const float*, size_t)>& kernel,
                         Function exact) {
  const std::vector<float> x = all_exponents(20);
  std::vector<float> out(x.size());
  kernel(out.data(), x.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = exact(static_cast<double>(x[i]));
    ASSERT_NEAR(out[i], expected, kU * (1 + 0x1p-8) * std::fabs(expected) + kTiny * 0.51) << x[i];
  }
  for (const size_t n : {1U, 3U, 7U, 9U, 15U}) {
    std::vector<float> part(n + 1, 42.0F);
    const std::vector<float> from(x.begin() + 100, x.begin() + 100 + static_cast<ptrdiff_t>(n));
    kernel(part.data(), from.data(), n);
    EXPECT_EQ(part[n], 42.0F);
    part.pop_back();
    EXPECT_TRUE(
        same_bits(part, {out.begin() + 100, out.begin() + 100 + static_cast<ptrdiff_t>(n)}));
  }
  float nan = 0.0F;
  kernel(&nan, &kNan, 1);
  EXPECT_TRUE(std::isnan(nan));
}

float value_at(const std::function<void(float*, const float*, size_t)>& kernel, float x) {
  float out = 7.0F;
  kernel(&out, &x, 1);
  return out;
}

TEST_P(KernelsTest, GeluTanh) {
  expect_rounded_once(GetParam().gelu_tanh, [](double x) {
    const double z = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    return x == 0.0 ? x : x / (1.0 + std::exp(-2.0 * z));
  });
  EXPECT_EQ(value_at(GetParam().gelu_tanh, kInf), kInf);
  EXPECT_TRUE(std::isnan(value_at(GetParam().gelu_tanh, -kInf)));  // -infinity * 0, as in silu
}

TEST_P(KernelsTest, GeluErf) {
  expect_rounded_once(GetParam().gelu_erf,
                      [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); });
  EXPECT_EQ(value_at(GetParam().gelu_erf, kInf), kInf);
  EXPECT_TRUE(std::isnan(value_at(GetParam().gelu_erf, -kInf)));
}

TEST_P(KernelsTest, Sigmoid) {
  expect_rounded_once(GetParam().sigmoid, [](double x) { return 1.0 / (1.0 + std::exp(-x)); });
  EXPECT_EQ(value_at(GetParam().sigmoid, kInf), 1.0F);
  EXPECT_EQ(value_at(GetParam().sigmoid, -kInf), 0.0F);
}

TEST_P(KernelsTest, Softcap) {
  for (const float cap : {1.0F, 30.0F, 50.0F, 0.37F}) {
    const auto kernel = [cap](float* out, const float* x, size_t n) {
      GetParam().softcap(out, x, n, cap);
    };
    expect_rounded_once(kernel, [cap](double x) { return cap * std::tanh(x / cap); });
    for (int i = 0; i < 4000; ++i) {  // both sides of the argument where tanh changes its formula
      const float x = cap * static_cast<float>(2000 + i) * (0x1p-12F / 4000.0F);
      const double expected = cap * std::tanh(static_cast<double>(x) / cap);
      ASSERT_NEAR(value_at(kernel, x), expected, kU * (1 + 0x1p-8) * expected) << x;
    }
    EXPECT_EQ(value_at(kernel, kInf), cap);
    EXPECT_EQ(value_at(kernel, -kInf), -cap);
    EXPECT_TRUE(std::signbit(value_at(kernel, -0.0F)));
  }
}

TEST_P(KernelsTest, ScaleIsOneProduct) {
  const std::vector<float> x = all_exponents(2);
  for (const size_t n : {size_t{1}, size_t{7}, size_t{8}, size_t{9}, x.size()}) {
    std::vector<float> out(n + 1, 42.0F);
    GetParam().scale(out.data(), x.data(), n, 0.3F);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], x[i] * 0.3F);
    EXPECT_EQ(out[n], 42.0F);
  }
}

// In double, then rounded once. The roundings in double, of the mean above all, are n 2^-52 of the
// largest magnitude of an input, times scale and weight.
void expect_layernorm(const std::vector<float>& x, const std::vector<float>* weight,
                      const std::vector<float>* bias, float epsilon) {
  const size_t n = x.size();
  std::vector<float> out(n + 1, 42.0F);
  KernelsTest::GetParam().layernorm(out.data(), x.data(), weight ? weight->data() : nullptr,
                                    bias ? bias->data() : nullptr, n, epsilon);
  long double sum = 0.0L;
  long double squares = 0.0L;
  double largest = 0.0;
  for (const float v : x) largest = std::fmax(largest, std::fabs(v));
  for (const float v : x) sum += v;
  const long double mean = sum / static_cast<long double>(n);
  for (const float v : x) squares += (v - mean) * (v - mean);
  const long double scale = 1.0L / std::sqrt(squares / static_cast<long double>(n) + epsilon);
  for (size_t i = 0; i < n; ++i) {
    const double w = weight ? (*weight)[i] : 1.0;
    const auto y = static_cast<double>((x[i] - mean) * scale * w + (bias ? (*bias)[i] : 0.0));
    const double inner =
        static_cast<double>(n) * 0x1p-50 * largest * static_cast<double>(scale) * std::fabs(w) +
        0x1p-50 * std::fabs(y);
    EXPECT_NEAR(out[i], y, kU * std::fabs(y) + inner + kTiny) << "n " << n << " value " << i;
  }
  EXPECT_EQ(out[n], 42.0F);
}

TEST_P(KernelsTest, LayerNorm) {
  for (const size_t n : {1U, 2U, 7U, 8U, 9U, 63U, 64U, 100U, 577U}) {
    std::vector<float> x = randoms(n, 5.0F);
    const std::vector<float> weight = randoms(n);
    const std::vector<float> bias = randoms(n, 3.0F);
    for (const float mean : {0.0F, 1000.0F, -3e4F}) {  // the mean must not eat the deviations
      for (float& v : x) v += mean;
      expect_layernorm(x, &weight, &bias, 1e-5F);
      expect_layernorm(x, nullptr, nullptr, 1e-5F);
      expect_layernorm(x, &weight, nullptr, 1e-12F);
      expect_layernorm(x, nullptr, &bias, 0.1F);
    }
    expect_layernorm(std::vector<float>(n, 0.7F), &weight, &bias, 1e-5F);
    expect_layernorm(randoms(n, 1e-40F), &weight, &bias, 1e-5F);
    for (const float bad : {kInf, kNan}) {
      x[n / 2] = bad;
      std::vector<float> out(n);
      GetParam().layernorm(out.data(), x.data(), weight.data(), bias.data(), n, 1e-5F);
      for (const float v : out) EXPECT_TRUE(std::isnan(v));
    }
  }
}

TEST_P(KernelsTest, StoreF16RoundsToNearestEven) {
  std::vector<float> x = all_exponents(20);
  for (const float v : {65504.0F, 65519.9F, 65520.0F, 1e-8F, 0x1p-24F, 0x1p-25F, 0x1.8p-24F, kInf,
                        -kInf, kNan, 1.00048828125F, 1.00146484375F})
    x.push_back(v);
  for (const size_t n : {size_t{1}, size_t{7}, size_t{8}, size_t{9}, x.size()}) {
    std::vector<uint16_t> out(n + 1, 4242);
    GetParam().store_f16(out.data(), x.data() + x.size() - n, n);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], f32_to_f16(x[x.size() - n + i]));
    EXPECT_EQ(out[n], 4242);
  }
}

TEST_P(KernelsTest, StoreQ8HasTheBlocksOfQuantize) {
  std::vector<float> x(32, 0.0F);
  for (const float span : {1.0F, 1e-38F, 3e-39F, 1e-44F, 3e38F, 8.4e6F, 1e-20F, 1e-4F})
    for (const float v : randoms(64, span)) x.push_back(v);
  for (int i = 0; i < 31; ++i) x.push_back(static_cast<float>(i - 16) + 0.5F);  // ties at scale 1
  x.push_back(127.0F);
  for (int i = 0; i < 31; ++i) x.push_back(std::nextafter(0.5F, i % 2 == 0 ? 0.0F : 1.0F));
  x.push_back(-127.0F);
  std::vector<std::byte> expected(x.size() / 32 * 34);
  std::vector<std::byte> out(expected.size());
  quantize_q8_0(x.data(), x.size() / 32, expected.data());
  GetParam().store_q8_0(out.data(), x.data(), x.size());
  EXPECT_EQ(out, expected);
}

// A fault that puts one NaN into a cache must not vanish in it.
TEST_P(KernelsTest, StoreQ8CarriesNonFiniteInputs) {
  for (const float bad : {kInf, -kInf, kNan, -kNan}) {
    for (size_t at = 0; at < 32; ++at) {
      std::vector<float> x = randoms(64);
      x[at] = bad;
      std::vector<std::byte> out(68), scalar(68);
      GetParam().store_q8_0(out.data(), x.data(), 64);
      scalar_kernels().store_q8_0(scalar.data(), x.data(), 64);
      EXPECT_EQ(out, scalar);
      std::vector<float> back(64);
      dequantize(DType::Q8_0, out.data(), 64, back.data());
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(back[i]), i < 32) << bad;
    }
  }
}

enum class Cache { F32, F16, Q8_0 };

// Rows in a cache and their values in float; `gap` bytes between rows that nobody may read.
struct CacheRows {
  std::vector<std::byte> bytes;
  size_t stride;
  std::vector<float> values;
};

CacheRows random_rows(Cache cache, size_t rows, size_t dim, size_t gap) {
  const size_t row_bytes = cache == Cache::F32   ? 4 * dim
                           : cache == Cache::F16 ? 2 * dim
                                                 : dim / 32 * 34;
  CacheRows out = {{}, row_bytes + gap, std::vector<float>(rows * dim)};
  out.bytes.assign(rows * out.stride, std::byte{0xFF});
  for (size_t r = 0; r < rows; ++r) {
    const std::vector<float> x = randoms(dim);
    std::byte* row = out.bytes.data() + r * out.stride;
    float* values = out.values.data() + r * dim;
    if (cache == Cache::F32) {
      std::memcpy(row, x.data(), row_bytes);
      std::memcpy(values, x.data(), row_bytes);
    } else if (cache == Cache::F16) {
      scalar_kernels().store_f16(reinterpret_cast<uint16_t*>(row), x.data(), dim);
      dequantize(DType::F16, row, dim, values);
    } else {
      scalar_kernels().store_q8_0(row, x.data(), dim);
      dequantize(DType::Q8_0, row, dim, values);
    }
  }
  // The last row ends where its memory ends, so that a sanitizer sees a read beyond it.
  out.bytes.resize(out.bytes.size() - (rows == 0 ? 0 : gap));
  out.bytes.shrink_to_fit();
  return out;
}

bool fits(Cache cache, size_t dim) { return cache != Cache::Q8_0 || dim % 32 == 0; }

constexpr size_t kDims[] = {1, 2, 6, 7, 8, 9, 30, 32, 33, 64, 80, 96, 100, 128, 256};

std::vector<float> scores(const Kernels& k, Cache cache, const float* q, const CacheRows& rows,
                          size_t keys, size_t dim) {
  std::vector<float> out(keys);
  const std::byte* p = rows.bytes.data();
  if (cache == Cache::F32) {
    k.attention_scores(out.data(), q, reinterpret_cast<const float*>(p), rows.stride / 4, keys, dim,
                       0.3F);
  } else if (cache == Cache::F16) {
    k.attention_scores_f16(out.data(), q, p, rows.stride, keys, dim, 0.3F);
  } else {
    k.attention_scores_q8_0(out.data(), q, p, rows.stride, keys, dim, 0.3F);
  }
  return out;
}

std::vector<float> mix(const Kernels& k, Cache cache, const float* weights, const CacheRows& rows,
                       size_t keys, size_t dim) {
  std::vector<float> out(dim, 7.0F);
  const std::byte* p = rows.bytes.data();
  if (cache == Cache::F32) {
    k.attention_mix(out.data(), weights, reinterpret_cast<const float*>(p), rows.stride / 4, keys,
                    dim);
  } else if (cache == Cache::F16) {
    k.attention_mix_f16(out.data(), weights, p, rows.stride, keys, dim);
  } else {
    k.attention_mix_q8_0(out.data(), weights, p, rows.stride, keys, dim);
  }
  return out;
}

// Each stored value is exact as a float; AttentionScores and AttentionMix have the bounds.
TEST_P(KernelsTest, AttentionOverACacheHasTheBitsOfItsValuesInFloat) {
  for (const Cache cache : {Cache::F16, Cache::Q8_0}) {
    for (const size_t dim : kDims) {
      if (!fits(cache, dim)) continue;
      for (const size_t keys : {0U, 1U, 3U, 11U, 70U}) {
        const CacheRows rows = random_rows(cache, keys, dim, 6);
        const std::vector<float> q = randoms(dim);
        const std::vector<float> weights = randoms(keys);
        std::vector<float> expected(keys);
        GetParam().attention_scores(expected.data(), q.data(), rows.values.data(), dim, keys, dim,
                                    0.3F);
        EXPECT_TRUE(same_bits(scores(GetParam(), cache, q.data(), rows, keys, dim), expected));
        expected.resize(dim);
        GetParam().attention_mix(expected.data(), weights.data(), rows.values.data(), dim, keys,
                                 dim);
        EXPECT_TRUE(same_bits(mix(GetParam(), cache, weights.data(), rows, keys, dim), expected))
            << "dim " << dim << " keys " << keys;
      }
    }
  }
}

struct Group {
  Cache cache;
  size_t queries, keys, dim;
};

void expect_group_scores(const Kernels& k, Group g, const CacheRows& rows) {
  const size_t q_stride = g.dim + 3;
  const size_t out_stride = g.keys + 2;
  const std::vector<float> q = randoms(g.queries * q_stride);
  std::vector<float> out(g.queries * out_stride, 42.0F);
  const std::byte* p = rows.bytes.data();
  if (g.cache == Cache::F32) {
    k.attention_scores_group(out.data(), out_stride, q.data(), q_stride, g.queries,
                             reinterpret_cast<const float*>(p), rows.stride / 4, g.keys, g.dim,
                             0.3F);
  } else {
    (g.cache == Cache::F16 ? k.attention_scores_group_f16 : k.attention_scores_group_q8_0)(
        out.data(), out_stride, q.data(), q_stride, g.queries, p, rows.stride, g.keys, g.dim, 0.3F);
  }
  for (size_t i = 0; i < g.queries; ++i) {
    std::vector<float> alone = scores(k, g.cache, q.data() + i * q_stride, rows, g.keys, g.dim);
    alone.insert(alone.end(), 2, 42.0F);
    const auto first = out.begin() + static_cast<ptrdiff_t>(i * out_stride);
    EXPECT_TRUE(same_bits({first, first + static_cast<ptrdiff_t>(out_stride)}, alone))
        << g.queries << " queries, " << g.keys << " keys of " << g.dim;
  }
}

void expect_group_mix(const Kernels& k, Group g, const CacheRows& rows) {
  const size_t weights_stride = g.keys + 3;
  const size_t out_stride = g.dim + 2;
  const std::vector<float> weights = randoms(g.queries * weights_stride);
  std::vector<float> out(g.queries * out_stride, 42.0F);
  const std::byte* p = rows.bytes.data();
  if (g.cache == Cache::F32) {
    k.attention_mix_group(out.data(), out_stride, weights.data(), weights_stride, g.queries,
                          reinterpret_cast<const float*>(p), rows.stride / 4, g.keys, g.dim);
  } else {
    (g.cache == Cache::F16 ? k.attention_mix_group_f16 : k.attention_mix_group_q8_0)(
        out.data(), out_stride, weights.data(), weights_stride, g.queries, p, rows.stride, g.keys,
        g.dim);
  }
  for (size_t i = 0; i < g.queries; ++i) {
    std::vector<float> alone =
        mix(k, g.cache, weights.data() + i * weights_stride, rows, g.keys, g.dim);
    alone.insert(alone.end(), 2, 42.0F);
    const auto first = out.begin() + static_cast<ptrdiff_t>(i * out_stride);
    EXPECT_TRUE(same_bits({first, first + static_cast<ptrdiff_t>(out_stride)}, alone))
        << g.queries << " queries, " << g.keys << " keys of " << g.dim;
  }
}

TEST_P(KernelsTest, AttentionOfAGroupHasTheBitsOfEachQueryAlone) {
  for (const Cache cache : {Cache::F32, Cache::F16, Cache::Q8_0}) {
    for (const size_t dim : kDims) {
      if (!fits(cache, dim)) continue;
      for (const size_t keys : {0U, 1U, 5U, 16U, 75U}) {
        const CacheRows rows = random_rows(cache, keys, dim, 4);
        for (size_t queries = 1; queries <= 9; ++queries) {
          expect_group_scores(GetParam(), {cache, queries, keys, dim}, rows);
          expect_group_mix(GetParam(), {cache, queries, keys, dim}, rows);
        }
      }
    }
  }
}

TEST_P(KernelsTest, AddAndMultiplyAreExactAndStayInBounds) {
  for (const size_t n : {1U, 7U, 8U, 9U, 33U}) {
    const std::vector<float> a = randoms(n);
    const std::vector<float> b = randoms(n);
    std::vector<float> sum(n + 1, 42.0F);
    std::vector<float> product(n + 1, 42.0F);
    GetParam().add(sum.data(), a.data(), b.data(), n);
    GetParam().multiply(product.data(), a.data(), b.data(), n);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(sum[i], a[i] + b[i]);
      EXPECT_EQ(product[i], a[i] * b[i]);
    }
    EXPECT_EQ(sum[n], 42.0F);
    EXPECT_EQ(product[n], 42.0F);
  }
}

}  // namespace
}  // namespace plumb::cpu
