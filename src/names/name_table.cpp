// SPDX-License-Identifier: Apache-2.0
#include "names/name_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/mapped_file.h"
#include "core/yaml.h"
#include "names/built_in_tables.h"
#include "trace/trace.h"

namespace plumb {
namespace {

constexpr std::string_view kLayer = "{layer}";
constexpr std::string_view kWord = "{word}";
constexpr size_t kMaxLayer = 100'000;

// What is left of pattern and name is matched from here; `budget` ends patterns with many stars.
bool match_from(std::string_view pattern, std::string_view name, NameMatch& match, int& budget) {
  if (--budget < 0) return false;
  if (pattern.empty()) return name.empty();
  if (pattern.starts_with(kLayer)) {
    size_t digits = 0;
    size_t number = 0;
    while (digits < name.size() && name[digits] >= '0' && name[digits] <= '9' && number < kMaxLayer)
      number = number * 10 + static_cast<size_t>(name[digits++] - '0');
    if (digits == 0 || (digits > 1 && name[0] == '0')) return false;
    if (match.layer && *match.layer != number) return false;
    NameMatch inner{number};
    if (!match_from(pattern.substr(kLayer.size()), name.substr(digits), inner, budget))
      return false;
    match = inner;
    return true;
  }
  if (pattern.starts_with(kWord)) {
    const size_t most = std::min(name.find('.'), name.size());
    for (size_t take = 1; take <= most; ++take)
      if (match_from(pattern.substr(kWord.size()), name.substr(take), match, budget)) return true;
    return false;
  }
  if (pattern.front() == '*') {
    for (size_t skip = 0; skip <= name.size(); ++skip)
      if (match_from(pattern.substr(1), name.substr(skip), match, budget)) return true;
    return false;
  }
  if (pattern.front() == '[') {
    const size_t end = pattern.find(']');
    const auto rest = pattern.substr(end + 1);
    const auto inside = pattern.substr(1, end - 1);
    if (name.starts_with(inside) && match_from(rest, name.substr(inside.size()), match, budget))
      return true;
    return match_from(rest, name, match, budget);
  }
  return !name.empty() && name.front() == pattern.front() &&
         match_from(pattern.substr(1), name.substr(1), match, budget);
}

constexpr size_t kLargestTable = size_t{1} << 20;

class TableReader {
 public:
  explicit TableReader(std::string name) : name_(std::move(name)) {}

  Result<NameTable> read(const YamlNode& root) {
    NameTable table;
    table.name = name_;
    if (root.kind != YamlNode::Kind::Map)
      return error(root, "a table is a map with 'engine' and 'rows'");
    for (size_t i = 0; i < root.keys.size(); ++i) {
      const auto& key = root.keys[i];
      const auto& value = root.items[i];
      if (key == "engine") {
        table.engine = value.scalar;
      } else if (key == "rows") {
        for (const auto& item : value.items) {
          TRY_ASSIGN(auto rows, row(item));
          std::ranges::move(rows, std::back_inserter(table.rows));
        }
      } else if (key != "about") {
        return error(value, fmt::format("'{}' is not a key of a table: engine, about, rows", key));
      }
    }
    if (table.rows.empty()) return error(root, "the table has no rows");
    return table;
  }

 private:
  std::unexpected<Error> error(const YamlNode& at, std::string_view what) const {
    return fail(ErrorCode::Corrupt, fmt::format("{}: line {}: {}", name_, at.line, what));
  }

  static std::vector<std::string> texts(const YamlNode& node) {
    if (node.kind == YamlNode::Kind::Scalar) return {node.scalar};
    std::vector<std::string> out;
    for (const auto& item : node.items) out.push_back(item.scalar);
    return out;
  }

  // One row for each of its names.
  Result<std::vector<NameRow>> row(const YamlNode& node) {
    if (node.kind != YamlNode::Kind::Map)
      return error(node, "a row is a map with 'name' and 'step', 'split' or 'skip'");
    NameRow row;
    std::vector<std::string> names;
    int meanings = 0;
    for (size_t i = 0; i < node.keys.size(); ++i) {
      const auto& key = node.keys[i];
      const auto& value = node.items[i];
      if (key == "name") names = texts(value);
      else if (key == "operation") row.operations = texts(value);
      else if (key == "architecture") row.architectures = texts(value);
      else if (key == "step" || key == "split" || key == "split_by_head") {
        row.steps = texts(value);
        row.split = key != "step";
        row.split_by_head = key == "split_by_head";
        ++meanings;
      } else if (key == "skip") {
        row.skip = value.scalar;
        ++meanings;
      } else {
        TRY(option(key, value, row));
      }
    }
    if (names.empty()) return error(node, "the row has no 'name'");
    if (meanings != 1)
      return error(node, "a row has one of 'step', 'split', 'split_by_head' and 'skip'");
    if (row.skip.empty() && row.steps.empty()) return error(node, "the row names no step");
    for (const auto& step : row.steps)
      for (const auto& choice : choices_of(step))
        if (!is_step_name(with_layer(choice, 0)))
          return error(node, fmt::format("'{}' is not a step of docs/steps.md", choice));
    std::vector<NameRow> rows;
    for (const auto& name : names) {
      TRY(check_pattern(node, name, row));
      rows.push_back(row);
      rows.back().pattern = name;
    }
    return rows;
  }

