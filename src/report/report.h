// SPDX-License-Identifier: Apache-2.0
// What a person or a script reads of a comparison. Pure: text in, text out.
#pragma once
#include <string>

#include "parity/parity.h"

namespace plumb {

struct TextOptions {
  bool all_steps = false;  // the whole table, not only what matters
  bool colour = false;
};

std::string to_text(const Comparison& comparison, const TextOptions& options);
std::string to_json(const Comparison& comparison);
// One file that needs nothing else: the JSON inside a page that draws it.
std::string to_html(const Comparison& comparison);

}  // namespace plumb
