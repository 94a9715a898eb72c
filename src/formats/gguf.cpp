// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <set>

#include "core/byte_reader.h"

namespace plumb {
namespace {

// Nested arrays are in the text of the format; no file in use goes deeper than this.
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kDefaultAlignment = 32;
// The largest arrays in use are vocabularies and merges, below 10^6 values. A value takes 40 bytes
// here, so a hostile array of single bytes would cost 40 times the file without this limit.
constexpr uint64_t kMaxArrayValues = 4'000'000;

enum ValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Bytes that one value of the type takes at least: what a claimed count is checked against.
uint64_t smallest_size(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool: return 1;
    case kU16:
    case kI16: return 2;
    case kU32:
    case kI32:
    case kF32: return 4;
    case kU64:
    case kI64:
    case kF64:
    case kString: return 8;
    case kArray: return 12;
    default: return 0;
  }
}

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
  static const std::map<uint32_t, std::string> names = {
      {6, "Q5_0"},   {7, "Q5_1"},    {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},
      {13, "Q5_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
      {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},   {22, "IQ2_S"},  {23, "IQ4_XS"},
      {29, "IQ1_M"}, {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"},  {40, "NVFP4"}};
  const auto found = names.find(id);
  return found == names.end() ? std::string() : found->second;
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    if (c >= 32 && c < 127) out += c;
    else out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

Result<std::string> read_string(ByteReader& reader) {
  TRY_ASSIGN(const uint64_t size, reader.read<uint64_t>());
  if (size > reader.remaining())
    return fail(ErrorCode::Corrupt,
                fmt::format("a string of {} bytes runs past the end of the file ({} left)", size,
                            reader.remaining()));
  TRY_ASSIGN(const auto text, reader.read_text(size));
  return std::string(text);
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

Result<MetadataValue> read_value(ByteReader& reader, uint32_t type, int depth);

Result<MetadataValue> read_array(ByteReader& reader, int depth) {
  if (depth >= kMaxArrayDepth)
    return fail(ErrorCode::Unsupported,
                fmt::format("arrays are nested deeper than {}", kMaxArrayDepth));
  TRY_ASSIGN(const uint32_t type, reader.read<uint32_t>());
  TRY_ASSIGN(const uint64_t count, reader.read<uint64_t>());
  const uint64_t each = smallest_size(type);
  if (each == 0)
    return fail(ErrorCode::Corrupt, fmt::format("an array of the unknown metadata type {}", type));
  if (count > reader.remaining() / each)
    return fail(ErrorCode::Corrupt,
                fmt::format("an array of {} values cannot fit in the {} bytes that are left", count,
                            reader.remaining()));
  if (count > kMaxArrayValues)
    return fail(ErrorCode::Unsupported,
                fmt::format("an array of {} values, at most {} are read", count, kMaxArrayValues));
  auto array = std::make_shared<MetadataArray>();
  array->values.reserve(count);  // growing by doubling would hold three times as much
  for (uint64_t i = 0; i < count; ++i) {
    TRY_ASSIGN(auto value, read_value(reader, type, depth + 1));
    array->values.push_back(std::move(value));
  }
  return MetadataValue(std::shared_ptr<const MetadataArray>(std::move(array)));
}

Result<MetadataValue> read_value(ByteReader& reader, uint32_t type, int depth) {
  switch (type) {
    case kU8: return read_number<uint8_t>(reader);
    case kI8: return read_number<int8_t>(reader);
    case kU16: return read_number<uint16_t>(reader);
    case kI16: return read_number<int16_t>(reader);
    case kU32: return read_number<uint32_t>(reader);
    case kI32: return read_number<int32_t>(reader);
    case kU64: return read_number<uint64_t>(reader);
    case kI64: return read_number<int64_t>(reader);
    case kF32: return read_number<float>(reader);
    case kF64: return read_number<double>(reader);
    case kBool: {
      TRY_ASSIGN(const auto value, reader.read<uint8_t>());
      if (value > 1)
        return fail(ErrorCode::Corrupt, fmt::format("a bool must be 0 or 1, found {}", value));
      return MetadataValue(value == 1);
    }
    case kString: {
      TRY_ASSIGN(auto text, read_string(reader));
      return MetadataValue(std::move(text));
    }
    case kArray: return read_array(reader, depth);
    default:
      return fail(
          ErrorCode::Corrupt,
          fmt::format("unknown metadata type {} (known: 0 to 12); nothing after it can be read",
                      type));
  }
}

Result<void> read_metadata(ByteReader& reader, uint64_t count,
                           std::map<std::string, MetadataValue>& metadata) {
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
    auto value = read_value(reader, *type, 0);
    if (!value) return std::unexpected(std::move(value.error()).within(named));
    if (!metadata.emplace(*key, std::move(*value)).second)
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
    return fail(ErrorCode::Unsupported,
                fmt::format("block type {} ({}) is not supported yet; supported: F32 F16 BF16 Q4_0 "
                            "Q4_1 Q8_0 Q4_K Q6_K",
                            id, name));
  return fail(ErrorCode::Unsupported, fmt::format("unknown block type {}", id));
}

Result<TensorEntry> read_tensor_entry(ByteReader& reader, uint64_t& relative_offset) {
  TensorEntry entry;
  TRY_ASSIGN(entry.name, read_string(reader));
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
  uint64_t size = 0;
  if (!count || __builtin_mul_overflow(*count / info(entry.view.dtype).block_elements,
                                       info(entry.view.dtype).block_bytes, &size))
    return fail(ErrorCode::Corrupt, fmt::format("the size of its shape {} overflows 64 bits",
                                                to_text(entry.view.shape)));
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

Result<uint64_t> read_alignment(const std::map<std::string, MetadataValue>& metadata) {
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
  TRY(read_metadata(reader, metadata_count, content.metadata));
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

Result<ModelFile> open_gguf(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  auto content = parse_gguf(file->bytes());
  if (!content) return std::unexpected(std::move(content.error()).within(path.string()));
  return ModelFile{path, fmt::format("GGUF v{}", content->version), std::move(*file),
                   std::move(content->metadata), std::move(content->tensors)};
}

std::string to_text(const MetadataValue& value) {
  struct Visitor {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(uint64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return fmt::format("{:.9g}", v); }
    std::string operator()(const std::string& v) const {
      return fmt::format("'{}'{}", printable(v), v.size() > 80 ? "…" : "");
    }
    std::string operator()(const std::shared_ptr<const MetadataArray>& v) const {
      std::string text = fmt::format("array of {} [", v->values.size());
      for (size_t i = 0; i < std::min<size_t>(v->values.size(), 4); ++i)
        text += (i ? ", " : "") + to_text(v->values[i]);
      return text + (v->values.size() > 4 ? ", …]" : "]");
    }
  };
  return std::visit(Visitor{}, value);
}

}  // namespace plumb
