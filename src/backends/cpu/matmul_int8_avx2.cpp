// SPDX-License-Identifier: Apache-2.0
// Works on groups of 256 values = 8 blocks of 32, turned so that each of the 8 lanes of a vector
// holds 4 values of its own block: integer products then add up without leaving the lane, and one
// conversion serves 256 products. Activations and weights are turned once for many tiles of rows x
// tokens. Every tile shape does the same operations in the same order for one (row, token).
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"
#include "backends/cpu/kernels_iq4_table.h"
#include "quant/blocks.h"

namespace plumb::cpu::avx2 {
namespace {

constexpr size_t kGroup = 256;      // values
constexpr size_t kChunkGroups = 4;  // groups of a row of weights that are turned at a time
constexpr size_t kMaxTurned = 128;  // groups of activations that are turned at a time
constexpr size_t kTokenBlock = 32;  // tokens that share one turning of the weights
constexpr size_t kMaxSums = 2048;   // accumulators (rows * tokens) that are open at a time
constexpr size_t kTileRows = 4;
constexpr size_t kTileTokens = 2;

// Lane order of everything below: blocks 0 2 4 6 1 3 5 7 (those of "lane order").
// q[k][4 * lane ..]: values 4k .. 4k + 3 of the lane's block.
struct WeightGroup {
  alignas(32) uint8_t q[8][32];
  alignas(32) float scale[8];             // value = scale * multiplier * q + offset
  alignas(32) float offset[2][8];         // of the halves of a block; only [0] if !kHalves
  alignas(32) int16_t multiplier[2][16];  // of the halves of a block; only if kHalves
};

struct ActivationGroup {
  alignas(32) int8_t q[8][32];
  alignas(32) float scale[8];
  alignas(32) float sums[2][8];  // of the halves of a block; [0] of the whole block if !kHalves
};

__m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
__m256i loadu(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
__m128i loadu128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
__m256i load_pair(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(loadu128(low)), loadu128(high), 1);
}
void store(void* p, __m256i v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }

__m256 to_lane_order(__m256 v) {
  return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}

// In each half of 4 vectors: a 4 x 4 transpose of 32-bit words.
void turn(__m256i v[4]) {
  const __m256i ab_low = _mm256_unpacklo_epi32(v[0], v[1]);
  const __m256i ab_high = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i cd_low = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i cd_high = _mm256_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
  v[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
  v[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
  v[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

// Turns 8 blocks of 32 bytes, the first bytes kStep apart.
template <size_t kStep>
void turn_bytes(void* to, const void* from) {
  const char* p = static_cast<const char*>(from);
  for (size_t half = 0; half < 2; ++half) {
    __m256i v[4];
    for (size_t i = 0; i < 4; ++i)
      v[i] = load_pair(p + 2 * i * kStep + 16 * half, p + (2 * i + 1) * kStep + 16 * half);
    turn(v);
    for (size_t k = 0; k < 4; ++k) store(static_cast<char*>(to) + (4 * half + k) * 32, v[k]);
  }
}

// Turns 8 blocks of 16 bytes of nibbles, the first bytes kStep apart.
template <size_t kStep>
[[gnu::always_inline]] inline void turn_nibbles(WeightGroup& to, const void* from) {
  const char* p = static_cast<const char*>(from);
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i v[4];
  for (size_t i = 0; i < 4; ++i) v[i] = load_pair(p + 2 * i * kStep, p + (2 * i + 1) * kStep);
  turn(v);
  for (size_t k = 0; k < 4; ++k) {
    store(to.q[k], _mm256_and_si256(v[k], mask));
    store(to.q[k + 4], _mm256_and_si256(_mm256_srli_epi16(v[k], 4), mask));
  }
}

// Adds the fifth bits of 8 blocks: bit j of `high`, a word for each lane, is bit 4 of value j.
[[gnu::always_inline]] inline void add_fifth_bits(WeightGroup& to, __m256i high) {
  const __m256i fifth = _mm256_set1_epi8(16);
  const __m256i low_bits = _mm256_set1_epi32(0x08040201);
  const __m256i high_bits = _mm256_set1_epi32(static_cast<int>(0x80402010U));
  // The first byte of each word four times; then the next one.
  __m256i spread = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C, 0, 0x04040404,
                                     0x08080808, 0x0C0C0C0C);
  for (size_t k = 0; k < 8; k += 2) {
    const __m256i bytes = _mm256_shuffle_epi8(high, spread);
    const __m256i first = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, low_bits), low_bits);
    const __m256i second = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, high_bits), high_bits);
    store(to.q[k], _mm256_or_si256(load(to.q[k]), _mm256_and_si256(first, fifth)));
    store(to.q[k + 1], _mm256_or_si256(load(to.q[k + 1]), _mm256_and_si256(second, fifth)));
    spread = _mm256_add_epi8(spread, _mm256_set1_epi8(1));
  }
}

// A 32-bit word from each of 8 blocks, the first bytes kStep apart; in lane order.
template <size_t kStep>
__m256i load_words(const void* first) {
  const auto word = [first](size_t i) {
    int bits;
    __builtin_memcpy(&bits, static_cast<const char*>(first) + i * kStep, sizeof(bits));
    return bits;
  };
  return _mm256_setr_epi32(word(0), word(2), word(4), word(6), word(1), word(3), word(5), word(7));
}

__m256i broadcast_word(const void* p) {
  int bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return _mm256_set1_epi32(bits);
}

// A half from each of 8 blocks, the first bytes kStep apart; in lane order.
template <size_t kStep>
__m256 load_halves(const void* first) {
  const auto half = [first](size_t i) {
    short bits;
    __builtin_memcpy(&bits, static_cast<const char*>(first) + i * kStep, sizeof(bits));
    return bits;
  };
  return _mm256_cvtph_ps(
      _mm_setr_epi16(half(0), half(2), half(4), half(6), half(1), half(3), half(5), half(7)));
}

struct Q4_0 {
  using Block = BlockQ4_0;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 8;
  static void unpack(WeightGroup& to, const Block* from) {
    const __m256 d = load_halves<sizeof(Block)>(from);
    _mm256_store_ps(to.scale, d);
    _mm256_store_ps(to.offset[0], _mm256_mul_ps(d, _mm256_set1_ps(-8.0F)));
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
  }
};

struct Q4_1 {
  using Block = BlockQ4_1;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 8;
  static void unpack(WeightGroup& to, const Block* from) {
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    const char* first_m = reinterpret_cast<const char*>(from) + sizeof(from->d);
    _mm256_store_ps(to.offset[0], load_halves<sizeof(Block)>(first_m));
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
  }
};

struct Q5_0 {
  using Block = BlockQ5_0;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 4;
  static void unpack(WeightGroup& to, const Block* from) {
    const __m256 d = load_halves<sizeof(Block)>(from);
    _mm256_store_ps(to.scale, d);
    _mm256_store_ps(to.offset[0], _mm256_mul_ps(d, _mm256_set1_ps(-16.0F)));
    const char* bytes = reinterpret_cast<const char*>(from);
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
    add_fifth_bits(to, load_words<sizeof(Block)>(bytes + 2));
  }
};

struct Q5_1 {
  using Block = BlockQ5_1;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 4;
  static void unpack(WeightGroup& to, const Block* from) {
    const char* bytes = reinterpret_cast<const char*>(from);
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    _mm256_store_ps(to.offset[0], load_halves<sizeof(Block)>(bytes + 2));
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
    add_fifth_bits(to, load_words<sizeof(Block)>(bytes + 4));
  }
};

struct Q8_0 {
  using Block = BlockQ8_0;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = false, kHalves = false;
  static constexpr size_t kSteps = 1;
  static void unpack(WeightGroup& to, const Block* from) {
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    turn_bytes<sizeof(Block)>(to.q, from->q);
  }
};

// Blocks in lane order.
__m256i lane_blocks() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }

