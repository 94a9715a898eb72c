// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "core/result.h"
#include "core/tensor.h"

namespace plumb {

// A metadata value. Integers of every width become int64 or, above its range, uint64; both float
// widths become double, exactly. Strings may hold any bytes.
struct MetadataArray;
using MetadataValue = std::variant<bool, int64_t, uint64_t, double, std::string,
                                   std::shared_ptr<const MetadataArray>>;
struct MetadataArray {
  std::vector<MetadataValue> values;
};

struct TensorEntry {
  std::string name;
  TensorView view;           // shape: rows first, as NumPy says it (GGUF stores the reverse)
  uint64_t file_offset = 0;  // of its first byte
};

// What a model file says; nothing is interpreted. The views point into `file`.
struct ModelFile {
  std::filesystem::path path;
  std::string format;  // "GGUF v3"
  MappedFile file;
  std::map<std::string, MetadataValue> metadata;
  std::vector<TensorEntry> tensors;
};

// Reads versions 2 and 3, little-endian. Every count and offset is checked against the file before
// it is used, so a claim in a hostile file allocates nothing by itself.
Result<ModelFile> open_gguf(const std::filesystem::path& path);

// The header only, from bytes; `open_gguf` is this on a mapped file.
struct GgufContent {
  uint32_t version = 0;
  std::map<std::string, MetadataValue> metadata;
  std::vector<TensorEntry> tensors;
};
Result<GgufContent> parse_gguf(std::span<const std::byte> bytes);

// A value as text for messages; long arrays and strings are cut.
std::string to_text(const MetadataValue& value);

}  // namespace plumb
