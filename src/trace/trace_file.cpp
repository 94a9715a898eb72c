// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>

#include "core/check.h"
#include "core/half.h"
#include "core/mapped_file.h"
#include "formats/safetensors.h"
#include "trace/trace.h"

namespace plumb {
namespace {

using nlohmann::json;

constexpr int kMaxDepth =
    64;  // of the metadata; 'config' of a model is free, yet no configuration needs more

// The steps of docs/steps.md, in the order in which a layer computes them.
constexpr std::array<std::string_view, 2> kBefore = {"embedding_lookup", "embedding"};
constexpr std::array<std::string_view, 40> kInLayer = {
    "attn.norm",
    "attn.q_matmul",
    "attn.k_matmul",
    "attn.v_matmul",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.q_norm",
    "attn.k_norm",
    "attn.q_rope",
    "attn.k_rope",
    "attn.scores",
    "attn.weights",
    "attn.mix",
    "attn.out",
    "attn.out_scaled",
    "attn.post_norm",
    "attn.residual",
    "ffn.norm",
    "ffn.gate",
    "ffn.up",
    "ffn.act",
    "ffn.glu",
    "ffn.router",
    "ffn.experts",
    "ffn.expert_weights",
    "ffn.down",
    "ffn.routed",
    "ffn.shared_gate",
    "ffn.shared_up",
    "ffn.shared_act",
    "ffn.shared_glu",
    "ffn.shared_out",
    "ffn.shared_router",
    "ffn.shared_weight",
    "ffn.shared",
    "ffn.out",
    "ffn.out_scaled",
    "ffn.post_norm",
    "residual",
};
constexpr std::array<std::string_view, 4> kBehind = {"final.norm", "logits_matmul", "logits_scaled",
                                                     "logits"};

// "layer.3.attn.q" as 3 and "attn.q"; -1 where there is no layer.
std::pair<int, std::string_view> split_layer(std::string_view name) {
  constexpr std::string_view kPrefix = "layer.";
  constexpr size_t kMostDigits = 6;
  if (!name.starts_with(kPrefix)) return {-1, name};
  const std::string_view rest = name.substr(kPrefix.size());
  const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
  if (digits == 0 || digits > kMostDigits || digits == rest.size() || rest[digits] != '.')
    return {-1, name};
  int layer = 0;
  for (const char digit : rest.substr(0, digits)) layer = layer * 10 + (digit - '0');
  return {layer, rest.substr(digits + 1)};
}

std::map<std::string, std::string> text_fields(const json& parent, const char* key) {
  std::map<std::string, std::string> fields;
  if (!parent.contains(key) || !parent[key].is_object()) return fields;
  for (const auto& [name, value] : parent[key].items())
    fields[name] = value.is_string() ? value.get<std::string>() : value.dump();
  return fields;
}

Result<ArithmeticTable> read_arithmetic(const json& parent) {
  ArithmeticTable table;
  if (!parent.contains("arithmetic")) return table;
  if (!parent["arithmetic"].is_object())
    return fail(ErrorCode::Corrupt, "'arithmetic' is not an object");
  for (const auto& [pattern, value] : parent["arithmetic"].items()) {
    Arithmetic row;
    if (!value.is_object())
      return fail(ErrorCode::Corrupt,
                  fmt::format("'arithmetic' of '{}' is not an object", pattern));
    for (const auto& [key, target] : {std::pair<const char*, std::string*>{"weights", &row.weights},
                                      {"activations", &row.activations},
                                      {"accumulate", &row.accumulate},
                                      {"output", &row.output},
                                      {"attention", &row.attention},
                                      {"functions", &row.functions},
                                      {"inside", &row.inside}}) {
      if (!value.contains(key)) continue;
      if (!value[key].is_string())
        return fail(ErrorCode::Corrupt,
                    fmt::format("'arithmetic' of '{}': '{}' is not a string", pattern, key));
      *target = value[key].get<std::string>();
    }
    table.emplace_back(pattern, row);
  }
  // JSON objects have no order, so "the more exact pattern holds" is ours to fix: fewer letters
  // come first, and of as many letters more stars.
  std::ranges::sort(table, {}, [](const auto& row) {
    const auto stars = std::ranges::count(row.first, '*');
    return std::tuple(std::ssize(row.first) - stars, -stars, row.first);
  });
  return table;
}

Result<std::vector<int32_t>> read_ids(const TensorView& view, const char* what) {
  if (view.dtype != DType::I32 || view.shape.size() != 1)
    return fail(ErrorCode::Corrupt, fmt::format("'{}' must be I32 of one dimension, found {} {}",
                                                what, info(view.dtype).name, to_text(view.shape)));
  std::vector<int32_t> ids(view.shape[0]);
  if (!ids.empty()) std::memcpy(ids.data(), view.bytes.data(), view.bytes.size());
  return ids;
}

Result<std::vector<int32_t>> read_positions(const TensorView& view, const std::string& what,
                                            size_t tokens) {
  TRY_ASSIGN(auto positions, read_ids(view, what.c_str()));
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] < 0 || static_cast<size_t>(positions[i]) >= tokens)
      return fail(ErrorCode::Corrupt, fmt::format("'{}' has {} at {}, outside the {} tokens", what,
                                                  positions[i], i, tokens));
    if (i > 0 && positions[i] <= positions[i - 1])
      return fail(ErrorCode::Corrupt, fmt::format("'{}' is not ascending at {}", what, i));
  }
  return positions;
}