// The 6-bit scales and offsets of Q4_K and Q5_K.
template <class Block>
[[gnu::always_inline]] inline void unpack_k_scales(WeightGroup& to, const Block* from) {
  const auto to_floats = [](uint32_t first, uint32_t second) {
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(uint64_t{second} << 32 | first));
    return to_lane_order(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
  };
  uint32_t s[3];
  __builtin_memcpy(s, from->scales, sizeof(s));
  const __m256 sc =
      to_floats(s[0] & 0x3F3F3F3FU, (s[2] & 0x0F0F0F0FU) | ((s[0] >> 2) & 0x30303030U));
  const __m256 m =
      to_floats(s[1] & 0x3F3F3F3FU, ((s[2] >> 4) & 0x0F0F0F0FU) | ((s[1] >> 2) & 0x30303030U));
  _mm256_store_ps(to.scale, _mm256_mul_ps(_mm256_set1_ps(_cvtsh_ss(from->d)), sc));
  _mm256_store_ps(to.offset[0], _mm256_mul_ps(_mm256_set1_ps(-_cvtsh_ss(from->dmin)), m));
}

// Low nibbles are the even blocks, high ones the odd; the halves of a turned vector hold words k
// and k + 4.
[[gnu::always_inline]] inline void turn_k_nibbles(WeightGroup& to, const uint8_t* nibbles) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i v[4];
  for (size_t i = 0; i < 4; ++i) v[i] = loadu(nibbles + 32 * i);
  turn(v);
  for (size_t k = 0; k < 4; ++k) {
    const __m256i even = _mm256_and_si256(v[k], mask);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v[k], 4), mask);
    store(to.q[k], _mm256_permute2x128_si256(even, odd, 0x20));
    store(to.q[k + 4], _mm256_permute2x128_si256(even, odd, 0x31));
  }
}

