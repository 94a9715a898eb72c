// SPDX-License-Identifier: Apache-2.0
// Arguments that name a run: a trace, or what another engine wrote about its own.
#pragma once
#include "cli/commands.h"
#include "names/map_names.h"

namespace plumb::cli {

enum class InputKind { Model, Trace, Dump };
// By content. A path that does not exist is an error.
Result<InputKind> kind_of(const std::string& path);

// What is wrong where a model stands in the place of a run: "it is a model; EXPECTED", or, of a
// file that is cut, how.
Error model_in_place_of_run(const std::string& path, std::string_view expected);

struct NamesOptions {
  std::string names, tokens;
  size_t prompt = 0;  // 0: as the dump says
  void add_to(CLI::App& app, bool with_tokens);
  Result<ImportOptions> import_options() const;
};

// A run as a trace. A dump is imported with the names of the model's steps; what was left out is
// told on stderr.
Result<Trace> open_run(const std::string& path, const Model* model, const NamesOptions& options);

}  // namespace plumb::cli
