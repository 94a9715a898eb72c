// SPDX-License-Identifier: Apache-2.0
#include "model/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "model/tensor_table.h"
#include "quant/values.h"

namespace plumb {
namespace {

using Turn = CanonicalRecipe::Turn;
using Shape = std::vector<uint64_t>;

// --- The rows of the result, each as a row of what is stored.

struct HeadCounts {
  uint64_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0, plain_dim = 0;
};

HeadCounts head_counts(const Hyperparameters& h, size_t layer) {
  const auto size = [&](Size which) { return size_of(which, h, layer).value_or(0); };
  return {size(Size::Heads), size(Size::KvHeads), size(Size::HeadDim), size(Size::ValueDim),
          size(Size::PlainDim)};
}

// Row i of the first half of a head comes to 2i, row i of the second half to 2i + 1.
void halves_to_neighbours(std::vector<uint64_t>& rows, uint64_t head_dim) {
  const auto stored = rows;
  for (uint64_t i = 0; i < rows.size(); ++i) {
    const uint64_t in_head = i % head_dim;
    rows[i] = stored[i - in_head + in_head % 2 * (head_dim / 2) + in_head / 2];
  }
}

std::vector<uint64_t> row_range(uint64_t first, uint64_t count) {
  std::vector<uint64_t> rows(count);
  for (uint64_t i = 0; i < count; ++i) rows[i] = first + i;
  return rows;
}

void append_rows(std::vector<uint64_t>& rows, uint64_t first, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) rows.push_back(first + i);
}

// Stored: group by group its queries, then its key and its value. A group of one query is a head.
std::vector<uint64_t> grouped_qkv(uint64_t groups, uint64_t queries, uint64_t head_dim) {
  std::vector<uint64_t> rows;
  const uint64_t group_rows = (queries + 2) * head_dim;
  for (uint64_t g = 0; g < groups; ++g) append_rows(rows, g * group_rows, queries * head_dim);
  for (uint64_t part = queries; part < queries + 2; ++part)
    for (uint64_t g = 0; g < groups; ++g)
      append_rows(rows, g * group_rows + part * head_dim, head_dim);
  return rows;
}

// Of each expert's 2n rows, n from `first` on, `step` apart.
std::vector<uint64_t> expert_rows(uint64_t experts, uint64_t n, uint64_t first, uint64_t step) {
  std::vector<uint64_t> rows;
  for (uint64_t e = 0; e < experts; ++e)
    for (uint64_t i = 0; i < n; ++i) rows.push_back(e * 2 * n + first + i * step);
  return rows;
}

// Of each head's rows in kv_b the key's or the value's part.
std::vector<uint64_t> absorbed_rows(const HeadCounts& c, bool key) {
  std::vector<uint64_t> rows;
  for (uint64_t head = 0; head < c.heads; ++head)
    append_rows(rows, head * (c.plain_dim + c.value_dim) + (key ? 0 : c.plain_dim),
                key ? c.plain_dim : c.value_dim);
  return rows;
}

// --- What is done, in words and as a recipe. False: the sizes do not allow it.

class RecipeMaker {
 public:
  RecipeMaker(const TensorMatch& match, const Shape& shape, const Hyperparameters& h,
              CanonicalTensor& tensor)
      : match_(match),
        shape_(shape),
        counts_(head_counts(h, match.layer)),
        recipe_(tensor.recipe),
        changes_(tensor.changes),
        reordered_(tensor.rope_rows_reordered) {}

  bool make() {
    recipe_.row_length = shape_.size() > 1 ? shape_.back() : 1;
    const HeadCounts& c = counts_;
    switch (match_.form) {
      case Form::Transposed: return turned("transposed (Conv1D)");
      case Form::MinusOne: recipe_.added = 1; return changed("1 added (norm)");
      case Form::Halves: return halves(row_range(0, shape_.front()));
      case Form::QkvByHead:
        return c.kv_heads == c.heads && c.value_dim == c.head_dim &&
               rows(grouped_qkv(c.heads, 1, c.head_dim), "q, k, v un-interleaved (head by head)");
      case Form::QkvByGroup:
        return c.kv_heads != 0 && c.heads % c.kv_heads == 0 && c.value_dim == c.head_dim &&
               rows(grouped_qkv(c.kv_heads, c.heads / c.kv_heads, c.head_dim),
                    "q, k, v un-interleaved (group by group)");
      case Form::QueryPart: return part(0, c.heads * c.head_dim, "q");
      case Form::KeyPart: return part(c.heads * c.head_dim, c.kv_heads * c.head_dim, "k");
      case Form::ValuePart:
        return part((c.heads + c.kv_heads) * c.head_dim, c.kv_heads * c.value_dim, "v");
      case Form::JoinedQkv: return changed("q, k, v joined");
      case Form::JoinedTransposed:
        return turned("transposed (Conv1D)") && changed("q, k, v joined");
      case Form::AbsorbedKey:
        recipe_.turn = Turn::Last;
        recipe_.turn_rows = c.plain_dim;
        recipe_.row_length = shape_[1];
        return rows(absorbed_rows(c, true), "each head's key part taken from kv_b, transposed");
      case Form::AbsorbedValue:
        return rows(absorbed_rows(c, false), "each head's value part taken from kv_b");
      default: return make_experts();
    }
  }