Result<void> read_tokens(const json& head, const SafetensorsContent& content, Trace& trace) {
  const bool in_head = head.contains("tokens");
  if (in_head) {
    if (!head["tokens"].is_array()) return fail(ErrorCode::Corrupt, "'tokens' is not an array");
    for (const auto& token : head["tokens"]) {
      if (!token.is_number_integer() || token.get<int64_t>() < 0 ||
          token.get<int64_t>() > INT32_MAX)
        return fail(ErrorCode::Corrupt,
                    fmt::format("'tokens' holds {}, which is no token id", token.dump()));
      trace.tokens.push_back(token.get<int32_t>());
    }
  }
  if (const auto found = content.tensors.find("tokens"); found != content.tensors.end()) {
    TRY_ASSIGN(auto ids, read_ids(found->second, "tokens"));
    if (in_head && ids != trace.tokens)
      return fail(ErrorCode::Corrupt,
                  "the tokens of the metadata and of the tensor 'tokens' differ");
    for (const int32_t id : ids)
      if (id < 0)
        return fail(ErrorCode::Corrupt, fmt::format("'tokens' holds {}, which is no token id", id));
    trace.tokens = std::move(ids);
  }
  trace.prompt = trace.tokens.size();
  if (!head.contains("prompt")) return {};
  if (!head["prompt"].is_number_unsigned() || head["prompt"].get<uint64_t>() > trace.tokens.size())
    return fail(ErrorCode::Corrupt, fmt::format("'prompt' is {}, but there are {} tokens",
                                                head["prompt"].dump(), trace.tokens.size()));
  trace.prompt = head["prompt"].get<size_t>();
  return {};
}

Result<json> read_head(const SafetensorsContent& content) {
  const auto version = content.metadata.find("plumb.trace");
  if (version == content.metadata.end())
    return fail(ErrorCode::Corrupt,
                "a safetensors file, but not a trace: its metadata has no 'plumb.trace'");
  if (version->second != "1")
    return fail(ErrorCode::Unsupported,
                fmt::format("trace version '{}' is not known here (known: 1)", version->second));
  const auto text = content.metadata.find("plumb");
  if (text == content.metadata.end())
    return fail(ErrorCode::Corrupt, "its metadata has no 'plumb'");
  return parse_json_object(text->second, "its metadata 'plumb'", kMaxDepth);
}

constexpr size_t kNoLimit = size_t{1} << 31;

std::vector<int32_t> first_positions(size_t count) {
  std::vector<int32_t> positions(count);
  std::iota(positions.begin(), positions.end(), 0);
  return positions;
}

// Without tokens a trace can be shown, though not compared; its rows are then taken to be the first
// positions.
Result<void> add_step(Trace& trace, const std::string& name, const TensorView& view,
                      const SafetensorsContent& content, const std::vector<int32_t>& positions,
                      bool has_tokens) {
  const size_t limit = has_tokens ? trace.tokens.size() : kNoLimit;
  TraceStep step;
  step.view = view;
  step.positions = positions;
  if (view.bytes.empty())
    return fail(ErrorCode::Corrupt, fmt::format("step '{}' has shape {}, which holds no values",
                                                name, to_text(view.shape)));
  if (const auto own = content.tensors.find("positions:" + name); own != content.tensors.end()) {
    TRY_ASSIGN(step.positions, read_positions(own->second, own->first, limit));
  } else if (!has_tokens && !content.tensors.contains("positions") && !view.shape.empty()) {
    step.positions = first_positions(view.shape[0]);
  }
  const bool is_real = view.dtype == DType::F32 || view.dtype == DType::F64 ||
                       view.dtype == DType::F16 || view.dtype == DType::BF16;
  if (!is_real && !(view.dtype == DType::I32 && name.ends_with(".ffn.experts")))
    return fail(ErrorCode::Corrupt, fmt::format("step '{}' is {}, expected F32, F64, F16 or BF16",
                                                name, info(view.dtype).name));
  if (view.shape.size() < 2 || view.shape[0] != step.positions.size())
    return fail(ErrorCode::Corrupt,
                fmt::format("step '{}' has shape {}, expected {} rows, one for each position", name,
                            to_text(view.shape), step.positions.size()));
  trace.steps.emplace(name, std::move(step));
  return {};
}

