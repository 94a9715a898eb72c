// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf_writer.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <set>

#include "core/partial_file.h"

namespace plumb {
namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kMaxName = 63;  // ggml's 64 less the ending zero
constexpr size_t kMaxDims = 4;
constexpr int64_t kDefaultAlignment = 32;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void put_string(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

// The type that holds every one of the values, by the rule of the header.
struct NumberRange {
  bool negative = false, wide = false, huge = false, real = false, fine = false;
  void add(int64_t v) {
    negative |= v < 0;
    wide |= v > std::numeric_limits<uint32_t>::max() || v < std::numeric_limits<int32_t>::min();
    above_i32 |= v > std::numeric_limits<int32_t>::max();
  }
  void add(uint64_t) { huge = true; }
  void add(double v) {
    real = true;
    fine |= std::isfinite(v) && static_cast<double>(static_cast<float>(v)) != v;
  }
  GgufType type() const {
    if (real) return fine ? GgufType::F64 : GgufType::F32;
    if (huge) return GgufType::U64;
    if (wide || (negative && above_i32)) return GgufType::I64;
    return negative ? GgufType::I32 : GgufType::U32;
  }
  bool above_i32 = false;
};

Result<GgufType> type_of(const MetadataValue& value);

Result<GgufType> element_type(const MetadataArray& array) {
  if (array.raw_type()) return *array.raw_type();
  std::set<size_t> kinds;
  NumberRange range;
  array.for_each([&](const MetadataValue& value) {
    kinds.insert(value.index());
    if (const auto* whole = std::get_if<int64_t>(&value)) range.add(*whole);
    if (const auto* whole = std::get_if<uint64_t>(&value)) range.add(*whole);
    if (const auto* real = std::get_if<double>(&value)) range.add(*real);
    return true;
  });
  const MetadataValue examples[] = {false, std::string(), std::shared_ptr<const MetadataArray>()};
  const GgufType types[] = {GgufType::Bool, GgufType::String, GgufType::Array};
  for (size_t i = 0; i < std::size(types); ++i)
    if (kinds == std::set<size_t>{examples[i].index()}) return types[i];
  const size_t null = MetadataValue().index();
  if (kinds.contains(null) || kinds.contains(examples[0].index()) ||
      kinds.contains(examples[1].index()) || kinds.contains(examples[2].index()))
    return fail(ErrorCode::Unsupported, "an array of mixed kinds has no place in a GGUF");
  if (range.real && kinds.size() > 1)
    return GgufType::F64;  // whole numbers among others: exact up to 2^53
  return range.type();
}

Result<GgufType> type_of(const MetadataValue& value) {
  NumberRange range;
  if (const auto* whole = std::get_if<int64_t>(&value)) range.add(*whole);
  else if (const auto* big = std::get_if<uint64_t>(&value)) range.add(*big);
  else if (const auto* real = std::get_if<double>(&value)) range.add(*real);
  else if (std::holds_alternative<bool>(value)) return GgufType::Bool;
  else if (std::holds_alternative<std::string>(value)) return GgufType::String;
  else if (std::holds_alternative<std::monostate>(value))
    return fail(ErrorCode::Unsupported, "null has no place in a GGUF: leave the key out");
  else return GgufType::Array;
  return range.type();
}

double as_double(const MetadataValue& value) {
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* whole = std::get_if<int64_t>(&value)) return static_cast<double>(*whole);
  if (const auto* big = std::get_if<uint64_t>(&value)) return static_cast<double>(*big);
  return 0;
}

uint64_t as_bits(const MetadataValue& value) {
  if (const auto* whole = std::get_if<int64_t>(&value)) return static_cast<uint64_t>(*whole);
  if (const auto* big = std::get_if<uint64_t>(&value)) return *big;
  return 0;
}

Result<void> put_array(std::string& out, const MetadataArray& array);

Result<void> put_value(std::string& out, const MetadataValue& value, GgufType type) {
  switch (type) {
    case GgufType::U8:
    case GgufType::I8: put(out, static_cast<uint8_t>(as_bits(value))); break;
    case GgufType::U16:
    case GgufType::I16: put(out, static_cast<uint16_t>(as_bits(value))); break;
    case GgufType::U32:
    case GgufType::I32: put(out, static_cast<uint32_t>(as_bits(value))); break;
    case GgufType::U64:
    case GgufType::I64: put(out, as_bits(value)); break;
    case GgufType::F32: put(out, static_cast<float>(as_double(value))); break;
    case GgufType::F64: put(out, as_double(value)); break;
    case GgufType::Bool: put<uint8_t>(out, std::get<bool>(value) ? 1 : 0); break;
    case GgufType::String: put_string(out, std::get<std::string>(value)); break;
    case GgufType::Array:
      return put_array(out, *std::get<std::shared_ptr<const MetadataArray>>(value));
  }
  return {};
}

Result<void> put_array(std::string& out, const MetadataArray& array) {
  TRY_ASSIGN(const auto type, element_type(array));
  put(out, static_cast<uint32_t>(type));
  put<uint64_t>(out, array.size());
  Result<void> state;
  array.for_each([&](const MetadataValue& value) {
    state = put_value(out, value, type);
    return state.has_value();
  });
  return state;
}

Result<void> put_metadata(std::string& out, const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    const auto place = fmt::format("metadata '{}'", printable(key));
    if (key.empty() || key.size() > 65535)
      return fail(ErrorCode::Unsupported, place + ": a key has 1 to 65535 bytes");
    put_string(out, key);
    auto type = type_of(value);
    if (!type) return std::unexpected(std::move(type.error()).within(place));
    put(out, static_cast<uint32_t>(*type));
    auto done = put_value(out, value, *type);
    if (!done) return std::unexpected(std::move(done.error()).within(place));
  }
  return {};
}