 private:
  bool make_experts() {
    const uint64_t experts = shape_.front();
    const uint64_t n = shape_.size() > 1 ? shape_[1] : 0;
    const char* gate = "gate taken from gate_up, every other row";
    const char* up = "up taken from gate_up, every other row";
    const auto even = [&] { return rows(expert_rows(experts, n, 0, 2), gate); };
    const auto odd = [&] { return rows(expert_rows(experts, n, 1, 2), up); };
    switch (match_.form) {
      case Form::Stacked: return changed("stacked");
      case Form::FirstHalf: return rows(expert_rows(experts, n, 0, 1), "gate taken from gate_up");
      case Form::SecondHalf: return rows(expert_rows(experts, n, n, 1), "up taken from gate_up");
      case Form::EachTransposed: return turned("each expert transposed");
      case Form::EvenTransposed: return turned("each expert transposed") && even();
      case Form::OddTransposed: return turned("each expert transposed") && odd();
      case Form::Even: recipe_.row_length = 1; return even();
      case Form::Odd: recipe_.row_length = 1; return odd();
      case Form::Fp4: return fp4();
      case Form::Fp4Even: return fp4() && even();
      case Form::Fp4Odd: return fp4() && odd();
      default: return false;
    }
  }

  bool changed(std::string words) {
    changes_.push_back(std::move(words));
    return true;
  }

  bool rows(std::vector<uint64_t> list, std::string words) {
    recipe_.all_rows = false;
    recipe_.rows = std::move(list);
    return changed(std::move(words));
  }

  bool turned(const char* words) {
    recipe_.turn = Turn::First;
    return changed(words);
  }

  bool halves(std::vector<uint64_t> list) {
    if (counts_.head_dim == 0 || counts_.head_dim % 2 != 0 || list.size() % counts_.head_dim != 0)
      return false;
    halves_to_neighbours(list, counts_.head_dim);
    reordered_ = true;
    return rows(std::move(list), "rows of each head reordered for neighbouring RoPE pairs");
  }

  bool part(uint64_t first, uint64_t count, const char* which) {
    rows(row_range(first, count), fmt::format("{} taken from qkv", which));
    // A fused tensor under another name than GGUF's has its rows as transformers has them.
    const bool foreign = !match_.sources.front()->name.starts_with("blk.");
    const bool paired = !match_.row->hf.empty() && match_.row->hf.front().form == Form::Halves;
    return !foreign || !paired || halves(row_range(first, count));
  }

  bool fp4() {
    for (const auto* source : match_.sources)
      if (source->view.dtype != DType::U8) return false;
    recipe_.fp4 = true;
    return changed("MXFP4 blocks and scales put together");
  }

  const TensorMatch& match_;
  const Shape& shape_;
  HeadCounts counts_;
  CanonicalRecipe& recipe_;
  std::vector<std::string>& changes_;
  bool& reordered_;
};

// --- From matches to tensors.

std::optional<Shape> row_shape(const TensorMatch& match, const Hyperparameters& h) {
  Shape shape;
  for (const auto size : match.row->shape) {
    const auto value = size_of(size, h, match.layer);
    if (!value || *value == 0) return std::nullopt;
    shape.push_back(*value);
  }
  return shape;
}

std::string layer_name(const TensorMatch& match) {
  auto name = match.row->name;
  if (const auto at = name.find("{}"); at != std::string::npos)
    name.replace(at, 2, std::to_string(match.layer));
  return name;
}

CanonicalTensor as_stored(std::string name, const TensorEntry& entry) {
  CanonicalTensor tensor;
  tensor.name = std::move(name);
  tensor.shape = entry.view.shape;
  tensor.sources = {entry.name};
  tensor.view = entry.view;
  return tensor;
}

// Whether each source has the shape that its part of the whole asks for.
bool sources_fit(const TensorMatch& match, const Shape& whole, const Hyperparameters& h) {
  for (size_t i = 0; i < match.sources.size(); ++i)
    if (source_shape(match.form, whole, h, match.layer, i) != match.sources[i]->view.shape)
      return false;
  return element_count(whole).value_or(0) > 0;
}

class Canonicalizer {
 public:
  Canonicalizer(const ModelFile& file, const Hyperparameters& h) : file_(file), h_(h) {}

