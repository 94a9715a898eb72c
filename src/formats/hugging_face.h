// SPDX-License-Identifier: Apache-2.0
// A model as it is published in a folder: config.json, weights in one or several safetensors files,
// tokenizer files beside them.
#pragma once
#include <filesystem>

#include "core/result.h"
#include "formats/model_file.h"

namespace plumb {

// config.json is flattened into metadata under its own keys, generation_config.json and
// tokenizer_config.json under "generation_config." and "tokenizer_config.".
Result<ModelFile> open_hugging_face_folder(const std::filesystem::path& folder);

// The shards that a model.safetensors.index.json names; config.json beside it is read too.
Result<ModelFile> open_safetensors_index(const std::filesystem::path& index);

// One safetensors file; a config.json beside it is read too.
Result<ModelFile> open_safetensors(const std::filesystem::path& path);

}  // namespace plumb
