// SPDX-License-Identifier: Apache-2.0
// Dumps whose center is a JSON file: RunResults of Polygraphy, dump.json of msprobe, and the call
// tree of transformers' model_addition_debugger.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "dump/parts.h"
#include "dump/readers.h"
#include "formats/safetensors.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;  // tensors come in the order of the file

constexpr int kMaxDepth = 200;  // of the JSON, and so of all recursion here
// Printed tensors leave values out, so the text does not bound what the shapes ask for. This does.
constexpr uint64_t kBaseElements = uint64_t{1} << 24;
constexpr uint64_t kElementsPerByte = 1024;
constexpr uint64_t kMaxElements = uint64_t{1} << 30;

std::unexpected<Error> corrupt(std::string message) {
  return fail(ErrorCode::Corrupt, std::move(message));
}

const json* find(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string string_at(const json& object, const char* key) {
  const json* value = find(object, key);
  return value && value->is_string() ? value->get<std::string>() : std::string();
}

// Python writes NaN and Infinity as bare words, which JSON does not have. They are statistics here
// that nobody reads: null.
std::string without_bare_words(std::string_view text) {
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\' && i + 1 < text.size()) {
      out += text[i++];
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted) {
      const auto rest = text.substr(i);
      const size_t sign = rest.starts_with('-');
      const auto word = rest.substr(sign);
      const size_t size = word.starts_with("NaN")        ? sign + 3
                          : word.starts_with("Infinity") ? sign + 8
                                                         : 0;
      if (size > 0) {
        out += "null";
        i += size - 1;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

// The document; a list is given as the object {"list": …}. Too deep, or a name twice, is an error.
Result<json> parse_document(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::string copy;
  if (text.find("NaN") != std::string_view::npos || text.find("Infinity") != std::string_view::npos)
    text = copy = without_bare_words(text);
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && text[first] == '[')
    text = copy = fmt::format("{{\"list\":{}}}", text);
  TRY(parse_json_object(text, "the file", kMaxDepth));
  auto document = json::parse(text, nullptr, false);
  if (document.is_discarded()) return corrupt("the file is not valid JSON");
  return document;
}

// A file in the folder of the dump, and nowhere else.
Result<fs::path> beside(const fs::path& folder, std::string_view name) {
  if (name.starts_with("./")) name.remove_prefix(2);
  if (name.empty() || name == "." || name == ".." || name.find('\0') != std::string_view::npos ||
      name.find_first_of("/\\") != std::string_view::npos)
    return corrupt(fmt::format("the file name '{}' leads out of the folder of the dump: refused",
                               name.substr(0, 200)));
  return folder / name;
}

// --- Polygraphy ---

Result<std::vector<std::byte>> decode_base64(std::string_view text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const auto kValues = [&] {
    std::array<int, 256> values;
    values.fill(-1);
    for (size_t i = 0; i < kDigits.size(); ++i)
      values[static_cast<unsigned char>(kDigits[i])] = static_cast<int>(i);
    return values;
  }();
  if (text.size() % 4 != 0)
    return corrupt(fmt::format("{} characters are no base64: cut short", text.size()));
  size_t size = text.size();
  for (int padding = 0; padding < 2 && size > 0 && text[size - 1] == '='; ++padding) --size;
  std::vector<std::byte> bytes;
  bytes.reserve(size / 4 * 3 + 2);
  uint32_t bits = 0;
  for (size_t i = 0; i < size; ++i) {
    const int value = kValues[static_cast<unsigned char>(text[i])];
    if (value < 0) return corrupt(fmt::format("character {} of the base64 text is none of its", i));
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 == 0) continue;
    bytes.push_back(static_cast<std::byte>(bits >> (6 - i % 4 * 2)));
  }
  return bytes;
}

// Older versions wrote each byte as the character of that number.
std::optional<std::vector<std::byte>> decode_latin1(std::string_view text) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      bytes.push_back(static_cast<std::byte>(c));
    } else if ((c == 0xC2 || c == 0xC3) && i + 1 < text.size()) {
      bytes.push_back(static_cast<std::byte>((c & 3) << 6 | (text[++i] & 0x3F)));
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

std::string class_of(const json& object) {
  const auto name = string_at(object, "polygraphy_class");
  return name.empty() ? string_at(object, "polygraphy_serialized_json_type") : name;
}

// Moves the only tensor of `inner` and what it points into.
Result<DumpTensor> take_only(Dump inner, Dump& dump) {
  if (inner.tensors.size() != 1)
    return corrupt(fmt::format("one tensor is expected, found {}", inner.tensors.size()));
  std::ranges::move(inner.owners, std::back_inserter(dump.owners));
  std::ranges::move(inner.notes, std::back_inserter(dump.notes));
  return std::move(inner.tensors.front());
}

DumpSource kept_source(const fs::path& path, std::vector<std::byte> bytes) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return {path, *owner, owner};
}

