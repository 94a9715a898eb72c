// SPDX-License-Identifier: Apache-2.0
// Weight matrices that a checkpoint stores as several tensors (GPTQ, AWQ, bitsandbytes, FP8 …), as
// the matrices that they stand for.
#pragma once
#include <string>
#include <vector>

#include "formats/model_file.h"
#include "quant/packed.h"

namespace plumb {

struct PackedWeights {
  std::vector<PackedWeight> weights;  // empty: the file has none
  std::string problem;                // why they cannot be read; empty if they can
};
PackedWeights packed_weights(const ModelFile& file);

// The same file with each packed matrix as one tensor of its name and shape, for checks of names
// and shapes: the tensors hold no bytes.
ModelFile logical_file(const ModelFile& file, const PackedWeights& packed);

// "168 matrices: GPTQ, 4 bits, groups of 128"
std::string describe(const PackedWeights& packed);

}  // namespace plumb
