// SPDX-License-Identifier: Apache-2.0
// Values of a model's metadata in the types that tokenizers need.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/result.h"
#include "formats/metadata.h"

namespace plumb::tokenizer_metadata {

// Nothing where the key is absent or null; Corrupt where it holds something else.
Result<std::optional<std::string>> text(const Metadata& metadata, const std::string& key);
Result<std::optional<bool>> flag(const Metadata& metadata, const std::string& key);
// A token's id: 0 to 2^31 - 1. -1 and 4294967295 mean none, as some writers say it.
Result<std::optional<int32_t>> id(const Metadata& metadata, const std::string& key);
Result<std::vector<std::string>> texts(const Metadata& metadata, const std::string& key);
Result<std::vector<int32_t>> integers(const Metadata& metadata, const std::string& key);
Result<std::vector<float>> numbers(const Metadata& metadata, const std::string& key);

}  // namespace plumb::tokenizer_metadata