// The bytes of a .npy; of a .npz in old files.
Result<DumpTensor> read_array(const std::string& text, const fs::path& path, Dump& dump) {
  auto decoded = decode_base64(text);
  if (!decoded || !(looks_like_npy(*decoded) || looks_like_zip(*decoded))) {
    auto legacy = decode_latin1(text);
    if (legacy && (looks_like_npy(*legacy) || looks_like_zip(*legacy)))
      decoded = std::move(*legacy);
    else if (decoded) return corrupt("what the base64 text holds is no .npy");
  }
  if (!decoded) return std::unexpected(std::move(decoded.error()));
  const auto source = kept_source(path, std::move(*decoded));
  if (looks_like_npy(source.bytes)) {
    dump.owners.push_back(source.owner);
    return parse_npy(source.bytes, dump);
  }
  TRY_ASSIGN(auto inner, read_npz(source));
  inner.owners.push_back(source.owner);
  return take_only(std::move(inner), dump);
}

Result<DumpTensor> read_polygraphy_value(const json& value, const fs::path& path, Dump& dump) {
  if (const json* inner = find(value, "values"))
    return read_polygraphy_value(*inner, path, dump);  // LazyArray
  if (const json* array = find(value, "array"); array && array->is_string())
    return read_array(array->get_ref<const std::string&>(), path, dump);
  if (const json* tensor = find(value, "tensor"); tensor && tensor->is_string()) {
    TRY_ASSIGN(auto bytes, decode_base64(tensor->get_ref<const std::string&>()));
    const auto source = kept_source(path, std::move(bytes));
    if (!looks_like_torch(source.bytes))
      return corrupt("what the base64 text holds is nothing that torch.save writes");
    TRY_ASSIGN(auto inner, read_torch(source));
    inner.owners.push_back(source.owner);
    return take_only(std::move(inner), dump);
  }
  return corrupt(fmt::format("an object with 'array' or 'tensor' is expected, found the class '{}'",
                             class_of(value)));
}

// `prefix` is the runner, where there are several.
Result<void> add_arrays(const json& arrays, const std::string& prefix, size_t pass,
                        const fs::path& path, Dump& dump) {
  if (!arrays.is_object()) return corrupt("an object of names and arrays is expected");
  for (const auto& [name, value] : arrays.items()) {
    if (name == "polygraphy_class" || name == "polygraphy_serialized_json_type") continue;
    auto tensor = read_polygraphy_value(value, path, dump);
    if (!tensor)
      return std::unexpected(
          std::move(tensor.error()).within(fmt::format("iteration {}, '{}'", pass, prefix + name)));
    tensor->name = prefix + name;
    tensor->source.clear();
    tensor->pass = pass;
    dump.tensors.push_back(std::move(*tensor));
  }
  return {};
}

