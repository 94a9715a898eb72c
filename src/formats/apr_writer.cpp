// SPDX-License-Identifier: Apache-2.0
#include "formats/apr_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>
#include <vector>

#include "core/partial_file.h"
#include "formats/apr.h"

namespace plumb {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 30;  // of arrays in arrays: the reader takes no more
constexpr uint16_t kContentFlags = kAprQuantized | kAprHasFilterbank | kAprHasModelCard |
                                   kAprStreaming | kAprHasVocab | kAprRowMajor;

uint64_t align_up(uint64_t value) { return (value + kAprAlignment - 1) & ~(kAprAlignment - 1); }

// --- Metadata ---

Result<json> to_json(const MetadataValue& value, int depth);

Result<json> array_to_json(const MetadataArray& array, int depth) {
  if (depth >= kMaxDepth)
    return fail(ErrorCode::Unsupported,
                fmt::format("arrays are nested deeper than {} levels", kMaxDepth));
  json out = json::array();
  Result<void> state;
  array.for_each([&](const MetadataValue& item) {
    auto converted = to_json(item, depth + 1);
    if (converted) out.push_back(std::move(*converted));
    else state = std::unexpected(std::move(converted.error()));
    return state.has_value();
  });
  TRY(state);
  return out;
}

Result<json> to_json(const MetadataValue& value, int depth) {
  if (const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&value))
    return array_to_json(**array, depth);
  if (const auto* number = std::get_if<double>(&value); number && !std::isfinite(*number))
    return fail(ErrorCode::Unsupported,
                fmt::format("{} cannot be said in JSON; remove the key", *number));
  return std::visit(
      [](const auto& plain) -> json {
        using T = std::decay_t<decltype(plain)>;
        if constexpr (std::is_same_v<T, std::monostate> ||
                      std::is_same_v<T, std::shared_ptr<const MetadataArray>>)
          return nullptr;
        else return plain;
      },
      value);
}

bool is_null(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found == metadata.end() || std::holds_alternative<std::monostate>(found->second);
}

Result<json> checked_json(const MetadataValue& value) {
  TRY_ASSIGN(json converted, to_json(value, 0));
  try {
    (void)converted.dump();  // throws at text that is not UTF-8; here the key is still known
  } catch (const json::exception&) {
    return fail(ErrorCode::Unsupported,
                "it holds text that is not UTF-8, which JSON cannot say; remove the key or change "
                "its text");
  }
  return converted;
}

Result<std::string> metadata_text(const Metadata& given) {
  Metadata metadata = given;
  std::vector<std::string> warnings;
  add_canonical_keys(metadata, warnings);
  json object = json::object();
  for (const auto& [key, value] : metadata) {
    if (is_apr_alias(key) || key == "tensor_shapes" || key.starts_with("tensor_shapes.")) continue;
    auto converted = checked_json(value);
    if (!converted)
      return std::unexpected(std::move(converted.error())
                                 .within(fmt::format("the metadata key '{}'", printable(key))));
    object[key] = std::move(*converted);
  }
  try {
    std::string text = object.dump();
    if (text.size() <= kAprMaxMetadata) return text;
    return fail(ErrorCode::Unsupported,
                fmt::format("the metadata has {} bytes as JSON, APR allows {}", text.size(),
                            kAprMaxMetadata));
  } catch (const json::exception&) {
    return fail(ErrorCode::Unsupported, "a metadata key is not UTF-8, which JSON cannot say");
  }
}

// --- Tensors ---

struct Row {
  const AprTensor* tensor;
  uint8_t type_byte = 0;
  uint64_t offset = 0;  // from the start of the data
};

Result<void> check_tensor(const AprTensor& tensor) {
  const auto& [name, view] = tensor;
  if (name.empty() || name.size() > kAprMaxName)
    return fail(ErrorCode::Unsupported,
                fmt::format("its name has {} bytes, APR allows 1 to {}", name.size(), kAprMaxName));
  if (view.shape.size() > kAprMaxDimensions)
    return fail(ErrorCode::Unsupported, fmt::format("its shape {} has more than {} dimensions",
                                                    to_text(view.shape), kAprMaxDimensions));
  const auto& type = info(view.dtype);
  const uint64_t row = view.shape.empty() ? 1 : view.shape.back();
  if (!is_apr_type(view.dtype) && row % type.block_elements != 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("its rows of {} values are not a multiple of {}, the block of {}", row,
                            type.block_elements, type.name));
  const auto count = element_count(view.shape);
  const auto bytes = count ? tensor_bytes(view.dtype, *count) : std::nullopt;
  if (bytes != view.bytes.size())
    return fail(
        ErrorCode::Corrupt,
        fmt::format("its shape {} of {} needs {} bytes, it has {}", to_text(view.shape), type.name,
                    bytes ? fmt::format("{}", *bytes) : "over 2^64", view.bytes.size()));
  return {};
}

Result<std::vector<Row>> place_tensors(std::span<const AprTensor> tensors) {
  if (tensors.size() > std::numeric_limits<uint32_t>::max())
    return fail(ErrorCode::Unsupported, fmt::format("{} tensors are too many", tensors.size()));
  std::vector<Row> rows;
  rows.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    auto type_byte = apr_type_byte(tensor.view.dtype);
    auto checked = check_tensor(tensor);
    if (checked && !type_byte) checked = std::unexpected(std::move(type_byte.error()));
    if (!checked)
      return std::unexpected(
          std::move(checked.error()).within(fmt::format("tensor '{}'", printable(tensor.name))));
    rows.push_back({&tensor, *type_byte});
  }
  std::ranges::sort(rows, {}, [](const Row& row) { return std::string_view(row.tensor->name); });
  uint64_t offset = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i > 0 && rows[i].tensor->name == rows[i - 1].tensor->name)
      return fail(ErrorCode::Unsupported,
                  fmt::format("two tensors have the name '{}'", printable(rows[i].tensor->name)));
    rows[i].offset = offset;
    offset = align_up(offset + rows[i].tensor->view.bytes.size());
  }
  return rows;
}

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

