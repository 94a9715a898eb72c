// SPDX-License-Identifier: Apache-2.0
// A dump becomes a trace: each tensor gets the step that a table gives it, or is left out by name
// with the reason. Nothing is guessed.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "dump/dump.h"
#include "model/plan.h"
#include "names/name_table.h"
#include "trace/trace.h"

namespace plumb {

struct MappedName {
  std::string name;      // in the dump
  std::string step;      // empty: left out
  std::string reason;    // why it was left out, or what was changed: "heads first → side by side"
  bool skipped = false;  // left out because the table says that it is no step
  std::string shape;
};

struct ImportOptions {
  std::optional<NameTable> table;              // none: the one that knows most of the names
  std::optional<std::vector<int32_t>> tokens;  // given by the user
  std::optional<size_t> prompt;                // else: the rows of the first pass
};

struct Imported {
  Trace trace;
  std::string table;              // that was used; empty: names of steps as they are
  std::vector<MappedName> names;  // in the order of the dump
  std::vector<std::string> notes;
};

// `model` and `plan` say which steps there are and how wide; without them only names that are
// steps already become steps, and all else is kept under its own name.
Result<Imported> import_dump(const Dump& dump, const Model* model, const Plan* plan,
                             const ImportOptions& options);

// q and k of a trace as the plan has them: neighbours. Another engine's trace has them as its model
// file, halves where that is a Hugging Face folder; `rope_rows` of its engine ("hf", "gguf") says
// so where the file alone does not.
void order_rope_rows(Trace& trace, const Model& model);

// Whether the rows of q and k stand in another order in this architecture's GGUF (neighbours) than
// in its Hugging Face folder (halves).
bool reorders_rope_rows(const std::string& architecture);

}  // namespace plumb
