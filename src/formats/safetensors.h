// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "core/tensor.h"

namespace plumb {

struct SafetensorsContent {
  std::map<std::string, std::string> metadata;
  std::map<std::string, TensorView> tensors;  // views into the given bytes
};

// Reads a safetensors file: u64 header size, JSON header, data. Refuses what the format forbids:
// holes, overlaps, bytes that belong to no tensor, a name twice, sizes that disagree with shapes.
Result<SafetensorsContent> parse_safetensors(std::span<const std::byte> bytes);

// JSON from a file: an object without a key twice at any level, at most `max_depth` levels deep
// (more would overflow the stack of whoever walks it). `what` names the text in messages.
Result<nlohmann::json> parse_json_object(std::string_view text, std::string_view what,
                                         int max_depth);

// The bytes before the data: for a writer that knows all shapes and fills in the data later.
struct SafetensorsEntry {
  std::string name;
  DType dtype;
  std::vector<uint64_t> shape;
  uint64_t offset = 0;  // of its data, from the start of the file; filled in by safetensors_header
};
std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata);

// Writes a whole file, to PATH.partial first, so that PATH never holds half of one. A type that
// safetensors does not have, a name twice, bytes that do not fit the shape are errors.
struct SafetensorsTensor {
  std::string name;
  TensorView view;
};
Result<void> write_safetensors(const std::filesystem::path& path,
                               const std::map<std::string, std::string>& metadata,
                               std::span<const SafetensorsTensor> tensors);

}  // namespace plumb