  std::vector<CanonicalTensor> run() {
    const auto matches = match_tensors(file_, h_);
    for (const auto& match : matches.matches)
      if (!is_copy_of_embedding(match)) add_match(match);
    if (architecture_known(h_)) {
      for (const auto* entry : matches.others) add_own(*entry);
      for (const auto* entry : matches.doubles) add_own(*entry);
      add_rope_factors();
    } else {
      for (const auto& entry : file_.tensors) add_own(entry);
    }
    return std::move(result_);
  }

 private:
  // lm_head beside an embedding that the model uses in its place. The bytes decide; if they differ
  // it stays, and its change says so.
  bool is_copy_of_embedding(const TensorMatch& match) {
    if (match.row->name != "output.weight" || !match.found() || !h_.tied) return false;
    const auto embedding = std::ranges::find(result_, "token_embd.weight", &CanonicalTensor::name);
    if (embedding == result_.end() || !embedding->is_view) return false;
    const auto& head = match.sources.front()->view;
    const auto& tokens = embedding->view;
    if (head.dtype != tokens.dtype || head.shape != tokens.shape ||
        !std::ranges::equal(head.bytes, tokens.bytes))
      return false;
    embedding->sources.push_back(match.sources.front()->name);
    embedding->changes.push_back(match.sources.front()->name + " left out, the same bytes");
    return true;
  }

  void add_match(const TensorMatch& match) {
    if (!match.found()) {
      for (const auto* source : match.sources) add_own(*source);
      return;
    }
    const auto whole = row_shape(match, h_);
    const bool fits = whole && sources_fit(match, *whole, h_);
    if (match.form == Form::Whole) {
      add_whole(match, whole);
      return;
    }
    CanonicalTensor tensor;
    tensor.is_view = false;
    if (!fits || !RecipeMaker(match, *whole, h_, tensor).make()) {
      add_unfit(match);
      return;
    }
    tensor.name = layer_name(match);
    tensor.shape = *whole;
    for (const auto* source : match.sources) {
      tensor.sources.push_back(source->name);
      tensor.recipe.parts.push_back(source->view);
    }
    add(std::move(tensor));
  }

  void add_whole(const TensorMatch& match, const std::optional<Shape>& whole) {
    auto tensor = as_stored(layer_name(match), *match.sources.front());
    // [1, n] and [n] are the same to ggml.
    if (whole && tensor.shape.size() == whole->size() + 1 && tensor.shape.front() == 1)
      tensor.shape.erase(tensor.shape.begin());
    tensor.view.shape = tensor.shape;
    if (match.row->name == "output.weight" && h_.tied && file_.format != FileFormat::Gguf)
      tensor.changes.push_back("not the embedding, though the metadata says they are one");
    add(std::move(tensor));
  }

  void add_unfit(const TensorMatch& match) {
    if (match.sources.size() > 1 || used_.contains(match.sources.front())) {
      for (const auto* source : match.sources) add_own(*source);
      return;
    }
    auto tensor = as_stored(layer_name(match), *match.sources.front());
    tensor.changes.push_back("as stored: its shape is not the one that the metadata asks for");
    used_.insert(match.sources.front());
    add(std::move(tensor));
  }

  void add_own(const TensorEntry& entry) {
    if (used_.insert(&entry).second) add(as_stored(entry.name, entry));
  }

  void add(CanonicalTensor tensor) {
    while (!names_.insert(tensor.name).second) tensor.name += " (again)";
    result_.push_back(std::move(tensor));
  }

  void add_computed(const char* name, std::vector<float> values, const char* words) {
    if (values.empty() || names_.contains(name)) return;
    CanonicalTensor tensor;
    tensor.name = name;
    tensor.shape = {values.size()};
    tensor.changes = {words};
    tensor.is_view = false;
    tensor.recipe.values = std::move(values);
    add(std::move(tensor));
  }

  void add_rope_factors();
  double config_number(std::initializer_list<const char*> names, double fallback) const;
  std::vector<float> config_list(const char* name) const;
  std::vector<float> llama3_factors() const;