// "lst": a list of pairs, the name of a runner and the list of its iterations.
Result<void> read_run_results(const json& runs, const fs::path& path, Dump& dump) {
  for (const json& run : runs) {
    if (!run.is_array() || run.size() != 2 || !run[0].is_string() || !run[1].is_array())
      return corrupt("'lst' does not hold pairs of a runner's name and its iterations");
    const auto runner = run[0].get<std::string>();
    const auto prefix = runs.size() > 1 ? runner + "/" : std::string();
    for (size_t pass = 0; pass < run[1].size(); ++pass) {
      const json* outputs = find(run[1][pass], "outputs");
      if (!outputs)
        return corrupt(fmt::format("runner '{}', iteration {}: no 'outputs'", runner, pass));
      TRY(add_arrays(*outputs, prefix, pass, path, dump));
    }
    auto& names = dump.engine["runners"];
    names += (names.empty() ? "" : ", ") + runner;
  }
  return {};
}

Result<void> read_polygraphy(const json& document, const fs::path& path, Dump& dump) {
  dump.engine["name"] = "Polygraphy";
  if (const json* list = find(document, "list")) {
    dump.kind = "Polygraphy inputs";
    for (size_t pass = 0; pass < list->size(); ++pass)
      TRY(add_arrays((*list)[pass], "", pass, path, dump));
    return {};
  }
  dump.kind = "Polygraphy RunResults";
  return read_run_results(document["lst"], path, dump);
}

// --- msprobe ---

std::optional<size_t> to_count(std::string_view text) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The number of the call in "Module.model.norm.RMSNorm.forward.0" and
// "Functional.linear.5.forward".
size_t call_number(std::string_view name) {
  for (const std::string_view pass : {".forward", ".backward"}) {
    const auto at = name.rfind(pass);
    if (at == std::string_view::npos) continue;
    const auto after = name.substr(at + pass.size());
    if (const auto number = to_count(after.substr(after.starts_with('.')))) return *number;
    const auto before = name.substr(0, at);
    return to_count(before.substr(before.rfind('.') + 1)).value_or(0);
  }
  return 0;
}

struct Probe {
  fs::path folder;  // dump_tensor_data
  size_t statistics_only = 0;
};

Result<DumpTensor> read_tensor_file(const fs::path& path, Dump& dump) {
  TRY_ASSIGN(const auto source, open_source(path));
  if (!looks_like_npy(source.bytes) && !looks_like_torch(source.bytes))
    return corrupt(path.string() + ": neither a .npy nor what torch.save writes");
  TRY_ASSIGN(auto inner, looks_like_npy(source.bytes) ? read_npy(source) : read_torch(source));
  inner.owners.push_back(source.owner);
  auto tensor = take_only(std::move(inner), dump);
  if (!tensor) return std::unexpected(std::move(tensor.error()).within(path.string()));
  return tensor;
}

Result<std::optional<std::vector<uint64_t>>> shape_of(const json& leaf) {
  const json* shape = find(leaf, "shape");
  if (!shape || !shape->is_array()) return std::nullopt;
  std::vector<uint64_t> dims;
  for (const json& dim : *shape) {
    if (!dim.is_number_unsigned()) return corrupt("a 'shape' is no list of whole numbers");
    dims.push_back(dim.get<uint64_t>());
  }
  return dims;
}

// A tensor with its statistics, a list or an object of such, or a value that is no tensor.
Result<void> add_probe_values(const json& value, const std::string& name, size_t call, Probe& probe,
                              Dump& dump) {
  const json* type = find(value, "type");
  if (value.is_array() || (value.is_object() && !(type && type->is_string()))) {
    size_t index = 0;
    for (const auto& [key, inner] : value.items())
      TRY(add_probe_values(
          inner, fmt::format("{}.{}", name, value.is_array() ? fmt::to_string(index++) : key), call,
          probe, dump));
    return {};
  }
  if (!value.is_object() || !find(value, "shape")) return {};
  const auto file = string_at(value, "data_name");
  if (file.empty()) {
    ++probe.statistics_only;
    return {};
  }
  TRY_ASSIGN(const auto path, beside(probe.folder, file));
  TRY_ASSIGN(auto tensor, read_tensor_file(path, dump));
  TRY_ASSIGN(const auto shape, shape_of(value));
  if (shape && *shape != tensor.view.shape)
    return corrupt(fmt::format("'{}' has the shape {}, {} has {}", name, to_text(*shape),
                               path.string(), to_text(tensor.view.shape)));
  tensor.name = name;
  tensor.occurrence = call;
  tensor.source = file;
  dump.tensors.push_back(std::move(tensor));
  return {};
}

