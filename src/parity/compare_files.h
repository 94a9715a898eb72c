// SPDX-License-Identifier: Apache-2.0
// Two model files side by side, in any formats, without running either.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/threads.h"
#include "formats/model_file.h"
#include "model/hyperparameters.h"
#include "parity/weight_class.h"

namespace plumb {

struct KeyDifference {
  std::string key, a, b;  // as text; "absent" where a side does not have it
};

struct TensorDifference {
  std::string name;                               // in the convention of GGUF
  std::string source_a, source_b;                 // names in the files
  std::vector<std::string> changes_a, changes_b;  // what it took to bring them into one convention
  WeightClass weight_class;
};

struct FileComparison {
  // What changes the result of a run: hyperparameters, whatever the formats, and, where both files
  // have the same format, keys that have two values and bear on the result.
  std::vector<KeyDifference> sizes;
  std::vector<KeyDifference> metadata;  // all other keys, where both files have the same format
  size_t metadata_same = 0;
  std::vector<TensorDifference> tensors;  // only those that differ
  size_t tensors_same = 0;                // the same values
  size_t tensors_same_bytes = 0;          // of these, the same bytes in the same type
  size_t converted = 0;  // of these, equal after a change that the formats' conventions ask for
  std::vector<std::string> notes;

  // SAME: every value and size · ROUNDING: the same but for rounding of weights · DIFFERENT
  std::string verdict() const;
};

FileComparison compare_files(const ModelFile& a, const ModelFile& b,
                             const std::function<void(size_t done, size_t all)>& progress = {});

}  // namespace plumb
