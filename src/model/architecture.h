// SPDX-License-Identifier: Apache-2.0
// What one architecture adds: the tensors it has and their names in each format, what its plan
// needs from the metadata, its layer. One file for each in architectures/.
#pragma once
#include <span>
#include <string_view>

#include "model/config_reader.h"
#include "model/plan_builder.h"
#include "model/tensor_rows.h"

namespace plumb {

struct Architecture {
  std::string_view name;  // general.architecture
  Modules (*tensors)();
  // Fills in what the common reader leaves at its default. Problems go to the reader.
  void (*configure)(ConfigReader& reader, Config& config);
  // Appends the steps of a layer; gives the value that leaves it.
  size_t (*add_layer)(PlanBuilder& plan, size_t input);
};

// Null: it is not known. One without add_layer can be looked at, but not run.
const Architecture* find_architecture(std::string_view name);
std::span<const Architecture* const> architectures();

}  // namespace plumb
