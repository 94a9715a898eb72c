// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/model_file.h"

namespace plumb {

// Typed reads. Each has the key it looks at in its message; a wrong value is a problem and then
// counts as absent.
class KeyReader {
 public:
  static constexpr int64_t kLargest = 2147483647;  // ggml counts rows and columns in 31 bits
  static constexpr size_t kMostListed = 65536;  // values of one array; no model has as many layers

  KeyReader(const ModelFile& file, std::vector<std::string> prefixes,
            std::vector<std::string>& problems)
      : metadata_(file.metadata), prefixes_(std::move(prefixes)), problems_(problems) {}

  using Entry = Metadata::value_type;
  // The first of the names that is there and not null.
  const Entry* find(std::span<const char* const> names) const {
    for (const auto& prefix : prefixes_)
      for (const auto* name : names) {
        const auto found = metadata_.find(prefix + name);
        if (found == metadata_.end()) continue;
        taken_.insert(found->first);
        if (!std::holds_alternative<std::monostate>(found->second)) return &*found;
      }
    return nullptr;
  }
  const Entry* find(const char* name) const { return find(std::span(&name, 1)); }

  bool is_null(std::span<const char* const> names) const {
    for (const auto& prefix : prefixes_)
      for (const auto* name : names) {
        const auto found = metadata_.find(prefix + name);
        if (found != metadata_.end()) return std::holds_alternative<std::monostate>(found->second);
      }
    return false;
  }

  std::optional<size_t> whole(std::span<const char* const> names, bool may_be_zero = false) {
    const auto* entry = find(names);
    return entry ? as_whole(entry->first, entry->second, may_be_zero) : std::nullopt;
  }
  std::optional<size_t> whole(const char* name, bool may_be_zero = false) {
    return whole(std::span(&name, 1), may_be_zero);
  }

  // A whole number, or one for each layer: then `list` holds them and the value is the largest.
  std::optional<size_t> whole_or_list(std::span<const char* const> names,
                                      std::vector<size_t>& list) {
    const auto* entry = find(names);
    if (entry == nullptr) return std::nullopt;
    const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&entry->second);
    if (array == nullptr) return as_whole(entry->first, entry->second, false);
    if ((*array)->size() == 0 || (*array)->size() > kMostListed) {
      problem("{} must have one value for each layer, found {}", entry->first,
              kind_of(entry->second));
      return std::nullopt;
    }
    std::vector<size_t> values;
    (*array)->for_each([&](const MetadataValue& value) {
      const auto number = as_whole(entry->first, value, false);
      if (number) values.push_back(*number);
      return number.has_value();
    });
    if (values.size() != (*array)->size()) return std::nullopt;
    list = std::move(values);
    return std::ranges::max(list);
  }

  std::optional<double> number(std::span<const char* const> names) {
    const auto* entry = find(names);
    if (entry == nullptr) return std::nullopt;
    std::optional<double> value;
    if (const auto* real = std::get_if<double>(&entry->second)) value = *real;
    if (const auto* integer = std::get_if<int64_t>(&entry->second))
      value = static_cast<double>(*integer);
    if (const auto* integer = std::get_if<uint64_t>(&entry->second))
      value = static_cast<double>(*integer);
    if (!value) {
      wrong_kind(*entry, "a number");
    } else if (!std::isfinite(*value)) {
      problem("{} must be a finite number, found {}", entry->first, *value);
      value.reset();
    }
    return value;
  }
  std::optional<double> number(const char* name) { return number(std::span(&name, 1)); }

  std::optional<double> positive(std::span<const char* const> names) {
    auto value = number(names);
    if (value && *value <= 0) {
      problem("{} must be above zero, found {}", find(names)->first, *value);
      value.reset();
    }
    return value;
  }

  std::optional<bool> flag(std::span<const char* const> names) {
    const auto* entry = find(names);
    if (entry == nullptr) return std::nullopt;
    if (const auto* value = std::get_if<bool>(&entry->second)) return *value;
    wrong_kind(*entry, "true or false");
    return std::nullopt;
  }
  std::optional<bool> flag(const char* name) { return flag(std::span(&name, 1)); }

  std::optional<std::string> text(std::span<const char* const> names) {
    const auto* entry = find(names);
    if (entry == nullptr) return std::nullopt;
    if (const auto* value = std::get_if<std::string>(&entry->second)) return *value;
    wrong_kind(*entry, "a string");
    return std::nullopt;
  }
  std::optional<std::string> text(const char* name) { return text(std::span(&name, 1)); }

  std::optional<size_t> array_size(const char* name) {
    const auto* entry = find(name);
    if (entry == nullptr) return std::nullopt;
    if (const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&entry->second))
      return (*array)->size();
    wrong_kind(*entry, "an array");
    return std::nullopt;
  }

  // One value for each layer, as numbers (true is 1) or, for strings, by what they are.
  std::optional<std::vector<double>> numbers(std::span<const char* const> names) {
    return list<double>(names, "numbers", [](const MetadataValue& value) -> std::optional<double> {
      if (const auto* real = std::get_if<double>(&value)) return *real;
      if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
      if (const auto* flag = std::get_if<bool>(&value)) return *flag ? 1.0 : 0.0;
      return std::nullopt;
    });
  }
  std::optional<std::vector<std::string>> texts(std::span<const char* const> names) {
    return list<std::string>(names, "strings",
                             [](const MetadataValue& value) -> std::optional<std::string> {
                               const auto* text = std::get_if<std::string>(&value);
                               return text ? std::optional(*text) : std::nullopt;
                             });
  }

  // The keys that were looked at and are there.
  const std::set<std::string>& taken() const { return taken_; }

  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  template <class T, class Convert>
  std::optional<std::vector<T>> list(std::span<const char* const> names, std::string_view what,
                                     const Convert& convert) {
    const auto* entry = find(names);
    if (entry == nullptr) return std::nullopt;
    const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&entry->second);
    if (array == nullptr || (*array)->size() > kMostListed) {
      wrong_kind(*entry, fmt::format("a list of {}", what));
      return std::nullopt;
    }
    std::vector<T> values;
    (*array)->for_each([&](const MetadataValue& value) {
      auto converted = convert(value);
      if (converted) values.push_back(std::move(*converted));
      return converted.has_value();
    });
    if (values.size() == (*array)->size()) return values;
    wrong_kind(*entry, fmt::format("a list of {}", what));
    return std::nullopt;
  }

  void wrong_kind(const Entry& entry, std::string_view expected) {
    problem("{} must be {}, found {} ({})", entry.first, expected, kind_of(entry.second),
            to_text(entry.second));
  }

  std::optional<size_t> as_whole(const std::string& key, const MetadataValue& value,
                                 bool may_be_zero) {
    const auto* integer = std::get_if<int64_t>(&value);
    if (integer == nullptr && !std::holds_alternative<uint64_t>(value)) {
      problem("{} must be a whole number, found {} ({})", key, kind_of(value), to_text(value));
      return std::nullopt;
    }
    if (integer == nullptr || *integer < (may_be_zero ? 0 : 1) || *integer > kLargest) {
      problem("{} is {}, must be from {} to {}", key, to_text(value), may_be_zero ? 0 : 1,
              kLargest);
      return std::nullopt;
    }
    if (*integer == 0) return std::nullopt;
    return static_cast<size_t>(*integer);
  }

  const Metadata& metadata_;
  std::vector<std::string> prefixes_;
  std::vector<std::string>& problems_;
  mutable std::set<std::string> taken_;
};

}  // namespace plumb
