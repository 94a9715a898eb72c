// SPDX-License-Identifier: Apache-2.0
// What make_packed() asks of the parts of a matrix. Messages name the part; the caller puts the
// matrix in front.
#pragma once
#include <initializer_list>
#include <span>
#include <string_view>

#include "core/result.h"
#include "quant/packed.h"

namespace plumb {

inline constexpr DType kPlainFloats[] = {DType::F32, DType::F16, DType::BF16};

constexpr uint64_t divide_up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

// "F16 [2, 8]"
std::string text_of(const TensorView& view);

bool has_part(const PackedWeight& weight, std::string_view part);

// The part, if it is there, of one of the dtypes, not empty and as long as its shape says.
Result<const TensorView*> require_part(const PackedWeight& weight, std::string_view part,
                                       std::span<const DType> dtypes);
inline Result<const TensorView*> require_part(const PackedWeight& weight, std::string_view part,
                                              std::initializer_list<DType> dtypes) {
  return require_part(weight, part, std::span(dtypes.begin(), dtypes.size()));
}

Result<void> require_dimensions(std::string_view part, const TensorView& view, size_t dimensions);

// `why` says where the expected shape comes from.
Result<void> require_shape(std::string_view part, const TensorView& view,
                           std::initializer_list<uint64_t> shape, std::string_view why);

// Inputs of one group, from their number and that of the groups; `configured` is
// PackedConfig::group_size.
Result<size_t> group_size_of(uint64_t in, uint64_t groups, int64_t configured);

// A group index [in], int32: each entry must be one of `groups` groups.
Result<void> require_group_index(const PackedWeight& weight, std::string_view part,
                                 uint64_t groups);

// 2, 3, 4 and 8 bits; fails for others.
Result<CodePacking> packing_of(uint64_t bits);

// bitsandbytes' 4-bit schemes: the only ones with a text to parse.
Result<void> complete_bnb_4bit(PackedWeight& weight);

}  // namespace plumb
