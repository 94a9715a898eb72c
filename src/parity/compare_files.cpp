// SPDX-License-Identifier: Apache-2.0
#include "parity/compare_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "model/canonical.h"

namespace plumb {
namespace {

template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? fmt::format("{:.9g}", static_cast<double>(*value)) : "absent";
}

struct SizeField {
  const char* name;
  std::string (*text)(const Hyperparameters&);
};

constexpr SizeField kSizes[] = {
    {"architecture", [](const Hyperparameters& h) { return h.architecture; }},
    {"width", [](const Hyperparameters& h) { return text_of(h.width); }},
    {"layers", [](const Hyperparameters& h) { return text_of(h.layers); }},
    {"heads", [](const Hyperparameters& h) { return text_of(h.heads); }},
    {"kv_heads", [](const Hyperparameters& h) { return text_of(h.kv_heads); }},
    {"head_dim", [](const Hyperparameters& h) { return text_of(h.head_dim); }},
    {"ffn", [](const Hyperparameters& h) { return text_of(h.ffn); }},
    {"vocabulary", [](const Hyperparameters& h) { return text_of(h.vocabulary); }},
    {"context", [](const Hyperparameters& h) { return text_of(h.context); }},
    {"experts", [](const Hyperparameters& h) { return text_of(h.experts); }},
    {"experts_used", [](const Hyperparameters& h) { return text_of(h.experts_used); }},
    {"window", [](const Hyperparameters& h) { return text_of(h.window); }},
    {"epsilon", [](const Hyperparameters& h) { return text_of(h.epsilon); }},
    {"rope_base", [](const Hyperparameters& h) { return text_of(h.rope_base); }},
    {"rope_base_local", [](const Hyperparameters& h) { return text_of(h.rope_base_local); }},
    {"rope_dimensions", [](const Hyperparameters& h) { return text_of(h.rope_dimensions); }},
    {"rope_scaling", [](const Hyperparameters& h) { return h.rope_scaling; }},
    {"tied", [](const Hyperparameters& h) { return std::string(h.tied ? "true" : "false"); }},
};

// 1e-5 as a float and as a double are the same figure.
bool same_figure(const std::string& a, const std::string& b) {
  if (a == b) return true;
  char* end_a = nullptr;
  char* end_b = nullptr;
  const double x = std::strtod(a.c_str(), &end_a);
  const double y = std::strtod(b.c_str(), &end_b);
  return *end_a == 0 && *end_b == 0 && static_cast<float>(x) == static_cast<float>(y);
}

void compare_sizes(const Hyperparameters& a, const Hyperparameters& b, FileComparison& result) {
  for (const auto& field : kSizes) {
    const auto x = field.text(a);
    const auto y = field.text(b);
    if (!same_figure(x, y)) result.sizes.push_back({field.name, x, y});
  }
}

// Keys that change what a run gives, beyond the sizes that every format has: constants of the
// architecture, the pairing of RoPE, the vocabulary.
bool bears_on_result(const ModelFile& file, const std::string& architecture,
                     const std::string& key) {
  if (file.format == FileFormat::Gguf)
    return key.starts_with("tokenizer.ggml.") ||
           (!architecture.empty() && key.starts_with(architecture + "."));
  return file.format == FileFormat::Apr && (key == "rope_type" || key == "tokenizer.vocabulary" ||
                                            key == "tokenizer.merges" || key == "tokenizer.scores");
}

void compare_metadata(const ModelFile& a, const ModelFile& b, const std::string& architecture,
                      FileComparison& result) {
  std::set<std::string> keys;
  for (const auto& [key, value] : a.metadata) keys.insert(key);
  for (const auto& [key, value] : b.metadata) keys.insert(key);
  for (const auto& key : keys) {
    const auto x = a.metadata.find(key);
    const auto y = b.metadata.find(key);
    const bool both = x != a.metadata.end() && y != b.metadata.end();
    if (both && same_value(x->second, y->second)) {
      ++result.metadata_same;
      continue;
    }
    auto& list = both && bears_on_result(a, architecture, key) ? result.sizes : result.metadata;
    list.push_back({key, x == a.metadata.end() ? "absent" : to_text(x->second),
                    y == b.metadata.end() ? "absent" : to_text(y->second)});
  }
}

StoredValues stored(const CanonicalTensor& tensor, DType dtype, std::span<const float> values) {
  const size_t columns = tensor.shape.empty() ? 1 : static_cast<size_t>(tensor.shape.back());
  return {dtype, columns == 0 ? 0 : values.size() / columns, columns, values};
}

// The type that the file stores a tensor in, of the first of its sources.
DType stored_type(const ModelFile& file, const CanonicalTensor& tensor) {
  const auto* entry = tensor.sources.empty() ? nullptr : file.find(tensor.sources.front());
  return entry == nullptr ? DType::F32 : entry->view.dtype;
}

std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const auto& text : texts) all += (all.empty() ? "" : ", ") + text;
  return all;
}

