// SPDX-License-Identifier: Apache-2.0
#include "formats/metadata.h"

#include <fmt/format.h>

#include <limits>

#include "core/byte_reader.h"
#include "core/check.h"

namespace plumb {
namespace {

template <class T>
MetadataValue number(T value) {
  if constexpr (std::is_floating_point_v<T>) return static_cast<double>(value);
  else if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return value;
    return static_cast<int64_t>(value);
  } else {
    return static_cast<int64_t>(value);
  }
}

template <class T>
MetadataValue next_number(ByteReader& reader) {
  return number(reader.read<T>().value());
}

// Bytes that were checked when the file was opened: a failure here is a bug of ours.
MetadataValue next_value(ByteReader& reader, GgufType type);

// The bytes that `count` values of `type` take at the reader's place.
uint64_t skip_values(ByteReader& reader, GgufType type, uint64_t count) {
  const size_t begin = reader.offset();
  if (type != GgufType::String && type != GgufType::Array) {
    CHECK(reader.skip(count * smallest_size(type)).has_value());
  } else {
    for (uint64_t i = 0; i < count; ++i) {
      if (type == GgufType::String) {
        CHECK(reader.skip(reader.read<uint64_t>().value()).has_value());
      } else {
        const auto inner = static_cast<GgufType>(reader.read<uint32_t>().value());
        const auto inner_count = reader.read<uint64_t>().value();
        skip_values(reader, inner, inner_count);
      }
    }
  }
  return reader.offset() - begin;
}

MetadataValue next_array(ByteReader& reader, std::span<const std::byte> rest) {
  const auto type = static_cast<GgufType>(reader.read<uint32_t>().value());
  const auto count = reader.read<uint64_t>().value();
  const size_t begin = reader.offset();
  const uint64_t size = skip_values(reader, type, count);
  return std::make_shared<const MetadataArray>(type, count, rest.subspan(begin, size));
}

MetadataValue next_value(ByteReader& reader, GgufType type) {
  switch (type) {
    case GgufType::U8: return next_number<uint8_t>(reader);
    case GgufType::I8: return next_number<int8_t>(reader);
    case GgufType::U16: return next_number<uint16_t>(reader);
    case GgufType::I16: return next_number<int16_t>(reader);
    case GgufType::U32: return next_number<uint32_t>(reader);
    case GgufType::I32: return next_number<int32_t>(reader);
    case GgufType::U64: return next_number<uint64_t>(reader);
    case GgufType::I64: return next_number<int64_t>(reader);
    case GgufType::F32: return next_number<float>(reader);
    case GgufType::F64: return next_number<double>(reader);
    case GgufType::Bool: return reader.read<uint8_t>().value() == 1;
    case GgufType::String: {
      const auto size = reader.read<uint64_t>().value();
      return std::string(reader.read_text(size).value());
    }
    case GgufType::Array: break;
  }
  CHECK(false);
}

}  // namespace

uint64_t smallest_size(GgufType type) {
  switch (type) {
    case GgufType::U8:
    case GgufType::I8:
    case GgufType::Bool: return 1;
    case GgufType::U16:
    case GgufType::I16: return 2;
    case GgufType::U32:
    case GgufType::I32:
    case GgufType::F32: return 4;
    case GgufType::U64:
    case GgufType::I64:
    case GgufType::F64:
    case GgufType::String: return 8;
    case GgufType::Array: return 12;
  }
  return 0;
}

MetadataArray::MetadataArray(std::vector<MetadataValue> values)
    : values_(std::move(values)), count_(values_.size()) {}

MetadataArray::MetadataArray(GgufType type, uint64_t count, std::span<const std::byte> bytes)
    : type_(type), count_(count), bytes_(bytes) {}

void MetadataArray::for_each(const std::function<bool(const MetadataValue&)>& visit) const {
  if (!type_) {
    for (const auto& value : values_)
      if (!visit(value)) return;
    return;
  }
  ByteReader reader(bytes_);
  for (size_t i = 0; i < count_; ++i) {
    const auto value =
        *type_ == GgufType::Array ? next_array(reader, bytes_) : next_value(reader, *type_);
    if (!visit(value)) return;
  }
}

std::vector<MetadataValue> MetadataArray::values() const {
  std::vector<MetadataValue> out;
  out.reserve(count_);
  for_each([&](const MetadataValue& value) {
    out.push_back(value);
    return true;
  });
  return out;
}

std::string printable(std::string_view text, size_t longest) {
  std::string out;
  for (const char c : text.substr(0, longest)) {
    if (c >= 32 && c < 127) out += c;
    else out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string to_text(const MetadataValue& value) {
  struct Visitor {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(uint64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return fmt::format("{:.9g}", v); }
    std::string operator()(const std::string& v) const {
      return fmt::format("'{}'{}", printable(v), v.size() > 80 ? "…" : "");
    }
    std::string operator()(const std::shared_ptr<const MetadataArray>& v) const {
      std::string text = fmt::format("array of {} [", v->size());
      size_t shown = 0;
      v->for_each([&](const MetadataValue& item) {
        if (shown == 4) return false;
        text += (shown++ ? ", " : "") + to_text(item);
        return true;
      });
      return text + (v->size() > 4 ? ", …]" : "]");
    }
  };
  return std::visit(Visitor{}, value);
}

std::string kind_of(const MetadataValue& value) {
  struct Visitor {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(bool) const { return "a truth value"; }
    std::string operator()(int64_t) const { return "a whole number"; }
    std::string operator()(uint64_t) const { return "a whole number"; }
    std::string operator()(double) const { return "a number"; }
    std::string operator()(const std::string&) const { return "a string"; }
    std::string operator()(const std::shared_ptr<const MetadataArray>& v) const {
      return fmt::format("an array of {} values", v->size());
    }
  };
  return std::visit(Visitor{}, value);
}

bool same_value(const MetadataValue& a, const MetadataValue& b) {
  const auto* x = std::get_if<std::shared_ptr<const MetadataArray>>(&a);
  const auto* y = std::get_if<std::shared_ptr<const MetadataArray>>(&b);
  if (x == nullptr || y == nullptr) return a == b;
  if ((*x)->size() != (*y)->size()) return false;
  const auto other = (*y)->values();
  size_t at = 0;
  bool same = true;
  (*x)->for_each([&](const MetadataValue& value) {
    same = same_value(value, other[at++]);
    return same;
  });
  return same;
}

}  // namespace plumb
