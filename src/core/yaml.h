// SPDX-License-Identifier: Apache-2.0
// YAML as a plain tree. Every scalar stays text; aliases, tags and a key twice are refused, so that
// a file means what a reader sees.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace plumb {

struct YamlNode {
  enum class Kind { Scalar, List, Map };
  Kind kind = Kind::Scalar;
  size_t line = 0;  // from 1
  std::string scalar;
  std::vector<YamlNode> items;    // of a list; of a map the values
  std::vector<std::string> keys;  // of a map, in the order of the file

  const YamlNode* find(std::string_view key) const;
};

// One document. `name` is put in front of messages, with the line.
Result<YamlNode> parse_yaml(std::string_view text, std::string_view name);

}  // namespace plumb