// One bit of each of the values 4k .. 4k + 3 of every block: bit j of high[l] belongs to value l
// of block j.
__m256i high_bits(const uint8_t* high, size_t k) {
  const __m256i shifted = _mm256_srlv_epi32(broadcast_word(high + 4 * k), lane_blocks());
  return _mm256_and_si256(shifted, _mm256_set1_epi8(1));
}

// The two bits of the values 4k .. 4k + 3 of every block of Q2_K and Q3_K.
__m256i two_bits(const uint8_t* q, size_t k) {
  const __m256i words =
      _mm256_blend_epi32(broadcast_word(q + 4 * k), broadcast_word(q + 32 + 4 * k), 0xCC);
  const __m256i shifted = _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 4, 0, 4, 2, 6, 2, 6));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(3));
}

// The 16 scales of the parts of 16 values as integers: 8 of the first halves of the blocks, then
// 8 of the second, in lane order.
[[gnu::always_inline]] inline void store_part_scales(WeightGroup& to, __m128i scales) {
  const __m128i turned =
      _mm_shuffle_epi8(scales, _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
  for (size_t half = 0; half < 2; ++half) {
    const __m256i sc = _mm256_cvtepi8_epi32(half == 0 ? turned : _mm_srli_si128(turned, 8));
    store(to.multiplier[half], _mm256_blend_epi16(sc, _mm256_slli_epi32(sc, 16), 0xAA));
  }
}

[[gnu::always_inline]] inline void store_part_offsets(WeightGroup& to, __m128i scales, float unit) {
  const __m128i turned =
      _mm_shuffle_epi8(scales, _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
  const __m256 factor = _mm256_set1_ps(unit);
  for (size_t half = 0; half < 2; ++half) {
    const __m256i sc = _mm256_cvtepi8_epi32(half == 0 ? turned : _mm_srli_si128(turned, 8));
    _mm256_store_ps(to.offset[half], _mm256_mul_ps(factor, _mm256_cvtepi32_ps(sc)));
  }
}

struct Q2_K {
  using Block = BlockQ2_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = true;
  static constexpr size_t kSteps = 4;
  static void unpack(WeightGroup& to, const Block* from) {
    const __m128i both = loadu128(from->scales);
    const __m128i mask = _mm_set1_epi8(15);
    _mm256_store_ps(to.scale, _mm256_set1_ps(_cvtsh_ss(from->d)));
    store_part_scales(to, _mm_and_si128(both, mask));
    store_part_offsets(to, _mm_and_si128(_mm_srli_epi16(both, 4), mask), -_cvtsh_ss(from->dmin));
    for (size_t k = 0; k < 8; ++k) store(to.q[k], two_bits(from->q, k));
  }
};

struct Q3_K {
  using Block = BlockQ3_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = true;
  static constexpr size_t kSteps = 4;

  static __m128i scales(const uint8_t* packed) {
    uint64_t nibbles;
    int upper;
    __builtin_memcpy(&nibbles, packed, sizeof(nibbles));
    __builtin_memcpy(&upper, packed + 8, sizeof(upper));
    const __m128i low = _mm_and_si128(
        _mm_set_epi64x(static_cast<long long>(nibbles >> 4), static_cast<long long>(nibbles)),
        _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(
        _mm_srlv_epi32(_mm_set1_epi32(upper), _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    return _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
  }

  static void unpack(WeightGroup& to, const Block* from) {
    const float d = _cvtsh_ss(from->d);
    const __m128i sc = scales(from->scales);
    _mm256_store_ps(to.scale, _mm256_set1_ps(d));
    store_part_scales(to, sc);
    store_part_offsets(to, sc, -4.0F * d);
    for (size_t k = 0; k < 8; ++k) {
      const __m256i top = _mm256_slli_epi16(high_bits(from->high, k), 2);
      store(to.q[k], _mm256_or_si256(two_bits(from->q, k), top));
    }
  }
};

struct Q4_K {
  using Block = BlockQ4_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 8;
  static void unpack(WeightGroup& to, const Block* from) {
    unpack_k_scales(to, from);
    turn_k_nibbles(to, from->nibbles);
  }
};

struct Q5_K {
  using Block = BlockQ5_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = false;
  static constexpr size_t kSteps = 4;
  static void unpack(WeightGroup& to, const Block* from) {
    unpack_k_scales(to, from);
    turn_k_nibbles(to, from->nibbles);
    for (size_t k = 0; k < 8; ++k) {
      const __m256i fifth = _mm256_slli_epi16(high_bits(from->high, k), 4);
      store(to.q[k], _mm256_or_si256(load(to.q[k]), fifth));
    }
  }
};

struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = true;
  static constexpr size_t kSteps = 2;

  // 4 blocks of 32 bytes each.
  static void unpack_half(__m256i q[4], const uint8_t* low, const uint8_t* high) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i top = _mm256_set1_epi8(0x30);
    const __m256i a = loadu(low);
    const __m256i b = loadu(low + 32);
    const __m256i h = loadu(high);
    const auto join = [&](__m256i nibbles, __m256i bits) {
      return _mm256_or_si256(_mm256_and_si256(nibbles, mask), _mm256_and_si256(bits, top));
    };
    q[0] = join(a, _mm256_slli_epi16(h, 4));
    q[1] = join(b, _mm256_slli_epi16(h, 2));
    q[2] = join(_mm256_srli_epi16(a, 4), h);
    q[3] = join(_mm256_srli_epi16(b, 4), _mm256_srli_epi16(h, 2));
  }

  static void unpack(WeightGroup& to, const Block* from) {
    const float d = _cvtsh_ss(from->d);
    _mm256_store_ps(to.scale, _mm256_set1_ps(d));
    store_part_scales(to, loadu128(from->scales));
    store_part_offsets(to, loadu128(from->scales), -32.0F * d);
    __m256i q[8];
    unpack_half(q, from->low, from->high);
    unpack_half(q + 4, from->low + 64, from->high + 32);
    __m256i first[4], second[4];
    for (size_t i = 0; i < 4; ++i) {
      first[i] = _mm256_permute2x128_si256(q[2 * i], q[2 * i + 1], 0x20);
      second[i] = _mm256_permute2x128_si256(q[2 * i], q[2 * i + 1], 0x31);
    }
    turn(first);
    turn(second);
    for (size_t k = 0; k < 4; ++k) {
      store(to.q[k], first[k]);
      store(to.q[k + 4], second[k]);
    }
  }
};

[[gnu::always_inline]] inline void look_up_iq4(WeightGroup& to) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kIq4Table)));
  for (size_t k = 0; k < 8; ++k) store(to.q[k], _mm256_shuffle_epi8(table, load(to.q[k])));
}

