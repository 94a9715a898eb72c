// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/byte_reader.h"
#include "core/check.h"
#include "core/partial_file.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own library
constexpr int kMaxDepth = 8;                  // a header needs 3; more would only strain the parser

int nesting_depth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

// Looks for an object with a key twice. The parser's own callback could do it, but takes time that
// grows with the square of the objects in an array: 3 MB of them would take an hour.
struct DuplicateFinder : nlohmann::json_sax<json> {
  std::vector<std::set<std::string>> open;  // the keys of each object that has not ended
  std::optional<std::string> twice;

  bool start_object(size_t) override {
    open.emplace_back();
    return true;
  }
  bool end_object() override {
    open.pop_back();
    return true;
  }
  bool key(std::string& name) override {
    if (!open.back().insert(name).second) twice = name;
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t, const std::string&, const json::exception&) override { return false; }
};

Result<std::vector<uint64_t>> read_numbers(const json& value, std::string_view what) {
  if (!value.is_array()) return fail(ErrorCode::Corrupt, fmt::format("{} is not an array", what));
  std::vector<uint64_t> numbers;
  for (const auto& number : value) {
    if (!number.is_number_unsigned())
      return fail(
          ErrorCode::Corrupt,
          fmt::format("{} must hold whole numbers of at least 0, found {}", what, number.dump()));
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

struct Entry {
  uint64_t begin, end;
  TensorView view;
};

Result<Entry> read_entry(const json& value, std::span<const std::byte> data) {
  if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
      !value.contains("shape") || !value.contains("data_offsets"))
    return fail(ErrorCode::Corrupt, "it needs 'dtype', 'shape' and 'data_offsets'");
  Entry entry;
  const auto name = value["dtype"].get<std::string>();
  const auto dtype = dtype_of_safetensors(name);
  if (!dtype &&
      (name == "F8_E8M0" || name.starts_with("F4") || name.starts_with("F6_") || name == "C64"))
    return fail(ErrorCode::Unsupported,
                fmt::format("dtype {} is not supported: save the tensor in another type", name));
  if (!dtype)
    return fail(ErrorCode::Unsupported, fmt::format("unknown dtype '{}'", printable(name)));
  entry.view.dtype = *dtype;
  TRY_ASSIGN(entry.view.shape, read_numbers(value["shape"], "its shape"));
  TRY_ASSIGN(const auto offsets, read_numbers(value["data_offsets"], "its data_offsets"));
  if (offsets.size() != 2) return fail(ErrorCode::Corrupt, "data_offsets must be two numbers");
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (entry.begin > entry.end)
    return fail(ErrorCode::Corrupt,
                fmt::format("its offsets [{}, {}] are reversed", entry.begin, entry.end));
  if (entry.end > data.size())
    return fail(ErrorCode::Corrupt,
                fmt::format("its data ends at {}, but the file has only {} bytes of data",
                            entry.end, data.size()));
  const auto count = element_count(entry.view.shape);
  uint64_t size = 0;
  if (!count || __builtin_mul_overflow(*count, info(*dtype).block_bytes, &size))
    return fail(ErrorCode::Corrupt, fmt::format("the size of its shape {} overflows 64 bits",
                                                to_text(entry.view.shape)));
  if (size != entry.end - entry.begin)
    return fail(ErrorCode::Corrupt,
                fmt::format("its shape {} of {} needs {} bytes, its offsets give {}",
                            to_text(entry.view.shape), name, size, entry.end - entry.begin));
  entry.view.bytes = data.subspan(entry.begin, size);
  return entry;
}

Result<void> check_layout(std::vector<std::pair<std::string, Entry>>& entries, uint64_t data_size) {
  std::ranges::sort(entries, [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  uint64_t end = 0;
  std::string last;
  for (const auto& [name, entry] : entries) {
    if (entry.begin < end)
      return fail(ErrorCode::Corrupt, fmt::format("the data of '{}' and '{}' overlap", last, name));
    if (entry.begin > end)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{} bytes before '{}' belong to no tensor", entry.begin - end, name));
    end = entry.end;
    last = name;
  }
  if (end != data_size)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} bytes after the data belong to no tensor", data_size - end));
  return {};
}

}  // namespace

Result<json> parse_json_object(std::string_view text, std::string_view what, int max_depth) {
  if (nesting_depth(text) > max_depth)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} is nested deeper than {} levels", what, max_depth));
  json value;
  try {
    value = json::parse(text);
  } catch (const json::exception& error) {
    constexpr size_t kMaxText = 200;  // it repeats what it could not read, maybe the whole file
    return fail(ErrorCode::Corrupt, fmt::format("{} is not valid JSON: {}", what,
                                                std::string(error.what()).substr(0, kMaxText)));
  }
  DuplicateFinder finder;
  json::sax_parse(text, &finder);
  if (finder.twice)
    return fail(ErrorCode::Corrupt,
                fmt::format("the name '{}' stands twice in {}", *finder.twice, what));
  if (!value.is_object())
    return fail(ErrorCode::Corrupt, fmt::format("{} is not a JSON object", what));
  return value;
}

