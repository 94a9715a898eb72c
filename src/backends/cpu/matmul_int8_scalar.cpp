// SPDX-License-Identifier: Apache-2.0
// Plain loops: a group of weights is unpacked to int8 once, then meets each token in turn.
#include "backends/cpu/kernels_internal.h"
#include "backends/cpu/kernels_iq4_table.h"
#include "core/half.h"
#include "quant/blocks.h"

namespace plumb::cpu::scalar {
namespace {

constexpr size_t kMaxBlock = 256;  // values
constexpr size_t kPart = 16;       // values under one scale and one sum of the activations
constexpr size_t kTokenBlock = 64;

struct Unpacked {
  uint8_t q[kMaxBlock];  // for Q8_0 and the IQ4 types the bits of an int8
  float scale[kMaxBlock / kPart];
  float offset[kMaxBlock / kPart];  // value = scale * q + offset
};

void spread_nibbles(uint8_t* q, const uint8_t* nibbles) {
  for (size_t j = 0; j < 16; ++j) {
    q[j] = nibbles[j] & 15;
    q[j + 16] = nibbles[j] >> 4;
  }
}

void set_scale(Unpacked& to, float scale, float offset) {
  to.scale[0] = to.scale[1] = scale;
  to.offset[0] = to.offset[1] = offset;
}

struct Q4_0 {
  using Block = BlockQ4_0;
  using Value = uint8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    set_scale(to, d, -8.0F * d);
    spread_nibbles(to.q, from.nibbles);
  }
};

struct Q4_1 {
  using Block = BlockQ4_1;
  using Value = uint8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    set_scale(to, f16_to_f32(from.d), f16_to_f32(from.m));
    spread_nibbles(to.q, from.nibbles);
  }
};

// Bit j of `high` is bit 4 of value j.
void spread_fifth_bits(uint8_t* q, uint32_t high) {
  for (size_t j = 0; j < 32; ++j) q[j] = static_cast<uint8_t>(q[j] | (high >> j & 1) << 4);
}

struct Q5_0 {
  using Block = BlockQ5_0;
  using Value = uint8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    set_scale(to, d, -16.0F * d);
    spread_nibbles(to.q, from.nibbles);
    spread_fifth_bits(to.q, from.high);
  }
};

struct Q5_1 {
  using Block = BlockQ5_1;
  using Value = uint8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    set_scale(to, f16_to_f32(from.d), f16_to_f32(from.m));
    spread_nibbles(to.q, from.nibbles);
    spread_fifth_bits(to.q, from.high);
  }
};

struct Q8_0 {
  using Block = BlockQ8_0;
  using Value = int8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    set_scale(to, f16_to_f32(from.d), 0.0F);
    for (size_t j = 0; j < 32; ++j) to.q[j] = static_cast<uint8_t>(from.q[j]);
  }
};

// Value i of the two-bit values of Q2_K and Q3_K.
uint8_t two_bits(const uint8_t* q, size_t i) {
  return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

struct Q2_K {
  using Block = BlockQ2_K;
  using Value = uint8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    const float dmin = f16_to_f32(from.dmin);
    for (size_t j = 0; j < 16; ++j) {
      to.scale[j] = d * static_cast<float>(from.scales[j] & 15);
      to.offset[j] = -(dmin * static_cast<float>(from.scales[j] >> 4));
    }
    for (size_t i = 0; i < 256; ++i) to.q[i] = two_bits(from.q, i);
  }
};

struct Q3_K {
  using Block = BlockQ3_K;
  using Value = uint8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    for (size_t j = 0; j < 16; ++j) {
      const int low = from.scales[j % 8] >> (j / 8 * 4) & 15;
      const int upper = from.scales[8 + j % 4] >> (j / 4 * 2) & 3;
      to.scale[j] = d * static_cast<float>((low | upper << 4) - 32);
      to.offset[j] = -4.0F * to.scale[j];
    }
    for (size_t i = 0; i < 256; ++i) {
      const int top = from.high[i % 32] >> (i / 32) & 1;
      to.q[i] = static_cast<uint8_t>(two_bits(from.q, i) | top << 2);
    }
  }
};

// Scales, offsets and nibbles of Q4_K and Q5_K.
template <class Block>
void unpack_k_nibbles(Unpacked& to, const Block& from) {
  const float d = f16_to_f32(from.d);
  const float dmin = f16_to_f32(from.dmin);
  const uint8_t* s = from.scales;
  for (size_t j = 0; j < 8; ++j) {
    const int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
    const int m = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6 << 4);
    to.scale[2 * j] = to.scale[2 * j + 1] = d * static_cast<float>(sc);
    to.offset[2 * j] = to.offset[2 * j + 1] = -(dmin * static_cast<float>(m));
    for (size_t l = 0; l < 32; ++l) {
      const uint8_t both = from.nibbles[j / 2 * 32 + l];
      to.q[32 * j + l] = j % 2 == 0 ? both & 15 : both >> 4;
    }
  }
}

