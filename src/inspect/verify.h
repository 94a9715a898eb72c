// SPDX-License-Identifier: Apache-2.0
// Whether a model file is sound: what can be said of it without running it.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/threads.h"
#include "formats/model_file.h"
#include "inspect/statistics.h"
#include "model/hyperparameters.h"

namespace plumb {

// Unsound: the file contradicts itself or its architecture, or holds values that no model can use.
// Suspect: nothing forbids it, but chance or training does not make it. Note: worth knowing.
enum class Severity { Note, Suspect, Unsound };

struct Issue {
  Severity severity = Severity::Note;
  std::string code;    // stable, for scripts: "values.nan"
  std::string tensor;  // or empty
  std::string text;    // a sentence for a person
};

struct Verification {
  std::vector<Issue> issues;                 // most severe first, then in the order of the file
  std::vector<TensorStatistics> statistics;  // of each tensor of the file, in its order
  uint64_t bytes = 0;                        // read
  double seconds = 0;
  Severity worst() const;
};

struct VerifyOptions {
  bool sha256 = true;  // of each tensor's values; more than half of the time
};

Verification verify(const ModelFile& file, const Hyperparameters& hyperparameters, Threads& threads,
                    VerifyOptions options,
                    const std::function<void(size_t done, size_t all)>& progress = {});

// The checks that read no weight: keys, names, shapes, tokenizer, layout.
std::vector<Issue> check_structure(const ModelFile& file, const Hyperparameters& hyperparameters);

}  // namespace plumb