struct IQ4_NL {
  using Block = BlockIQ4_NL;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = false, kHalves = false;
  static constexpr size_t kSteps = 1;
  static void unpack(WeightGroup& to, const Block* from) {
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
    look_up_iq4(to);
  }
};

struct IQ4_XS {
  using Block = BlockIQ4_XS;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = false, kHalves = false;
  static constexpr size_t kSteps = 1;
  static void unpack(WeightGroup& to, const Block* from) {
    uint32_t low;
    __builtin_memcpy(&low, from->low, sizeof(low));
    const uint64_t nibbles = (low & 0x0F0F0F0FU) | uint64_t{low >> 4 & 0x0F0F0F0FU} << 32;
    const __m256i lower = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(nibbles)));
    const __m256i shifts = _mm256_add_epi32(lane_blocks(), lane_blocks());
    const __m256i upper = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(from->high), shifts),
                                           _mm256_set1_epi32(3));
    const __m256i sc = _mm256_sub_epi32(_mm256_or_si256(lower, _mm256_slli_epi32(upper, 4)),
                                        _mm256_set1_epi32(32));
    _mm256_store_ps(to.scale,
                    _mm256_mul_ps(_mm256_set1_ps(_cvtsh_ss(from->d)), _mm256_cvtepi32_ps(sc)));
    turn_nibbles<16>(to, from->nibbles);
    look_up_iq4(to);
  }
};