Result<void> check_tensor(const GgufTensor& tensor) {
  const auto& view = tensor.view;
  if (tensor.name.empty() || tensor.name.size() > kMaxName)
    return fail(ErrorCode::Unsupported, fmt::format("its name has {} bytes, 1 to {} can be written",
                                                    tensor.name.size(), kMaxName));
  if (info(view.dtype).ggml_id < 0)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("GGUF has no type {}; turn it into F32 or F16 first", info(view.dtype).name));
  if (view.shape.size() > kMaxDims)
    return fail(ErrorCode::Unsupported, fmt::format("{} dimensions, at most {} can be written",
                                                    view.shape.size(), kMaxDims));
  const auto count = element_count(view.shape);
  const uint64_t row = view.shape.empty() ? 1 : view.shape.back();
  if (row % info(view.dtype).block_elements != 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("rows of {} values are not a multiple of {}, the block of {}", row,
                            info(view.dtype).block_elements, info(view.dtype).name));
  if (!count || tensor_bytes(view.dtype, *count) != view.bytes.size())
    return fail(ErrorCode::Corrupt,
                fmt::format("shape {} of {} does not take {} bytes", to_text(view.shape),
                            info(view.dtype).name, view.bytes.size()));
  return {};
}

Result<uint64_t> alignment_of(const Metadata& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<int64_t>(&found->second);
  if (value == nullptr || *value <= 0 || *value > (int64_t{1} << 20) ||
      !std::has_single_bit(static_cast<uint64_t>(*value)))
    return fail(ErrorCode::Unsupported,
                fmt::format("general.alignment must be a power of two up to 2^20, not {}",
                            to_text(found->second)));
  return static_cast<uint64_t>(*value);
}

Result<std::string> header_of(const Metadata& metadata, std::span<const GgufTensor> tensors,
                              uint64_t alignment) {
  std::string out = "GGUF";
  put(out, kVersion);
  put<uint64_t>(out, tensors.size());
  put<uint64_t>(out, metadata.size());
  TRY(put_metadata(out, metadata));
  uint64_t offset = 0;
  std::set<std::string> names;
  for (const auto& tensor : tensors) {
    auto checked = check_tensor(tensor);
    if (checked && !names.insert(tensor.name).second)
      checked = fail(ErrorCode::Corrupt, "two tensors have this name");
    if (!checked)
      return std::unexpected(
          std::move(checked.error()).within(fmt::format("tensor '{}'", printable(tensor.name))));
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.view.shape.size()));
    for (size_t d = tensor.view.shape.size(); d-- > 0;) put(out, tensor.view.shape[d]);
    put(out, static_cast<uint32_t>(info(tensor.view.dtype).ggml_id));
    put(out, offset);
    offset += (tensor.view.bytes.size() + alignment - 1) / alignment * alignment;
  }
  return out;
}

}  // namespace

Result<void> write_gguf(const std::filesystem::path& path, const Metadata& metadata,
                        std::span<const GgufTensor> tensors) {
  const auto written = [&]() -> Result<void> {
    TRY_ASSIGN(const auto alignment, alignment_of(metadata));
    TRY_ASSIGN(const auto header, header_of(metadata, tensors, alignment));
    TRY_ASSIGN(auto file, PartialFile::create(path));
    TRY(file.write(header));
    TRY(file.pad_to(alignment));
    for (const auto& tensor : tensors) {
      TRY(file.write(tensor.view.bytes));
      TRY(file.pad_to(alignment));
    }
    return file.finish();
  }();
  if (!written) return std::unexpected(Error(written.error()).within(path.string()));
  return {};
}

}  // namespace plumb
