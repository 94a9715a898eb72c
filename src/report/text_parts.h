// SPDX-License-Identifier: Apache-2.0
// Pieces of the text report: of what is shown for a set of prompts, and for parts of the values.
#pragma once
#include <string>

#include "parity/parity.h"

namespace plumb {

std::string number(double x);                              // two significant digits
std::string token_text(const Comparison& c, Token token);  // in quotes, or "token 17"

// Lines about the residual stream: massive values, first tokens and the rest. Empty if there is
// nothing to tell apart.
std::string strata_text(const Comparison& c);
// "channel 507 holds 98 % of the squared difference", or nothing if it is spread.
std::string channels_text(const Finding& finding);
// The block of a set of prompts, or nothing without one.
std::string set_text(const Comparison& c, bool all);

}  // namespace plumb
