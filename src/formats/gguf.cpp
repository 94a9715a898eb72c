// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <limits>
#include <optional>
#include <set>

#include "core/byte_reader.h"

namespace plumb {
namespace {

// Nested arrays are in the text of the format; no file in use goes deeper than this.
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kDefaultAlignment = 32;
std::string removed_type_name(uint32_t id) {
  switch (id) {
    case 4: return "Q4_2, removed in 2023";
    case 5: return "Q4_3, removed in 2023";
    case 31:
    case 32:
    case 33: return "a repacked Q4_0 form, removed in 2024";
    case 36:
    case 37:
    case 38: return "a repacked IQ4_NL form, removed";
    default: return {};
  }
}

std::string known_type_name(uint32_t id) {
  switch (id) {
    case 41: return "Q1_0";
    case 42: return "Q2_0";
    default: return {};
  }
}

Result<std::string_view> read_string(ByteReader& reader) {
  TRY_ASSIGN(const uint64_t size, reader.read<uint64_t>());
  if (size > reader.remaining())
    return fail(ErrorCode::Corrupt,
                fmt::format("a string of {} bytes runs past the end of the file ({} left)", size,
                            reader.remaining()));
  return reader.read_text(size);
}

template <class T>
Result<MetadataValue> read_number(ByteReader& reader) {
  TRY_ASSIGN(const T value, reader.read<T>());
  if constexpr (std::is_floating_point_v<T>) return MetadataValue(static_cast<double>(value));
  else if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return MetadataValue(value);
    return MetadataValue(static_cast<int64_t>(value));
  } else {
    return MetadataValue(static_cast<int64_t>(value));
  }
}

Result<bool> read_bool(ByteReader& reader) {
  TRY_ASSIGN(const auto value, reader.read<uint8_t>());
  if (value > 1)
    return fail(ErrorCode::Corrupt, fmt::format("a bool must be 0 or 1, found {}", value));
  return value == 1;
}

Result<std::pair<GgufType, uint64_t>> read_array_head(ByteReader& reader, int depth) {
  if (depth >= kMaxArrayDepth)
    return fail(ErrorCode::Unsupported,
                fmt::format("arrays are nested deeper than {}", kMaxArrayDepth));
  TRY_ASSIGN(const uint32_t id, reader.read<uint32_t>());
  TRY_ASSIGN(const uint64_t count, reader.read<uint64_t>());
  const auto type = static_cast<GgufType>(id);
  const uint64_t each = smallest_size(type);
  if (each == 0)
    return fail(ErrorCode::Corrupt, fmt::format("an array of the unknown metadata type {}", id));
  if (count > reader.remaining() / each)
    return fail(ErrorCode::Corrupt,
                fmt::format("an array of {} values cannot fit in the {} bytes that are left", count,
                            reader.remaining()));
  return std::pair(type, count);
}

// Checks an array's values and goes past them; they are decoded when somebody asks for them.
Result<void> walk_values(ByteReader& reader, GgufType type, uint64_t count, int depth) {
  if (type != GgufType::Bool && type != GgufType::String && type != GgufType::Array)
    return reader.skip(count * smallest_size(type));
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::Bool) {
      TRY(read_bool(reader));
    } else if (type == GgufType::String) {
      TRY(read_string(reader));
    } else {
      TRY_ASSIGN(const auto inner, read_array_head(reader, depth + 1));
      TRY(walk_values(reader, inner.first, inner.second, depth + 1));
    }
  }
  return {};
}

Result<MetadataValue> read_array(ByteReader& reader, std::span<const std::byte> file) {
  TRY_ASSIGN(const auto head, read_array_head(reader, 0));
  const size_t begin = reader.offset();
  TRY(walk_values(reader, head.first, head.second, 0));
  return MetadataValue(std::make_shared<const MetadataArray>(
      head.first, head.second, file.subspan(begin, reader.offset() - begin)));
}

Result<MetadataValue> read_value(ByteReader& reader, uint32_t id, std::span<const std::byte> file) {
  switch (static_cast<GgufType>(id)) {
    case GgufType::U8: return read_number<uint8_t>(reader);
    case GgufType::I8: return read_number<int8_t>(reader);
    case GgufType::U16: return read_number<uint16_t>(reader);
    case GgufType::I16: return read_number<int16_t>(reader);
    case GgufType::U32: return read_number<uint32_t>(reader);
    case GgufType::I32: return read_number<int32_t>(reader);
    case GgufType::U64: return read_number<uint64_t>(reader);
    case GgufType::I64: return read_number<int64_t>(reader);
    case GgufType::F32: return read_number<float>(reader);
    case GgufType::F64: return read_number<double>(reader);
    case GgufType::Bool: {
      TRY_ASSIGN(const bool value, read_bool(reader));
      return MetadataValue(value);
    }
    case GgufType::String: {
      TRY_ASSIGN(const auto text, read_string(reader));
      return MetadataValue(std::string(text));
    }
    case GgufType::Array: return read_array(reader, file);
  }
  return fail(
      ErrorCode::Corrupt,
      fmt::format("unknown metadata type {} (known: 0 to 12); nothing after it can be read", id));
}

