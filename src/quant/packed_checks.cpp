// SPDX-License-Identifier: Apache-2.0
#include "quant/packed_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/packed_words.h"

namespace plumb {

std::string text_of(const TensorView& view) {
  return fmt::format("{} {}", info(view.dtype).name, to_text(view.shape));
}

bool has_part(const PackedWeight& weight, std::string_view part) {
  return weight.parts.contains(std::string(part));
}

Result<const TensorView*> require_part(const PackedWeight& weight, std::string_view part,
                                       std::span<const DType> dtypes) {
  const auto found = weight.parts.find(std::string(part));
  if (found == weight.parts.end())
    return fail(ErrorCode::Corrupt, fmt::format("{} is missing", part));
  const TensorView& view = found->second;
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) == dtypes.end()) {
    std::string expected;
    for (const DType dtype : dtypes)
      expected += fmt::format("{}{}", expected.empty() ? "" : " or ", info(dtype).name);
    return fail(ErrorCode::Unsupported,
                fmt::format("{} is {}, expected {}", part, text_of(view), expected));
  }
  const auto count = element_count(view.shape);
  const auto bytes = count ? tensor_bytes(view.dtype, *count) : std::nullopt;
  if (!bytes || *bytes != view.bytes.size())
    return fail(ErrorCode::Corrupt,
                fmt::format("{} is {} with {} bytes", part, text_of(view), view.bytes.size()));
  if (*count == 0)
    return fail(ErrorCode::Corrupt, fmt::format("{} is empty: {}", part, text_of(view)));
  return &view;
}

Result<void> require_dimensions(std::string_view part, const TensorView& view, size_t dimensions) {
  if (view.shape.size() == dimensions) return {};
  return fail(ErrorCode::Unsupported,
              fmt::format("{} is {}, expected {} dimensions", part, text_of(view), dimensions));
}

Result<void> require_shape(std::string_view part, const TensorView& view,
                           std::initializer_list<uint64_t> shape, std::string_view why) {
  if (std::equal(view.shape.begin(), view.shape.end(), shape.begin(), shape.end())) return {};
  const std::vector<uint64_t> expected(shape);
  return fail(ErrorCode::Corrupt, fmt::format("{} is {}, expected {}: {}", part, text_of(view),
                                              to_text(expected), why));
}

Result<size_t> group_size_of(uint64_t in, uint64_t groups, int64_t configured) {
  if (configured < -1)
    return fail(ErrorCode::Corrupt,
                fmt::format("group_size is {}, expected -1 or more", configured));
  if (configured == 0 && in % groups == 0) return in / groups;
  if (configured == 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} inputs do not fall into {} equal groups and the configuration "
                            "gives no group_size",
                            in, groups));
  const uint64_t size = configured == -1 ? in : static_cast<uint64_t>(configured);
  if (divide_up(in, size) == groups) return size;
  return fail(ErrorCode::Corrupt,
              fmt::format("{} groups of scales, expected {}: {} inputs with group_size {}", groups,
                          divide_up(in, size), in, configured));
}

Result<void> require_group_index(const PackedWeight& weight, std::string_view part,
                                 uint64_t groups) {
  TRY_ASSIGN(const TensorView* index, require_part(weight, part, {DType::I32}));
  TRY(require_shape(part, *index, {weight.in}, "one for each input"));
  for (size_t i = 0; i < weight.in; ++i) {
    const auto group = load<int32_t>(*index, i);
    if (group < 0 || static_cast<uint64_t>(group) >= groups)
      return fail(ErrorCode::Corrupt, fmt::format("{} has group {} for input {}, expected 0 to {}",
                                                  part, group, i, groups - 1));
  }
  return {};
}

Result<CodePacking> packing_of(uint64_t bits) {
  switch (bits) {
    case 2: return CodePacking{.codes = 16, .words = 1};
    case 3: return CodePacking{.codes = 32, .words = 3};
    case 4: return CodePacking{.codes = 8, .words = 1};
    case 8: return CodePacking{.codes = 4, .words = 1};
    default:
      return fail(ErrorCode::Unsupported,
                  fmt::format("{} bits, expected 2, 3, 4 or 8{}", bits,
                              bits == 0 ? " (the configuration gives no bits)" : ""));
  }
}

}  // namespace plumb