Result<void> read_msprobe(const json& document, const fs::path& path, Dump& dump) {
  dump.kind = "msprobe dump.json";
  dump.engine["name"] = "msprobe";
  for (const char* key : {"task", "level", "framework"})
    if (const auto text = string_at(document, key); !text.empty()) dump.engine[key] = text;
  // dump_data_dir is a path on the machine where it was written; the files lie beside.
  Probe probe{path.parent_path() / "dump_tensor_data"};
  for (const auto& [api, entry] : document["data"].items()) {
    if (!entry.is_object()) continue;
    const size_t call = call_number(api);
    for (const auto& [part, value] : entry.items()) {
      const auto singular = part == "input_args" ? "input" : part;  // as its files are named
      TRY(add_probe_values(value, fmt::format("{}.{}", api, singular), call, probe, dump));
    }
  }
  if (probe.statistics_only > 0)
    dump.notes.push_back(
        fmt::format("{} tensors have only statistics (largest, smallest, mean, norm): these can "
                    "show that two runs differ, not that they are the same, and are left out; dump "
                    "with task 'tensor' for values",
                    probe.statistics_only));
  return {};
}

// --- torch's repr ---

// Reads "tensor([[ 1.2345e-02, …], …], dtype=…)". All lists of one depth print the same elements:
// the first and, after "...", the last ones.
class PrintedTensor {
 public:
  PrintedTensor(std::string_view text, std::vector<uint64_t> shape)
      : text_(text), shape_(std::move(shape)), printed_(shape_.size()), index_(shape_.size()) {}

  Result<void> parse();
  bool elided() const {
    return std::ranges::any_of(printed_, [](const auto& p) { return p.elided_at.has_value(); });
  }
  bool printed_nan() const { return printed_nan_; }
  double precision() const { return precision_; }
  // Calls with the index among all values, and the text of each.
  template <class F>
  Result<void> for_each(F&& f) const;

 private:
  struct Printed {
    uint64_t count = 0;
    std::optional<uint64_t> elided_at;
    bool known = false;
  };
  struct Position {
    uint64_t count = 0;
    std::optional<uint64_t> elided_at;
    bool separated = true;
  };

  std::unexpected<Error> error(std::string_view what) const {
    return corrupt(fmt::format("character {} of the printed tensor: {}", at_, what));
  }
  Result<void> read_values();
  Result<void> read_one(size_t& depth);
  Result<void> begin_element(size_t depth);
  Result<void> close(size_t depth);
  Result<void> add_value(std::string_view value);

  std::string_view text_;
  size_t at_ = 0;
  std::vector<uint64_t> shape_;
  std::vector<Printed> printed_;
  std::vector<Position> index_;
  std::vector<std::string_view> values_;
  double precision_ = 0;
  bool printed_nan_ = false;
};

Result<void> PrintedTensor::parse() {
  constexpr std::string_view kStart = "tensor(";
  CHECK(text_.starts_with(kStart));
  at_ = kStart.size();
  TRY(read_values());
  // What follows: ", dtype=…", ", device=…", ", size=(0, 64)", ", grad_fn=<…>", and the bracket.
  const auto rest = text_.substr(at_);
  if (!rest.ends_with(')') || !(rest == ")" || rest.starts_with(',')))
    return error("the text does not end with ')'");
  return {};
}

Result<void> PrintedTensor::read_values() {
  if (element_count(shape_) == 0) {  // torch prints "tensor([], size=(0, 64))"
    if (!text_.substr(at_).starts_with("[]")) return error("'[]' is expected");
    at_ += 2;
    return {};
  }
  size_t depth = 0;
  do {
    at_ = text_.find_first_not_of(" \t\r\n", at_);
    if (at_ == std::string_view::npos) {
      at_ = text_.size();
      return error("the text ends before its values");
    }
    TRY(read_one(depth));
  } while (depth > 0);
  return {};
}

