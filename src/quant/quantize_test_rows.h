// SPDX-License-Identifier: Apache-2.0
// Pseudo-random rows for the tests of quantize(), made without the math library so that every
// machine makes the same bits. tools/make_quantize_hashes.cpp gives the same rows to ggml.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace plumb {

inline constexpr const char* kRowKinds[] = {"normal",    "outlier", "zero", "constant", "positive",
                                            "negative",  "sparse",  "ties", "mixed",    "tiny",
                                            "subnormal", "huge",    "bits"};
inline constexpr size_t kRowCount = 4096;  // 16 blocks of 256, 128 of 32

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Near enough to normal: the sum of 12 uniform values has variance 1.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

// Value `i` of a row of kind `kind` (an index into kRowKinds).
inline float row_value(size_t kind, size_t i, SplitMix64& random) {
  const double normal = 0.02 * random.normal();
  const uint64_t any = random.next();
  const bool odd = any % 2 != 0;
  switch (kind) {
    case 0: return static_cast<float>(normal);
    case 1: return static_cast<float>(any % 64 == 0 ? 50 * normal : normal);
    case 2: return odd ? 0.0F : -0.0F;
    case 3: return (i / 256 % 2 != 0 ? -1.0F : 1.0F) * static_cast<float>(1 + i / 512) * 0.37F;
    case 4: return static_cast<float>(1 + 50 * normal * normal);
    case 5: return static_cast<float>(-0.3 - (normal < 0 ? -normal : normal));
    case 6: return any % 16 == 0 ? static_cast<float>(normal) : 0.0F;
    case 7: return static_cast<float>(static_cast<int>(any % 63) - 31) * 0x1p-6F;
    case 8: return static_cast<float>(normal) * std::bit_cast<float>(uint32_t(100 + i / 32) << 23);
    case 9: return static_cast<float>(normal * 1e-6 * (i % 512 < 256 ? 1 : 1e-8));
    case 10: return static_cast<float>(static_cast<int>(any % 4096) - 2048) * 0x1p-149F;
    case 11: return static_cast<float>(normal * (i % 512 < 256 ? 3e8 : 1e30));
    default: {
      // Any finite bits with exponents from 2^-30 to 2^33.
      const auto bits = static_cast<uint32_t>(any >> 32);
      return std::bit_cast<float>((bits & 0x807FFFFFU) | (97U + bits % 64U) << 23);
    }
  }
}

inline std::vector<float> test_row(size_t kind) {
  SplitMix64 random(1 + kind);
  std::vector<float> row(kRowCount);
  for (size_t i = 0; i < kRowCount; ++i) row[i] = row_value(kind, i, random);
  return row;
}

}  // namespace plumb
