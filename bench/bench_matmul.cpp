// SPDX-License-Identifier: Apache-2.0
// Speed of the matmul kernels of each level on one core, in multiply-adds per second.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"
#include "core/dtype.h"

namespace plumb::cpu {
namespace {

struct Type {
  DType dtype;
  MatMulInt8 Kernels::* int8;
  MatMulFloat Kernels::* real;  // one of the two is null
};

constexpr Type kTypes[] = {
    {DType::Q4_0, &Kernels::matmul_q4_0, nullptr}, {DType::Q4_1, &Kernels::matmul_q4_1, nullptr},
    {DType::Q8_0, &Kernels::matmul_q8_0, nullptr}, {DType::Q4_K, &Kernels::matmul_q4_k, nullptr},
    {DType::Q6_K, &Kernels::matmul_q6_k, nullptr}, {DType::F32, nullptr, &Kernels::matmul_f32},
    {DType::F16, nullptr, &Kernels::matmul_f16},   {DType::BF16, nullptr, &Kernels::matmul_bf16},
};

struct Shape {
  size_t rows, n, tokens;
};

void run(benchmark::State& state, const Kernels& kernels, const Type& type, Shape s) {
  std::mt19937 generator(1);
  // Bits 0x3b keep every half and float small and finite.
  std::vector<uint8_t> weight(bytes_of(type.dtype, s.rows * s.n));
  for (uint8_t& b : weight) b = generator() & 0x3B;
  std::vector<float> x(s.n * s.tokens);
  for (float& v : x) v = std::uniform_real_distribution<float>(-1, 1)(generator);
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
  const auto macs = static_cast<double>(s.rows * s.n * s.tokens);
  state.counters["GMAC/s"] = benchmark::Counter(
      macs * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void add_level(const Kernels& kernels) {
  for (const Type& type : kTypes) {
    for (const Shape s :
         {Shape{576, 1536, 1}, Shape{576, 1536, 256}, Shape{1536, 576, 1}, Shape{1536, 576, 256}}) {
      if (s.n % info(type.dtype).block_elements != 0) continue;
      const std::string name =
          std::string(kernels.name) + "/" + std::string(info(type.dtype).short_name) + "/" +
          std::to_string(s.rows) + "x" + std::to_string(s.n) + "/" + std::to_string(s.tokens);
      benchmark::RegisterBenchmark(name.c_str(), run, kernels, type, s);
    }
  }
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
