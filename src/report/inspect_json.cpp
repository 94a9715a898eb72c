// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/inspect_report.h"

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }
template <class T>
Json optional(const std::optional<T>& x) {
  return x ? Json(*x) : Json(nullptr);
}
std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json value_json(const MetadataValue& value) {
  struct Visitor {
    Json operator()(std::monostate) const { return nullptr; }
    Json operator()(bool v) const { return v; }
    Json operator()(int64_t v) const { return v; }
    Json operator()(uint64_t v) const { return v; }
    Json operator()(double v) const { return number(v); }
    Json operator()(const std::string& v) const { return v; }
    Json operator()(const std::shared_ptr<const MetadataArray>& v) const {
      Json array = Json::array();
      v->for_each([&](const MetadataValue& item) {
        array.push_back(value_json(item));
        return true;
      });
      return array;
    }
  };
  return std::visit(Visitor{}, value);
}

// A vocabulary would bury the rest: its length stands for it.
Json short_json(const MetadataValue& value) {
  constexpr size_t kLongest = 64;
  const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&value);
  if (array != nullptr && (*array)->size() > kLongest) return {{"values", (*array)->size()}};
  return value_json(value);
}

Json statistics_json(const TensorStatistics& s) {
  Json out = {{"count", s.count},
              {"min", number(static_cast<double>(s.min))},
              {"max", number(static_cast<double>(s.max))},
              {"mean", number(s.mean)},
              {"std", number(s.deviation())},
              {"rms", number(s.rms)},
              {"zeros", s.zeros},
              {"nan", s.nans},
              {"infinite", s.infinities},
              {"constant", s.constant}};
  if (!s.sha256.empty()) out["sha256"] = s.sha256;
  return out;
}

Json entry_json(const ModelFile& file, const TensorEntry& tensor) {
  Json out = {{"name", tensor.name},
              {"dtype", info(tensor.view.dtype).name},
              {"shape", tensor.view.shape},
              {"bytes", tensor.view.bytes.size()},
              {"offset", tensor.file_offset}};
  if (file.parts.size() > 1) out["file"] = file.parts[tensor.part].path.filename().string();
  return out;
}

Json sizes_json(const Hyperparameters& h) {
  return {{"architecture", h.architecture.empty() ? Json(nullptr) : Json(h.architecture)},
          {"declared", h.declared},
          {"width", optional(h.width)},
          {"layers", optional(h.layers)},
          {"heads", optional(h.heads)},
          {"kv_heads", optional(h.kv_heads)},
          {"head_dim", optional(h.head_dim)},
          {"ffn", optional(h.ffn)},
          {"vocabulary", optional(h.vocabulary)},
          {"context", optional(h.context)},
          {"experts", optional(h.experts)},
          {"experts_used", optional(h.experts_used)},
          {"window", optional(h.window)},
          {"epsilon", optional(h.epsilon)},
          {"rope_base", optional(h.rope_base)},
          {"rope_dimensions", optional(h.rope_dimensions)},
          {"rope_scaling", h.rope_scaling},
          {"tied", h.tied}};
}

Json tokenizer_json(const TokenizerFacts& facts) {
  if (!facts.present) return nullptr;
  Json special = Json::object();
  for (const auto& token : facts.special)
    special[token.role] = {{"id", token.id < 0 ? Json(nullptr) : Json(token.id)},
                           {"text", token.text}};
  return {
      {"kind", facts.kind},
      {"tokens", facts.tokens},
      {"merges", facts.merges},
      {"control_tokens", facts.control_tokens},
      {"special", special},
      {"add_bos", optional(facts.add_bos)},
      {"add_eos", optional(facts.add_eos)},
      {"chat_template",
       facts.chat_template.empty()
           ? Json(nullptr)
           : Json{{"family", facts.chat_family.empty() ? Json(nullptr) : Json(facts.chat_family)},
                  {"characters", facts.chat_template.size()}}}};
}

Json issue_json(const Issue& issue) {
  const char* words[] = {"note", "suspect", "unsound"};
  return {{"severity", words[static_cast<size_t>(issue.severity)]},
          {"code", issue.code},
          {"tensor", issue.tensor.empty() ? Json(nullptr) : Json(issue.tensor)},
          {"text", issue.text}};
}

Json keys_json(const std::vector<KeyDifference>& keys) {
  Json out = Json::array();
  for (const auto& key : keys)
    out.push_back({{"key", key.key}, {"first", key.a}, {"second", key.b}});
  return out;
}

Json pairs_json(const std::vector<std::pair<std::string, std::string>>& pairs) {
  Json out = Json::object();
  for (const auto& [key, value] : pairs) out[key] = value;
  return out;
}

}  // namespace