Result<void> PrintedTensor::read_one(size_t& depth) {
  const char c = text_[at_];
  if (c == ',') {
    if (depth == 0) return error("a comma outside of the brackets");
    if (std::exchange(index_[depth - 1].separated, true)) return error("a comma too many");
    ++at_;
  } else if (text_.substr(at_).starts_with("...")) {
    if (depth == 0) return error("'...' outside of the brackets");
    auto& position = index_[depth - 1];
    if (position.elided_at || !position.separated) return error("'...' is not expected here");
    position.elided_at = position.count;
    position.separated = false;
    at_ += 3;
  } else if (c == '[') {
    if (depth == shape_.size()) return error(fmt::format("more than {} dimensions", depth));
    TRY(begin_element(depth));
    index_[depth++] = {};
    ++at_;
  } else if (c == ']') {
    if (depth == 0) return error("a bracket closes that was not open");
    TRY(close(--depth));
    ++at_;
  } else {
    if (depth != shape_.size()) return error(fmt::format("a value at depth {}", depth));
    TRY(begin_element(depth));
    const auto size = std::min(text_.find_first_of(" ,[])\r\n", at_), text_.size()) - at_;
    TRY(add_value(text_.substr(at_, size)));
    at_ += size;
  }
  return {};
}

// An element of the list that is open at `depth`.
Result<void> PrintedTensor::begin_element(size_t depth) {
  if (depth == 0) return {};
  auto& position = index_[depth - 1];
  if (!position.separated) return error("a comma is missing");
  position.separated = false;
  if (++position.count > shape_[depth - 1])
    return error(fmt::format("more than the {} elements of its shape", shape_[depth - 1]));
  return {};
}

Result<void> PrintedTensor::close(size_t depth) {
  const auto& position = index_[depth];
  const bool fits = position.elided_at ? position.count < shape_[depth] && *position.elided_at > 0
                                       : position.count == shape_[depth];
  auto& printed = printed_[depth];
  if (!fits || (printed.known &&
                (printed.count != position.count || printed.elided_at != position.elided_at)))
    return error(fmt::format("{} elements{}, the shape is {}", position.count,
                             position.elided_at ? " around '...'" : "", to_text(shape_)));
  printed = {position.count, position.elided_at, true};
  return {};
}

// Half a unit of the last digit of a number; a whole one ("1." or "1") is exact.
double half_unit(std::string_view text) {
  const auto exponent_at = std::min(text.find('e'), text.size());
  const auto point = text.find('.');
  if (point == std::string_view::npos || point + 1 >= exponent_at) {
    if (exponent_at == text.size()) return 0;
  }
  const auto decimals =
      point == std::string_view::npos ? 0 : static_cast<int>(exponent_at - point - 1);
  int exponent = 0;
  if (exponent_at < text.size()) {
    auto digits = text.substr(exponent_at + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
  }
  return 0.5 * std::pow(10.0, exponent - decimals);
}

std::optional<double> to_real(std::string_view text) {
  if (text == "True" || text == "False") return text == "True" ? 1.0 : 0.0;
  const bool negative = text.starts_with('-');
  const auto digits = text.substr(negative);
  const double sign = negative ? -1.0 : 1.0;
  if (digits == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (digits == "inf") return sign * HUGE_VAL;
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return sign * value;
}

Result<void> PrintedTensor::add_value(std::string_view value) {
  const auto number = to_real(value);
  if (!number) return error(fmt::format("'{}' is no number", value.substr(0, 40)));
  printed_nan_ |= std::isnan(*number);
  if (std::isfinite(*number)) precision_ = std::max(precision_, half_unit(value));
  values_.push_back(value);
  return {};
}

template <class F>
Result<void> PrintedTensor::for_each(F&& f) const {
  std::vector<uint64_t> index(shape_.size());
  for (const auto value : values_) {
    uint64_t flat = 0;
    for (size_t d = 0; d < shape_.size(); ++d) {
      const auto& printed = printed_[d];
      const bool tail = printed.elided_at && index[d] >= *printed.elided_at;
      flat = flat * shape_[d] + (tail ? shape_[d] - printed.count + index[d] : index[d]);
    }
    TRY(f(flat, value));
    for (size_t d = shape_.size(); d-- > 0 && ++index[d] == printed_[d].count;) index[d] = 0;
  }
  return {};
}

// --- transformers ---

// "torch.Size([1, 5, 64])"
Result<std::vector<uint64_t>> parse_size(std::string_view text) {
  constexpr std::string_view kStart = "torch.Size([";
  constexpr size_t kMaxRank = 16;
  const std::string whole(text.substr(0, 80));
  const auto broken = [&] { return corrupt(fmt::format("the shape '{}'", whole)); };
  if (!text.starts_with(kStart) || !text.ends_with("])")) return broken();
  text = text.substr(kStart.size(), text.size() - kStart.size() - 2);
  std::vector<uint64_t> shape;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    uint64_t dim = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + comma, dim);
    if (error != std::errc() || end != text.data() + comma || shape.size() == kMaxRank)
      return broken();
    shape.push_back(dim);
    text.remove_prefix(std::min(comma + 1, text.size()));
    if (text.starts_with(' ')) text.remove_prefix(1);
  }
  return shape;
}

