// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_table.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "core/check.h"
#include "model/architecture.h"

namespace plumb {
namespace {

using Tables = std::map<std::string, std::vector<TensorRow>, std::less<>>;

const Tables& tables() {
  static const Tables result = [] {
    Tables made;
    for (const auto* architecture : architectures())
      made.emplace(architecture->name, rows_of(architecture->tensors()));
    return made;
  }();
  return result;
}

std::string filled(std::string_view pattern, std::string_view hole, const std::string& value) {
  std::string text(pattern);
  if (const auto at = text.find(hole); at != std::string::npos)
    text.replace(at, hole.size(), value);
  return text;
}

std::string with_layer(std::string_view pattern, size_t layer) {
  return filled(pattern, "{}", std::to_string(layer));
}

// The tensors of a file by the names that the tables use.
struct Index {
  explicit Index(const ModelFile& file) : plain(file.format == FileFormat::Gguf) {
    by_name.reserve(file.tensors.size());
    for (const auto& tensor : file.tensors)
      if (!by_name.emplace(key(tensor.name), &tensor).second) doubles.push_back(&tensor);
  }
  std::string_view key(std::string_view name) const { return plain ? name : bare_name(name); }
  const TensorEntry* find(std::string_view name) const {
    const auto found = by_name.find(key(name));
    return found == by_name.end() ? nullptr : found->second;
  }

