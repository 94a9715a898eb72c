// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bit>
#include <cstring>

#include "core/half.h"
#include "quant/dequantize.h"
#include "quant/fast_half.h"
#include "quant/target_clones.h"

namespace plumb {
namespace {

// OCP 8-bit Floating Point Specification 1.0, E4M3: bias 7, no infinity, all magnitude bits set is
// NaN.
constexpr float e4m3_to_f32(uint32_t byte) {
  const uint32_t sign = (byte & 0x80U) << 24;
  const uint32_t magnitude = byte & 0x7FU;
  if (magnitude == 0x7F) return std::bit_cast<float>(sign | 0x7FC00000U);
  if (magnitude < 8) {
    const float value = static_cast<float>(magnitude) * 0x1p-9F;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120U << 23)));
}

// E5M2 is a half without its low byte.
constexpr float e5m2_to_f32(uint32_t byte) { return f16_to_f32(static_cast<uint16_t>(byte << 8)); }

template <float (*kToFloat)(uint32_t)>
constexpr std::array<float, 256> all_bytes() {
  std::array<float, 256> values = {};
  for (uint32_t byte = 0; byte < 256; ++byte) values[byte] = kToFloat(byte);
  return values;
}

constexpr std::array<float, 256> kE4M3 = all_bytes<e4m3_to_f32>();
constexpr std::array<float, 256> kE5M2 = all_bytes<e5m2_to_f32>();

void look_up(const std::array<float, 256>& values, const std::byte* source, size_t count,
             float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = values[static_cast<uint8_t>(source[i])];
}

// Halves are turned in pieces of a fixed length, which every compiler vectorizes.
constexpr size_t kPiece = 32;

template <float (*kToFloat)(uint16_t)>
inline void widen(const std::byte* source, size_t count, float* out) {
  uint16_t piece[kPiece];
  for (; count >= kPiece; count -= kPiece, source += sizeof(piece), out += kPiece) {
    std::memcpy(piece, source, sizeof(piece));
    for (size_t j = 0; j < kPiece; ++j) out[j] = kToFloat(piece[j]);
  }
  std::memcpy(piece, source, count * sizeof(uint16_t));
  for (size_t j = 0; j < count; ++j) out[j] = kToFloat(piece[j]);
}

}  // namespace

PLUMB_TARGET_CLONES
void dequantize_f16(const std::byte* source, size_t count, float* out) {
  widen<half_to_float>(source, count, out);
}

PLUMB_TARGET_CLONES
void dequantize_bf16(const std::byte* source, size_t count, float* out) {
  widen<bf16_to_f32>(source, count, out);
}

void dequantize_f8_e4m3(const std::byte* source, size_t count, float* out) {
  look_up(kE4M3, source, count, out);
}

void dequantize_f8_e5m2(const std::byte* source, size_t count, float* out) {
  look_up(kE5M2, source, count, out);
}

}  // namespace plumb
