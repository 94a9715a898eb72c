// SPDX-License-Identifier: Apache-2.0
// Block layouts of the GGUF weight types. Plain data without C++ headers, so that kernels compiled
// for one CPU may include it. Packed: a tensor in a file needs no alignment. Scales are halves.
#pragma once
#include <stdint.h>

namespace plumb {

// 32 values; value j is the low nibble of nibbles[j], value j + 16 the high one. x = d * (q - 8).
struct [[gnu::packed]] BlockQ4_0 {
  uint16_t d;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// Nibbles as Q4_0. x = d * q + m.
struct [[gnu::packed]] BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// 32 values. x = d * q.
struct [[gnu::packed]] BlockQ8_0 {
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// 256 values in 8 sub-blocks of 32: bytes 32j.. of nibbles hold sub-blocks 2j (low), 2j + 1 (high).
// x = (d * sc) * q - (dmin * m); the 6-bit sc and m of the sub-blocks are packed into `scales`:
//   j < 4:  sc = s[j] & 63, m = s[j + 4] & 63
//   j >= 4: sc = s[j + 4] & 15 | s[j - 4] >> 6 << 4, m = s[j + 4] >> 4 | s[j] >> 6 << 4
struct [[gnu::packed]] BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// 256 values in two halves (64 bytes of low, 32 of high, 8 scales each). In a half, for l < 32:
//   value l      = low[l] & 15      | (high[l] & 3) << 4
//   value l + 32 = low[l + 32] & 15 | (high[l] >> 2 & 3) << 4
//   value l + 64 = low[l] >> 4      | (high[l] >> 4 & 3) << 4
//   value l + 96 = low[l + 32] >> 4 | (high[l] >> 6 & 3) << 4
// x = d * scale * (q - 32), one scale for each 16 values.
struct [[gnu::packed]] BlockQ6_K {
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

}  // namespace plumb
