// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "formats/model_file.h"

namespace plumb {

// Reads versions 2 and 3, little-endian: one file, or all splits of a model if it is one of them
// (NAME-00001-of-00003.gguf). Every count and offset is checked against the file before it is used,
// so a claim in a hostile file allocates nothing by itself.
Result<ModelFile> open_gguf(const std::filesystem::path& path);

// The header only, from bytes; `open_gguf` is this on a mapped file.
struct GgufContent {
  uint32_t version = 0;
  Metadata metadata;
  std::vector<TensorEntry> tensors;
};
Result<GgufContent> parse_gguf(std::span<const std::byte> bytes);

}  // namespace plumb
