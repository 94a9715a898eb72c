// SPDX-License-Identifier: Apache-2.0
// For tests: model files made of names and shapes, and the models of tests/models/architectures.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "formats/json_metadata.h"
#include "formats/model_file.h"

namespace plumb::fixture {

// A model file without a file. Its tensors have bytes only if they were given values.
struct FakeModel {
  ModelFile file;
  std::deque<std::vector<float>> storage;

  explicit FakeModel(FileFormat format) { file.format = format; }

  FakeModel& set(const std::string& key, MetadataValue value) {
    file.metadata[key] = std::move(value);
    return *this;
  }
  FakeModel& set_list(const std::string& key, std::vector<MetadataValue> values) {
    return set(key, std::make_shared<const MetadataArray>(std::move(values)));
  }
  FakeModel& add(const std::string& name, std::vector<uint64_t> shape) {
    file.tensors.push_back({name, {DType::F32, std::move(shape), {}}, 0, 0});
    return *this;
  }
  FakeModel& add(const std::string& name, std::vector<uint64_t> shape, std::vector<float> values) {
    storage.push_back(std::move(values));
    const auto bytes = std::as_bytes(std::span(storage.back()));
    file.tensors.push_back({name, {DType::F32, std::move(shape), bytes}, 0, 0});
    return *this;
  }
  TensorEntry* find(const std::string& name) {
    const auto found = std::ranges::find(file.tensors, name, &TensorEntry::name);
    return found == file.tensors.end() ? nullptr : &*found;
  }
  void remove(const std::string& name) {
    std::erase_if(file.tensors, [&](const auto& tensor) { return tensor.name == name; });
  }
};

inline std::string folder() {
  return std::string(PLUMB_SOURCE_DIR) + "/tests/models/architectures";
}

// zoo.json: all models by name.
inline const nlohmann::json& zoo() {
  static const nlohmann::json kZoo = [] {
    std::ifstream stream(folder() + "/zoo.json");
    return nlohmann::json::parse(stream, nullptr, false);
  }();
  return kZoo;
}

// Tensors by name; "{}" is every layer.
inline void add_tensors(FakeModel& model, const nlohmann::json& shapes, size_t layers) {
  for (const auto& [pattern, shape] : shapes.items()) {
    const auto at = pattern.find("{}");
    for (size_t layer = 0; layer < (at == std::string::npos ? 1 : layers); ++layer) {
      auto name = pattern;
      if (at != std::string::npos) name.replace(at, 2, std::to_string(layer));
      model.add(name, shape.get<std::vector<uint64_t>>());
    }
  }
}

inline FakeModel hugging_face(const nlohmann::json& model) {
  FakeModel result(FileFormat::HuggingFace);
  const auto added = add_json(result.file.metadata, "", model["config"], result.file.warnings);
  EXPECT_TRUE(added.has_value());
  add_tensors(result, model["hf"], model["layers"].get<size_t>());
  return result;
}

inline FakeModel gguf(const nlohmann::json& model) {
  FakeModel result(FileFormat::Gguf);
  for (const auto& [key, value] : model["metadata"].items()) {
    if (value.is_boolean()) result.set(key, value.get<bool>());
    if (value.is_number_integer()) result.set(key, value.get<int64_t>());
    if (value.is_number_float()) result.set(key, value.get<double>());
    if (value.is_string()) result.set(key, value.get<std::string>());
  }
  const auto tokens = model["tokens"].get<size_t>();
  result.set_list("tokenizer.ggml.tokens", std::vector<MetadataValue>(tokens, std::string("x")));
  add_tensors(result, model["gguf"], model["layers"].get<size_t>());
  return result;
}

}  // namespace plumb::fixture
