// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/check.h"
#include "core/half.h"
#include "model/architecture.h"
#include "model/canonical.h"
#include "quant/dequantize.h"
#include "tokenizer/load_tokenizer.h"

namespace plumb {
namespace {

template <class T>
std::vector<std::byte> bytes_of_values(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// The short type of all parts, if the values of the whole are numbers of it: moved, not computed.
DType type_after_moving(const CanonicalRecipe& recipe) {
  if (recipe.parts.empty() || recipe.added != 0 || recipe.fp4) return DType::F32;
  const DType type = recipe.parts.front().dtype;
  const bool same =
      std::ranges::all_of(recipe.parts, [&](const TensorView& part) { return part.dtype == type; });
  return same && (type == DType::F16 || type == DType::BF16) ? type : DType::F32;
}

// A weight whose values are not as the file has them: float, or the file's own short type.
void store_values(const CanonicalTensor& tensor, Weight& weight) {
  const auto values = read_canonical(tensor);
  weight.dtype = type_after_moving(tensor.recipe);
  if (weight.dtype == DType::F32) {
    weight.storage = bytes_of_values(values);
  } else {
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      halves[i] = weight.dtype == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    weight.storage = bytes_of_values(halves);
  }
  weight.bytes = weight.storage;
}

Result<WeightPtr> make_weight(const CanonicalTensor& tensor) {
  const auto& shape = tensor.shape;
  if (shape.empty() || shape.size() > 3)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("tensor '{}' has {} dimensions, expected 1 to 3", tensor.name, shape.size()));
  auto weight = std::make_shared<Weight>();
  weight->name = tensor.name;
  weight->columns = shape.back();
  weight->rows = shape.size() >= 2 ? shape[shape.size() - 2] : 1;
  weight->matrices = shape.size() == 3 ? shape[0] : 1;
  if (weight->count() == 0)
    return fail(ErrorCode::Corrupt, fmt::format("tensor '{}' has no values", tensor.name));
  // Types that only files have are turned into float.
  const bool widened = is_apr_type(tensor.view.dtype) || tensor.view.dtype == DType::F8_E4M3 ||
                       tensor.view.dtype == DType::F8_E5M2;
  if (!tensor.is_view || widened) {
    store_values(tensor, *weight);
    return WeightPtr(std::move(weight));
  }
  weight->dtype = tensor.view.dtype;
  weight->bytes = tensor.view.bytes;
  if (!is_weight_type(weight->dtype))
    return fail(ErrorCode::Unsupported,
                fmt::format("tensor '{}' has type {}, which is not run here", tensor.name,
                            info(weight->dtype).name));
  if (weight->columns % info(weight->dtype).block_elements != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("tensor '{}': rows of {} values are no whole number of {} blocks of {}",
                            tensor.name, weight->columns, info(weight->dtype).name,
                            info(weight->dtype).block_elements));
  return WeightPtr(std::move(weight));
}

std::optional<size_t> embedding_rows(const ModelFile& file, const Hyperparameters& h) {
  for (const auto& match : match_tensors(file, h).matches)
    if (match.row->name == "token_embd.weight" && match.found() &&
        match.sources.front()->view.shape.size() == 2)
      return match.sources.front()->view.shape.front();
  return std::nullopt;
}

Result<void> check_shapes(const ModelFile& file, const Hyperparameters& h) {
  const auto issues = check_tensors(file, h);
  for (const auto& issue : issues)
    if (issue.serious) return fail(ErrorCode::Corrupt, issue.text);
  // A tensor that the architecture does not have would be left out, or used for something.
  for (const auto& issue : issues)
    if (issue.kind == TensorIssue::Extra) return fail(ErrorCode::Unsupported, issue.text);
  return {};
}

// A tensor without a place in the plan would be a part of the model that is silently left out.
Result<void> check_all_used(const Model& model) {
  std::set<std::string> used = {"rope_freqs.weight", "rope_factors_long.weight",
                                "rope_factors_short.weight"};
  for (const auto& step : make_plan(model).steps)
    for (const auto& weight : {step.weight, step.bias})
      if (weight) used.insert(weight->name);
  for (const auto& [name, weight] : model.weights)
    if (!used.contains(name) && !harmless(name))
      return fail(
          ErrorCode::Unsupported,
          fmt::format("tensor '{}' {}x{} has no place in architecture {} as it is known here", name,
                      weight->rows, weight->columns, model.config.architecture));
  return {};
}

bool is_rope_factor(const std::string& name) { return name.starts_with("rope_f"); }

// RoPE's factors are there or not, as the metadata asks.
Result<void> check_rope_factors(const Model& model) {
  const auto& c = model.config;
  const bool two =
      model.find("rope_factors_long.weight") && model.find("rope_factors_short.weight");
  if (c.rope_scaling.type == "longrope" && !two)
    return fail(ErrorCode::Corrupt,
                "the scaling of RoPE is longrope, but its long and short factors are not there");
  if (c.rope_scaling.type == "llama3" && !model.find("rope_freqs.weight"))
    return fail(ErrorCode::Unsupported,
                fmt::format("the scaling of RoPE is llama3, which is not done for {} here",
                            c.architecture));
  for (const auto& [name, weight] : model.weights) {
    if (!is_rope_factor(name)) continue;
    const auto values = weight->values();
    if (!std::ranges::all_of(values, [](float x) { return x > 0 && std::isfinite(x); }))
      return fail(ErrorCode::Corrupt,
                  fmt::format("tensor '{}': factors of RoPE must be above 0", name));
  }
  return {};
}

// A model without a tokenizer, or with one that is not supported, still runs on token ids.
Result<void> add_tokenizer(const ModelFile& file, Model& model) {
  auto tokenizer = load_tokenizer(file);
  if (!tokenizer) {
    if (tokenizer.error().code != ErrorCode::Unsupported &&
        tokenizer.error().code != ErrorCode::NotFound)
      return std::unexpected(tokenizer.error());
    model.tokenizer_missing = tokenizer.error().message;
    return {};
  }
  // Padded heads are common; a token without a row cannot be run.
  if (tokenizer->size() > model.config.vocabulary)
    return fail(ErrorCode::Corrupt,
                fmt::format("the tokenizer has {} tokens, the embedding has {} rows",
                            tokenizer->size(), model.config.vocabulary));
  model.tokenizer = std::make_shared<const Tokenizer>(std::move(*tokenizer));
  return {};
}

std::string describe_types(const Model& model) {
  std::map<DType, uint64_t> bytes;
  for (const auto& [name, weight] : model.weights)
    if (!weight->is_vector()) bytes[weight->dtype] += weight->bytes.size();
  std::vector<std::pair<uint64_t, DType>> order;
  for (const auto& [dtype, size] : bytes) order.emplace_back(size, dtype);
  std::ranges::sort(order, std::greater{});
  std::string text;
  for (const auto& [size, dtype] : order) {
    if (!text.empty()) text += "+";
    text += info(dtype).name;
  }
  return text;
}

std::string name_of(const ModelFile& file) {
  const auto found = file.metadata.find("general.name");
  if (found != file.metadata.end())
    if (const auto* text = std::get_if<std::string>(&found->second)) return *text;
  auto path = file.path;
  if (!path.has_filename()) path = path.parent_path();
  return std::filesystem::is_directory(path) ? path.filename().string() : path.stem().string();
}

Result<void> add_weights(const ModelFile& file, const Hyperparameters& h, Model& model) {
  for (const auto& tensor : canonical_tensors(file, h)) {
    if (harmless(tensor.name) && !is_rope_factor(tensor.name)) continue;
    TRY_ASSIGN(auto weight, make_weight(tensor));
    model.rope_rows_reordered = model.rope_rows_reordered || tensor.rope_rows_reordered;
    model.weights.emplace(tensor.name, std::move(weight));
  }
  const auto embedding = model.find("token_embd.weight");
  if (!embedding) return fail(ErrorCode::Corrupt, "the embedding token_embd.weight is missing");
  model.config.vocabulary = embedding->rows;
  model.config.tied_head = !model.find("output.weight");
  return {};
}

Result<Model> interpret(std::shared_ptr<const ModelFile> file) {
  Model model;
  model.file = file;
  model.path = file->path.string();
  auto h = read_hyperparameters(*file);
  TRY_ASSIGN(model.config, read_config(*file, h));
  model.config.name = name_of(*file);
  // Where the metadata does not say it, the vocabulary is as large as the embedding.
  if (!h.vocabulary) h.vocabulary = embedding_rows(*file, h);
  TRY(check_shapes(*file, h));
  TRY(add_weights(*file, h, model));
  TRY(check_rope_factors(model));
  TRY(check_all_used(model));
  TRY(add_tokenizer(*file, model));
  model.weight_types = describe_types(model);
  model.sha256 = sha256_of(*file);
  return model;
}

}  // namespace

std::vector<float> Weight::values() const {
  std::vector<float> out(count());
  dequantize(dtype, bytes.data(), out.size(), out.data());
  return out;
}

WeightPtr rows_of(const WeightPtr& whole, size_t first, size_t count) {
  if (!whole) return nullptr;
  auto part = std::make_shared<Weight>();
  part->name = whole->name;
  part->dtype = whole->dtype;
  if (whole->is_vector()) {  // a bias: its values are the rows
    CHECK(first + count <= whole->columns && !is_quantized(whole->dtype));
    part->rows = 1;
    part->columns = count;
    part->bytes =
        whole->bytes.subspan(bytes_of(whole->dtype, first), bytes_of(whole->dtype, count));
  } else {
    CHECK(first + count <= whole->rows);
    part->rows = count;
    part->columns = whole->columns;
    const size_t row_bytes = bytes_of(whole->dtype, whole->columns);
    part->bytes = whole->bytes.subspan(first * row_bytes, count * row_bytes);
  }
  return part;
}

WeightPtr Model::find(const std::string& name) const {
  const auto found = weights.find(name);
  return found == weights.end() ? nullptr : found->second;
}

Result<Model> load_model(const std::filesystem::path& path) {
  TRY_ASSIGN(auto file, open_model_file(path));
  auto model = interpret(std::make_shared<const ModelFile>(std::move(file)));
  if (!model) return std::unexpected(std::move(model.error()).within(path.string()));
  return model;
}

}  // namespace plumb
