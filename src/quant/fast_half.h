// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <bit>
#include <cstdint>

namespace plumb {

// f16_to_f32() of core/half.h without branches, so that loops over it vectorize; the masks are
// arithmetic because a compiler may make a branch of a choice. The same bits for every half, NaN
// payloads included.
constexpr float half_to_float(uint16_t h) {
  const int32_t magnitude = h & 0x7FFF;
  const auto special = static_cast<uint32_t>((0x7BFF - magnitude) >> 31);   // infinity, NaN
  const auto subnormal = static_cast<uint32_t>((magnitude - 0x400) >> 31);  // and zero
  const auto shifted = static_cast<uint32_t>(magnitude) << 13;
  const uint32_t normal = shifted + 0x38000000U + (special & 0x38000000U);
  // In 0.5 + magnitude * 2^-24 the magnitude fills the lowest bits; taking 0.5 away is exact.
  const float tiny = std::bit_cast<float>(0x3F000000U + static_cast<uint32_t>(magnitude)) - 0.5F;
  const uint32_t bits = (std::bit_cast<uint32_t>(tiny) & subnormal) | (normal & ~subnormal);
  return std::bit_cast<float>(bits | static_cast<uint32_t>(h & 0x8000) << 16);
}

}  // namespace plumb
