// SPDX-License-Identifier: Apache-2.0
// The tensors of a model in one convention, that of llama.cpp's GGUF files, whatever the file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "formats/model_file.h"
#include "model/hyperparameters.h"

namespace plumb {

// How values are made of what is stored; canonical_tensors() fills it in.
struct CanonicalRecipe {
  enum class Turn : uint8_t { None, First, Last };

  std::vector<TensorView> parts;  // one behind the other
  // The stored matrices [.., a, b] become [.., b, a] before rows are taken, or what is taken does
  // after it, in matrices of `turn_rows` rows.
  Turn turn = Turn::None;
  uint64_t turn_rows = 0;
  uint64_t row_length = 1;
  bool all_rows = true;
  std::vector<uint64_t> rows;  // if not all: the rows of the result, counted through the parts
  float added = 0;
  bool fp4 = false;           // parts are MXFP4's nibbles and exponents
  std::vector<float> values;  // if they come from the configuration: all of them
};

struct CanonicalTensor {
  std::string name;                  // GGUF's; the file's own where there is no rule
  std::vector<uint64_t> shape;       // rows first
  std::vector<std::string> sources;  // names in the file; empty: computed from the configuration
  std::vector<std::string> changes;  // in words: "transposed (Conv1D)"
  bool rope_rows_reordered = false;
  bool is_view = true;  // the file's own bytes serve: `view`
  TensorView view;
  CanonicalRecipe recipe;
};

// Views point into the file. A tensor that is not as its rule needs it comes as it is stored.
std::vector<CanonicalTensor> canonical_tensors(const ModelFile& file, const Hyperparameters& h);

// All values in row-major order.
std::vector<float> read_canonical(const CanonicalTensor& tensor);

}  // namespace plumb