class CallTree {
 public:
  CallTree(const fs::path& path, size_t text_bytes, Dump& dump)
      : folder_(path.parent_path()),
        dump_(dump),
        elements_left_(std::min(kMaxElements, kBaseElements + kElementsPerByte * text_bytes)) {}

  Result<void> read(const json& root);

 private:
  Result<void> add_module(const json& node);
  Result<void> add_values(const json& value, const std::string& name);
  Result<void> add_leaf(const json& leaf, const std::string& name);
  Result<DumpTensor> from_text(const json& lines, std::vector<uint64_t> shape,
                               const std::string& type, const std::string& name);
  Result<DumpTensor> from_file(const std::string& file, const std::vector<uint64_t>& shape);
  template <class T>
  Result<std::span<const std::byte>> place(const PrintedTensor& printed, uint64_t count, T fill);

  fs::path folder_;
  Dump& dump_;
  uint64_t elements_left_;
  std::string class_;  // of the model; all paths begin with it
  size_t without_value_ = 0, no_tensor_text_ = 0;
  std::vector<std::string> nan_and_elided_;
};

Result<void> CallTree::read(const json& root) {
  class_ = root["module_path"].get<std::string>();
  dump_.model["class"] = class_;
  TRY(add_module(root));
  if (without_value_ > 0 && dump_.tensors.empty())
    return fail(ErrorCode::Unsupported,
                "this is the summary, without values: give the …_FULL_TENSORS.json beside it");
  if (without_value_ > 0)
    dump_.notes.push_back(fmt::format("{} tensors have no values", without_value_));
  if (no_tensor_text_ > 0)
    dump_.notes.push_back(
        fmt::format("{} values are printed in a form that is not read (sharded or sparse tensors)",
                    no_tensor_text_));
  if (!nan_and_elided_.empty())
    dump_.notes.push_back(
        fmt::format("nan is printed in {} tensors whose text also leaves values out, the first is "
                    "'{}': not every NaN there is a value that was left out",
                    nan_and_elided_.size(), nan_and_elided_.front()));
  return {};
}

// In the order of the run: what goes in, what runs inside, what comes out.
Result<void> CallTree::add_module(const json& node) {
  const json* path = find(node, "module_path");
  if (!path || !path->is_string()) return corrupt("a node of the call tree has no 'module_path'");
  std::string module = path->get<std::string>();
  if (module == class_) module.clear();
  else if (module.starts_with(class_ + ".")) module = module.substr(class_.size() + 1) + ".";
  else module += ".";
  if (const json* inputs = find(node, "inputs")) TRY(add_values(*inputs, module + "inputs"));
  if (const json* children = find(node, "children")) {
    if (!children->is_array() && !children->is_null())
      return corrupt(fmt::format("'{}': 'children' is no list", module));
    for (const json& child : *children) TRY(add_module(child));
  }
  if (const json* outputs = find(node, "outputs")) TRY(add_values(*outputs, module + "outputs"));
  return {};
}

