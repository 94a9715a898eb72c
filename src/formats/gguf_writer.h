// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <span>
#include <string>

#include "core/result.h"
#include "core/tensor.h"
#include "formats/metadata.h"

namespace plumb {

struct GgufTensor {
  std::string name;
  TensorView view;  // rows first; GGUF's reversed order is written
};

// Writes a GGUF version 3, tensors in the given order, data aligned to general.alignment (32 if the
// metadata does not give it). A whole number becomes u32 where it fits, else i32, u64 or i64; a
// number becomes f32 where that keeps it, else f64: so other readers find the widths they expect.
// Arrays that came from a GGUF keep their type. What cannot be written is an error: null, arrays of
// mixed kinds, a type that ggml does not have, names longer than 63 bytes, more than 4 dimensions.
Result<void> write_gguf(const std::filesystem::path& path, const Metadata& metadata,
                        std::span<const GgufTensor> tensors);

}  // namespace plumb
