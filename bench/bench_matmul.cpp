// SPDX-License-Identifier: Apache-2.0
// Speed of the matmul and attention kernels of each level on one core. matmul: multiply-adds and
// bytes of weights per second; "widened" is the way of types without a kernel: 64 rows at a time to
// floats, then the product in float. attention: bytes of keys and values per second of all queries.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"
#include "core/dtype.h"
#include "quant/dequantize.h"

namespace plumb::cpu {
namespace {

struct Type {
  DType dtype;
  MatMulInt8 Kernels::* int8;
  MatMulFloat Kernels::* real;  // one of the two is null
};

constexpr Type kTypes[] = {
    {DType::Q4_0, &Kernels::matmul_q4_0, nullptr},
    {DType::Q4_1, &Kernels::matmul_q4_1, nullptr},
    {DType::Q5_0, &Kernels::matmul_q5_0, nullptr},
    {DType::Q5_1, &Kernels::matmul_q5_1, nullptr},
    {DType::Q8_0, &Kernels::matmul_q8_0, nullptr},
    {DType::Q2_K, &Kernels::matmul_q2_k, nullptr},
    {DType::Q3_K, &Kernels::matmul_q3_k, nullptr},
    {DType::Q4_K, &Kernels::matmul_q4_k, nullptr},
    {DType::Q5_K, &Kernels::matmul_q5_k, nullptr},
    {DType::Q6_K, &Kernels::matmul_q6_k, nullptr},
    {DType::IQ4_NL, &Kernels::matmul_iq4_nl, nullptr},
    {DType::IQ4_XS, &Kernels::matmul_iq4_xs, nullptr},
    {DType::F32, nullptr, &Kernels::matmul_f32},
    {DType::F16, nullptr, &Kernels::matmul_f16},
    {DType::BF16, nullptr, &Kernels::matmul_bf16},
};

struct Shape {
  size_t rows, n, tokens;
};

using benchmark::Counter;

std::vector<uint8_t> random_bytes(size_t count) {
  std::mt19937 generator(1);
  // Bits 0x3b keep every half and float small and finite.
  std::vector<uint8_t> out(count);
  for (uint8_t& b : out) b = generator() & 0x3B;
  return out;
}

std::vector<float> random_floats(size_t count) {
  std::mt19937 generator(1);
  std::vector<float> out(count);
  for (float& v : out) v = std::uniform_real_distribution<float>(-1, 1)(generator);
  return out;
}

void count_matmul(benchmark::State& state, const Type& type, Shape s) {
  const auto iterations = static_cast<double>(state.iterations());
  const auto macs = static_cast<double>(s.rows * s.n * s.tokens);
  const auto bytes = static_cast<double>(bytes_of(type.dtype, s.rows * s.n));
  state.counters["GMAC/s"] = Counter(macs * 1e-9 * iterations, Counter::kIsRate);
  state.counters["GB/s"] = Counter(bytes * 1e-9 * iterations, Counter::kIsRate);
}

void run(benchmark::State& state, const Kernels& kernels, const Type& type, Shape s) {
  const std::vector<uint8_t> weight = random_bytes(bytes_of(type.dtype, s.rows * s.n));
  const std::vector<float> x = random_floats(s.n * s.tokens);
  std::vector<int8_t> values(x.size());
  std::vector<float> scales(x.size() / 32), sums(x.size() / 16), out(s.rows * s.tokens);
  kernels.quantize_int8(values.data(), scales.data(), sums.data(), x.data(), x.size());
  const Int8Rows rows = {values.data(), scales.data(), sums.data()};
  for (auto _ : state) {
    if (type.int8 != nullptr) {
      (kernels.*type.int8)(out.data(), s.rows, weight.data(), 0, s.rows, s.n, rows, s.tokens);
    } else {
      (kernels.*type.real)(out.data(), s.rows, weight.data(), 0, s.rows, s.n, x.data(), s.tokens);
    }
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_matmul(state, type, s);
}

void run_widened(benchmark::State& state, const Kernels& kernels, const Type& type, Shape s) {
  constexpr size_t kRows = 64;
  const size_t row_bytes = bytes_of(type.dtype, s.n);
  const std::vector<uint8_t> weight = random_bytes(row_bytes * s.rows);
  const std::vector<float> x = random_floats(s.n * s.tokens);
  std::vector<float> wide(kRows * s.n), out(s.rows * s.tokens);
  for (auto _ : state) {
    for (size_t r = 0; r < s.rows; r += kRows) {
      const size_t count = std::min(kRows, s.rows - r);
      const auto* from = reinterpret_cast<const std::byte*>(weight.data() + r * row_bytes);
      dequantize(type.dtype, from, count * s.n, wide.data());
      kernels.matmul_f32(out.data() + r, s.rows, wide.data(), 0, count, s.n, x.data(), s.tokens);
    }
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_matmul(state, type, s);
}

// Scores and mix of one new token: `heads` query heads over `kv_heads`, `dim` values each. The
// cache holds [kv head][key][dim].
struct Attention {
  size_t heads, kv_heads, keys, dim;
  bool group;
};

template <class Scores, class Mix>
void run_attention(benchmark::State& state, Attention a, size_t row_bytes, size_t stride,
                   Scores scores, Mix mix) {
  const size_t width = a.heads / a.kv_heads;
  const size_t queries = a.group ? width : 1;
  const size_t head_bytes = a.keys * row_bytes;
  const std::vector<uint8_t> k = random_bytes(head_bytes * a.kv_heads);
  const std::vector<uint8_t> v = k;
  const std::vector<float> q = random_floats(a.heads * a.dim);
  std::vector<float> line(width * a.keys), out(a.heads * a.dim);
  for (auto _ : state) {
    for (size_t h = 0; h < a.heads; h += queries) {
      const size_t at = h / width * head_bytes;
      scores(line.data(), q.data() + h * a.dim, queries, k.data() + at, stride);
      mix(out.data() + h * a.dim, line.data(), queries, v.data() + at, stride);
    }
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  const auto bytes = static_cast<double>(2 * a.heads * head_bytes);
  state.counters["GB/s"] =
      Counter(bytes * 1e-9 * static_cast<double>(state.iterations()), Counter::kIsRate);
}

void run_float_attention(benchmark::State& state, const Kernels& kernels, Attention a) {
  const auto rows = [](const uint8_t* p) { return reinterpret_cast<const float*>(p); };
  run_attention(
      state, a, a.dim * sizeof(float), a.dim,
      [&](float* out, const float* q, size_t queries, const uint8_t* k, size_t stride) {
        if (queries == 1) {
          kernels.attention_scores(out, q, rows(k), stride, a.keys, a.dim, 0.1F);
        } else {
          kernels.attention_scores_group(out, a.keys, q, a.dim, queries, rows(k), stride, a.keys,
                                         a.dim, 0.1F);
        }
      },
      [&](float* out, const float* weights, size_t queries, const uint8_t* v, size_t stride) {
        if (queries == 1) {
          kernels.attention_mix(out, weights, rows(v), stride, a.keys, a.dim);
        } else {
          kernels.attention_mix_group(out, a.dim, weights, a.keys, queries, rows(v), stride, a.keys,
                                      a.dim);
        }
      });
}

struct CacheType {
  DType dtype;
  AttentionScoresGroupCache Kernels::* scores;
  AttentionMixGroupCache Kernels::* mix;
};

constexpr CacheType kCacheTypes[] = {
    {DType::F16, &Kernels::attention_scores_group_f16, &Kernels::attention_mix_group_f16},
    {DType::Q8_0, &Kernels::attention_scores_group_q8_0, &Kernels::attention_mix_group_q8_0}};

void run_cache_attention(benchmark::State& state, const Kernels& kernels, const CacheType& type,
                         Attention a) {
  const size_t row_bytes = bytes_of(type.dtype, a.dim);
  run_attention(
      state, a, row_bytes, row_bytes,
      [&](float* out, const float* q, size_t queries, const uint8_t* k, size_t stride) {
        (kernels.*type.scores)(out, a.keys, q, a.dim, queries, k, stride, a.keys, a.dim, 0.1F);
      },
      [&](float* out, const float* weights, size_t queries, const uint8_t* v, size_t stride) {
        (kernels.*type.mix)(out, a.dim, weights, a.keys, queries, v, stride, a.keys, a.dim);
      });
}

void add_attention(const Kernels& kernels) {
  for (const size_t dim : {64U, 128U}) {
    for (const size_t keys : {512U, 4096U}) {
      for (const bool group : {false, true}) {
        const Attention a = {9, 3, keys, dim, group};
        const auto name = [&](const char* cache) {
          return fmt::format("{}/attention/{}/{}x{}/{}", kernels.name, cache, keys, dim,
                             group ? "group" : "single");
        };
        benchmark::RegisterBenchmark(name("f32").c_str(), run_float_attention, kernels, a);
        benchmark::RegisterBenchmark(name("f16").c_str(), run_cache_attention, kernels,
                                     kCacheTypes[0], a);
        benchmark::RegisterBenchmark(name("q8_0").c_str(), run_cache_attention, kernels,
                                     kCacheTypes[1], a);
      }
    }
  }
}

void add_matmul(const Kernels& kernels) {
  for (const Type& type : kTypes) {
    for (const Shape s :
         {Shape{576, 1536, 1}, Shape{576, 1536, 256}, Shape{1536, 576, 1}, Shape{1536, 576, 256}}) {
      if (s.n % info(type.dtype).block_elements != 0) continue;
      const std::string name = fmt::format("{}/{}/{}x{}/{}", kernels.name,
                                           info(type.dtype).short_name, s.rows, s.n, s.tokens);
      benchmark::RegisterBenchmark(name.c_str(), run, kernels, type, s);
      if (type.int8 == nullptr) continue;
      benchmark::RegisterBenchmark(fmt::format("{}/widened", name).c_str(), run_widened, kernels,
                                   type, s);
    }
  }
}

void add_level(const Kernels& kernels) {
  add_matmul(kernels);
  add_attention(kernels);
}

}  // namespace
}  // namespace plumb::cpu

int main(int argc, char** argv) {
  using namespace plumb::cpu;
  benchmark::Initialize(&argc, argv);
  add_level(scalar_kernels());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add_level(avx2_kernels());
#endif
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