  Result<void> option(const std::string& key, const YamlNode& value, NameRow& row) {
    if (key == "without_bias") {
      row.without_bias = texts(value);
    } else if (key == "occurrence") {
      if (value.scalar.size() != 1 || value.scalar[0] < '0' || value.scalar[0] > '9')
        return error(value, "'occurrence' is a number from 0 to 9");
      row.occurrence = static_cast<size_t>(value.scalar[0] - '0');
    } else if (key == "layout") {
      if (value.scalar == "heads_first") row.layout = RowLayout::HeadsFirst;
      else if (value.scalar == "transposed") row.layout = RowLayout::Transposed;
      else return error(value, "'layout' is heads_first or transposed");
    } else if (key == "rope_order") {
      if (value.scalar == "halves") row.order = RopeOrder::Halves;
      else if (value.scalar == "file") row.order = RopeOrder::File;
      else return error(value, "'rope_order' is halves or file");
    } else {
      return error(
          value,
          fmt::format("'{}' is not a key of a row: name, operation, without_bias, occurrence, "
                      "architecture, step, split, split_by_head, layout, rope_order, skip",
                      key));
    }
    return {};
  }

  Result<void> check_pattern(const YamlNode& node, const std::string& pattern,
                             const NameRow& row) const {
    int open = 0;
    for (const char c : pattern) {
      if (c == '[') ++open;
      if (c == ']') --open;
      if (open < 0 || open > 1)
        return error(node, fmt::format("'{}': brackets do not match", pattern));
    }
    if (open != 0) return error(node, fmt::format("'{}': brackets do not match", pattern));
    const bool layer = pattern.find(kLayer) != std::string::npos;
    for (const auto& step : row.steps)
      if (step.find(kLayer) != std::string::npos && !layer)
        return error(node, fmt::format("'{}' says no {{layer}}, which its step needs", pattern));
    return {};
  }

  std::string name_;
};

}  // namespace

std::optional<NameMatch> match_name(std::string_view pattern, std::string_view name) {
  NameMatch match;
  int budget = 20'000;
  if (!match_from(pattern, name, match, budget)) return std::nullopt;
  return match;
}

std::string with_layer(std::string step, std::optional<size_t> layer) {
  const size_t at = step.find(kLayer);
  if (at != std::string::npos && layer) step.replace(at, kLayer.size(), fmt::format("{}", *layer));
  return step;
}

std::vector<std::string> choices_of(const std::string& step) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= step.size();) {
    const size_t end = std::min(step.find('|', at), step.size());
    out.push_back(step.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

Result<NameTable> parse_name_table(std::string_view text, const std::string& name) {
  TRY_ASSIGN(const auto root, parse_yaml(text, name));
  return TableReader(name).read(root);
}

const std::vector<NameTable>& name_tables() {
  static const auto tables = [] {
    std::vector<NameTable> out;
    for (const auto& [name, text] : built_in_name_tables()) {
      auto table = parse_name_table(text, std::string(name));
      CHECK(table);  // the tests read them all
      out.push_back(std::move(*table));
    }
    return out;
  }();
  return tables;
}

Result<NameTable> find_name_table(const std::string& name_or_path) {
  std::string known;
  for (const auto& table : name_tables()) {
    if (table.name == name_or_path) return table;
    known += (known.empty() ? "" : ", ") + table.name;
  }
  auto file = MappedFile::open(name_or_path);
  if (!file && file.error().code == ErrorCode::NotFound)
    return fail(ErrorCode::NotFound,
                fmt::format("--names '{}' is neither a table that is built in ({}) nor a file",
                            name_or_path, known));
  if (!file) return std::unexpected(std::move(file).error().within(name_or_path));
  const auto bytes = file->bytes();
  if (bytes.size() > kLargestTable)
    return fail(ErrorCode::Unsupported, fmt::format("{}: {} bytes, a table of names has {} at most",
                                                    name_or_path, bytes.size(), kLargestTable));
  return parse_name_table({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                          name_or_path);
}

}  // namespace plumb
