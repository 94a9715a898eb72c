// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/model_file.h"
#include "inspect/tokenizer_facts.h"
#include "model/hyperparameters.h"

namespace plumb {

struct TypeTotal {
  DType dtype = DType::F32;
  size_t tensors = 0;
  uint64_t elements = 0, bytes = 0;
};

struct MemoryNeed {
  size_t context = 0;                            // tokens
  uint64_t weights = 0, kv_f32 = 0, kv_f16 = 0;  // bytes
};

// What a file says of itself, without reading a weight.
struct Summary {
  Hyperparameters sizes;
  TokenizerFacts tokenizer;
  std::string name;
  uint64_t file_bytes = 0, parameters = 0, embedding_parameters = 0;
  std::vector<TypeTotal> types;      // most bytes first
  std::optional<MemoryNeed> memory;  // nothing if the metadata does not give the sizes for it
  std::vector<std::pair<std::string, std::string>> quantization, provenance;  // key, value
};

// `context` 0: the model's own.
Summary summarize(const ModelFile& file, size_t context);

// general.file_type of a GGUF in words: 15 is "Q4_K_M".
std::string file_type_name(int64_t type);

}  // namespace plumb