Result<void> CallTree::add_values(const json& value, const std::string& name) {
  if (find(value, "shape") && find(value, "dtype")) {
    auto added = add_leaf(value, name);
    if (!added)
      return std::unexpected(std::move(added.error()).within(fmt::format("tensor '{}'", name)));
    return {};
  }
  if (!value.is_structured()) return {};  // "None", "True", a cache
  size_t index = 0;
  for (const auto& [key, inner] : value.items())
    TRY(add_values(inner,
                   fmt::format("{}.{}", name, value.is_array() ? fmt::to_string(index++) : key)));
  return {};
}

Result<void> CallTree::add_leaf(const json& leaf, const std::string& name) {
  TRY_ASSIGN(auto shape, parse_size(string_at(leaf, "shape")));
  const json* value = find(leaf, "value");
  if (!value || value->is_null()) {
    ++without_value_;
    return {};
  }
  const bool text = value->is_array();
  if (!text && !value->is_string())
    return corrupt("'value' is neither printed text nor the name of a file");
  if (text && !(value->size() > 0 && (*value)[0].is_string() &&
                (*value)[0].get_ref<const std::string&>().starts_with("tensor("))) {
    ++no_tensor_text_;
    return {};
  }
  TRY_ASSIGN(auto tensor, text ? from_text(*value, std::move(shape), string_at(leaf, "dtype"), name)
                               : from_file(value->get<std::string>(), shape));
  tensor.name = name;
  dump_.tensors.push_back(std::move(tensor));
  return {};
}

template <class T>
Result<std::span<const std::byte>> CallTree::place(const PrintedTensor& printed, uint64_t count,
                                                   T fill) {
  std::vector<std::byte> bytes(count * sizeof(T));
  if (printed.elided())
    for (uint64_t i = 0; i < count; ++i)
      std::memcpy(bytes.data() + i * sizeof(T), &fill, sizeof(T));
  TRY(printed.for_each([&](uint64_t index, std::string_view text) -> Result<void> {
    T value{};
    if constexpr (std::is_same_v<T, int64_t>) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size())
        return corrupt(fmt::format("'{}' is no whole number", text.substr(0, 40)));
    } else {
      const double real = *to_real(text);
      value = static_cast<T>(real);
      if (std::isfinite(real) && !std::isfinite(static_cast<double>(value)))
        return corrupt(fmt::format("{} is too large for its type", text));
    }
    CHECK(index < count);
    std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
    return {};
  }));
  return dump_.keep(std::move(bytes));
}

bool is_whole(std::string_view type) {
  return type.starts_with("torch.int") || type.starts_with("torch.uint");
}

// Floating-point types of 16 bits become F32: the text has them only to some decimals. Whole
// numbers become F64 where some are left out, which only NaN can say.
Result<DumpTensor> CallTree::from_text(const json& lines, std::vector<uint64_t> shape,
                                       const std::string& type, const std::string& name) {
  std::string text;
  for (const json& line : lines) {
    if (!line.is_string()) return corrupt("a line of the printed text is no string");
    text += line.get_ref<const std::string&>() + "\n";
  }
  text.pop_back();
  const auto count = element_count(shape);
  if (!count || *count > elements_left_)
    return fail(ErrorCode::Unsupported,
                fmt::format("its shape {} takes more memory than a text of this size may ask for "
                            "({} values): feed fewer tokens, or write with use_repr=False",
                            to_text(shape), elements_left_));
  elements_left_ -= *count;
  PrintedTensor printed(text, shape);
  TRY(printed.parse());
  DumpTensor tensor;
  tensor.view.shape = std::move(shape);
  tensor.precision = printed.precision();
  tensor.elided = printed.elided();
  if (tensor.elided && printed.printed_nan()) nan_and_elided_.push_back(name);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (is_whole(type) && !tensor.elided) {
    tensor.view.dtype = DType::I64;
    TRY_ASSIGN(tensor.view.bytes, place<int64_t>(printed, *count, 0));
  } else if (type == "torch.bool" && !tensor.elided) {
    tensor.view.dtype = DType::Bool;
    TRY_ASSIGN(tensor.view.bytes, place<uint8_t>(printed, *count, 0));
  } else if (type == "torch.float64" || is_whole(type)) {
    tensor.view.dtype = DType::F64;
    TRY_ASSIGN(tensor.view.bytes, place<double>(printed, *count, nan));
  } else {
    tensor.view.dtype = DType::F32;
    TRY_ASSIGN(tensor.view.bytes, place<float>(printed, *count, static_cast<float>(nan)));
  }
  return tensor;
}

