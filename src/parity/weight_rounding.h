// SPDX-License-Identifier: Apache-2.0
// What storing weights in another type may change, and what lies beyond it.
#pragma once
#include <vector>

#include "parity/weight_class.h"

namespace plumb {

// The largest error that storing x in `type` can make, for a block whose largest magnitude is
// `largest`.
double rounding_limit(DType type, double x, double largest);

// The side whose type has fewer bits for a weight.
const StoredValues& coarser_of(const StoredValues& a, const StoredValues& b);

// The blocks of the coarser type, counted through all rows, in which a value differs by more than
// that type rounds; where both sides have the same type, in which any value differs. At most `most`
// are looked for.
std::vector<size_t> blocks_that_differ(const StoredValues& a, const StoredValues& b, size_t most);
// Whether two types differ and every value differs by no more than the coarser one rounds.
bool within_rounding(const StoredValues& a, const StoredValues& b);

// Whether the coarser side is, to the bit, what the reference quantization makes of the finer one.
bool is_reference_rounding(const StoredValues& a, const StoredValues& b);

}  // namespace plumb