  const ModelFile& file_;
  const Hyperparameters& h_;
  std::vector<CanonicalTensor> result_;
  std::unordered_set<std::string> names_;
  std::unordered_set<const TensorEntry*> used_;
};

constexpr const char* kRopePlaces[] = {"", "rope_parameters.", "rope_scaling.",
                                       "rope_parameters.full_attention."};
constexpr const char* kConfigs[] = {"text_config.", ""};

double Canonicalizer::config_number(std::initializer_list<const char*> names,
                                    double fallback) const {
  for (const auto* config : kConfigs)
    for (const auto* place : kRopePlaces)
      for (const auto* name : names) {
        const auto found = file_.metadata.find(std::string(config) + place + name);
        if (found == file_.metadata.end()) continue;
        if (const auto* real = std::get_if<double>(&found->second)) return *real;
        if (const auto* integer = std::get_if<int64_t>(&found->second))
          return static_cast<double>(*integer);
      }
  return fallback;
}

std::vector<float> Canonicalizer::config_list(const char* name) const {
  std::vector<float> values;
  const size_t count = h_.rope_dimensions.value_or(0) / 2;
  for (const auto* config : kConfigs)
    for (const auto* place : kRopePlaces) {
      const auto found = file_.metadata.find(std::string(config) + place + name);
      if (found == file_.metadata.end()) continue;
      const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&found->second);
      if (array == nullptr || (*array)->size() != count) continue;
      (*array)->for_each([&](const MetadataValue& value) {
        if (const auto* real = std::get_if<double>(&value))
          values.push_back(static_cast<float>(*real));
        if (const auto* integer = std::get_if<int64_t>(&value))
          values.push_back(static_cast<float>(*integer));
        return true;
      });
      if (values.size() == count) return values;
      values.clear();
    }
  return values;
}

// What llama.cpp's converter puts into rope_freqs.weight, in its arithmetic (float32): the angles
// of RoPE are divided by it. Wavelengths beyond the trained context are stretched by `factor`,
// short ones are not, between the two the inverse goes over linearly.
std::vector<float> Canonicalizer::llama3_factors() const {
  const uint64_t dim = h_.head_dim.value_or(0);
  constexpr uint64_t kLargestHead = 65536;
  if (dim == 0 || dim > kLargestHead) return {};
  const double fallback = h_.architecture == "exaone4" ? 16 : 8;
  const auto factor = static_cast<float>(config_number({"factor"}, fallback));
  const auto low = static_cast<float>(config_number({"low_freq_factor"}, 1));
  const auto high = static_cast<float>(config_number({"high_freq_factor"}, 4));
  const auto context =
      static_cast<float>(config_number({"original_max_position_embeddings"}, 8192));
  const auto base = static_cast<float>(h_.rope_base.value_or(1e4));
  std::vector<float> values;
  for (uint64_t i = 0; i < dim; i += 2) {
    const float frequency = 1.0F / std::pow(base, static_cast<float>(i) / static_cast<float>(dim));
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
    if (wavelength < context / high) {
      values.push_back(1);
    } else if (wavelength > context / low) {
      values.push_back(factor);
    } else {
      const float smooth = (context / wavelength - low) / (high - low);
      values.push_back(1 / ((1 - smooth) / factor + smooth));
    }
  }
  return values;
}

void Canonicalizer::add_rope_factors() {
  if (file_.format != FileFormat::HuggingFace && file_.format != FileFormat::Safetensors) return;
  static constexpr std::string_view kWithFactors[] = {"llama",   "mistral3", "granite",
                                                      "smollm3", "exaone",   "exaone4"};
  if (h_.rope_scaling == "llama3" &&
      std::ranges::find(kWithFactors, h_.architecture) != std::end(kWithFactors))
    add_computed("rope_freqs.weight", llama3_factors(),
                 "computed from the llama3 scaling in config.json");
  if (h_.architecture != "phi3") return;
  const char* words = "copied from the factors in config.json";
  add_computed("rope_factors_long.weight", config_list("long_factor"), words);
  add_computed("rope_factors_short.weight", config_list("short_factor"), words);
}

// --- Values.

uint64_t count_of(const TensorView& view) { return element_count(view.shape).value_or(0); }

std::vector<float> all_values(const TensorView& view) {
  std::vector<float> values(count_of(view));
  read_values(view, 0, values.size(), values.data());
  return values;
}

