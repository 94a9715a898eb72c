// SPDX-License-Identifier: Apache-2.0
#include "quant/quantize.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "core/half.h"
#include "quant/blocks.h"
#include "quant/quantize_rounding.h"

namespace plumb {
namespace {

constexpr size_t kBlock = 32;

template <uint16_t (*kToBits)(float)>
void narrow(const float* source, size_t count, std::byte* out) {
  for (size_t i = 0; i < count; ++i) {
    const uint16_t bits = kToBits(source[i]);
    std::memcpy(out + i * sizeof(bits), &bits, sizeof(bits));
  }
}

float reciprocal(float d) { return d != 0 ? 1.0F / d : 0.0F; }

// Codes 0 to 15. What truncates to a negative byte stays above 15 and would spill into the other
// nibble, as it does in ggml; only a scale that is no finite number gets here.
uint8_t nibble(float value) {
  const auto byte = static_cast<int8_t>(truncate(value));
  return static_cast<uint8_t>(std::min<int>(15, byte));
}

// The largest magnitude; a NaN is passed over.
float largest_magnitude(const float* source, size_t count) {
  float largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(source[i]);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

// Half away from zero, held between `low` and `high`; NaN is 0.
int rounded_between(float value, float low, float high) {
  if (std::isnan(value)) return 0;
  return static_cast<int>(std::clamp(std::round(value), low, high));
}

}  // namespace

// d = max |x| / 127; q = x / d, half away from zero.
void quantize_q8_0(const float* source, size_t blocks, std::byte* out) {
  BlockQ8_0 block;
  for (size_t b = 0; b < blocks; ++b, source += kBlock, out += sizeof(block)) {
    float largest = 0;
    for (size_t j = 0; j < kBlock; ++j) {
      const float magnitude = std::fabs(source[j]);
      largest = largest > magnitude ? largest : magnitude;
    }
    const float d = largest / 127;
    const float inverse = reciprocal(d);
    block.d = f32_to_f16(d);
    for (size_t j = 0; j < kBlock; ++j)
      block.q[j] = static_cast<int8_t>(truncate(std::round(source[j] * inverse)));
    std::memcpy(out, &block, sizeof(block));
  }
}

// d = the value of largest magnitude / -8, so that this value has the code 0 (x = -8 d) exactly.
void quantize_q4_0(const float* source, size_t blocks, std::byte* out) {
  BlockQ4_0 block;
  for (size_t b = 0; b < blocks; ++b, source += kBlock, out += sizeof(block)) {
    float magnitude = 0;
    float extreme = 0;
    for (size_t j = 0; j < kBlock; ++j) {
      if (!(magnitude < std::fabs(source[j]))) continue;
      magnitude = std::fabs(source[j]);
      extreme = source[j];
    }
    const float d = extreme / -8;
    const float inverse = reciprocal(d);
    block.d = f32_to_f16(d);
    for (size_t j = 0; j < 16; ++j) {
      const uint8_t low = nibble(source[j] * inverse + 8.5F);
      const uint8_t high = nibble(source[j + 16] * inverse + 8.5F);
      block.nibbles[j] = static_cast<uint8_t>(low | high << 4);
    }
    std::memcpy(out, &block, sizeof(block));
  }
}

// m = min x, d = (max x - m) / 15.
void quantize_q4_1(const float* source, size_t blocks, std::byte* out) {
  BlockQ4_1 block;
  for (size_t b = 0; b < blocks; ++b, source += kBlock, out += sizeof(block)) {
    float min = FLT_MAX;
    float max = -FLT_MAX;
    for (size_t j = 0; j < kBlock; ++j) {
      if (source[j] < min) min = source[j];
      if (source[j] > max) max = source[j];
    }
    const float d = (max - min) / 15;
    const float inverse = reciprocal(d);
    block.d = f32_to_f16(d);
    block.m = f32_to_f16(min);
    for (size_t j = 0; j < 16; ++j) {
      const uint8_t low = nibble((source[j] - min) * inverse + 0.5F);
      const uint8_t high = nibble((source[j + 16] - min) * inverse + 0.5F);
      block.nibbles[j] = static_cast<uint8_t>(low | high << 4);
    }
    std::memcpy(out, &block, sizeof(block));
  }
}

// Half scale = max |x| / 7 (1 if all are zero), then nibbles q + 8: value 2k is the low one of byte
// k, value 2k + 1 the high one. The codes are those of the scale before it is rounded to half.
void quantize_apr_q4(const float* source, size_t count, std::byte* out) {
  for (size_t first = 0; first < count; first += kBlock, out += 18) {
    const size_t used = std::min(kBlock, count - first);
    const float largest = largest_magnitude(source + first, used);
    const float scale = largest == 0 ? 1.0F : largest / 7;
    const uint16_t half = f32_to_f16(scale);
    uint8_t nibbles[16] = {};
    for (size_t j = 0; j < used; ++j) {
      const int code = rounded_between(source[first + j] / scale, -8, 7) + 8;
      nibbles[j / 2] |= static_cast<uint8_t>(code << (j % 2 * 4));
    }
    std::memcpy(out, &half, sizeof(half));
    std::memcpy(out + sizeof(half), nibbles, sizeof(nibbles));
  }
}

// One float scale = max |x| / 127 (1 if all are zero), then a byte for each value.
void quantize_apr_q8(const float* source, size_t count, std::byte* out) {
  const float largest = largest_magnitude(source, count);
  const float scale = largest == 0 ? 1.0F : largest / 127;
  std::memcpy(out, &scale, sizeof(scale));
  out += sizeof(scale);
  for (size_t i = 0; i < count; ++i)
    out[i] = static_cast<std::byte>(rounded_between(source[i] / scale, -127, 127));
}

bool can_quantize(DType dtype) {
  switch (dtype) {
    case DType::F32:
    case DType::F16:
    case DType::BF16:
    case DType::Q8_0:
    case DType::Q4_0:
    case DType::Q4_1:
    case DType::Q4_K:
    case DType::Q6_K:
    case DType::AprQ4:
    case DType::AprQ8: return true;
    default: return false;
  }
}

void quantize(DType to, const float* source, size_t count, std::byte* out) {
  CHECK(can_quantize(to));
  CHECK(is_apr_type(to) || count % info(to).block_elements == 0);
  const size_t blocks = count / info(to).block_elements;
  switch (to) {
    case DType::F32:
      if (count > 0) std::memcpy(out, source, count * sizeof(float));
      return;
    case DType::F16: return narrow<f32_to_f16>(source, count, out);
    case DType::BF16: return narrow<f32_to_bf16>(source, count, out);
    case DType::Q8_0: return quantize_q8_0(source, blocks, out);
    case DType::Q4_0: return quantize_q4_0(source, blocks, out);
    case DType::Q4_1: return quantize_q4_1(source, blocks, out);
    case DType::Q4_K: return quantize_q4_k(source, blocks, out);
    case DType::Q6_K: return quantize_q6_k(source, blocks, out);
    case DType::AprQ4: return quantize_apr_q4(source, count, out);
    case DType::AprQ8: return quantize_apr_q8(source, count, out);
    default: return;
  }
}

}  // namespace plumb
