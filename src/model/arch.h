// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/model.h"
#include "model/plan.h"

namespace plumb {

// What one architecture adds: hyperparameters from metadata, the tensors it needs, its plan.
struct Architecture {
  const char* name;  // general.architecture
  Result<Config> (*read_config)(const MetadataReader& metadata);
  Result<void> (*check_weights)(const Model& model);
  Plan (*make_plan)(const Model& model);
};

const Architecture* find_architecture(const std::string& name);
std::string known_architectures();

const Architecture& llama_architecture();

// The tensor must exist with this shape and a weight type; vectors have rows = 1.
Result<void> require_weight(const Model& model, const std::string& name, size_t rows,
                            size_t columns);

}  // namespace plumb
