// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer_metadata.h"

#include <fmt/format.h>

#include <limits>

namespace plumb::tokenizer_metadata {
namespace {

using ArrayPtr = std::shared_ptr<const MetadataArray>;

const MetadataValue* find(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end() || std::holds_alternative<std::monostate>(found->second))
    return nullptr;
  return &found->second;
}

std::unexpected<Error> wrong(const std::string& key, const MetadataValue& value,
                             std::string_view expected) {
  return fail(ErrorCode::Corrupt,
              fmt::format("'{}' is {}, expected {}", key, kind_of(value), expected));
}

// Each element by `convert`, which gives nothing for one of another kind.
template <class T, class Convert>
Result<std::vector<T>> elements(const Metadata& metadata, const std::string& key,
                                std::string_view expected, Convert convert) {
  std::vector<T> out;
  const auto* value = find(metadata, key);
  if (value == nullptr) return out;
  const auto* array = std::get_if<ArrayPtr>(value);
  if (array == nullptr) return wrong(key, *value, fmt::format("an array of {}", expected));
  out.reserve((*array)->size());
  std::optional<MetadataValue> odd;
  (*array)->for_each([&](const MetadataValue& element) {
    std::optional<T> converted = convert(element);
    if (converted) {
      out.push_back(std::move(*converted));
    } else {
      odd = element;
    }
    return !odd;
  });
  if (odd)
    return fail(ErrorCode::Corrupt, fmt::format("'{}' has {} at index {}, expected {}", key,
                                                kind_of(*odd), out.size(), expected));
  return out;
}

}  // namespace

Result<std::optional<std::string>> text(const Metadata& metadata, const std::string& key) {
  const auto* value = find(metadata, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* found = std::get_if<std::string>(value)) return *found;
  return wrong(key, *value, "a string");
}

Result<std::optional<bool>> flag(const Metadata& metadata, const std::string& key) {
  const auto* value = find(metadata, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* found = std::get_if<bool>(value)) return *found;
  return wrong(key, *value, "true or false");
}

Result<std::optional<int32_t>> id(const Metadata& metadata, const std::string& key) {
  const auto* value = find(metadata, key);
  if (value == nullptr) return std::nullopt;
  const auto* number = std::get_if<int64_t>(value);
  if (number == nullptr) return wrong(key, *value, "a token id");
  constexpr int64_t kNone = std::numeric_limits<uint32_t>::max();
  if (*number == -1 || *number == kNone) return std::nullopt;
  if (*number < 0 || *number > std::numeric_limits<int32_t>::max())
    return fail(ErrorCode::Corrupt, fmt::format("'{}' is {}, which is no token id", key, *number));
  return static_cast<int32_t>(*number);
}

Result<std::vector<std::string>> texts(const Metadata& metadata, const std::string& key) {
  return elements<std::string>(metadata, key, "strings",
                               [](const MetadataValue& value) -> std::optional<std::string> {
                                 const auto* found = std::get_if<std::string>(&value);
                                 return found == nullptr ? std::nullopt : std::optional(*found);
                               });
}

Result<std::vector<int32_t>> integers(const Metadata& metadata, const std::string& key) {
  return elements<int32_t>(metadata, key, "32-bit integers",
                           [](const MetadataValue& value) -> std::optional<int32_t> {
                             const auto* found = std::get_if<int64_t>(&value);
                             if (found == nullptr || *found < std::numeric_limits<int32_t>::min() ||
                                 *found > std::numeric_limits<int32_t>::max())
                               return std::nullopt;
                             return static_cast<int32_t>(*found);
                           });
}

Result<std::vector<float>> numbers(const Metadata& metadata, const std::string& key) {
  return elements<float>(metadata, key, "numbers",
                         [](const MetadataValue& value) -> std::optional<float> {
                           if (const auto* real = std::get_if<double>(&value))
                             return static_cast<float>(*real);
                           if (const auto* whole = std::get_if<int64_t>(&value))
                             return static_cast<float>(*whole);
                           return std::nullopt;
                         });
}

}  // namespace plumb::tokenizer_metadata