template <class W>
void turn_activations(ActivationGroup& to, const int8_t* values, const float* scales,
                      const float* sums) {
  turn_bytes<32>(to.q, values);
  _mm256_store_ps(to.scale, to_lane_order(_mm256_loadu_ps(scales)));
  if constexpr (W::kOffset) {
    const __m256 a = _mm256_loadu_ps(sums);
    const __m256 b = _mm256_loadu_ps(sums + 8);
    const __m256i order = _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7);
    const __m256 first = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0x88), order);
    const __m256 second = _mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0xDD), order);
    _mm256_store_ps(to.sums[0], W::kHalves ? first : _mm256_add_ps(first, second));
    if constexpr (W::kHalves) _mm256_store_ps(to.sums[1], second);
  }
}

// Values [begin, end) of a row of activations, padded with zeros to whole groups.
template <class W>
void turn_row(ActivationGroup* to, Int8Rows x, size_t begin, size_t end) {
  for (; end - begin >= kGroup; begin += kGroup, ++to)
    turn_activations<W>(*to, x.values + begin, x.scales + begin / 32, x.sums + begin / 16);
  const size_t rest = end - begin;
  if (rest == 0) return;
  alignas(32) int8_t values[kGroup] = {};
  alignas(32) float scales[8] = {};
  alignas(32) float sums[16] = {};
  __builtin_memcpy(values, x.values + begin, rest);
  __builtin_memcpy(scales, x.scales + begin / 32, rest / 32 * sizeof(float));
  __builtin_memcpy(sums, x.sums + begin / 16, rest / 16 * sizeof(float));
  turn_activations<W>(*to, values, scales, sums);
}