Result<void> read_metadata(ByteReader& reader, uint64_t count, std::span<const std::byte> file,
                           Metadata& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    const auto place = fmt::format("metadata entry {} of {}", i + 1, count);
    auto key = read_string(reader);
    if (!key) return std::unexpected(std::move(key.error()).within(place));
    const auto named = fmt::format("{}, '{}'", place, printable(*key));
    if (key->empty() || key->size() > 65535)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: a key has 1 to 65535 bytes, found {}", place, key->size()));
    auto type = reader.read<uint32_t>();
    if (!type) return std::unexpected(std::move(type.error()).within(named));
    auto value = read_value(reader, *type, file);
    if (!value) return std::unexpected(std::move(value.error()).within(named));
    if (!metadata.emplace(std::string(*key), std::move(*value)).second)
      return fail(ErrorCode::Corrupt,
                  named + ": this key was given before; which one holds is unknown");
  }
  return {};
}

Result<DType> read_dtype(ByteReader& reader) {
  TRY_ASSIGN(const uint32_t id, reader.read<uint32_t>());
  if (const auto dtype = dtype_of_ggml(id)) return *dtype;
  if (const auto name = removed_type_name(id); !name.empty())
    return fail(
        ErrorCode::Unsupported,
        fmt::format("block type {} ({}) is no longer in use; convert the model again", id, name));
  if (const auto name = known_type_name(id); !name.empty())
    return fail(
        ErrorCode::Unsupported,
        fmt::format("block type {} ({}) is not supported: its block layout would be needed; "
                    "convert the model to another type",
                    id, name));
  return fail(ErrorCode::Unsupported, fmt::format("unknown block type {} (known: 0 to 42)", id));
}

Result<TensorEntry> read_tensor_entry(ByteReader& reader, uint64_t& relative_offset) {
  TensorEntry entry;
  TRY_ASSIGN(const auto name, read_string(reader));
  entry.name = name;
  const auto rest = [&]() -> Result<void> {
    TRY_ASSIGN(const uint32_t dims, reader.read<uint32_t>());
    if (dims > 4)
      return fail(ErrorCode::Corrupt, fmt::format("{} dimensions, at most 4 are allowed", dims));
    for (uint32_t d = 0; d < dims; ++d) {
      TRY_ASSIGN(const uint64_t size, reader.read<uint64_t>());
      entry.view.shape.insert(entry.view.shape.begin(), size);
    }
    TRY_ASSIGN(entry.view.dtype, read_dtype(reader));
    TRY_ASSIGN(relative_offset, reader.read<uint64_t>());
    const auto& type = info(entry.view.dtype);
    const uint64_t row = entry.view.shape.empty() ? 1 : entry.view.shape.back();
    if (row % type.block_elements != 0)
      return fail(ErrorCode::Corrupt,
                  fmt::format("rows of {} values are not a multiple of {}, the block of {}", row,
                              type.block_elements, type.name));
    return {};
  }();
  if (!rest)
    return std::unexpected(Error(rest.error()).within(fmt::format("'{}'", printable(entry.name))));
  return entry;
}

// Gives each tensor its bytes. `start` is where the data section begins.
Result<void> place_tensor(TensorEntry& entry, uint64_t relative_offset, uint64_t start,
                          uint64_t alignment, std::span<const std::byte> bytes) {
  const auto count = element_count(entry.view.shape);
  const auto needed = count ? tensor_bytes(entry.view.dtype, *count) : std::nullopt;
  if (!needed)
    return fail(ErrorCode::Corrupt, fmt::format("the size of its shape {} overflows 64 bits",
                                                to_text(entry.view.shape)));
  const uint64_t size = *needed;
  if (relative_offset % alignment != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("its offset {} is not a multiple of the alignment {}", relative_offset,
                            alignment));
  uint64_t begin = 0;
  uint64_t end = 0;
  if (__builtin_add_overflow(start, relative_offset, &begin) ||
      __builtin_add_overflow(begin, size, &end) || end > bytes.size())
    return fail(ErrorCode::Corrupt, fmt::format("its data ({} bytes at data offset {}) runs past "
                                                "the end of the file ({} bytes, data from {})",
                                                size, relative_offset, bytes.size(), start));
  entry.file_offset = begin;
  entry.view.bytes = bytes.subspan(begin, size);
  return {};
}

