// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstring>

#include "quant/packed.h"

namespace plumb {

// Element `index` of a view of T, which needs no alignment.
template <class T>
T load(const TensorView& view, size_t index) {
  T value;
  std::memcpy(&value, view.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

// Code `index` of packed 32-bit words that lie `stride` words apart from word `first` on.
inline uint32_t code_at(const TensorView& words, size_t first, size_t stride, size_t index,
                        const CodePacking& packing, size_t bits) {
  const size_t bit = index % packing.codes * bits;
  const size_t word = index / packing.codes * packing.words + bit / 32;
  uint64_t pair = load<uint32_t>(words, first + word * stride);
  if (bit % 32 + bits > 32)
    pair |= uint64_t{load<uint32_t>(words, first + (word + 1) * stride)} << 32;
  return static_cast<uint32_t>(pair >> (bit % 32)) & ((1U << bits) - 1U);
}

}  // namespace plumb
