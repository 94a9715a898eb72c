// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace plumb {

// What an index of an IQ type stands for: the magnitudes of 8 (IQ3: 4) consecutive values; for IQ1
// the values -1, 0, 1 in eighths. The numbers are those of ggml (ggml-common.h).
template <size_t kEntries, size_t kValues>
using IqGrid = std::array<std::array<int8_t, kValues>, kEntries>;

extern const IqGrid<256, 8> kIq2XxsGrid;
extern const IqGrid<512, 8> kIq2XsGrid;
extern const IqGrid<1024, 8> kIq2SGrid;
extern const IqGrid<256, 4> kIq3XxsGrid;
extern const IqGrid<512, 4> kIq3SGrid;
extern const IqGrid<2048, 8> kIq1Grid;

// Entry s, value j: -1 (all bits) if bit j of s is set, else 0. (x ^ mask) - mask is x or -x.
extern const std::array<std::array<int8_t, 8>, 256> kSignMasks;

// The eight signs that seven bits stand for: the number of minus signs is even.
constexpr uint8_t even_signs(uint32_t seven_bits) {
  return static_cast<uint8_t>(seven_bits | static_cast<uint32_t>(__builtin_parity(seven_bits))
                                               << 7);
}

// What a nibble of IQ4_NL and IQ4_XS stands for.
inline constexpr float kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace plumb
