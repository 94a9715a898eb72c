// SPDX-License-Identifier: Apache-2.0
// Speed of dequantize() on one core, in bytes of file per second. The source is larger than the
// inner caches, as a file is; the floats are written over and over into a buffer that stays there.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

constexpr size_t kElements = size_t{16} << 20;
constexpr size_t kPiece = 4096;

void run(benchmark::State& state, DType dtype) {
  std::mt19937 generator(1);
  std::vector<std::byte> source(bytes_of(dtype, kElements));
  // Bits 0x3b keep every half and float small and finite.
  for (std::byte& b : source) b = static_cast<std::byte>(generator() & 0x3B);
  std::vector<float> out(kPiece);
  const size_t piece_bytes = bytes_of(dtype, kPiece);
  for (auto _ : state) {
    for (size_t offset = 0; offset < source.size(); offset += piece_bytes) {
      dequantize(dtype, source.data() + offset, kPiece, out.data());
      benchmark::DoNotOptimize(out.data());
      benchmark::ClobberMemory();
    }
  }
  const auto rounds = static_cast<int64_t>(state.iterations());
  state.SetBytesProcessed(rounds * static_cast<int64_t>(source.size()));
  state.SetItemsProcessed(rounds * static_cast<int64_t>(kElements));
}

void add_types() {
  for (const DTypeInfo& type : kDTypes) {
    const bool float8 = type.dtype == DType::F8_E4M3 || type.dtype == DType::F8_E5M2;
    if (is_weight_type(type.dtype) || float8)
      benchmark::RegisterBenchmark(std::string(type.short_name).c_str(), run, type.dtype);
  }
}

}  // namespace
}  // namespace plumb

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  plumb::add_types();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