// The same for a row of weights: a missing block gets scale and offset 0. `spare` bytes after the
// row may be read; where they suffice, the copy of an incomplete group is saved.
template <class W>
void unpack_row(WeightGroup* to, const typename W::Block* row, size_t begin, size_t end,
                size_t spare) {
  constexpr size_t kBlocks = kGroup / W::kValues;
  const typename W::Block* from = row + begin / W::kValues;
  for (; end - begin >= kGroup; begin += kGroup, ++to, from += kBlocks) W::unpack(*to, from);
  if (end == begin) return;
  const size_t count = (end - begin) / W::kValues;
  typename W::Block padded[kBlocks];
  if (spare < sizeof(padded)) {
    __builtin_memset(padded, 0, sizeof(padded));
    __builtin_memcpy(padded, from, count * sizeof(padded[0]));
    from = padded;
  }
  W::unpack(*to, from);
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  const __m256 present =
      _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), order));
  _mm256_store_ps(to->scale, _mm256_and_ps(_mm256_load_ps(to->scale), present));
  if constexpr (W::kOffset)
    _mm256_store_ps(to->offset[0], _mm256_and_ps(_mm256_load_ps(to->offset[0]), present));
}

// W::kSteps steps (words of a block) are added up in 16 bits before a multiplier applies. No such
// sum saturates: of 8 steps 8 * 15 * 127 * 2 (4-bit weights), of 4 steps 4 * 31 * 127 * 2 (5-bit
// and less), of 2 steps 2 * 63 * 127 * 2 (6-bit), of 1 step 128 * 127 * 2 (8-bit: the sign moves
// to x, so that the weight is unsigned).

// Adds 2 steps if kHalves, otherwise 1.
template <class W>
[[gnu::always_inline]] inline __m256i add_steps(__m256i sum, const __m256i* w, const __m256i* x,
                                                __m256i multiplier) {
  if constexpr (W::kSteps == 1) {
    const __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), _mm256_sign_epi8(x[0], w[0]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(p, multiplier));
  } else if constexpr (W::kHalves) {
    const __m256i p0 = _mm256_maddubs_epi16(w[0], x[0]);
    const __m256i p1 = _mm256_maddubs_epi16(w[1], x[1]);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(p0, p1), multiplier));
  } else {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[0], x[0]));
  }
}

struct Activations {
  const ActivationGroup* first;
  size_t stride;  // groups from one token to the next
  const ActivationGroup& at(size_t t, size_t g) const { return first[t * stride + g]; }
};

// The integer sums of one group whose 16-bit sums reach over half a block.
template <class W, size_t R, size_t T>
[[gnu::always_inline]] inline void dot_halves(__m256i (&dots)[T][R],
                                              const WeightGroup (*w)[kChunkGroups], Activations x,
                                              size_t g) {
  for (size_t t = 0; t < T; ++t)
    for (size_t r = 0; r < R; ++r) dots[t][r] = _mm256_setzero_si256();
#pragma GCC unroll 1
  for (size_t half = 0; half < 2; ++half) {
    __m256i sums[T][R];
    for (size_t t = 0; t < T; ++t)
      for (size_t r = 0; r < R; ++r) sums[t][r] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (size_t k = 4 * half; k < 4 * half + 4; ++k) {
      __m256i xs[T];
      for (size_t t = 0; t < T; ++t) xs[t] = load(x.at(t, g).q[k]);
      for (size_t r = 0; r < R; ++r) {
        const __m256i weight = load(w[r][g].q[k]);
        for (size_t t = 0; t < T; ++t)
          sums[t][r] = _mm256_add_epi16(sums[t][r], _mm256_maddubs_epi16(weight, xs[t]));
      }
    }
    for (size_t r = 0; r < R; ++r) {
      const __m256i multiplier = W::kHalves ? load(w[r][g].multiplier[half]) : _mm256_set1_epi16(1);
      for (size_t t = 0; t < T; ++t)
        dots[t][r] = _mm256_add_epi32(dots[t][r], _mm256_madd_epi16(sums[t][r], multiplier));
    }
  }
}

