// SPDX-License-Identifier: Apache-2.0
// What another engine calls the steps: tables as data (contracts/names/*.yaml, docs/names.md).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"

namespace plumb {

// How the values lie in the engine's tensor; the step wants a row for each position.
enum class RowLayout {
  Rows,        // [positions, …], the rest of the row in one or several dimensions
  HeadsFirst,  // [heads, positions, values of a head]
  Transposed,  // [width, positions]
};

// Order of the values that RoPE turns together, where converters to GGUF reorder them: as in a
// GGUF, as in a Hugging Face checkpoint, or as in the model file that was given.
enum class RopeOrder { Neighbours, Halves, File };

struct NameRow {
  std::string
      pattern;  // {layer}: a number; {word}: text without dots; *: any text; [x]: x or nothing
  std::vector<std::string> operations;  // the engine's; empty: any
  std::optional<size_t> occurrence;     // of the name in its pass
  // Of the operations those that end before a bias: where the step has one, the value is not it.
  std::vector<std::string> without_bias;
  // One step: the first of these that the model has. Split: all of them, side by side in the row;
  // one written a|b is the first that the model has.
  std::vector<std::string> steps;
  bool split = false;
  bool split_by_head = false;  // the parts lie head by head (group by group): q k v, q k v, …
  RowLayout layout = RowLayout::Rows;
  RopeOrder order = RopeOrder::Neighbours;
  std::vector<std::string> architectures;  // empty: all
  std::string skip;                        // not a step, and why; then there are no steps
};

struct NameTable {
  std::string name;    // of the file: "llama.cpp"
  std::string engine;  // for people
  std::vector<NameRow> rows;
};

// A table as YAML. `name` is put in front of messages.
Result<NameTable> parse_name_table(std::string_view text, const std::string& name);
// The tables that are built in.
const std::vector<NameTable>& name_tables();
// A table of the list by its name, or a file of the user's.
Result<NameTable> find_name_table(const std::string& name_or_path);

// Whether the name fits, and the number that stands for {layer}.
struct NameMatch {
  std::optional<size_t> layer;
};
std::optional<NameMatch> match_name(std::string_view pattern, std::string_view name);
// What stands between the bars of "a|b".
std::vector<std::string> choices_of(const std::string& step);
// A step of the table with its layer filled in.
std::string with_layer(std::string step, std::optional<size_t> layer);

}  // namespace plumb