// Matrices of `rows` rows and `columns` columns, one behind the other, each turned.
std::vector<float> turned(const std::vector<float>& values, uint64_t rows, uint64_t columns) {
  std::vector<float> result(values.size());
  const uint64_t size = rows * columns;
  CHECK(size > 0 && values.size() % size == 0);
  for (uint64_t start = 0; start < values.size(); start += size)
    for (uint64_t r = 0; r < rows; ++r)
      for (uint64_t c = 0; c < columns; ++c)
        result[start + c * rows + r] = values[start + r * columns + c];
  return result;
}

// MXFP4 as gpt-oss stores it: byte j of a block has values 2j (low nibble) and 2j + 1; each block
// of 32 has a power of two, biased by 127. OCP Microscaling Formats, E2M1 and E8M0.
std::vector<float> fp4_values(const TensorView& blocks, const TensorView& scales) {
  static constexpr std::array<float, 16> kValues = {0,     0.5F,  1,  1.5F,  2,  3,  4,  6,
                                                    -0.0F, -0.5F, -1, -1.5F, -2, -3, -4, -6};
  std::vector<float> values(scales.bytes.size() * 32);
  CHECK(blocks.bytes.size() == scales.bytes.size() * 16);
  for (size_t b = 0; b < scales.bytes.size(); ++b) {
    const int exponent = static_cast<int>(scales.bytes[b]) - 127;
    for (size_t j = 0; j < 16; ++j) {
      const auto byte = static_cast<unsigned>(blocks.bytes[b * 16 + j]);
      values[b * 32 + 2 * j] = std::ldexp(kValues[byte & 15U], exponent);
      values[b * 32 + 2 * j + 1] = std::ldexp(kValues[byte >> 4], exponent);
    }
  }
  return values;
}

// The parts' values with the first turn done, or nothing if rows can be read as they are stored.
std::optional<std::vector<float>> prepared(const CanonicalRecipe& recipe) {
  if (recipe.fp4) return fp4_values(recipe.parts[0], recipe.parts[1]);
  if (recipe.turn != Turn::First) return std::nullopt;
  std::vector<float> values;
  for (const auto& part : recipe.parts) {
    const auto& shape = part.shape;
    const auto more = turned(all_values(part), shape[shape.size() - 2], shape.back());
    values.insert(values.end(), more.begin(), more.end());
  }
  return values;
}

// Rows from `first` on, of parts that lie one behind the other; never past the end of a part.
void read_rows(const CanonicalRecipe& recipe, uint64_t first, uint64_t count, float* out) {
  const uint64_t length = recipe.row_length;
  for (const auto& part : recipe.parts) {
    const uint64_t rows = count_of(part) / length;
    if (first >= rows) {
      first -= rows;
      continue;
    }
    const uint64_t taken = std::min(count, rows - first);
    read_values(part, first * length, taken * length, out);
    out += taken * length;
    count -= taken;
    first = 0;
    if (count == 0) return;
  }
  CHECK(count == 0);
}

std::vector<float> gathered(const CanonicalRecipe& recipe) {
  auto stored = prepared(recipe);
  if (recipe.all_rows) {
    if (stored) return std::move(*stored);
    std::vector<float> values;
    for (const auto& part : recipe.parts) {
      const size_t before = values.size();
      values.resize(before + count_of(part));
      read_values(part, 0, values.size() - before, values.data() + before);
    }
    return values;
  }
  const uint64_t length = recipe.row_length;
  std::vector<float> values(recipe.rows.size() * length);
  for (size_t i = 0; i < recipe.rows.size();) {
    size_t run = 1;  // rows that are neighbours in the file too
    while (i + run < recipe.rows.size() && recipe.rows[i + run] == recipe.rows[i] + run) ++run;
    float* out = values.data() + i * length;
    if (stored)
      std::memcpy(out, stored->data() + recipe.rows[i] * length, run * length * sizeof(float));
    else read_rows(recipe, recipe.rows[i], run, out);
    i += run;
  }
  return values;
}

}  // namespace

std::vector<CanonicalTensor> canonical_tensors(const ModelFile& file, const Hyperparameters& h) {
  return Canonicalizer(file, h).run();
}

std::vector<float> read_canonical(const CanonicalTensor& tensor) {
  if (tensor.is_view) return all_values(tensor.view);
  const auto& recipe = tensor.recipe;
  if (!recipe.values.empty()) return recipe.values;
  auto values = gathered(recipe);
  if (recipe.turn == Turn::Last) values = turned(values, recipe.turn_rows, recipe.row_length);
  if (recipe.added != 0)
    for (float& value : values) value += recipe.added;
  return values;
}

}  // namespace plumb
