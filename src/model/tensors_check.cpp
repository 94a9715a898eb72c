// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "model/tensor_table.h"

namespace plumb {
namespace {

constexpr size_t kMostIssues = 1000;  // of a hostile file; a list that long is read by nobody

std::string dims(const std::vector<uint64_t>& shape) {
  return shape.empty() ? "a single value" : fmt::format("{}", fmt::join(shape, "x"));
}

// ggml does not tell [1, n] from [n].
std::vector<uint64_t> without_leading_ones(std::vector<uint64_t> shape) {
  while (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

bool swapped(std::vector<uint64_t> shape, const std::vector<uint64_t>& expected) {
  if (shape.size() < 2 || shape.size() != expected.size()) return false;
  std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  return shape == expected;
}

class Checker {
 public:
  Checker(const ModelFile& file, const Hyperparameters& h)
      : file_(file), h_(h), naming_(naming_of(file)), matches_(match_tensors(file, h)) {}

  std::vector<TensorIssue> run() {
    check_absent_layers();
    for (const auto& match : matches_.matches) {
      if (issues_.size() > kMostIssues) break;
      check_presence(match);
      check_shape(match);
    }
    check_consistency();
    check_layers_beyond();
    check_others();
    check_vocabulary();
    return std::move(issues_);
  }

 private:
  enum class Wanted { Yes, Maybe, No };

  Wanted wanted(const TensorRow& row) const {
    const auto by_flag = [](const std::optional<bool>& flag) {
      return !flag ? Wanted::Maybe : *flag ? Wanted::Yes : Wanted::No;
    };
    switch (row.need) {
      case Need::Required: return Wanted::Yes;
      case Need::UnlessTied: return h_.tied ? Wanted::Maybe : Wanted::Yes;
      case Need::InGguf:
        return h_.tied && file_.format != FileFormat::Gguf ? Wanted::Maybe : Wanted::Yes;
      case Need::IfAttentionBias: return by_flag(h_.attention_bias);
      case Need::IfMlpBias: return by_flag(h_.mlp_bias);
      case Need::Optional:
      case Need::Never: break;
    }
    return Wanted::Maybe;
  }

  // Why a tensor is wanted, where it is not because of the architecture alone.
  std::string reason(const TensorRow& row) const {
    if (row.need == Need::IfAttentionBias || row.need == Need::IfMlpBias)
      return row.need == Need::IfAttentionBias && h_.attention_bias == true
                 ? ", and attention layers have biases here"
                 : "";
    if (row.need == Need::UnlessTied && file_.format != FileFormat::Gguf)
      return ", and the embedding is not said to be used in its place";
    return "";
  }

  void add(TensorIssue::Kind kind, std::string tensor, std::string text, bool serious = true) {
    if (issues_.size() < kMostIssues)
      issues_.push_back({kind, std::move(tensor), std::move(text), serious});
    else if (issues_.size() == kMostIssues)
      issues_.push_back({kind, std::move(tensor), "there are more issues, which are not listed"});
  }

  // Layers without any tensor, a run of them at a time.
  void check_absent_layers() {
    size_t next = 0;
    const auto report = [&](size_t end) {
      if (next == end) return;
      const auto which = end - next == 1 ? fmt::format("layer {}", next)
                                         : fmt::format("layers {} to {}", next, end - 1);
      add(TensorIssue::Missing, first_name(next),
          fmt::format("all tensors of {} are missing: the metadata says {} layers", which,
                      matches_.layers));
    };
    for (const size_t layer : matches_.layers_found) {
      report(layer);
      next = layer + 1;
    }
    report(matches_.layers);
  }

  std::string first_name(size_t layer) const {
    for (const auto& row : *tensor_rows(h_.architecture))
      if (row.per_layer() && applies(row.where, h_, layer))
        return expected_name(naming_, row, layer);
    return {};
  }

  void check_presence(const TensorMatch& match) {
    const auto& row = *match.row;
    for (const auto& name : match.absent) {
      if (match.sources.empty()) break;
      add(TensorIssue::Missing, name,
          fmt::format("{} is missing, others that belong to {} are there", name,
                      expected_name(naming_, row, match.layer)));
    }
    if (match.sources.empty() && wanted(row) == Wanted::Yes) {
      const auto name = expected_name(naming_, row, match.layer);
      const auto shown = missing_name(name);
      add(TensorIssue::Missing, shown, fmt::format("{} is missing{}", shown, reason(row)));
    }
    if (match.found() && wanted(row) == Wanted::No)
      add(TensorIssue::Extra, match.sources.front()->name,
          fmt::format("{} is there, though the metadata says that there are no biases",
                      printable(match.sources.front()->name)),
          false);
  }

  // The name of the first of several where a pattern stands for several.
  static std::string missing_name(std::string name) {
    const auto replace = [&](std::string_view hole, std::string_view value) {
      if (const auto at = name.find(hole); at != std::string::npos)
        name.replace(at, hole.size(), value);
    };
    replace("[]", "0");
    replace("*", "q");
    return name;
  }

  void check_shape(const TensorMatch& match) {
    std::vector<uint64_t> whole;
    for (const auto size : match.row->shape) {
      const auto value = size_of(size, h_, match.layer);
      if (!value) return;
      whole.push_back(*value);
    }
    if (!match.found()) return;
    for (size_t i = 0; i < match.sources.size(); ++i) {
      const auto expected = source_shape(match.form, whole, h_, match.layer, i);
      if (expected) compare(*match.sources[i], *expected, *match.row);
    }
  }

  static bool has_heads(const TensorRow& row) {
    return std::ranges::any_of(row.shape, [](Size size) {
      return size == Size::HeadDim || size == Size::QueryRows || size == Size::KeyRows ||
             size == Size::ValueRows || size == Size::MixedWidth || size == Size::QkvRows;
    });
  }

  void compare(const TensorEntry& tensor, const std::vector<uint64_t>& expected,
               const TensorRow& row) {
    const auto shape = without_leading_ones(tensor.view.shape);
    const auto right = without_leading_ones(expected);
    if (shape == right) return;
    auto text = fmt::format("{} is {}, the metadata asks for {}", printable(tensor.name),
                            dims(shape), dims(right));
    if (swapped(shape, right)) text += ": its two dimensions are swapped";
    else if (has_heads(row) && !h_.head_dim_given)
      text += fmt::format(" (the size of a head is not given, width / heads is {})", *h_.head_dim);
    const bool vocabulary = row.shape.front() == Size::Vocabulary && shape.size() == right.size() &&
                            shape.front() != right.front();
    if (vocabulary && !swapped(shape, right))
      text += fmt::format(" (the vocabulary has {} tokens)", right.front());
    add(TensorIssue::WrongShape, tensor.name, text);
  }

  struct Presence {
    std::vector<size_t> with, without;
    const TensorRow* row = nullptr;
  };

  static std::string list(const std::vector<size_t>& layers) {
    constexpr size_t kShown = 6;
    const size_t shown = std::min(layers.size(), kShown);
    const auto begin = layers.begin();
    auto text = fmt::format("{} {}", layers.size() == 1 ? "layer" : "layers",
                            fmt::join(begin, begin + static_cast<ptrdiff_t>(shown), ", "));
    return layers.size() > shown ? text + fmt::format(" and {} more", layers.size() - shown) : text;
  }

  // Optional tensors: in all layers or in none, and the members of a group alike.
  void check_consistency() {
    std::map<const TensorRow*, Presence> rows;
    for (const auto& match : matches_.matches) {
      auto& presence = rows[match.row];
      presence.row = match.row;
      (match.sources.empty() ? presence.without : presence.with).push_back(match.layer);
    }
    std::map<int, std::vector<const Presence*>> groups;
    for (const auto& row : *tensor_rows(h_.architecture)) {
      const auto found = rows.find(&row);
      if (found == rows.end() || wanted(row) == Wanted::Yes) continue;
      if (row.group != 0) groups[row.group].push_back(&found->second);
      if (row.per_layer()) check_layers_alike(found->second);
    }
    for (const auto& [number, members] : groups) check_group(members);
  }

  void check_layers_alike(const Presence& presence) {
    if (presence.with.empty() || presence.without.empty()) return;
    const bool few_with = presence.with.size() < presence.without.size();
    const size_t layer = few_with ? presence.with.front() : presence.without.front();
    const auto name = expected_name(naming_, *presence.row, layer);
    add(TensorIssue::Inconsistent, name,
        few_with ? fmt::format("{} is there, {} lack it", name, list(presence.without))
                 : fmt::format("{} is missing, {} have it", name, list(presence.with)));
  }

  void check_group(const std::vector<const Presence*>& members) {
    const auto has = [](const Presence* member) { return !member->with.empty(); };
    const auto present = std::ranges::find_if(members, has);
    if (present == members.end()) return;
    for (const auto* member : members) {
      if (has(member) || member->without.empty()) continue;
      const auto name = expected_name(naming_, *member->row, member->without.front());
      const auto other = expected_name(naming_, *(*present)->row, (*present)->with.front());
      add(TensorIssue::Inconsistent, name,
          fmt::format("{} is missing, though {} is there: they come together", name, other));
    }
  }

  void check_layers_beyond() {
    if (!h_.layers) return;
    std::map<size_t, std::pair<std::string, size_t>> beyond;  // the first name, how many
    for (const auto* tensor : matches_.others) {
      const auto layer = layer_of(tensor->name);
      if (!layer || *layer < matches_.layers + h_.extra_layers) continue;
      auto& [name, count] = beyond[*layer];
      if (count++ == 0) name = tensor->name;
    }
    for (const auto& [layer, first] : beyond)
      add(TensorIssue::Extra, first.first,
          fmt::format("layer {} has tensors ({}, {} in all), the metadata says {} layers, 0 to {}",
                      layer, printable(first.first), first.second, *h_.layers, *h_.layers - 1));
  }

  void check_others() {
    for (const auto* tensor : matches_.others) {
      const auto layer = layer_of(tensor->name);
      if (harmless(tensor->name) || (layer && *layer >= matches_.layers)) continue;
      add(TensorIssue::Extra, tensor->name,
          fmt::format("{} is not a tensor of {}", printable(tensor->name), h_.architecture), false);
    }
    for (const auto* tensor : matches_.doubles)
      add(TensorIssue::Inconsistent, tensor->name,
          fmt::format("{} stands twice, under two spellings", printable(tensor->name)));
  }

  void check_vocabulary() {
    const auto key = h_.declared + ".vocab_size";
    const auto* tokens =
        array(file_.format == FileFormat::Gguf ? "tokenizer.ggml.tokens" : "tokenizer.vocabulary");
    if (tokens == nullptr || tokens->size() == 0 || !h_.vocabulary) return;
    if (file_.format == FileFormat::Apr && tokens->size() > *h_.vocabulary)
      add(TensorIssue::Inconsistent,
          expected_name(naming_, tensor_rows(h_.architecture)->front(), 0),
          fmt::format("the embedding has {} rows by the metadata, the vocabulary {} tokens",
                      *h_.vocabulary, tokens->size()));
    const auto found = file_.metadata.find(key);
    if (file_.format != FileFormat::Gguf || found == file_.metadata.end()) return;
    const auto* value = std::get_if<int64_t>(&found->second);
    if (value != nullptr && static_cast<uint64_t>(*value) != tokens->size())
      add(TensorIssue::Inconsistent, "token_embd.weight",
          fmt::format("{} is {}, tokenizer.ggml.tokens has {} tokens", key, *value, tokens->size()),
          false);
  }

  const MetadataArray* array(const std::string& key) const {
    const auto found = file_.metadata.find(key);
    if (found == file_.metadata.end()) return nullptr;
    const auto* pointer = std::get_if<std::shared_ptr<const MetadataArray>>(&found->second);
    return pointer == nullptr ? nullptr : pointer->get();
  }

  const ModelFile& file_;
  const Hyperparameters& h_;
  Naming naming_;
  TensorMatches matches_;
  std::vector<TensorIssue> issues_;
};

}  // namespace

std::vector<TensorIssue> check_tensors(const ModelFile& file, const Hyperparameters& h) {
  if (!architecture_known(h)) return {};
  return Checker(file, h).run();
}

}  // namespace plumb
