// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/check.h"
#include "model/arch.h"
#include "quant/dequantize.h"

namespace plumb {
namespace {

const std::array<const Architecture*, 1>& architectures() {
  static const std::array<const Architecture*, 1> table = {&llama_architecture()};
  return table;
}

Result<std::optional<Token>> read_token_id(const MetadataReader& metadata, const std::string& key) {
  if (!metadata.has(key)) return std::optional<Token>();
  TRY_ASSIGN(const size_t id, metadata.count(key));
  return std::optional(static_cast<Token>(id));
}

Result<Vocabulary> read_vocabulary(const MetadataReader& metadata) {
  Vocabulary vocabulary;
  TRY_ASSIGN(vocabulary.model, metadata.text("tokenizer.ggml.model"));
  TRY_ASSIGN(vocabulary.pre, metadata.text_or("tokenizer.ggml.pre", "default"));
  TRY_ASSIGN(vocabulary.tokens, metadata.texts("tokenizer.ggml.tokens"));
  if (metadata.has("tokenizer.ggml.token_type")) {
    TRY_ASSIGN(vocabulary.types, metadata.integers("tokenizer.ggml.token_type"));
  }
  if (metadata.has("tokenizer.ggml.merges")) {
    TRY_ASSIGN(vocabulary.merges, metadata.texts("tokenizer.ggml.merges"));
  }
  TRY_ASSIGN(vocabulary.bos, read_token_id(metadata, "tokenizer.ggml.bos_token_id"));
  TRY_ASSIGN(vocabulary.eos, read_token_id(metadata, "tokenizer.ggml.eos_token_id"));
  TRY_ASSIGN(vocabulary.eot, read_token_id(metadata, "tokenizer.ggml.eot_token_id"));
  TRY_ASSIGN(vocabulary.unknown, read_token_id(metadata, "tokenizer.ggml.unknown_token_id"));
  TRY_ASSIGN(vocabulary.padding, read_token_id(metadata, "tokenizer.ggml.padding_token_id"));
  TRY_ASSIGN(vocabulary.add_bos, metadata.flag("tokenizer.ggml.add_bos_token"));
  TRY_ASSIGN(vocabulary.add_eos, metadata.flag("tokenizer.ggml.add_eos_token"));
  return vocabulary;
}

// A model without a tokenizer, or with one that is not supported, still runs on token ids.
Result<void> load_tokenizer(const MetadataReader& metadata, Model& model) {
  if (!metadata.has("tokenizer.ggml.model") || !metadata.has("tokenizer.ggml.tokens")) {
    model.tokenizer_missing = "the file has no tokenizer";
    return {};
  }
  TRY_ASSIGN(auto vocabulary, read_vocabulary(metadata));
  auto tokenizer = Tokenizer::create(std::move(vocabulary));
  if (tokenizer) {
    model.tokenizer = std::make_shared<const Tokenizer>(std::move(*tokenizer));
  } else if (tokenizer.error().code == ErrorCode::Unsupported) {
    model.tokenizer_missing = tokenizer.error().message;
  } else {
    return std::unexpected(tokenizer.error());
  }
  return {};
}

Result<void> load_weights(const ModelFile& file, Model& model) {
  for (const auto& entry : file.tensors) {
    const auto& shape = entry.view.shape;
    if (shape.empty() || shape.size() > 2)
      return fail(
          ErrorCode::Unsupported,
          fmt::format("tensor '{}' has {} dimensions, expected 1 or 2", entry.name, shape.size()));
    if (!is_weight_type(entry.view.dtype))
      return fail(ErrorCode::Unsupported,
                  fmt::format("tensor '{}' has type {}, which is no weight type", entry.name,
                              info(entry.view.dtype).name));
    auto weight = std::make_shared<Weight>();
    weight->name = entry.name;
    weight->dtype = entry.view.dtype;
    weight->rows = shape.size() == 2 ? shape[0] : 1;
    weight->columns = shape.back();
    weight->bytes = entry.view.bytes;
    model.weights.emplace(entry.name, std::move(weight));
  }
  return {};
}

std::string describe_types(const Model& model) {
  std::map<DType, uint64_t> bytes;
  for (const auto& [name, weight] : model.weights)
    if (weight->rows > 1) bytes[weight->dtype] += weight->bytes.size();
  std::vector<std::pair<uint64_t, DType>> order;
  for (const auto& [dtype, size] : bytes) order.emplace_back(size, dtype);
  std::ranges::sort(order, std::greater{});
  std::string text;
  for (const auto& [size, dtype] : order)
    text += (text.empty() ? "" : "+") + std::string(info(dtype).name);
  return text;
}

Result<Model> interpret(std::shared_ptr<const ModelFile> file) {
  Model model;
  model.file = file;
  model.path = file->path.string();
  const MetadataReader metadata(file->metadata);
  TRY_ASSIGN(const auto name, metadata.text("general.architecture"));
  const auto* architecture = find_architecture(name);
  if (architecture == nullptr)
    return fail(ErrorCode::Unsupported,
                fmt::format("architecture '{}' is not supported (supported: {})", name,
                            known_architectures()));
  TRY_ASSIGN(model.config, architecture->read_config(metadata));
  model.config.architecture = name;
  TRY_ASSIGN(model.config.name, metadata.text_or("general.name", file->path.stem().string()));
  TRY(load_weights(*file, model));
  const auto embedding = model.find("token_embd.weight");
  if (!embedding) return fail(ErrorCode::Corrupt, "tensor 'token_embd.weight' is missing");
  if (embedding->rows == 0)
    return fail(ErrorCode::Corrupt, "tensor 'token_embd.weight' has no rows");
  model.config.vocabulary = embedding->rows;
  model.config.tied_head = !model.find("output.weight");
  TRY(architecture->check_weights(model));
  TRY(load_tokenizer(metadata, model));
  if (model.tokenizer && model.tokenizer->size() != model.config.vocabulary)
    return fail(ErrorCode::Corrupt,
                fmt::format("the tokenizer has {} tokens, token_embd.weight has {} rows",
                            model.tokenizer->size(), model.config.vocabulary));
  model.weight_types = describe_types(model);
  model.sha256 = sha256_of(*file);
  return model;
}

}  // namespace

std::vector<float> Weight::values() const {
  std::vector<float> out(rows * columns);
  dequantize(dtype, bytes.data(), out.size(), out.data());
  return out;
}

WeightPtr Model::find(const std::string& name) const {
  const auto found = weights.find(name);
  return found == weights.end() ? nullptr : found->second;
}

const Architecture* find_architecture(const std::string& name) {
  for (const auto* architecture : architectures())
    if (name == architecture->name) return architecture;
  return nullptr;
}

std::string known_architectures() {
  std::string text;
  for (const auto* architecture : architectures())
    text += (text.empty() ? "" : ", ") + std::string(architecture->name);
  return text;
}

Result<void> require_weight(const Model& model, const std::string& name, size_t rows,
                            size_t columns) {
  const auto weight = model.find(name);
  if (!weight) return fail(ErrorCode::Corrupt, fmt::format("tensor '{}' is missing", name));
  if (weight->rows != rows || weight->columns != columns)
    return fail(ErrorCode::Corrupt,
                fmt::format("tensor '{}' is {}x{}, the metadata asks for {}x{}", name, weight->rows,
                            weight->columns, rows, columns));
  return {};
}

Plan make_plan(const Model& model) {
  return find_architecture(model.config.architecture)->make_plan(model);
}

Result<Model> load_model(const std::filesystem::path& path) {
  TRY_ASSIGN(auto file, open_model_file(path));
  if (file.format != FileFormat::Gguf)
    return fail(ErrorCode::Unsupported,
                fmt::format("{}: {} can be inspected, but not run yet; convert the model to GGUF",
                            path.string(), file.format_text));
  auto model = interpret(std::make_shared<const ModelFile>(std::move(file)));
  if (!model) return std::unexpected(std::move(model.error()).within(path.string()));
  return model;
}

}  // namespace plumb
