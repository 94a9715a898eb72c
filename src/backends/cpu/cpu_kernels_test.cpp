// SPDX-License-Identifier: Apache-2.0
// Each kernel of each level against double. u = 2^-24 is the rounding of one float operation; a sum
// of terms that passes through m roundings is off by at most m * u * (sum of the magnitudes), to
// first order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"
#include "core/half.h"
#include "quant/blocks.h"
#include "quant/dequantize.h"

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
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
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
};

constexpr Type kTypes[] = {
    {DType::Q4_0, &Kernels::matmul_q4_0, 0.01 * (15 + 8)},
    {DType::Q4_1, &Kernels::matmul_q4_1, 0.01 * (15 + 1)},
    {DType::Q8_0, &Kernels::matmul_q8_0, 0.01 * 128},
    {DType::Q4_K, &Kernels::matmul_q4_k, 0.01 * (63 * 15 + 63)},
    {DType::Q6_K, &Kernels::matmul_q6_k, 0.01 * 128 * (63 + 32)},
};

// Random bits with halves of magnitude up to 0.01.
std::vector<std::byte> random_weights(DType dtype, size_t count) {
  std::vector<std::byte> out(bytes_of(dtype, count));
  for (std::byte& b : out) b = static_cast<std::byte>(generator()() & 255U);
  const size_t step = info(dtype).block_bytes;
  const bool two = dtype == DType::Q4_1 || dtype == DType::Q4_K;
  for (size_t at = 0; at < out.size(); at += step) {
    for (size_t h = 0; h < (two ? 2U : 1U); ++h) {
      const uint16_t half = f32_to_f16(randoms(1, 0.0099F)[0]);
      std::memcpy(&out[at + (dtype == DType::Q6_K ? 208 : 2 * h)], &half, sizeof(half));
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
        const std::vector<std::byte> weight = random_weights(type.dtype, p.rows * n);
        const Quantized x = quantize(GetParam(), randoms(n * tokens, 2.0F));
        expect_close(type, weight, x, p, run(GetParam(), type, weight, x, p));
      }
    }
  }
}

// The largest integers that a 16-bit sum meets.
TEST_P(KernelsTest, MatMulInt8DoesNotSaturate) {
  for (const Type& type : kTypes) {
    const Problem p = {4, 256, 2};
    std::vector<std::byte> weight = random_weights(type.dtype, p.rows * p.n);
    const size_t step = info(type.dtype).block_bytes;
    for (size_t i = 0; i < weight.size(); ++i) {
      const size_t at = i % step;
      if (type.dtype == DType::Q6_K) {
        if (at < 208) weight[i] = at < 192 ? std::byte{255} : std::byte{128};
      } else if (type.dtype == DType::Q8_0) {
        if (at >= 2) weight[i] = std::byte{128};
      } else if (at >= 4) {
        weight[i] = std::byte{255};
      }
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
      const std::vector<std::byte> weight = random_weights(type.dtype, p.rows * p.n);
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
      const std::vector<std::byte> weight = random_weights(type.dtype, p.rows * p.n);
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
