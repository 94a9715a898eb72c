// SPDX-License-Identifier: Apache-2.0
#include "inspect/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "inspect/packed_weights.h"

namespace plumb {
namespace {

std::string text_of(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end() || std::holds_alternative<std::monostate>(found->second)) return {};
  if (const auto* text = std::get_if<std::string>(&found->second)) return *text;
  return to_text(found->second);
}

std::string first_of(const Metadata& metadata, std::initializer_list<const char*> keys) {
  for (const auto* key : keys)
    if (auto text = text_of(metadata, key); !text.empty()) return text;
  return {};
}

std::vector<TypeTotal> type_totals(const ModelFile& file) {
  std::map<DType, TypeTotal> totals;
  for (const auto& tensor : file.tensors) {
    auto& total = totals[tensor.view.dtype];
    total.dtype = tensor.view.dtype;
    ++total.tensors;
    total.elements += element_count(tensor.view.shape).value_or(0);
    total.bytes += tensor.view.bytes.size();
  }
  std::vector<TypeTotal> sorted;
  for (const auto& [dtype, total] : totals) sorted.push_back(total);
  std::ranges::sort(sorted, [](const auto& a, const auto& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.dtype < b.dtype;
  });
  return sorted;
}

bool is_embedding(const std::string& name) {
  return name == "token_embd.weight" || name.ends_with("embed_tokens.weight") ||
         name.ends_with("wte.weight") || name.ends_with("embed_in.weight") ||
         name.ends_with("word_embeddings.weight");
}

// Keys and values of every layer and position. Windows are not taken off: a run may keep all.
std::optional<MemoryNeed> memory_need(const Hyperparameters& h, size_t context, uint64_t weights) {
  if (!h.layers || !h.kv_heads || !h.head_dim) return std::nullopt;
  MemoryNeed need;
  need.context = context != 0 ? context : h.context.value_or(0);
  if (need.context == 0) return std::nullopt;
  uint64_t heads = uint64_t{*h.layers} * *h.kv_heads;
  if (!h.layer_kv_heads.empty()) {
    heads = 0;
    for (const size_t count : h.layer_kv_heads) heads += count;
  }
  uint64_t values = 0;
  if (__builtin_mul_overflow(heads, uint64_t{*h.head_dim + h.value_dim.value_or(*h.head_dim)},
                             &values) ||
      __builtin_mul_overflow(values, uint64_t{need.context}, &values) || values > UINT64_MAX / 4)
    return std::nullopt;
  need.weights = weights;
  need.kv_f32 = values * 4;
  need.kv_f16 = values * 2;
  return need;
}

void add(std::vector<std::pair<std::string, std::string>>& list, const char* label,
         std::string value) {
  if (!value.empty()) list.emplace_back(label, std::move(value));
}

void read_quantization(const ModelFile& file, Summary& summary) {
  const auto& m = file.metadata;
  auto& list = summary.quantization;
  if (const auto found = m.find("general.file_type"); found != m.end())
    if (const auto* type = std::get_if<int64_t>(&found->second))
      add(list, "file type", fmt::format("{} ({})", file_type_name(*type), *type));
  add(list, "version", text_of(m, "general.quantization_version"));
  add(list, "importance matrix", text_of(m, "quantize.imatrix.file"));
  add(list, "imatrix data", text_of(m, "quantize.imatrix.dataset"));
  add(list, "method", text_of(m, "quantization_config.quant_method"));
  add(list, "bits", first_of(m, {"quantization_config.bits", "quantization.bits"}));
  add(list, "group size", text_of(m, "quantization_config.group_size"));
  add(list, "type", text_of(m, "quantization.quant_type"));
  add(list, "stored as", first_of(m, {"torch_dtype", "dtype"}));
}

void read_provenance(const ModelFile& file, Summary& summary) {
  const auto& m = file.metadata;
  auto& list = summary.provenance;
  add(list, "organization", text_of(m, "general.organization"));
  add(list, "author", first_of(m, {"general.author", "author"}));
  add(list, "base model", text_of(m, "general.base_model.0.repo_url"));
  add(list, "base", text_of(m, "general.base_model.0.name"));
  add(list, "source",
      first_of(m, {"general.source.url", "general.url", "source", "_name_or_path"}));
  add(list, "license", first_of(m, {"general.license", "license"}));
  add(list, "converted from", text_of(m, "original_format"));
  add(list, "created", text_of(m, "created_at"));
  add(list, "written by",
      first_of(m, {"transformers_version"}).empty()
          ? ""
          : "transformers " + text_of(m, "transformers_version"));
  add(list, "quantized by", text_of(m, "general.quantized_by"));
}

}  // namespace

std::string file_type_name(int64_t type) {
  static const std::map<int64_t, const char*> names = {
      {0, "F32"},      {1, "F16"},      {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},
      {8, "Q5_0"},     {9, "Q5_1"},     {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"},
      {13, "Q3_K_L"},  {14, "Q4_K_S"},  {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"},
      {18, "Q6_K"},    {19, "IQ2_XXS"}, {20, "IQ2_XS"}, {21, "Q2_K_S"}, {22, "IQ3_XS"},
      {23, "IQ3_XXS"}, {24, "IQ1_S"},   {25, "IQ4_NL"}, {26, "IQ3_S"},  {27, "IQ3_M"},
      {28, "IQ2_S"},   {29, "IQ2_M"},   {30, "IQ4_XS"}, {31, "IQ1_M"},  {32, "BF16"},
      {36, "TQ1_0"},   {37, "TQ2_0"},   {38, "MXFP4"}};
  const auto found = names.find(type);
  return found == names.end() ? "not known here" : found->second;
}

Summary summarize(const ModelFile& file, size_t context) {
  Summary summary;
  summary.sizes = read_hyperparameters(file);
  summary.tokenizer = tokenizer_facts(file);
  summary.name = first_of(file.metadata, {"general.name", "name", "_name_or_path"});
  summary.file_bytes = file.size_bytes();
  uint64_t weights = 0;
  const auto packed = packed_weights(file);
  for (const auto& tensor : file.tensors) weights += tensor.view.bytes.size();
  for (const auto& tensor : logical_file(file, packed).tensors) {
    const uint64_t count = element_count(tensor.view.shape).value_or(0);
    summary.parameters += count;
    if (is_embedding(tensor.name)) summary.embedding_parameters += count;
  }
  summary.types = type_totals(file);
  summary.memory = memory_need(summary.sizes, context, weights);
  read_quantization(file, summary);
  add(summary.quantization, "packed", describe(packed));
  read_provenance(file, summary);
  return summary;
}

}  // namespace plumb
