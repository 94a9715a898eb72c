// SPDX-License-Identifier: Apache-2.0
// Works on groups of 256 values = 8 blocks of 32, turned so that each of the 8 lanes of a vector
// holds 4 values of its own block: integer products then add up without leaving the lane, and one
// conversion serves 256 products. Activations and weights are turned once for many tiles of rows x
// tokens. Every tile shape does the same operations in the same order for one (row, token).
#include <immintrin.h>

#include "backends/cpu/kernels_avx2_vec.h"
#include "backends/cpu/kernels_internal.h"
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
  static constexpr bool kOffset = true, kHalves = false, kSigned = false;
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
  static constexpr bool kOffset = true, kHalves = false, kSigned = false;
  static void unpack(WeightGroup& to, const Block* from) {
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    const char* first_m = reinterpret_cast<const char*>(from) + sizeof(from->d);
    _mm256_store_ps(to.offset[0], load_halves<sizeof(Block)>(first_m));
    turn_nibbles<sizeof(Block)>(to, from->nibbles);
  }
};

struct Q8_0 {
  using Block = BlockQ8_0;
  static constexpr size_t kValues = 32;
  static constexpr bool kOffset = false, kHalves = false, kSigned = true;
  static void unpack(WeightGroup& to, const Block* from) {
    _mm256_store_ps(to.scale, load_halves<sizeof(Block)>(from));
    turn_bytes<sizeof(Block)>(to.q, from->q);
  }
};

struct Q4_K {
  using Block = BlockQ4_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = false, kSigned = false;

  static __m256 to_floats(uint32_t first, uint32_t second) {
    const __m128i bytes = _mm_cvtsi64_si128(static_cast<long long>(uint64_t{second} << 32 | first));
    return to_lane_order(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
  }

  static void unpack(WeightGroup& to, const Block* from) {
    uint32_t s[3];
    __builtin_memcpy(s, from->scales, sizeof(s));
    const __m256 sc =
        to_floats(s[0] & 0x3F3F3F3FU, (s[2] & 0x0F0F0F0FU) | ((s[0] >> 2) & 0x30303030U));
    const __m256 m =
        to_floats(s[1] & 0x3F3F3F3FU, ((s[2] >> 4) & 0x0F0F0F0FU) | ((s[1] >> 2) & 0x30303030U));
    _mm256_store_ps(to.scale, _mm256_mul_ps(_mm256_set1_ps(_cvtsh_ss(from->d)), sc));
    _mm256_store_ps(to.offset[0], _mm256_mul_ps(_mm256_set1_ps(-_cvtsh_ss(from->dmin)), m));
    // Low nibbles are the even blocks, high ones the odd; the halves of a turned vector hold words
    // k and k + 4.
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i v[4];
    for (size_t i = 0; i < 4; ++i) v[i] = loadu(from->nibbles + 32 * i);
    turn(v);
    for (size_t k = 0; k < 4; ++k) {
      const __m256i even = _mm256_and_si256(v[k], mask);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v[k], 4), mask);
      store(to.q[k], _mm256_permute2x128_si256(even, odd, 0x20));
      store(to.q[k + 4], _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
};

struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr size_t kValues = 256;
  static constexpr bool kOffset = true, kHalves = true, kSigned = false;

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
    const __m256 d = _mm256_set1_ps(_cvtsh_ss(from->d));
    const __m256 offset = _mm256_mul_ps(d, _mm256_set1_ps(-32.0F));
    _mm256_store_ps(to.scale, d);
    // 8 bytes for the first halves of the blocks, then 8 for the second, in lane order.
    const __m128i scales =
        _mm_shuffle_epi8(loadu128(from->scales),
                         _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
    for (size_t half = 0; half < 2; ++half) {
      const __m256i sc = _mm256_cvtepi8_epi32(half == 0 ? scales : _mm_srli_si128(scales, 8));
      _mm256_store_ps(to.offset[half], _mm256_mul_ps(offset, _mm256_cvtepi32_ps(sc)));
      store(to.multiplier[half], _mm256_blend_epi16(sc, _mm256_slli_epi32(sc, 16), 0xAA));
    }
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

// Steps (words of a block) that are added up in 16 bits before the multiplier applies.
template <class W>
constexpr size_t kSteps = W::kHalves ? 2 : 1;

// Adds kSteps of 8 steps. No 16-bit sum saturates: of 8 steps 8 * 15 * 127 * 2 (4-bit weights), of
// 2 steps 2 * 63 * 127 * 2 (6-bit), of 1 step 128 * 127 * 2 (8-bit: the sign moves to x, so that
// the weight is unsigned).
template <class W>
[[gnu::always_inline]] inline __m256i add_steps(__m256i sum, const __m256i* w, const __m256i* x,
                                                __m256i multiplier) {
  if constexpr (W::kSigned) {
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

// The integer sums of one group.
template <class W, size_t R, size_t T>
[[gnu::always_inline]] inline void dot_group(__m256i (&dots)[T][R],
                                             const WeightGroup (*w)[kChunkGroups], Activations x,
                                             size_t g) {
  constexpr size_t kStep = kSteps<W>;
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
    dot_group<W>(dots, w, x, g);
    for (size_t t = 0; t < T; ++t) {
      for (size_t r = 0; r < R; ++r) {
        float* at = sums + (t * R + r) * 8;
        __m256i dot = dots[t][r];
        if constexpr (!W::kSigned && !W::kHalves)
          dot = _mm256_madd_epi16(dot, _mm256_set1_epi16(1));
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

void matmul_q8_0(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q8_0>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q4_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q4_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

void matmul_q6_k(float* out, size_t out_stride, const void* weight, size_t row_begin,
                 size_t row_end, size_t n, Int8Rows x, size_t tokens) {
  matmul<Q6_K>(out, out_stride, weight, row_begin, row_end, n, x, tokens);
}

}  // namespace plumb::cpu::avx2
