// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "formats/metadata.h"

namespace plumb {

// JSON metadata from a file: one object, at most `max_depth` levels deep. A name that stands twice
// in an object is a warning and the later value counts. `what` names the text in messages.
Result<nlohmann::json> parse_json_metadata(std::string_view text, std::string_view what,
                                           int max_depth, std::vector<std::string>& warnings);

// Flattens a JSON object into `metadata`: {"a": {"b": 1}} becomes "a.b" (below `prefix`, if that is
// not empty). Null becomes monostate; an array becomes a MetadataArray, whose items that are
// objects are kept as compact JSON text; an empty object is kept as the text "{}". A key that is
// there already keeps its value, with a warning.
Result<void> add_json(Metadata& metadata, const std::string& prefix, const nlohmann::json& value,
                      std::vector<std::string>& warnings);

}  // namespace plumb