Result<void> check_overlaps(const std::vector<TensorEntry>& tensors) {
  std::vector<const TensorEntry*> order;
  for (const auto& entry : tensors)
    if (!entry.view.bytes.empty()) order.push_back(&entry);
  std::ranges::sort(order, {}, &TensorEntry::file_offset);
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->file_offset + order[i - 1]->view.bytes.size() > order[i]->file_offset)
      return fail(ErrorCode::Corrupt,
                  fmt::format("the data of '{}' and '{}' overlap", printable(order[i - 1]->name),
                              printable(order[i]->name)));
  }
  return {};
}

Result<uint64_t> read_alignment(const Metadata& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<int64_t>(&found->second);
  if (value == nullptr || *value <= 0 || !std::has_single_bit(static_cast<uint64_t>(*value)))
    return fail(
        ErrorCode::Corrupt,
        fmt::format("general.alignment must be a power of two, found {}", to_text(found->second)));
  return static_cast<uint64_t>(*value);
}

Result<uint32_t> read_version(ByteReader& reader) {
  TRY_ASSIGN(const uint32_t version, reader.read<uint32_t>());
  if (version != 0 && (version & 0xFFFFU) == 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("the version reads {} = {} with its bytes swapped: a big-endian file, "
                            "which is not supported",
                            version, std::byteswap(version)));
  if (version < 2)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("GGUF version {} is no longer in use; convert the model again", version));
  if (version > 3)
    return fail(ErrorCode::Unsupported,
                fmt::format("GGUF version {} is not known here (known: 2 and 3)", version));
  return version;
}

}  // namespace

Result<GgufContent> parse_gguf(std::span<const std::byte> bytes) {
  if (bytes.empty()) return fail(ErrorCode::Corrupt, "the file is empty");
  ByteReader reader(bytes);
  TRY_ASSIGN(const auto magic, reader.read_text(4));
  if (magic != "GGUF")
    return fail(ErrorCode::Corrupt,
                fmt::format("not a GGUF file: its first bytes are '{}', expected 'GGUF'",
                            printable(magic)));
  GgufContent content;
  TRY_ASSIGN(content.version, read_version(reader));
  TRY_ASSIGN(const uint64_t tensor_count, reader.read<uint64_t>());
  TRY_ASSIGN(const uint64_t metadata_count, reader.read<uint64_t>());
  // A tensor entry takes at least 24 bytes, a metadata entry at least 13.
  if (tensor_count > reader.remaining() / 24)
    return fail(ErrorCode::Corrupt, fmt::format("{} tensors cannot fit in a file of {} bytes",
                                                tensor_count, bytes.size()));
  if (metadata_count > reader.remaining() / 13)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} metadata entries cannot fit in a file of {} bytes", metadata_count,
                            bytes.size()));
  TRY(read_metadata(reader, metadata_count, bytes, content.metadata));
  TRY_ASSIGN(const uint64_t alignment, read_alignment(content.metadata));

  std::vector<uint64_t> offsets;
  std::set<std::string> names;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    const auto place = fmt::format("tensor entry {} of {}", i + 1, tensor_count);
    uint64_t offset = 0;
    auto entry = read_tensor_entry(reader, offset);
    if (!entry) return std::unexpected(std::move(entry.error()).within(place));
    if (!names.insert(entry->name).second)
      return fail(ErrorCode::Corrupt, fmt::format("{}: a tensor named '{}' was given before", place,
                                                  printable(entry->name)));
    content.tensors.push_back(std::move(*entry));
    offsets.push_back(offset);
  }
  const uint64_t header_end = reader.offset();
  const uint64_t start = (header_end + alignment - 1) / alignment * alignment;
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    auto placed = place_tensor(content.tensors[i], offsets[i], start, alignment, bytes);
    if (!placed)
      return std::unexpected(
          std::move(placed.error())
              .within(fmt::format("tensor '{}'", printable(content.tensors[i].name))));
  }
  TRY(check_overlaps(content.tensors));
  return content;
}

