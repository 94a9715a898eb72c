// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <bit>
#include <cstdint>

namespace plumb {

// Nearest integer, ties to even, for |value| <= 2^22: adding 1.5 * 2^23 leaves the integer in the
// low bits of the sum. Beyond that range (and for NaN) the bits give some integer from -2^22 to
// 2^22 - 1, and the K types depend on which one where a scale is infinite; so no other function
// will do.
inline int32_t nearest_int(float value) {
  const auto bits = std::bit_cast<uint32_t>(value + 12582912.0F);
  return static_cast<int32_t>(bits & 0x007FFFFFU) - 0x00400000;
}

// The integer part, or the integer that x86-64 stores for what no int32 can hold (NaN included).
inline int32_t truncate(float value) {
  return value > -2147483904.0F && value < 2147483648.0F ? static_cast<int32_t>(value) : INT32_MIN;
}

}  // namespace plumb
