// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace plumb {

// Bytes that another owns. Dimensions are row-major: the last one is contiguous.
struct TensorView {
  DType dtype = DType::F32;
  std::vector<uint64_t> shape;
  std::span<const std::byte> bytes;
};

// The product of the dimensions, or nothing if it does not fit in 64 bits.
inline std::optional<uint64_t> element_count(std::span<const uint64_t> shape) {
  uint64_t count = 1;
  for (const uint64_t dim : shape)
    if (__builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  return count;
}

inline std::string to_text(std::span<const uint64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace plumb