// The integer sums of one group otherwise.
template <class W, size_t R, size_t T>
[[gnu::always_inline]] inline void dot_group(__m256i (&dots)[T][R],
                                             const WeightGroup (*w)[kChunkGroups], Activations x,
                                             size_t g) {
  constexpr size_t kStep = W::kHalves ? 2 : 1;
  for (size_t t = 0; t < T; ++t)
    for (size_t r = 0; r < R; ++r) dots[t][r] = _mm256_setzero_si256();
#pragma GCC unroll 1  // Unrolled, the compiler would run out of registers.
  for (size_t k = 0; k < 8; k += kStep) {
    __m256i xs[T][kStep];
    for (size_t t = 0; t < T; ++t)
      for (size_t i = 0; i < kStep; ++i) xs[t][i] = load(x.at(t, g).q[k + i]);
    for (size_t r = 0; r < R; ++r) {
      __m256i ws[kStep];
      for (size_t i = 0; i < kStep; ++i) ws[i] = load(w[r][g].q[k + i]);
      const __m256i multiplier =
          W::kHalves ? load(w[r][g].multiplier[k / 4]) : _mm256_set1_epi16(1);
      for (size_t t = 0; t < T; ++t) dots[t][r] = add_steps<W>(dots[t][r], ws, xs[t], multiplier);
    }
  }
}

// sums: [T][R][8 lanes]; w: rows of groups; x: tokens of groups.
template <class W, size_t R, size_t T>
void tile(float* sums, const WeightGroup (*w)[kChunkGroups], Activations x, size_t groups) {
  for (size_t g = 0; g < groups; ++g) {
    __m256i dots[T][R];
    if constexpr (W::kSteps == 4) {
      dot_halves<W>(dots, w, x, g);
    } else {
      dot_group<W>(dots, w, x, g);
    }
    for (size_t t = 0; t < T; ++t) {
      for (size_t r = 0; r < R; ++r) {
        float* at = sums + (t * R + r) * 8;
        __m256i dot = dots[t][r];
        if constexpr (W::kSteps == 8) dot = _mm256_madd_epi16(dot, _mm256_set1_epi16(1));
        const __m256 scale =
            _mm256_mul_ps(_mm256_load_ps(w[r][g].scale), _mm256_load_ps(x.at(t, g).scale));
        __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, _mm256_load_ps(at));
        for (size_t h = 0; h < (W::kHalves ? 2 : W::kOffset ? 1 : 0); ++h) {
          sum = _mm256_fmadd_ps(_mm256_load_ps(w[r][g].offset[h]),
                                _mm256_load_ps(x.at(t, g).sums[h]), sum);
        }
        _mm256_store_ps(at, sum);
      }
    }
  }
}

struct Range {
  size_t begin;
  size_t end;
};

// Asks for the bytes that the next strip will read. Rows are read in pieces, many at a time: a
// pattern that the processor does not foresee. Decoding random models of 1.1B: 1.8 times as fast
// for Q8_0, 2.8 times for Q4_K_M (2 threads, Zen 5).
inline void prefetch(const unsigned char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T0);
}

// R rows, some values of all tokens of the block; `spare` bytes after the rows may be read.
template <class W, size_t R>
void strip(float* sums, const unsigned char* rows, size_t row_bytes, Activations x, size_t tokens,
           Range values, size_t spare) {
  constexpr size_t kChunk = kChunkGroups * kGroup;
  WeightGroup groups[R][kChunkGroups];
  for (size_t begin = values.begin; begin < values.end; begin += kChunk, x.first += kChunkGroups) {
    const size_t end = values.end - begin < kChunk ? values.end : begin + kChunk;
    const size_t count = (end - begin + kGroup - 1) / kGroup;
    for (size_t r = 0; r < R; ++r) {
      const auto* row = reinterpret_cast<const typename W::Block*>(rows + r * row_bytes);
      prefetch(rows + (r + R) * row_bytes + begin / W::kValues * sizeof(typename W::Block),
               (end - begin) / W::kValues * sizeof(typename W::Block));
      unpack_row<W>(groups[r], row, begin, end, spare + (R - 1 - r) * row_bytes);
    }
    size_t t = 0;
    for (; t + kTileTokens <= tokens; t += kTileTokens)
      tile<W, R, kTileTokens>(sums + t * R * 8, groups, {&x.at(t, 0), x.stride}, count);
    for (; t < tokens; ++t) tile<W, R, 1>(sums + t * R * 8, groups, {&x.at(t, 0), x.stride}, count);
  }
}

