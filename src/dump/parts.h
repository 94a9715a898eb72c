// SPDX-License-Identifier: Apache-2.0
// What several readers of this folder need: values in another order, and what was fed.
#pragma once
#include <string_view>

#include "dump/dump.h"

namespace plumb {

// Values of `item` bytes each that lie `strides` values apart, in row-major order. `start` is the
// first; the caller has checked that the last lies inside. Turns each value's bytes round if asked.
std::vector<std::byte> gather(const std::byte* start, size_t item, std::span<const uint64_t> shape,
                              std::span<const uint64_t> strides, bool reverse);

// The strides of row-major values; nothing if they overflow.
std::optional<std::vector<uint64_t>> row_major_strides(std::span<const uint64_t> shape);

// The bytes themselves, or a copy if they do not lie where values of `item` bytes may be read.
std::span<const std::byte> keep_aligned(std::span<const std::byte> bytes, size_t item, Dump& dump);

// An Error if so much memory is not there. `what` needs it.
Result<void> check_memory(uint64_t bytes, std::string_view what);

// Whether the last part of a name (after '.' or '/') says that these are the ids that were fed.
bool is_token_name(std::string_view name);

// One sequence of ids: a tensor of whole numbers, [n] or [1, n]. Nothing if it is not that.
std::optional<std::vector<int64_t>> read_tokens(const TensorView& view);

// Dump::tokens from the tensors with such a name, pass after pass. If they do not agree: a note.
void take_tokens(Dump& dump);

// Tensors of one name in one pass get 0, 1, … in their order.
void number_occurrences(Dump& dump);

}  // namespace plumb