// The step that a tensor of statistics belongs to, and which of the two it is.
constexpr std::string_view kStatistics = ".stats";
constexpr std::string_view kSketch = ".sketch";
std::string step_of(std::string_view name, std::string_view ending) {
  if (!name.ends_with(ending)) return {};
  name.remove_suffix(ending.size());
  return is_step_name(name) ? std::string(name) : std::string();
}

Result<void> check_summary_shape(const std::string& name, const TensorView& view, DType dtype,
                                 size_t width, size_t rows) {
  if (view.dtype == dtype && view.shape.size() == 2 && view.shape[0] == rows &&
      view.shape[1] == width)
    return {};
  return fail(ErrorCode::Corrupt,
              fmt::format("'{}' is {} {}, expected {} {}: one row for each position", name,
                          info(view.dtype).name, to_text(view.shape), info(dtype).name,
                          to_text(std::vector<uint64_t>{rows, width})));
}

bool is_count(double x, double most) { return x >= 0 && x <= most && x == std::floor(x); }

// What no writer can have counted. `width`: that of the rows before, 0 at the first.
Result<void> check_figures(const std::string& name, size_t row, const RowStatistics& s,
                           double width) {
  const auto wrong = [&](const char* what, double found, const std::string& expected) {
    return fail(ErrorCode::Corrupt, fmt::format("'{}', row {}: {} is {}, expected {}", name, row,
                                                what, found, expected));
  };
  constexpr double kMostValues = 0x1p40;
  if (!is_count(s.count, kMostValues) || s.count == 0)
    return wrong("the count", s.count, "a whole number above 0");
  if (width != 0 && s.count != width)
    return wrong("the count", s.count, fmt::format("{}, as in the rows before", width));
  if (!is_count(s.non_finite, s.count))
    return wrong("the count of values that are not finite", s.non_finite,
                 fmt::format("a whole number from 0 to {}", s.count));
  if (s.non_finite == s.count) return {};  // there is nothing that the others could be of
  if (std::isnan(s.mean)) return wrong("the mean", s.mean, "a number");
  if (!(s.deviation >= 0)) return wrong("the standard deviation", s.deviation, "0 or more");
  if (!(s.norm >= 0)) return wrong("the norm", s.norm, "0 or more");
  if (!(s.minimum <= s.maximum))
    return wrong("the minimum", s.minimum, fmt::format("at most the maximum {}", s.maximum));
  if (!is_count(s.largest, s.count - 1))
    return wrong("the index of the largest magnitude", s.largest,
                 fmt::format("a whole number from 0 to {}", s.count - 1));
  return {};
}

// Statistics of a step and, if it is there, its sketch. They have the step's positions, as its
// values would; a set of their own could be taken for that of the values, so there is none.
Result<void> add_statistics(Trace& trace, const std::string& step,
                            const SafetensorsContent& content,
                            const std::vector<int32_t>& positions, bool has_tokens) {
  const std::string name = step + std::string(kStatistics);
  StepStatistics entry;
  entry.statistics = content.tensors.at(name);
  entry.positions = positions;
  if (entry.statistics.bytes.empty())
    return fail(ErrorCode::Corrupt, fmt::format("'{}' has shape {}, which holds no values", name,
                                                to_text(entry.statistics.shape)));
  if (const auto own = content.tensors.find("positions:" + step); own != content.tensors.end()) {
    TRY_ASSIGN(entry.positions, read_positions(own->second, own->first,
                                               has_tokens ? trace.tokens.size() : kNoLimit));
  } else if (!has_tokens && !content.tensors.contains("positions") &&
             !entry.statistics.shape.empty()) {
    entry.positions = first_positions(entry.statistics.shape[0]);
  }
  const size_t rows = entry.positions.size();
  TRY(check_summary_shape(name, entry.statistics, DType::F64, kStatisticsSize, rows));
  double width = 0;
  for (size_t row = 0; row < rows; ++row) {
    const auto figures = entry.row(row);
    TRY(check_figures(name, row, figures, width));
    width = figures.count;
  }
  const auto sketch = content.tensors.find(step + std::string(kSketch));
  if (sketch != content.tensors.end()) {
    TRY(check_summary_shape(sketch->first, sketch->second, DType::F32, kSketchSize, rows));
    entry.sketch = sketch->second;
  }
  const auto* values = trace.find(step);
  if (values != nullptr && static_cast<double>(values->width()) != width)
    return fail(ErrorCode::Corrupt, fmt::format("'{}' is of rows of {} values, and '{}' has {}",
                                                name, width, step, values->width()));
  trace.statistics.emplace(step, std::move(entry));
  return {};
}

