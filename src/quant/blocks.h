// SPDX-License-Identifier: Apache-2.0
// Block layouts of the GGUF weight types. Plain data without C++ headers, so that kernels compiled
// for one CPU may include it. Packed: a tensor in a file needs no alignment. Scales are halves
// (uint16_t d, m, dmin) unless they say otherwise. docs/formats/blocks.md has all formulas.
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

// Nibbles as Q4_0, bit j of the 32-bit `high` is bit 4 of value j. x = d * (q - 16).
struct [[gnu::packed]] BlockQ5_0 {
  uint16_t d;
  uint32_t high;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// Bits as Q5_0. x = d * q + m.
struct [[gnu::packed]] BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint32_t high;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// 32 values. x = d * q.
struct [[gnu::packed]] BlockQ8_0 {
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// 32 values, x = d * q. `sum` is d times the sum of q, which dot products use.
struct [[gnu::packed]] BlockQ8_1 {
  uint16_t d;
  uint16_t sum;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_1) == 36);

// 256 values in two halves of 32 bytes; byte l of a half holds values l, l + 32, l + 64, l + 96,
// the lowest two bits first. x = (d * sc) * q - (dmin * m), one byte of scales for each 16 values:
// sc in its low nibble, m in its high one.
struct [[gnu::packed]] BlockQ2_K {
  uint8_t scales[16];
  uint8_t q[64];
  uint16_t d;
  uint16_t dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

// Low two bits as Q2_K; bit i / 32 of high[i % 32] is bit 2 of value i. x = d * (sc - 32) * (q -
// 4), one 6-bit sc for each 16 values, packed into `scales`:
//   low four bits of sc j: nibble j / 8 of s[j % 8]; high two: bits 2 * (j / 4).. of s[8 + j % 4]
struct [[gnu::packed]] BlockQ3_K {
  uint8_t high[32];
  uint8_t q[64];
  uint8_t scales[12];
  uint16_t d;
};
static_assert(sizeof(BlockQ3_K) == 110);

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

// As Q4_K; bit j of high[l] is bit 4 of value l of sub-block j.
struct [[gnu::packed]] BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

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

// 256 values, x = d * q. `sums` are those of q over each 16 values, which dot products use.
struct [[gnu::packed]] BlockQ8_K {
  float d;
  int8_t q[256];
  int16_t sums[16];
};
static_assert(sizeof(BlockQ8_K) == 292);

// The IQ1, IQ2 and IQ3 types look up 8 (IQ3: 4) values at once in a grid (iq_grids.h). For each 32
// values, `groups` holds four bytes of grid indices, then a 32-bit word: sign patterns of 7 bits
// from bit 0 on, and the scale in bits 28 to 31. The sign of a group's eighth value makes the
// number of minus signs even. x = d * (0.5 + scale) * 0.25 * grid * sign.
struct [[gnu::packed]] BlockIQ2_XXS {
  uint16_t d;
  struct [[gnu::packed]] {
    uint8_t index[4];
    uint32_t signs_and_scale;
  } groups[8];
};
static_assert(sizeof(BlockIQ2_XXS) == 66);

// For each 8 values 9 bits of grid index, then 7 bits of signs as IQ2_XXS; a nibble of scale for
// each 16 values, low one first. The formula of IQ2_XXS.
struct [[gnu::packed]] BlockIQ2_XS {
  uint16_t d;
  uint16_t index_and_signs[32];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74);

// Grid index: index[g] and above it bits 2 * (g % 4).. of high[g / 4]. signs[g] has all eight
// signs. Scales and formula of IQ2_XS.
struct [[gnu::packed]] BlockIQ2_S {
  uint16_t d;
  uint8_t index[32];
  uint8_t signs[32];
  uint8_t high[8];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82);

// One index for each 4 values; one word of signs and scale for each 32, as IQ2_XXS.
// x = d * (0.5 + scale) * 0.5 * grid * sign.
struct [[gnu::packed]] BlockIQ3_XXS {
  uint16_t d;
  uint8_t index[64];
  uint32_t signs_and_scale[8];
};
static_assert(sizeof(BlockIQ3_XXS) == 98);

// Grid index: index[g] and above it bit g % 8 of high[g / 8]; a bit of sign for each value; a
// nibble of scale for each 32 values, low one first. x = d * (1 + 2 * scale) * grid * sign.
struct [[gnu::packed]] BlockIQ3_S {
  uint16_t d;
  uint8_t index[64];
  uint8_t high[8];
  uint8_t signs[32];
  uint8_t scales[4];
};
static_assert(sizeof(BlockIQ3_S) == 110);

// A word of `high` for each 32 values: three upper bits of the index of each 8 from bit 0 on, the
// scale in bits 12 to 14, and in bit 15 the sign of delta = 0.125, set for minus.
// x = d * (2 * scale + 1) * (grid + delta).
struct [[gnu::packed]] BlockIQ1_S {
  uint16_t d;
  uint8_t index[32];
  uint16_t high[8];
};
static_assert(sizeof(BlockIQ1_S) == 50);

// A nibble of `high` for each 8 values: three upper bits of the index, then the sign of delta. A
// scale of 3 bits for each 16 values, four of them from bit 0 on in each word of `scales`; bits 12
// to 15 of the words, the first word lowest, are the half d. The formula of IQ1_S.
struct [[gnu::packed]] BlockIQ1_M {
  uint8_t index[32];
  uint8_t high[16];
  uint16_t scales[4];
};
static_assert(sizeof(BlockIQ1_M) == 56);

// Nibbles as Q4_0. x = d * T[q], T in iq_grids.h.
struct [[gnu::packed]] BlockIQ4_NL {
  uint16_t d;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

// Eight sub-blocks of 32 with nibbles as Q4_0. Scale of sub-block j: nibble j % 2 of low[j / 2],
// and above it bits 2j.. of `high`. x = d * (scale - 32) * T[q].
struct [[gnu::packed]] BlockIQ4_XS {
  uint16_t d;
  uint16_t high;
  uint8_t low[4];
  uint8_t nibbles[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// 256 values -1, 0, 1. A byte holds a number of five (`last`: four) ternary digits as a fraction of
// 256: digit n is (b * 3^n mod 256) * 3 / 256 rounded down. Order of the values: digits 0 to 4 of
// q[0..31], digits 0 to 4 of q[32..47], digits 0 to 3 of `last`, bytes innermost. x = d * (q - 1).
struct [[gnu::packed]] BlockTQ1_0 {
  uint8_t q[48];
  uint8_t last[4];
  uint16_t d;
};
static_assert(sizeof(BlockTQ1_0) == 54);

// Two-bit values in the order of Q2_K. x = d * (q - 1).
struct [[gnu::packed]] BlockTQ2_0 {
  uint8_t q[64];
  uint16_t d;
};
static_assert(sizeof(BlockTQ2_0) == 66);

// Nibbles as Q4_0, each an FP4 number (E2M1). The scale is 2^(exponent - 127) (E8M0).
struct [[gnu::packed]] BlockMXFP4 {
  uint8_t exponent;
  uint8_t nibbles[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// Four sub-blocks of 16: the low nibbles of 8 bytes, then their high ones, each an FP4 number. One
// E4M3 scale each, whose sign bit is not looked at.
struct [[gnu::packed]] BlockNVFP4 {
  uint8_t scales[4];
  uint8_t nibbles[32];
};
static_assert(sizeof(BlockNVFP4) == 36);

}  // namespace plumb
