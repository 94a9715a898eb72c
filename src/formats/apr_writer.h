// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "core/result.h"
#include "core/tensor.h"
#include "formats/metadata.h"

namespace plumb {

struct AprTensor {
  std::string name;
  TensorView view;
};

struct AprWriteOptions {
  // Flags in place of those that follow from the content (QUANTIZED, HAS_VOCAB). LAYOUT_ROW_MAJOR
  // is always set; flags of compression, encryption and the like cannot be.
  std::optional<uint16_t> flags;
};

// The byte that stands for a type in the index; an error that says what to do if APR has none.
Result<uint8_t> apr_type_byte(DType dtype);

// Writes an APR v2: tensors sorted by name, checksums over header and file. The metadata goes out
// under its keys, dotted ones as they are; a second spelling of a key (is_apr_alias) goes out under
// the canonical one only, and tensor_shapes not at all, since the index says them. The data goes
// to PATH.partial first, so that PATH never holds half a file.
Result<void> write_apr(const std::filesystem::path& path, const Metadata& metadata,
                       std::span<const AprTensor> tensors, AprWriteOptions options = {});

}  // namespace plumb
