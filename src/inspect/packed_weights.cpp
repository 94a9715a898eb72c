// SPDX-License-Identifier: Apache-2.0
#include "inspect/packed_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace plumb {
namespace {

template <class T>
T value_or(const Metadata& metadata, const std::string& key, T fallback) {
  const auto found = metadata.find("quantization_config." + key);
  if (found == metadata.end()) return fallback;
  const auto* value = std::get_if<T>(&found->second);
  return value == nullptr ? fallback : *value;
}

PackedConfig config_of(const Metadata& m) {
  PackedConfig config;
  config.method = value_or(m, "quant_method", std::string());
  config.checkpoint_format = value_or(m, "checkpoint_format", std::string());
  config.version = value_or(m, "version", std::string());
  config.format = value_or(m, "format", std::string());
  config.bits = static_cast<uint64_t>(std::max<int64_t>(0, value_or(m, "bits", int64_t{0})));
  config.group_size = value_or(m, "group_size", int64_t{0});
  if (m.contains("quantization_config.desc_act")) config.desc_act = value_or(m, "desc_act", false);
  using Array = std::shared_ptr<const MetadataArray>;
  if (const auto block = value_or(m, "weight_block_size", Array()); block && block->size() == 2) {
    size_t at = 0;
    block->for_each([&](const MetadataValue& value) {
      const auto* size = std::get_if<int64_t>(&value);
      config.weight_block_size[at++] =
          size == nullptr || *size < 0 ? 0 : static_cast<uint64_t>(*size);
      return true;
    });
  }
  return config;
}

}  // namespace

PackedWeights packed_weights(const ModelFile& file) {
  PackedWeights packed;
  if (file.format != FileFormat::HuggingFace && file.format != FileFormat::Safetensors)
    return packed;
  std::map<std::string, TensorView> tensors;
  for (const auto& tensor : file.tensors) tensors.emplace(tensor.name, tensor.view);
  auto found = find_packed(tensors, config_of(file.metadata));
  if (found) packed.weights = std::move(*found);
  else packed.problem = found.error().message;
  return packed;
}

ModelFile logical_file(const ModelFile& file, const PackedWeights& packed) {
  ModelFile logical;
  logical.path = file.path;
  logical.format = file.format;
  logical.format_text = file.format_text;
  logical.metadata = file.metadata;
  logical.side_files = file.side_files;
  std::set<std::string> used;
  for (const auto& weight : packed.weights) {
    used.insert(weight.sources.begin(), weight.sources.end());
    TensorEntry entry;
    entry.name = weight.name;
    entry.view = {DType::F32, {weight.out, weight.in}, {}};
    logical.tensors.push_back(std::move(entry));
  }
  for (const auto& tensor : file.tensors)
    if (!used.contains(tensor.name)) logical.tensors.push_back(tensor);
  return logical;
}

std::string describe(const PackedWeights& packed) {
  std::map<std::string, size_t> kinds;
  for (const auto& weight : packed.weights)
    ++kinds[fmt::format(
        "{}, {} bits{}", packed_name(weight.scheme), weight.bits,
        weight.group_size > 0 ? fmt::format(", groups of {}", weight.group_size) : "")];
  std::string text;
  for (const auto& [kind, count] : kinds)
    text += fmt::format("{}{} matrices: {}", text.empty() ? "" : "; ", count, kind);
  return text;
}

}  // namespace plumb
