// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <cstring>

namespace plumb {

// The 6-bit scales and minima of the eight sub-blocks of Q4_K and Q5_K, one a byte. The packing
// stands at BlockQ4_K; here four of them are taken apart at once.
struct SubScales {
  uint8_t scale[8];
  uint8_t min[8];
};

inline SubScales unpack_scales(const uint8_t* packed) {
  uint32_t word[3];
  std::memcpy(word, packed, sizeof(word));
  const uint32_t scale[2] = {word[0] & 0x3F3F3F3FU,
                             (word[2] & 0x0F0F0F0FU) | (word[0] >> 2 & 0x30303030U)};
  const uint32_t min[2] = {word[1] & 0x3F3F3F3FU,
                           (word[2] >> 4 & 0x0F0F0F0FU) | (word[1] >> 2 & 0x30303030U)};
  SubScales sub;
  std::memcpy(sub.scale, scale, sizeof(scale));
  std::memcpy(sub.min, min, sizeof(min));
  return sub;
}

}  // namespace plumb
