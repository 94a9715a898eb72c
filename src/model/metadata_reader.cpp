// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "model/model.h"

namespace plumb {
namespace {

std::unexpected<Error> wrong(const std::string& key, const char* expected,
                             const MetadataValue& found) {
  // A digit in quotes is easily taken for the number.
  const char* kind = std::holds_alternative<std::string>(found) ? "the string " : "";
  return fail(ErrorCode::Corrupt, fmt::format("metadata '{}' must be {}, found {}{}", key, expected,
                                              kind, to_text(found)));
}

std::unexpected<Error> missing(const std::string& key) {
  return fail(ErrorCode::Corrupt, fmt::format("metadata '{}' is missing", key));
}

}  // namespace

const MetadataValue* MetadataReader::find(const std::string& key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

Result<size_t> MetadataReader::count(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* number = std::get_if<int64_t>(value);
  if (number == nullptr || *number < 0 || *number > INT32_MAX)
    return wrong(key, "a whole number from 0 to 2^31", *value);
  return static_cast<size_t>(*number);
}

Result<size_t> MetadataReader::count_or(const std::string& key, size_t fallback) const {
  if (!has(key)) return fallback;
  return count(key);
}

Result<double> MetadataReader::number(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* real = std::get_if<double>(value); real != nullptr && std::isfinite(*real))
    return *real;
  if (const auto* whole = std::get_if<int64_t>(value)) return static_cast<double>(*whole);
  return wrong(key, "a finite number", *value);
}

Result<double> MetadataReader::number_or(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<std::string> MetadataReader::text(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  return wrong(key, "a string", *value);
}

Result<std::string> MetadataReader::text_or(const std::string& key, std::string fallback) const {
  if (!has(key)) return fallback;
  return text(key);
}

Result<std::optional<bool>> MetadataReader::flag(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return std::optional<bool>();
  if (const auto* flag = std::get_if<bool>(value)) return std::optional(*flag);
  return wrong(key, "true or false", *value);
}

Result<std::vector<std::string>> MetadataReader::texts(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(value);
  if (array == nullptr) return wrong(key, "an array of strings", *value);
  std::vector<std::string> texts;
  texts.reserve((*array)->size());
  (*array)->for_each([&](const MetadataValue& item) {
    const auto* text = std::get_if<std::string>(&item);
    if (text != nullptr) texts.push_back(*text);
    return text != nullptr;
  });
  if (texts.size() != (*array)->size()) return wrong(key, "an array of strings", *value);
  return texts;
}

Result<std::vector<int32_t>> MetadataReader::integers(const std::string& key) const {
  const auto* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(value);
  if (array == nullptr) return wrong(key, "an array of whole numbers", *value);
  std::vector<int32_t> numbers;
  numbers.reserve((*array)->size());
  (*array)->for_each([&](const MetadataValue& item) {
    const auto* number = std::get_if<int64_t>(&item);
    const bool fits = number != nullptr && *number >= INT32_MIN && *number <= INT32_MAX;
    if (fits) numbers.push_back(static_cast<int32_t>(*number));
    return fits;
  });
  if (numbers.size() != (*array)->size())
    return wrong(key, "an array of 32-bit whole numbers", *value);
  return numbers;
}

}  // namespace plumb
