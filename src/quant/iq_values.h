// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/iq_grids.h"

namespace plumb {

// A block of an IQ2 or IQ3 type between its two steps: first grid entries and signs are gathered as
// bytes, 8 or 4 at a time, then all bytes become floats in loops that vectorize.
struct SignedGridValues {
  int8_t magnitude[256];
  int8_t mask[256];  // -1 where the value is negative, else 0

  template <size_t kCount>
  void set_magnitudes(size_t at, const std::array<int8_t, kCount>& entry) {
    std::memcpy(magnitude + at, entry.data(), kCount);
  }

  void set_signs(size_t at, uint8_t signs) { std::memcpy(mask + at, kSignMasks[signs].data(), 8); }
};

// One scale for each kEach values.
template <size_t kEach>
inline void scale_values(const SignedGridValues& values, const float* scales,
                         float* __restrict out) {
  for (size_t i = 0; i < 256; i += kEach) {
    const float scale = scales[i / kEach];
    const int8_t* magnitude = values.magnitude + i;
    const int8_t* mask = values.mask + i;
    for (size_t l = 0; l < kEach; ++l)
      out[i + l] = scale * static_cast<float>((magnitude[l] ^ mask[l]) - mask[l]);
  }
}

}  // namespace plumb