  bool plain;
  std::unordered_map<std::string_view, const TensorEntry*> by_name;
  std::vector<const TensorEntry*> doubles;
};

constexpr size_t kMostAbsent = 8;  // names of missing experts; more say nothing new

// Adds the tensor of one name, or its name to the absent ones.
void collect(const Index& index, const std::string& name, TensorMatch& match) {
  if (const auto* entry = index.find(name)) match.sources.push_back(entry);
  else match.absent.push_back(name);
}

TensorMatch match_source(const Index& index, const TensorRow& row, const Source& source,
                         const Hyperparameters& h, size_t layer) {
  TensorMatch match{&row, layer, source.form, {}, {}};
  const auto name = with_layer(source.pattern, layer);
  switch (source.form) {
    case Form::Stacked: {
      const auto count = size_of(row.shape.front(), h, layer).value_or(0);
      for (uint64_t i = 0; i < count && match.absent.size() < kMostAbsent; ++i)
        collect(index, filled(name, "[]", std::to_string(i)), match);
      break;
    }
    case Form::JoinedQkv:
    case Form::JoinedTransposed:
      for (const auto* part : {"q", "k", "v"}) collect(index, filled(name, "*", part), match);
      break;
    case Form::Fp4:
    case Form::Fp4Even:
    case Form::Fp4Odd:
      for (const auto* part : {"blocks", "scales"}) collect(index, filled(name, "*", part), match);
      break;
    default:
      collect(index, name, match);
      if (match.sources.empty()) match.absent.clear();
  }
  return match;
}

// The first source that is there as a whole, else the one of which most is there.
TensorMatch match_row(const ModelFile& file, const Index& index, const TensorRow& row,
                      const Hyperparameters& h, size_t layer) {
  TensorMatch best{&row, layer, Form::Whole, {}, {}};
  const bool gguf = file.format == FileFormat::Gguf, apr = file.format == FileFormat::Apr;
  const std::pair<const std::vector<Source>*, bool> lists[] = {
      {&row.gguf, gguf || apr}, {&row.hf, !gguf}, {&row.apr, apr}};
  for (const auto& [sources, used] : lists) {
    if (!used) continue;
    for (const auto& source : *sources) {
      auto match = match_source(index, row, source, h, layer);
      if (match.found()) return match;
      if (match.sources.size() > best.sources.size()) best = std::move(match);
    }
  }
  return best;
}

std::optional<uint64_t> product(std::optional<uint64_t> a, std::optional<uint64_t> b) {
  uint64_t result = 0;
  if (!a || !b || __builtin_mul_overflow(*a, *b, &result)) return std::nullopt;
  return result;
}

std::optional<uint64_t> sum(std::optional<uint64_t> a, std::optional<uint64_t> b) {
  uint64_t result = 0;
  if (!a || !b || __builtin_add_overflow(*a, *b, &result)) return std::nullopt;
  return result;
}

std::optional<uint64_t> less(std::optional<uint64_t> a, std::optional<uint64_t> b) {
  if (!a || !b || *a < *b) return std::nullopt;
  return *a - *b;
}

using Count = std::optional<uint64_t>;

Count of_layer(const std::vector<size_t>& list, const std::optional<size_t>& all, size_t layer) {
  if (layer < list.size()) return list[layer];
  return all ? Count(*all) : std::nullopt;
}

using Shape = std::vector<uint64_t>;

// Blocks of 32 values: 16 bytes each in the first tensor, one exponent in the second.
std::optional<Shape> fp4_shape(Shape shape, size_t source) {
  if (shape.back() % 32 != 0) return std::nullopt;
  shape.back() /= 32;
  if (source == 0) shape.push_back(16);
  return shape;
}

std::optional<Shape> with_rows(Shape shape, Count rows) {
  if (!rows) return std::nullopt;
  shape.front() = *rows;
  return shape;
}

// Of the forms that take parts of, or join, q, k and v.
std::optional<Shape> attention_shape(Form form, Shape shape, const Hyperparameters& h, size_t layer,
                                     size_t source) {
  const auto size = [&](Size which) { return size_of(which, h, layer); };
  switch (form) {
    case Form::QueryPart:
    case Form::KeyPart:
    case Form::ValuePart: return with_rows(std::move(shape), size(Size::QkvRows));
    case Form::JoinedQkv:
    case Form::JoinedTransposed: {
      constexpr Size kRows[] = {Size::QueryRows, Size::KeyRows, Size::ValueRows};
      auto joined = with_rows(std::move(shape), size(kRows[source]));
      if (joined && form == Form::JoinedTransposed) std::ranges::reverse(*joined);
      return joined;
    }
    case Form::AbsorbedKey:
    case Form::AbsorbedValue: {
      const auto rows = size(Size::KeyValueRows);
      const auto rank = size(Size::KvRank);
      if (!rows || !rank) return std::nullopt;
      return Shape{*rows, *rank};
    }
    default: break;
  }
  CHECK(false);
}

}  // namespace

const std::vector<TensorRow>* tensor_rows(std::string_view architecture) {
  const auto found = tables().find(architecture);
  return found == tables().end() ? nullptr : &found->second;
}

bool architecture_known(const Hyperparameters& h) { return tensor_rows(h.architecture) != nullptr; }

std::optional<uint64_t> size_of(Size size, const Hyperparameters& h, size_t layer) {
  const Count heads = of_layer(h.layer_heads, h.heads, layer);
  const Count kv_heads = of_layer(h.layer_kv_heads, h.kv_heads, layer);
  const Count ffn = of_layer(h.layer_ffn, h.ffn, layer);
  const Count query = product(heads, h.head_dim);
  const Count key = product(kv_heads, h.head_dim);
  const Count value = product(kv_heads, h.value_dim);
  const Count plain = less(h.head_dim, h.rope_dimensions);
  switch (size) {
    case Size::Width: return h.width;
    case Size::Vocabulary: return h.vocabulary;
    case Size::Context: return h.context;
    case Size::Heads: return heads;
    case Size::KvHeads: return kv_heads;
    case Size::HeadDim: return h.head_dim;
    case Size::ValueDim: return h.value_dim;
    case Size::QueryRows: return query;
    case Size::KeyRows: return key;
    case Size::ValueRows: return value;
    case Size::QkvRows: return sum(query, sum(key, value));
    case Size::MixedWidth: return product(heads, h.value_dim);
    case Size::Ffn: return ffn;
    case Size::TwoFfn: return product(ffn, 2);
    case Size::Experts: return h.experts;
    case Size::ExpertFfn: return h.expert_ffn;
    case Size::SharedFfn: return h.shared_ffn;
    case Size::HalfRope: return h.rope_dimensions ? Count(*h.rope_dimensions / 2) : std::nullopt;
    case Size::QueryRank: return h.query_rank;
    case Size::KvRank: return h.kv_rank;
    case Size::KvRankRope: return sum(h.kv_rank, h.rope_dimensions);
    case Size::PlainDim: return plain;
    case Size::KeyValueRows: return product(heads, sum(plain, h.value_dim));
  }
  CHECK(false);
}

bool applies(Where where, const Hyperparameters& h, size_t layer) {
  const bool listed = layer < h.layer_dense.size() && h.layer_dense[layer];
  const bool experts = h.experts.has_value() && layer >= h.dense_layers && !listed;
  switch (where) {
    case Where::All: return true;
    case Where::Dense: return !experts;
    case Where::Experts: return experts;
    case Where::FullQuery: return !h.query_rank;
    case Where::LowRankQuery: return h.query_rank.has_value();
    case Where::Absorbed: return h.absorbed;
    case Where::Joined: return !h.absorbed;
  }
  CHECK(false);
}

std::string_view bare_name(std::string_view name) {
  static constexpr std::string_view kPrefixes[] = {"model.", "language_model.", "text_model.",
                                                   "transformer.", "gpt_neox."};
  for (bool again = true; again;) {
    again = false;
    for (const auto prefix : kPrefixes)
      if (name.starts_with(prefix)) {
        name.remove_prefix(prefix.size());
        again = true;
      }
  }
  return name;
}

std::optional<size_t> layer_of(std::string_view name) {
  name = bare_name(name);
  for (const std::string_view prefix : {"blk.", "layers.", "h."}) {
    if (!name.starts_with(prefix)) continue;
    const auto* first = name.data() + prefix.size();
    const auto* last = name.data() + name.size();
    uint32_t layer = 0;
    const auto [end, error] = std::from_chars(first, last, layer);
    if (error == std::errc{} && end != first && end != last && *end == '.') return layer;
  }
  return std::nullopt;
}

bool harmless(std::string_view name) {
  static constexpr std::string_view kEndings[] = {
      "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", ".attn.bias",
      ".attn.masked_bias",   ".attention.bias",       ".attention.masked_bias"};
  static constexpr std::string_view kTowers[] = {
      "vision_tower.", "vision_model.", "multi_modal_projector.", "visual.", "audio_tower."};
  if (name == "rope_freqs.weight" || name == "rope_factors_long.weight" ||
      name == "rope_factors_short.weight")
    return true;
  return std::ranges::any_of(kEndings, [&](auto ending) { return name.ends_with(ending); }) ||
         std::ranges::any_of(kTowers,
                             [&](auto tower) { return bare_name(name).starts_with(tower); });
}

TensorMatches match_tensors(const ModelFile& file, const Hyperparameters& h) {
  TensorMatches result;
  const auto* rows = tensor_rows(h.architecture);
  if (rows == nullptr) return result;
  const Index index(file);
  result.doubles = index.doubles;
  std::set<size_t> found;
  for (const auto& tensor : file.tensors)
    if (const auto layer = layer_of(tensor.name)) found.insert(*layer);
  result.layers = h.layers.value_or(found.empty() ? 0 : *found.rbegin() + 1);
  found.erase(found.lower_bound(result.layers), found.end());
  result.layers_found.assign(found.begin(), found.end());
  std::unordered_set<const TensorEntry*> used(index.doubles.begin(), index.doubles.end());
  const auto add = [&](const TensorRow& row, size_t layer) {
    auto match = match_row(file, index, row, h, layer);
    used.insert(match.sources.begin(), match.sources.end());
    result.matches.push_back(std::move(match));
  };
  for (const auto& row : *rows) {
    if (!row.per_layer()) add(row, 0);
    for (const size_t layer : result.layers_found)
      if (row.per_layer() && applies(row.where, h, layer)) add(row, layer);
  }
  for (const auto& tensor : file.tensors)
    if (!used.contains(&tensor)) result.others.push_back(&tensor);
  return result;
}

Naming naming_of(const ModelFile& file) {
  const auto own = [](const TensorEntry& tensor) {
    return tensor.name.starts_with("blk.") || tensor.name == "token_embd.weight";
  };
  if (file.format == FileFormat::Gguf) return Naming::Gguf;
  if (file.format != FileFormat::Apr) return Naming::HuggingFace;
  return std::ranges::any_of(file.tensors, own) ? Naming::Gguf : Naming::Apr;
}

std::string expected_name(Naming naming, const TensorRow& row, size_t layer) {
  std::string_view pattern = row.name;
  if (naming != Naming::Gguf && !row.hf.empty()) pattern = row.hf.front().pattern;
  if (naming == Naming::Apr && !row.apr.empty()) pattern = row.apr.front().pattern;
  return with_layer(pattern, layer);
}

std::optional<std::vector<uint64_t>> source_shape(Form form, std::vector<uint64_t> shape,
                                                  const Hyperparameters& h, size_t layer,
                                                  size_t source) {
  const size_t n = shape.size();
  switch (form) {
    case Form::Whole:
    case Form::Halves:
    case Form::MinusOne:
    case Form::QkvByHead:
    case Form::QkvByGroup: return shape;
    case Form::Transposed: std::ranges::reverse(shape); return shape;
    case Form::Stacked: shape.erase(shape.begin()); return shape;
    case Form::FirstHalf:
    case Form::SecondHalf: shape[n - 2] *= 2; return shape;
    case Form::EvenTransposed:
    case Form::OddTransposed:
      shape[n - 2] *= 2;
      std::swap(shape[n - 2], shape[n - 1]);
      return shape;
    case Form::Even:
    case Form::Odd: shape[n - 1] *= 2; return shape;
    case Form::EachTransposed: std::swap(shape[n - 2], shape[n - 1]); return shape;
    case Form::Fp4: return fp4_shape(std::move(shape), source);
    case Form::Fp4Even:
    case Form::Fp4Odd: shape[n - 2] *= 2; return fp4_shape(std::move(shape), source);
    default: return attention_shape(form, std::move(shape), h, layer, source);
  }
}

}  // namespace plumb