Result<SafetensorsContent> parse_safetensors(std::span<const std::byte> bytes) {
  if (bytes.size() < 8)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} bytes are too short for a safetensors header", bytes.size()));
  ByteReader reader(bytes);
  TRY_ASSIGN(const uint64_t header_size, reader.read<uint64_t>());
  if (header_size > reader.remaining() && (bytes.size() < 9 || bytes[8] != std::byte{'{'}))
    return fail(ErrorCode::Corrupt,
                "not a safetensors file: a header size and '{' are expected at its start");
  if (header_size > reader.remaining())
    return fail(ErrorCode::Corrupt,
                fmt::format("the header of {} bytes runs past the end of the file ({} left)",
                            header_size, reader.remaining()));
  if (header_size > kMaxHeader)
    return fail(ErrorCode::Corrupt,
                fmt::format("the header of {} bytes is larger than the format allows ({})",
                            header_size, kMaxHeader));
  TRY_ASSIGN(const auto text, reader.read_text(header_size));
  const auto data = bytes.subspan(reader.offset());
  TRY_ASSIGN(const json header, parse_json_object(text, "the header", kMaxDepth));

  SafetensorsContent content;
  std::vector<std::pair<std::string, Entry>> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return fail(ErrorCode::Corrupt, "__metadata__ is not an object");
      for (const auto& [key, item] : value.items()) {
        if (!item.is_string())
          return fail(ErrorCode::Corrupt, fmt::format("__metadata__ '{}' is not a string", key));
        content.metadata[key] = item.get<std::string>();
      }
      continue;
    }
    auto entry = read_entry(value, data);
    if (!entry)
      return std::unexpected(std::move(entry.error()).within(fmt::format("tensor '{}'", name)));
    entries.emplace_back(name, std::move(*entry));
  }
  TRY(check_layout(entries, data.size()));
  for (auto& [name, entry] : entries) content.tensors.emplace(name, std::move(entry.view));
  return content;
}

std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (auto& entry : entries) {
    const auto count = element_count(entry.shape);
    CHECK(count && !is_quantized(entry.dtype));
    const uint64_t size = bytes_of(entry.dtype, *count);
    header[entry.name] = {{"dtype", info(entry.dtype).safetensors},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, offset + size}}};
    entry.offset = offset;
    offset += size;
  }
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8,
              ' ');  // Keeps the data aligned, as the format's own writer does.
  const uint64_t size = text.size();
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes += text;
  for (auto& entry : entries) entry.offset += bytes.size();
  return bytes;
}

Result<void> write_safetensors(const std::filesystem::path& path,
                               const std::map<std::string, std::string>& metadata,
                               std::span<const SafetensorsTensor> tensors) {
  const auto written = [&]() -> Result<void> {
    std::vector<SafetensorsEntry> entries;
    std::set<std::string> names = {"__metadata__"};
    for (const auto& tensor : tensors) {
      const auto& view = tensor.view;
      const auto place = fmt::format("tensor '{}': ", tensor.name);
      if (info(view.dtype).safetensors.empty())
        return fail(ErrorCode::Unsupported,
                    fmt::format("{}safetensors has no type {}; turn it into F32 or F16 first",
                                place, info(view.dtype).name));
      if (!names.insert(tensor.name).second)
        return fail(ErrorCode::Corrupt, place + "this name is taken");
      const auto count = element_count(view.shape);
      if (!count || tensor_bytes(view.dtype, *count) != view.bytes.size())
        return fail(ErrorCode::Corrupt, fmt::format("{}shape {} does not take {} bytes", place,
                                                    to_text(view.shape), view.bytes.size()));
      entries.push_back({tensor.name, view.dtype, view.shape});
    }
    TRY_ASSIGN(auto file, PartialFile::create(path));
    TRY(file.write(safetensors_header(entries, metadata)));
    for (const auto& tensor : tensors) {
      TRY(file.write(tensor.view.bytes));
    }
    return file.finish();
  }();
  if (!written) return std::unexpected(Error(written.error()).within(path.string()));
  return {};
}

}  // namespace plumb