// A block of rows and tokens with rows * tokens <= kMaxSums; `rows` points at the first.
template <class W>
void matmul_block(float* out, size_t out_stride, const unsigned char* rows, size_t row_count,
                  size_t n, Int8Rows x, size_t tokens) {
  alignas(32) float sums[kMaxSums * 8];  // [row tile][token][row in tile][lane]
  ActivationGroup turned[kMaxTurned];
  const size_t stride = kMaxTurned / tokens;
  const size_t chunk = stride * kGroup;
  const Activations x_turned = {turned, stride};
  const size_t row_bytes = n / W::kValues * sizeof(typename W::Block);
  const size_t tiled = row_count / kTileRows * kTileRows;
  __builtin_memset(sums, 0, row_count * tokens * 8 * sizeof(float));
  for (size_t begin = 0; begin < n; begin += chunk) {
    const Range values = {begin, n - begin < chunk ? n : begin + chunk};
    for (size_t t = 0; t < tokens; ++t) {
      const Int8Rows row = {x.values + t * n, x.scales + t * (n / 32), x.sums + t * (n / 16)};
      turn_row<W>(turned + t * stride, row, values.begin, values.end);
    }
    for (size_t r = 0; r < tiled; r += kTileRows)
      strip<W, kTileRows>(sums + r * tokens * 8, rows + r * row_bytes, row_bytes, x_turned, tokens,
                          values, (row_count - r - kTileRows) * row_bytes);
    for (size_t r = tiled; r < row_count; ++r)
      strip<W, 1>(sums + r * tokens * 8, rows + r * row_bytes, row_bytes, x_turned, tokens, values,
                  (row_count - r - 1) * row_bytes);
  }
  for (size_t r = 0; r < row_count; ++r) {
    const size_t width = r < tiled ? kTileRows : 1;
    const float* first = sums + (r - r % width) * tokens * 8 + r % width * 8;
    for (size_t t = 0; t < tokens; ++t)
      out[t * out_stride + r] = sum_lanes(_mm256_load_ps(first + t * width * 8));
  }
}

template <class W>
void matmul(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
            size_t n, Int8Rows x, size_t tokens) {
  const size_t row_bytes = n / W::kValues * sizeof(typename W::Block);
  const auto* rows = static_cast<const unsigned char*>(weight);
  for (size_t t = 0; t < tokens; t += kTokenBlock) {
    const size_t count = tokens - t < kTokenBlock ? tokens - t : kTokenBlock;
    const size_t height = kMaxSums / count / kTileRows * kTileRows;
    const Int8Rows at = {x.values + t * n, x.scales + t * (n / 32), x.sums + t * (n / 16)};
    for (size_t r = row_begin; r < row_end; r += height) {
      const size_t row_count = row_end - r < height ? row_end - r : height;
      matmul_block<W>(out + t * out_stride + r, out_stride, rows + r * row_bytes, row_count, n, at,
                      count);
    }
  }
}

}  // namespace

void matmul_q4_0(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q4_0>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q4_1(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q4_1>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q5_0(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q5_0>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q5_1(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q5_1>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q8_0(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q8_0>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q2_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q2_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q3_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q3_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q4_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q4_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q5_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q5_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q6_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q6_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_iq4_nl(float* out, size_t out_stride, const void* weight, size_t row_begin,
                   size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<IQ4_NL>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_iq4_xs(float* out, size_t out_stride, const void* weight, size_t row_begin,
                   size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<IQ4_XS>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

}  // namespace plumb::cpu::avx2