namespace {

struct SplitName {
  std::string stem;  // before "-00001-of-00003.gguf"
  size_t number = 0, count = 0;
};

// NAME-00001-of-00003.gguf, as the tools that split a model name its parts.
std::optional<SplitName> split_name(const std::filesystem::path& path) {
  constexpr std::string_view kForm = "-00001-of-00003.gguf";
  constexpr size_t kDigits = 5;
  const auto name = path.filename().string();
  if (name.size() < kForm.size()) return std::nullopt;
  const auto end = std::string_view(name).substr(name.size() - kForm.size());
  const auto number = [&](size_t at) -> std::optional<size_t> {
    size_t value = 0;
    const auto* first = end.data() + at;
    const auto [stop, error] = std::from_chars(first, first + kDigits, value);
    return error == std::errc() && stop == first + kDigits ? std::optional(value) : std::nullopt;
  };
  const auto part = number(1);
  const auto count = number(10);
  if (end[0] != '-' || end.substr(6, 4) != "-of-" || end.substr(15) != ".gguf" || !part || !count)
    return std::nullopt;
  return SplitName{name.substr(0, name.size() - kForm.size()), *part, *count};
}

std::filesystem::path split_path(const std::filesystem::path& path, const SplitName& name,
                                 size_t number) {
  return path.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", name.stem, number, name.count);
}

std::optional<int64_t> whole_number(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return std::nullopt;
  const auto* value = std::get_if<int64_t>(&found->second);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

// Opens one file and adds its tensors; its metadata is returned.
Result<GgufContent> add_part(ModelFile& model, const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  auto content = parse_gguf(file->bytes());
  if (!content) return std::unexpected(std::move(content.error()).within(path.string()));
  std::set<std::string_view> known;
  for (const auto& tensor : model.tensors) known.insert(tensor.name);
  for (auto& tensor : content->tensors)
    if (known.contains(tensor.name))
      return fail(ErrorCode::Corrupt, fmt::format("{}: tensor '{}' is in another split too",
                                                  path.string(), printable(tensor.name)));
  for (auto& tensor : content->tensors) {
    tensor.part = model.parts.size();
    model.tensors.push_back(std::move(tensor));
  }
  content->tensors.clear();
  model.parts.push_back({path, std::move(*file)});
  return content;
}

Result<void> check_split(const GgufContent& content, const std::filesystem::path& path,
                         size_t number, size_t count) {
  const auto split = whole_number(content.metadata, "split.no");
  const auto splits = whole_number(content.metadata, "split.count");
  if (split == static_cast<int64_t>(number) - 1 && splits == static_cast<int64_t>(count)) return {};
  const auto text = [](std::optional<int64_t> value) {
    return value ? fmt::format("{}", *value) : std::string("absent");
  };
  return fail(ErrorCode::Corrupt,
              fmt::format("{}: the name says split {} of {}, but split.no is {} (counted from 0) "
                          "and split.count is {}",
                          path.string(), number, count, text(split), text(splits)));
}

Result<void> add_splits(ModelFile& model, const SplitName& name) {
  for (size_t number = 1; number <= name.count; ++number) {
    const auto path = split_path(model.path, name, number);
    auto content = add_part(model, path);
    if (!content && content.error().code == ErrorCode::NotFound)
      return fail(ErrorCode::NotFound,
                  fmt::format("{}: this split of {} is not there; all must lie in one folder",
                              path.string(), name.count));
    if (!content) return std::unexpected(content.error());
    TRY(check_split(*content, path, number, name.count));
    if (number == 1) {
      model.format_text = fmt::format("GGUF v{}, {} splits", content->version, name.count);
      model.metadata = std::move(content->metadata);
    } else {
      for (auto& [key, value] : content->metadata)
        if (!key.starts_with("split.")) model.metadata.emplace(key, std::move(value));
    }
  }
  const auto total = whole_number(model.metadata, "split.tensors.count");
  if (total && *total != static_cast<int64_t>(model.tensors.size()))
    return fail(ErrorCode::Corrupt,
                fmt::format("{}: split.tensors.count says {} tensors, the {} splits hold {}",
                            model.path.string(), *total, name.count, model.tensors.size()));
  return {};
}

}  // namespace

Result<ModelFile> open_gguf(const std::filesystem::path& path) {
  ModelFile model;
  model.path = path;
  model.format = FileFormat::Gguf;
  TRY_ASSIGN(auto content, add_part(model, path));
  const auto count = whole_number(content.metadata, "split.count");
  if (!count || *count <= 1) {
    model.format_text = fmt::format("GGUF v{}", content.version);
    model.metadata = std::move(content.metadata);
    return model;
  }
  const auto name = split_name(path);
  if (!name)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("{}: this is split {} of {} of a model, but its name does not end in "
                    "-00001-of-{:05}.gguf, so the others cannot be found; rename it",
                    path.string(), whole_number(content.metadata, "split.no").value_or(-1) + 1,
                    *count, *count));
  ModelFile whole;
  whole.path = path;
  whole.format = FileFormat::Gguf;
  TRY(add_splits(whole, *name));
  return whole;
}

}  // namespace plumb