// Positions and statistics: what is read with its step.
bool is_of_a_step(const std::string& name, const SafetensorsContent& content) {
  if (!step_of(name, kStatistics).empty() || !step_of(name, kSketch).empty()) return true;
  if (!name.starts_with("positions:")) return false;
  const std::string step = name.substr(10);
  return content.tensors.contains(step) ||
         (is_step_name(step) && content.tensors.contains(step + std::string(kStatistics)));
}

Result<void> add_all_statistics(Trace& trace, const SafetensorsContent& content,
                                const std::vector<int32_t>& positions, bool has_tokens) {
  for (const auto& [name, view] : content.tensors) {
    for (const auto ending : {kStatistics, kSketch})
      if (name.starts_with("positions:") && !step_of(name.substr(10), ending).empty())
        return fail(ErrorCode::Corrupt,
                    fmt::format("'{}': statistics have the positions of their step, 'positions:{}'",
                                name, step_of(name.substr(10), ending)));
    if (const auto step = step_of(name, kStatistics); !step.empty())
      TRY(add_statistics(trace, step, content, positions, has_tokens));
    const auto step = step_of(name, kSketch);
    if (!step.empty() && !content.tensors.contains(step + std::string(kStatistics)))
      return fail(ErrorCode::Corrupt,
                  fmt::format("'{}' stands without '{}{}'", name, step, kStatistics));
  }
  return {};
}

// What a capture of printed text knows of its values.
Result<void> read_precision(const json& head, Trace& trace) {
  if (!head.contains("precision")) return {};
  if (!head["precision"].is_object())
    return fail(ErrorCode::Corrupt, "'precision' is not an object");
  for (const auto& [name, row] : head["precision"].items()) {
    const auto step = trace.steps.find(name);
    if (step == trace.steps.end()) continue;
    const bool sound = row.is_object() && row.contains("within") && row["within"].is_number() &&
                       row["within"].get<double>() >= 0 && row.contains("elided") &&
                       row["elided"].is_boolean();
    if (!sound)
      return fail(ErrorCode::Corrupt,
                  fmt::format("'precision' of '{}' is {}, expected {{\"within\": number, "
                              "\"elided\": true or false}}",
                              name, row.dump()));
    step->second.precision = row["within"].get<double>();
    step->second.elided = row["elided"].get<bool>();
  }
  return {};
}

}  // namespace

RowStatistics StepStatistics::row(size_t index) const {
  RowStatistics figures;
  std::memcpy(&figures, statistics.bytes.data() + index * sizeof(figures), sizeof(figures));
  return figures;
}

Sketch StepStatistics::sketch_row(size_t index) const {
  CHECK(sketch.has_value());
  Sketch values;
  std::memcpy(values.data(), sketch->bytes.data() + index * sizeof(values), sizeof(values));
  return values;
}

bool Trace::has_only_statistics() const {
  return !statistics.empty() && std::ranges::all_of(steps, [](const auto& step) {
    return step.first.ends_with(".ffn.experts");
  });
}

size_t TraceStep::width() const {
  uint64_t width = 1;
  for (size_t i = 1; i < view.shape.size(); ++i) width *= view.shape[i];
  return width;
}

const TraceStep* Trace::find(const std::string& step) const {
  const auto found = steps.find(step);
  return found == steps.end() ? nullptr : &found->second;
}

std::optional<Arithmetic> Trace::arithmetic_of(std::string_view step) const {
  std::optional<Arithmetic> result;
  for (const auto& [pattern, row] : provenance.arithmetic)
    if (fits(pattern, step)) result = row;
  return result;
}