Result<DumpTensor> CallTree::from_file(const std::string& file,
                                       const std::vector<uint64_t>& shape) {
  TRY_ASSIGN(const auto path, beside(folder_, file));
  TRY_ASSIGN(const auto source, open_source(path));
  auto content = parse_safetensors(source.bytes);
  if (!content) return std::unexpected(std::move(content.error()).within(path.string()));
  const auto data = content->tensors.find("data");
  if (data == content->tensors.end() || content->tensors.size() != 1)
    return corrupt(path.string() + ": one tensor 'data' is expected");
  if (data->second.shape != shape)
    return corrupt(fmt::format("{}: the shape {}, the call tree says {}", path.string(),
                               to_text(data->second.shape), to_text(shape)));
  dump_.owners.push_back(source.owner);
  DumpTensor tensor;
  tensor.view = data->second;
  tensor.source = path.filename().string();
  return tensor;
}

// --- Which of them it is ---

Result<void> read_document(const json& document, const DumpSource& source, Dump& dump) {
  const json* path = find(document, "module_path");
  if (path && path->is_string()) {
    dump.kind = "transformers call tree";
    dump.engine["name"] = "transformers";
    TRY(CallTree(source.path, source.bytes.size(), dump).read(document));
    number_occurrences(dump);
    return {};
  }
  const json* data = find(document, "data");
  if (data && data->is_object() &&
      (find(document, "task") || find(document, "level") || find(document, "dump_data_dir")))
    return read_msprobe(document, source.path, dump);
  const json* list = find(document, "lst");
  const json* inputs = find(document, "list");
  if ((list && list->is_array() && class_of(document) == "RunResults") ||
      (inputs && inputs->is_array() && !inputs->empty() && (*inputs)[0].is_object())) {
    TRY(read_polygraphy(document, source.path, dump));
    number_occurrences(dump);
    return {};
  }
  std::string keys;
  for (const auto& [key, value] : document.items())
    if (keys.size() < 100) keys += (keys.empty() ? "'" : ", '") + key.substr(0, 40) + "'";
  return fail(ErrorCode::Unsupported,
              fmt::format("JSON with {}: neither Polygraphy's RunResults ('lst'), nor msprobe's "
                          "dump.json ('task', 'data'), nor the call tree of transformers' "
                          "debugger ('module_path')",
                          keys.empty() ? "nothing in it" : keys));
}

Result<Dump> read(const DumpSource& source) {
  Dump dump;
  dump.label = source.path.string();
  TRY_ASSIGN(const json document, parse_document(source.text()));
  TRY(read_document(document, source, dump));
  if (dump.tensors.empty() && dump.notes.empty()) return corrupt("there is no tensor in it");
  take_tokens(dump);
  return dump;
}

}  // namespace

bool looks_like_json(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                        std::min(bytes.size(), size_t{4096}));
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const auto skip = [&] {
    const auto at = text.find_first_not_of(" \t\r\n");
    text.remove_prefix(std::min(at, text.size()));
    return text.empty() ? '\0' : text.front();
  };
  const char first = skip();
  if (first != '{' && first != '[') return false;
  text.remove_prefix(1);
  const char second = skip();
  return first == '{' ? second == '"' || second == '}' : second == '{';
}

Result<Dump> read_json_dump(const DumpSource& source) {
  auto dump = read(source);
  if (!dump) return std::unexpected(std::move(dump.error()).within(source.path.string()));
  return dump;
}

}  // namespace plumb