std::string index_text(std::span<const Row> rows) {
  std::string out;
  for (const auto& row : rows) {
    const auto& [name, view] = *row.tensor;
    append(out, static_cast<uint16_t>(name.size()));
    out += name;
    append(out, row.type_byte);
    append(out, static_cast<uint8_t>(view.shape.size()));
    for (const uint64_t dim : view.shape) append(out, dim);
    append(out, row.offset);
    append(out, static_cast<uint64_t>(view.bytes.size()));
  }
  return out;
}

uint16_t flags_of(const Metadata& metadata, std::span<const Row> rows) {
  uint16_t flags = kAprRowMajor;
  for (const auto& row : rows)
    if (is_quantized(row.tensor->view.dtype)) flags |= kAprQuantized;
  if (!is_null(metadata, "tokenizer.vocabulary")) flags |= kAprHasVocab;
  return flags;
}

// Header, metadata and index, each padded.
std::string head_text(uint16_t flags, const std::string& metadata, std::span<const Row> rows) {
  const std::string index = index_text(rows);
  const uint64_t index_offset = kAprHeaderBytes + align_up(metadata.size());
  std::string out("APR\0\2\0", 6);
  append(out, flags);
  append(out, static_cast<uint32_t>(rows.size()));
  append(out, uint64_t{kAprHeaderBytes});
  append(out, static_cast<uint32_t>(metadata.size()));
  append(out, index_offset);
  append(out, index_offset + align_up(index.size()));
  out.resize(kAprHeaderBytes);
  const auto header = std::as_bytes(std::span(out)).first<kAprHeaderBytes>();
  const uint32_t checksum = apr_header_crc(header);
  std::memcpy(out.data() + 40, &checksum, sizeof(checksum));
  out += metadata;
  out.resize(index_offset);
  out += index;
  out.resize(align_up(out.size()));
  return out;
}

// --- The file ---

// Writes and keeps the checksum of all that was written.
struct ChecksummedFile {
  PartialFile file;
  uint32_t checksum = 0;

  Result<void> write(std::span<const std::byte> bytes) {
    constexpr size_t kStep = size_t{1} << 20;  // so that the checksum finds it in the cache
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), kStep))) {
      const auto step = bytes.first(std::min(bytes.size(), kStep));
      TRY(file.write(step));
      checksum = apr_crc(step, checksum);
    }
    return {};
  }
};

Result<void> write_all(ChecksummedFile& out, const std::string& head, std::span<const Row> rows) {
  constexpr std::array<std::byte, kAprAlignment> kZeros{};
  TRY(out.write(std::as_bytes(std::span(head))));
  for (const auto& row : rows) {
    const auto bytes = row.tensor->view.bytes;
    TRY(out.write(bytes));
    TRY(out.write(std::span(kZeros).first(align_up(bytes.size()) - bytes.size())));
  }
  const uint32_t checksum = out.checksum;
  return out.write(std::as_bytes(std::span(&checksum, 1)));
}

}  // namespace

Result<uint8_t> apr_type_byte(DType dtype) {
  switch (dtype) {
    case DType::F32: return 0;
    case DType::F16: return 1;
    case DType::F64: return 3;
    case DType::I32: return 4;
    case DType::I64: return 5;
    case DType::I8: return 6;
    case DType::U8: return 7;
    case DType::Q4_K: return 12;
    case DType::Q6_K: return 14;
    case DType::BF16: return 30;
    case DType::AprQ4: return 128;
    case DType::AprQ8: return 129;
    default: break;
  }
  const bool is_float = is_quantized(dtype) || dtype == DType::F8_E4M3 || dtype == DType::F8_E5M2;
  return fail(ErrorCode::Unsupported,
              fmt::format("APR has no type for {}; {}", info(dtype).name,
                          is_float ? "widen it to F16 or F32" : "convert it to I32 or I64"));
}

Result<void> write_apr(const std::filesystem::path& path, const Metadata& metadata,
                       std::span<const AprTensor> tensors, AprWriteOptions options) {
  const auto prepared = [&]() -> Result<void> {
    TRY_ASSIGN(const auto text, metadata_text(metadata));
    TRY_ASSIGN(const auto rows, place_tensors(tensors));
    const uint16_t flags = options.flags.value_or(flags_of(metadata, rows)) | kAprRowMajor;
    if ((flags & ~kContentFlags) != 0)
      return fail(ErrorCode::Usage,
                  fmt::format("the flags 0x{:04x} are not written: {}", flags & ~kContentFlags,
                              "compression, encryption, signatures and shards are not supported"));
    const auto head = head_text(flags, text, rows);
    TRY_ASSIGN(auto file, PartialFile::create(path));
    ChecksummedFile out{std::move(file)};
    TRY(write_all(out, head, rows));
    return out.file.finish();
  }();
  if (!prepared) return std::unexpected(Error(prepared.error()).within(path.string()));
  return {};
}

}  // namespace plumb