bool fits(std::string_view pattern, std::string_view name) {
  size_t p = 0;
  size_t n = 0;
  size_t star = std::string_view::npos;
  size_t mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool is_step_name(std::string_view name) {
  if (std::ranges::find(kBefore, name) != kBefore.end()) return true;
  if (std::ranges::find(kBehind, name) != kBehind.end()) return true;
  const auto [layer, rest] = split_layer(name);
  return layer >= 0 && std::ranges::find(kInLayer, rest) != kInLayer.end();
}

StepOrder step_order(std::string_view step) {
  const auto place = [](const auto& names, std::string_view name) {
    return static_cast<size_t>(std::ranges::find(names, name) - names.begin());
  };
  const auto [layer, rest] = split_layer(step);
  if (layer >= 0) return {1, layer, place(kInLayer, rest)};
  const size_t before = place(kBefore, step);
  if (before < kBefore.size()) return {0, -1, before};
  return {2, -1, place(kBehind, step)};
}

Result<Trace> parse_trace(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                          std::string label) {
  TRY_ASSIGN(const auto content, parse_safetensors(bytes));
  TRY_ASSIGN(const auto head, read_head(content));
  Trace trace;
  trace.label = std::move(label);
  trace.owner = std::move(owner);
  trace.provenance.engine = text_fields(head, "engine");
  trace.provenance.model = text_fields(head, "model");
  TRY_ASSIGN(trace.provenance.arithmetic, read_arithmetic(head));
  if (head.contains("kv_cache") && head["kv_cache"].is_string())
    trace.provenance.kv_cache = head["kv_cache"].get<std::string>();
  if (head.contains("created") && head["created"].is_string())
    trace.provenance.created = head["created"].get<std::string>();
  TRY(read_tokens(head, content, trace));

  const bool has_tokens = head.contains("tokens") || content.tensors.contains("tokens");
  auto positions = first_positions(trace.tokens.size());
  if (const auto found = content.tensors.find("positions"); found != content.tensors.end()) {
    TRY_ASSIGN(positions, read_positions(found->second, "positions",
                                         has_tokens ? trace.tokens.size() : kNoLimit));
  }
  for (const auto& [name, view] : content.tensors) {
    if (name == "tokens" || name == "positions") continue;
    if (is_of_a_step(name, content)) continue;
    if (!is_step_name(name)) trace.unknown.push_back(name);
    else TRY(add_step(trace, name, view, content, positions, has_tokens));
  }
  TRY(add_all_statistics(trace, content, positions, has_tokens));
  TRY(read_precision(head, trace));
  return trace;
}

bool is_plumb_trace(const std::filesystem::path& path) {
  if (!is_trace_file(path)) return false;
  const auto file = MappedFile::open(path);
  if (!file) return false;
  const auto content = parse_safetensors(file->bytes());
  return content && content->metadata.contains("plumb.trace");
}

bool is_trace_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;  // a pipe could hold us here
  std::ifstream file(path, std::ios::binary);
  std::array<char, 9> head{};
  file.read(head.data(), head.size());
  const std::string_view text(head.data(), static_cast<size_t>(file.gcount()));
  // A GGUF of 123 tensors has this letter there too.
  return text.size() > 8 && text[8] == '{' && !text.starts_with("GGUF");
}

Result<Trace> open_trace(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  auto owner = std::make_shared<const MappedFile>(std::move(*file));
  const auto bytes = owner->bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0)
    return fail(ErrorCode::Usage,
                fmt::format("{}: this is a model (GGUF), expected a trace", path.string()));
  auto trace = parse_trace(bytes, owner, path.filename().string());
  if (!trace) return std::unexpected(std::move(trace.error()).within(path.string()));
  return trace;
}

void read_row(const TraceStep& step, size_t row, std::span<double> out) {
  const size_t width = step.width();
  CHECK(out.size() == width);
  const auto each = info(step.view.dtype).block_bytes;
  const std::byte* source = step.view.bytes.data() + row * width * each;
  const auto convert = [&]<class T>(T, auto to_double) {
    for (size_t i = 0; i < width; ++i) {
      T value;
      std::memcpy(&value, source + i * each, sizeof(T));
      out[i] = to_double(value);
    }
  };
  switch (step.view.dtype) {
    case DType::F32: return convert(float{}, [](float v) { return static_cast<double>(v); });
    case DType::F64: return convert(double{}, [](double v) { return v; });
    case DType::F16:
      return convert(uint16_t{}, [](uint16_t v) { return static_cast<double>(f16_to_f32(v)); });
    case DType::BF16:
      return convert(uint16_t{}, [](uint16_t v) { return static_cast<double>(bf16_to_f32(v)); });
    case DType::I32: return convert(int32_t{}, [](int32_t v) { return static_cast<double>(v); });
    default: CHECK(!"a dtype that add_step refuses");
  }
}

}  // namespace plumb