struct Q4_K {
  using Block = BlockQ4_K;
  using Value = uint8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) { unpack_k_nibbles(to, from); }
};

struct Q5_K {
  using Block = BlockQ5_K;
  using Value = uint8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) {
    unpack_k_nibbles(to, from);
    for (size_t i = 0; i < 256; ++i)
      to.q[i] = static_cast<uint8_t>(to.q[i] | (from.high[i % 32] >> (i / 32) & 1) << 4);
  }
};

struct Q6_K {
  using Block = BlockQ6_K;
  using Value = uint8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    for (size_t j = 0; j < 16; ++j) {
      to.scale[j] = d * static_cast<float>(from.scales[j]);
      to.offset[j] = -32.0F * to.scale[j];
    }
    for (size_t i = 0; i < 256; ++i) {
      const size_t half = i / 128;
      const size_t quarter = i % 128 / 32;
      const int low = from.low[half * 64 + quarter % 2 * 32 + i % 32];
      const int high = from.high[half * 32 + i % 32] >> (2 * quarter);
      to.q[i] = static_cast<uint8_t>((quarter < 2 ? low & 15 : low >> 4) | (high & 3) << 4);
    }
  }
};

void look_up_iq4(uint8_t* q, const uint8_t* nibbles) {
  spread_nibbles(q, nibbles);
  for (size_t j = 0; j < 32; ++j) q[j] = static_cast<uint8_t>(kIq4Table[q[j]]);
}

struct IQ4_NL {
  using Block = BlockIQ4_NL;
  using Value = int8_t;
  static constexpr size_t kValues = 32;
  static void unpack(Unpacked& to, const Block& from) {
    set_scale(to, f16_to_f32(from.d), 0.0F);
    look_up_iq4(to.q, from.nibbles);
  }
};

struct IQ4_XS {
  using Block = BlockIQ4_XS;
  using Value = int8_t;
  static constexpr size_t kValues = 256;
  static void unpack(Unpacked& to, const Block& from) {
    const float d = f16_to_f32(from.d);
    for (size_t j = 0; j < 8; ++j) {
      const int low = from.low[j / 2] >> (j % 2 * 4) & 15;
      const int upper = from.high >> (2 * j) & 3;
      to.scale[2 * j] = to.scale[2 * j + 1] = d * static_cast<float>((low | upper << 4) - 32);
      to.offset[2 * j] = to.offset[2 * j + 1] = 0.0F;
      look_up_iq4(to.q + 32 * j, from.nibbles + 16 * j);
    }
  }
};

// `x` at the first value of the block. The integer sums are exact.
template <class W>
float add_block(float sum, const Unpacked& w, Int8Rows x) {
  for (size_t part = 0; part < W::kValues / kPart; ++part) {
    int dot = 0;
    for (size_t i = part * kPart; i < (part + 1) * kPart; ++i)
      dot += static_cast<typename W::Value>(w.q[i]) * x.values[i];
    sum += w.scale[part] * x.scales[part / 2] * static_cast<float>(dot);
    sum += w.offset[part] * x.sums[part];
  }
  return sum;
}

template <class W>
void matmul(float* out, size_t out_stride, const void* weight, size_t row_begin, size_t row_end,
            size_t n, Int8Rows x, size_t tokens) {
  const size_t blocks = n / W::kValues;
  for (size_t first = 0; first < tokens; first += kTokenBlock) {
    const size_t end = tokens - first < kTokenBlock ? tokens : first + kTokenBlock;
    for (size_t r = row_begin; r < row_end; ++r) {
      const auto* row = static_cast<const typename W::Block*>(weight) + r * blocks;
      float sums[kTokenBlock] = {};
      Unpacked unpacked;
      for (size_t b = 0; b < blocks; ++b) {
        W::unpack(unpacked, row[b]);
        for (size_t t = first; t < end; ++t) {
          const size_t at = t * n + b * W::kValues;
          const Int8Rows part = {x.values + at, x.scales + at / 32, x.sums + at / kPart};
          sums[t - first] = add_block<W>(sums[t - first], unpacked, part);
        }
      }
      for (size_t t = first; t < end; ++t) out[t * out_stride + r] = sums[t - first];
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

}  // namespace plumb::cpu::scalar