std::string inspect_json(const ModelFile& file, const Summary& summary, const InspectJson& parts) {
  Json types = Json::array();
  for (const auto& type : summary.types)
    types.push_back({{"dtype", info(type.dtype).name},
                     {"tensors", type.tensors},
                     {"elements", type.elements},
                     {"bytes", type.bytes}});
  Json out = {{"plumb", "inspect"},
              {"version", 1},
              {"file", file.path.string()},
              {"format", file.format_text},
              {"bytes", summary.file_bytes},
              {"name", summary.name},
              {"tensor_count", file.tensors.size()},
              {"parameters", summary.parameters},
              {"sizes", sizes_json(summary.sizes)},
              {"types", types},
              {"tokenizer", tokenizer_json(summary.tokenizer)},
              {"quantization", pairs_json(summary.quantization)},
              {"provenance", pairs_json(summary.provenance)},
              {"warnings", file.warnings}};
  out["memory"] = summary.memory ? Json{{"context", summary.memory->context},
                                        {"weights", summary.memory->weights},
                                        {"kv_f32", summary.memory->kv_f32},
                                        {"kv_f16", summary.memory->kv_f16}}
                                 : Json(nullptr);
  if (parts.metadata) {
    out["metadata"] = Json::object();
    for (const auto& [key, value] : file.metadata) out["metadata"][key] = short_json(value);
  }
  if (parts.issues != nullptr) {
    out["issues"] = Json::array();
    for (const auto& issue : *parts.issues) out["issues"].push_back(issue_json(issue));
  }
  const auto* verification = parts.verification;
  if (parts.tensors || verification != nullptr) {
    out["tensors"] = Json::array();
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      auto tensor = entry_json(file, file.tensors[i]);
      if (verification != nullptr) tensor.update(statistics_json(verification->statistics[i]));
      out["tensors"].push_back(std::move(tensor));
    }
  }
  if (verification != nullptr) {
    Json issues = Json::array();
    for (const auto& issue : verification->issues) issues.push_back(issue_json(issue));
    out["verification"] = {{"verdict", verdict_of(*verification)},
                           {"issues", issues},
                           {"bytes", verification->bytes},
                           {"seconds", verification->seconds}};
  }
  return dump(out);
}

std::string tensor_json(const TensorEntry& tensor, const TensorStatistics& statistics,
                        const Histogram& histogram) {
  Json out = {{"plumb", "inspect"},          {"version", 1},
              {"name", tensor.name},         {"dtype", info(tensor.view.dtype).name},
              {"shape", tensor.view.shape},  {"bytes", tensor.view.bytes.size()},
              {"offset", tensor.file_offset}};
  out.update(statistics_json(statistics));
  out["histogram"] = {
      {"low", number(histogram.low)}, {"high", number(histogram.high)}, {"bins", histogram.bins}};
  return dump(out);
}

std::string comparison_json(const ModelFile& a, const ModelFile& b,
                            const FileComparison& comparison) {
  Json tensors = Json::array();
  for (const auto& t : comparison.tensors)
    tensors.push_back({{"name", t.name},
                       {"reason", t.weight_class.reason},
                       {"text", t.weight_class.text},
                       {"first", t.source_a.empty() ? Json(nullptr) : Json(t.source_a)},
                       {"second", t.source_b.empty() ? Json(nullptr) : Json(t.source_b)},
                       {"changes_first", t.changes_a},
                       {"changes_second", t.changes_b},
                       {"parameters", t.weight_class.parameters}});
  return dump({{"plumb", "inspect"},
               {"version", 1},
               {"verdict", comparison.verdict()},
               {"first", {{"file", a.path.string()}, {"format", a.format_text}}},
               {"second", {{"file", b.path.string()}, {"format", b.format_text}}},
               {"sizes", keys_json(comparison.sizes)},
               {"metadata", keys_json(comparison.metadata)},
               {"metadata_same", comparison.metadata_same},
               {"tensors", tensors},
               {"tensors_same", comparison.tensors_same},
               {"tensors_same_bytes", comparison.tensors_same_bytes},
               {"converted", comparison.converted},
               {"notes", comparison.notes}});
}

std::string trace_json(const Trace& trace) {
  Json steps = Json::array();
  for (const auto& [name, step] : trace.steps)
    steps.push_back({{"name", name},
                     {"dtype", info(step.view.dtype).name},
                     {"shape", step.view.shape},
                     {"positions", step.positions}});
  Json statistics = Json::array();
  for (const auto& [name, entry] : trace.statistics)
    statistics.push_back({{"name", name},
                          {"values", entry.row(0).count},
                          {"sketch", entry.sketch.has_value()},
                          {"positions", entry.positions}});
  return dump({{"plumb", "inspect"},
               {"version", 1},
               {"file", trace.label},
               {"format", "trace"},
               {"engine", trace.provenance.engine},
               {"model", trace.provenance.model},
               {"kv_cache", trace.provenance.kv_cache},
               {"tokens", trace.tokens},
               {"prompt", trace.prompt},
               {"steps", steps},
               {"statistics", statistics},
               {"unknown", trace.unknown}});
}

}  // namespace plumb