bool same_bytes(const CanonicalTensor& a, const CanonicalTensor& b) {
  return a.is_view && b.is_view && a.view.dtype == b.view.dtype && a.shape == b.shape &&
         a.view.bytes.size() == b.view.bytes.size() &&
         (a.view.bytes.empty() ||
          std::memcmp(a.view.bytes.data(), b.view.bytes.data(), a.view.bytes.size()) == 0);
}

void compare_pair(const ModelFile& file_a, const ModelFile& file_b, const CanonicalTensor& a,
                  const CanonicalTensor& b, FileComparison& result) {
  if (same_bytes(a, b)) {
    ++result.tensors_same;
    ++result.tensors_same_bytes;
    return;
  }
  TensorDifference difference{a.name,    joined(a.sources), joined(b.sources),
                              a.changes, b.changes,         {}};
  if (a.shape != b.shape && element_count(a.shape) != element_count(b.shape)) {
    difference.weight_class = {
        "weights.shape",
        fmt::format("shape {} against {}", to_text(a.shape), to_text(b.shape)),
        {}};
  } else {
    const auto x = read_canonical(a);
    const auto y = read_canonical(b);
    difference.weight_class = classify_weights(stored(a, stored_type(file_a, a), x),
                                               stored(b, stored_type(file_b, b), y));
  }
  if (!difference.weight_class.reason.empty()) {
    result.tensors.push_back(std::move(difference));
    return;
  }
  ++result.tensors_same;
  if (!a.changes.empty() || !b.changes.empty()) ++result.converted;
}

void add_missing(const CanonicalTensor& tensor, const char* side, FileComparison& result) {
  TensorDifference difference;
  difference.name = tensor.name;
  (std::string_view(side) == "first" ? difference.source_a : difference.source_b) =
      joined(tensor.sources);
  difference.weight_class = {"weights.missing", fmt::format("it is in the {} file only", side), {}};
  result.tensors.push_back(std::move(difference));
}

// Llama 3's scaling is a rule in config.json and a tensor of factors in a GGUF: where both files
// have the factors, the comparison of the tensors has judged it.
void drop_scaling_by_tensor(const std::vector<CanonicalTensor>& a,
                            const std::vector<CanonicalTensor>& b, FileComparison& result) {
  const auto has_factors = [](const std::vector<CanonicalTensor>& tensors) {
    return std::ranges::find(tensors, "rope_freqs.weight", &CanonicalTensor::name) != tensors.end();
  };
  if (!has_factors(a) || !has_factors(b)) return;
  std::erase_if(result.sizes, [](const KeyDifference& d) {
    return d.key == "rope_scaling" &&
           ((d.a == "llama3" && d.b == "none") || (d.a == "none" && d.b == "llama3"));
  });
}

}  // namespace

std::string FileComparison::verdict() const {
  if (!sizes.empty()) return "DIFFERENT";
  if (tensors.empty()) return "SAME";
  const bool rounding = std::ranges::all_of(
      tensors, [](const auto& t) { return t.weight_class.reason == "weights.rounding"; });
  return rounding ? "ROUNDING" : "DIFFERENT";
}

FileComparison compare_files(const ModelFile& a, const ModelFile& b,
                             const std::function<void(size_t, size_t)>& progress) {
  FileComparison result;
  const auto sizes_a = read_hyperparameters(a);
  const auto sizes_b = read_hyperparameters(b);
  compare_sizes(sizes_a, sizes_b, result);
  if (a.format == b.format) compare_metadata(a, b, sizes_a.architecture, result);
  else
    result.notes.push_back(fmt::format("metadata is compared by meaning: {} and {} have other keys",
                                       a.format_text, b.format_text));
  const auto tensors_a = canonical_tensors(a, sizes_a);
  const auto tensors_b = canonical_tensors(b, sizes_b);
  std::map<std::string, const CanonicalTensor*> partners;
  for (const auto& tensor : tensors_b) partners[tensor.name] = &tensor;
  size_t done = 0;
  for (const auto& tensor : tensors_a) {
    const auto partner = partners.find(tensor.name);
    if (partner == partners.end()) {
      add_missing(tensor, "first", result);
    } else {
      compare_pair(a, b, tensor, *partner->second, result);
      partners.erase(partner);
    }
    if (progress) progress(++done, tensors_a.size());
  }
  for (const auto& [name, tensor] : partners) add_missing(*tensor, "second", result);
  drop_scaling_by_tensor(tensors_a, tensors_b, result);
  return result;
}

}  // namespace plumb
