// SPDX-License-Identifier: Apache-2.0
#include "formats/json_metadata.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

namespace plumb {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;         // of what add_json walks; its own recursion ends there
constexpr size_t kMaxWarnings = 100;  // a hostile file could ask for millions

void warn(std::vector<std::string>& warnings, std::string text) {
  if (warnings.size() < kMaxWarnings) warnings.push_back(std::move(text));
}

// Walks JSON text without building it: looks for what the parser lets through or would choke on.
struct Inspector : nlohmann::json_sax<json> {
  Inspector(int limit, std::string_view name, std::vector<std::string>& list)
      : max_depth(limit), what(name), warnings(list) {}

  int max_depth;
  std::string_view what;
  std::vector<std::string>& warnings;
  int depth = 0;
  std::vector<std::unordered_set<std::string>> open;  // the names in each object not yet ended
  std::optional<std::string> trouble;

  bool enter() {
    if (++depth <= max_depth) return true;
    trouble = fmt::format("{} is nested deeper than {} levels", what, max_depth);
    return false;
  }
  bool start_object(size_t) override {
    open.emplace_back();
    return enter();
  }
  bool end_object() override {
    open.pop_back();
    --depth;
    return true;
  }
  bool start_array(size_t) override { return enter(); }
  bool end_array() override {
    --depth;
    return true;
  }
  bool key(std::string& name) override {
    if (!open.back().insert(name).second)
      warn(warnings, fmt::format("the name '{}' stands twice in {}; the later value counts",
                                 printable(name), what));
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    constexpr size_t kMaxText = 200;  // it repeats what it could not read, maybe the whole file
    trouble = fmt::format("{} is not valid JSON at its byte {}: {}", what, position,
                          printable(error.what(), kMaxText));
    return false;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
};

std::string compact(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<MetadataValue> to_value(const json& value, int depth);

Result<MetadataValue> to_array(const json& array, int depth) {
  if (depth >= kMaxDepth)
    return fail(ErrorCode::Corrupt, fmt::format("it is nested deeper than {} levels", kMaxDepth));
  std::vector<MetadataValue> values;
  values.reserve(array.size());
  for (const auto& item : array) {
    TRY_ASSIGN(auto converted, to_value(item, depth + 1));
    values.push_back(std::move(converted));
  }
  return std::make_shared<const MetadataArray>(std::move(values));
}

// Objects are taken as text here: only add_object turns them into keys.
Result<MetadataValue> to_value(const json& value, int depth) {
  switch (value.type()) {
    case json::value_t::null: return std::monostate{};
    case json::value_t::boolean: return value.get<bool>();
    case json::value_t::number_integer: return value.get<int64_t>();
    case json::value_t::number_unsigned: {
      const auto number = value.get<uint64_t>();
      if (number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return static_cast<int64_t>(number);
      return number;
    }
    case json::value_t::number_float: return value.get<double>();
    case json::value_t::string: return value.get_ref<const std::string&>();
    case json::value_t::array: return to_array(value, depth);
    default: return compact(value);
  }
}

Result<void> add_object(Metadata& metadata, const std::string& prefix, const json& object,
                        std::vector<std::string>& warnings, int depth) {
  if (depth >= kMaxDepth)
    return fail(ErrorCode::Corrupt,
                fmt::format("'{}' is nested deeper than {} levels", printable(prefix), kMaxDepth));
  for (const auto& [name, value] : object.items()) {
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    if (value.is_object() && !value.empty()) {
      TRY(add_object(metadata, key, value, warnings, depth + 1));
      continue;
    }
    auto converted = to_value(value, depth + 1);
    if (!converted)
      return std::unexpected(
          std::move(converted.error()).within(fmt::format("'{}'", printable(key))));
    const auto [place, added] = metadata.try_emplace(key, std::move(*converted));
    if (!added)
      warn(warnings, fmt::format("the key '{}' is given more than once; {} counts", printable(key),
                                 to_text(place->second)));
  }
  return {};
}

}  // namespace

Result<json> parse_json_metadata(std::string_view text, std::string_view what, int max_depth,
                                 std::vector<std::string>& warnings) {
  // The parser takes a zero byte for the end and would not look at what follows.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} is not valid JSON: its byte {} is zero", what, zero));
  Inspector inspector(max_depth, what, warnings);
  if (!json::sax_parse(text, &inspector))
    return fail(ErrorCode::Corrupt,
                inspector.trouble.value_or(fmt::format("{} is not valid JSON", what)));
  try {
    json value = json::parse(text);
    if (!value.is_object())
      return fail(ErrorCode::Corrupt,
                  fmt::format("{} is {}, expected a JSON object", what, value.type_name()));
    return value;
  } catch (const json::exception& error) {
    return fail(ErrorCode::Corrupt,
                fmt::format("{} is not valid JSON: {}", what, printable(error.what(), 200)));
  }
}

Result<void> add_json(Metadata& metadata, const std::string& prefix, const json& value,
                      std::vector<std::string>& warnings) {
  if (!value.is_object())
    return fail(ErrorCode::Corrupt,
                fmt::format("{}found {}, expected a JSON object",
                            prefix.empty() ? "" : prefix + ": ", value.type_name()));
  return add_object(metadata, prefix, value, warnings, 0);
}

}  // namespace plumb
