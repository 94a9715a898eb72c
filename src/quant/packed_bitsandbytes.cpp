// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/packed_checks.h"
#include "quant/packed_words.h"

namespace plumb {
namespace {

using nlohmann::json;

constexpr size_t kLongestState = 65536;
constexpr DType kBytes[] = {DType::U8};

// The values that the libraries' kernels have built in, in the order of the codes.
constexpr std::array<float, 16> kNf4 = {-1.0F,
                                        -0.6961928009986877F,
                                        -0.5250730514526367F,
                                        -0.39491748809814453F,
                                        -0.28444138169288635F,
                                        -0.18477343022823334F,
                                        -0.09105003625154495F,
                                        0.0F,
                                        0.07958029955625534F,
                                        0.16093020141124725F,
                                        0.24611230194568634F,
                                        0.33791524171829224F,
                                        0.44070982933044434F,
                                        0.5626170039176941F,
                                        0.7229568362236023F,
                                        1.0F};
constexpr std::array<float, 16> kFp4 = {
    0.0F,  0.0625F / 12,  8.0F / 12,  1.0F,  4.0F / 12,  6.0F / 12,  2.0F / 12,  3.0F / 12,
    -0.0F, -0.0625F / 12, -8.0F / 12, -1.0F, -4.0F / 12, -6.0F / 12, -2.0F / 12, -3.0F / 12};

Result<json> parse_state(const TensorView& view) {
  if (view.bytes.size() > kLongestState)
    return fail(ErrorCode::Corrupt, fmt::format("quant_state has {} bytes, expected {} at most",
                                                view.bytes.size(), kLongestState));
  const auto* text = reinterpret_cast<const char*>(view.bytes.data());
  json state = json::parse(text, text + view.bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (!state.is_object()) return fail(ErrorCode::Corrupt, "quant_state is not a JSON object");
  return state;
}

Result<uint64_t> count_in(const json& state, const char* key) {
  const auto found = state.find(key);
  if (found == state.end() || !found->is_number_unsigned() || found->get<uint64_t>() == 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("quant_state: {} is {}, expected a positive integer", key,
                            found == state.end() ? "missing" : found->type_name()));
  return found->get<uint64_t>();
}

Result<void> read_shape(const json& state, PackedWeight& weight) {
  const auto shape = state.find("shape");
  const bool two = shape != state.end() && shape->is_array() && shape->size() == 2;
  if (!two || !(*shape)[0].is_number_unsigned() || !(*shape)[1].is_number_unsigned())
    return fail(ErrorCode::Unsupported, "quant_state: shape is not a list of two sizes");
  weight.out = (*shape)[0].get<uint64_t>();
  weight.in = (*shape)[1].get<uint64_t>();
  return {};
}

Result<void> check_type(const json& state, PackedScheme scheme) {
  const auto type = state.find("quant_type");
  const char* expected = scheme == PackedScheme::BnbNf4 ? "nf4" : "fp4";
  if (type != state.end() && type->is_string() && type->get_ref<const std::string&>() == expected)
    return {};
  return fail(ErrorCode::Corrupt,
              fmt::format("quant_state: quant_type is not '{}', as its name says", expected));
}

// The bytes may be declared as another type (bnb_4bit_quant_storage): then the last one is filled
// up. Returns the number of values.
Result<uint64_t> check_codes(const PackedWeight& weight) {
  TRY_ASSIGN(
      const TensorView* codes,
      require_part(weight, "weight", {DType::U8, DType::I8, DType::F16, DType::BF16, DType::F32}));
  const auto count = element_count(std::array{uint64_t{weight.out}, uint64_t{weight.in}});
  const uint64_t bytes = count ? divide_up(*count, 2) : 0;
  const uint64_t unit = info(codes->dtype).block_bytes;
  if (!count || *count == 0 || codes->shape.empty() ||
      divide_up(bytes, unit) * unit != codes->bytes.size())
    return fail(ErrorCode::Corrupt,
                fmt::format("weight is {} ({} bytes), expected half a byte for each of {} x {}",
                            text_of(*codes), codes->bytes.size(), weight.out, weight.in));
  if (codes->shape[0] == 1 && codes->bytes.size() > unit)
    return fail(ErrorCode::Unsupported,
                fmt::format("weight is {}: a transposed matrix is not supported", text_of(*codes)));
  return *count;
}

Result<void> check_map(const PackedWeight& weight) {
  TRY_ASSIGN(const TensorView* map, require_part(weight, "weight.quant_map", {DType::F32}));
  TRY(require_shape("weight.quant_map", *map, {16}, "one for each code"));
  const auto& expected = weight.scheme == PackedScheme::BnbNf4 ? kNf4 : kFp4;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto value = load<float>(*map, i);
    // One unit in the last place of 1 leaves room for another way of dividing by 12.
    if (!(std::fabs(value - expected[i]) <= 0x1p-23F))
      return fail(ErrorCode::Unsupported,
                  fmt::format("weight.quant_map has {} for code {}, expected {}: libraries would "
                              "not read the table but use their own",
                              value, i, expected[i]));
  }
  return {};
}

Result<void> check_nested(const json& state, uint64_t groups, PackedWeight& weight) {
  TRY_ASSIGN(weight.nested_group_size, count_in(state, "nested_blocksize"));
  const auto offset = state.find("nested_offset");
  if (offset == state.end() || !offset->is_number() || !(std::fabs(offset->get<double>()) < 1e30))
    return fail(ErrorCode::Corrupt, "quant_state: nested_offset is not a number below 1e30");
  weight.nested_offset = static_cast<float>(offset->get<double>());
  TRY_ASSIGN(const TensorView* map, require_part(weight, "weight.nested_quant_map", {DType::F32}));
  TRY(require_shape("weight.nested_quant_map", *map, {256}, "one for each byte"));
  TRY_ASSIGN(const TensorView* nested, require_part(weight, "weight.nested_absmax", kPlainFloats));
  return require_shape(
      "weight.nested_absmax", *nested, {divide_up(groups, weight.nested_group_size)},
      fmt::format("{} scales with nested_blocksize {}", groups, weight.nested_group_size));
}

}  // namespace

Result<void> complete_bnb_4bit(PackedWeight& weight) {
  const bool nf4 = weight.scheme == PackedScheme::BnbNf4;
  const char* state_part =
      nf4 ? "weight.quant_state.bitsandbytes__nf4" : "weight.quant_state.bitsandbytes__fp4";
  TRY_ASSIGN(const TensorView* text, require_part(weight, state_part, {DType::U8}));
  TRY_ASSIGN(const json state, parse_state(*text));
  TRY(check_type(state, weight.scheme));
  TRY(read_shape(state, weight));
  TRY_ASSIGN(weight.group_size, count_in(state, "blocksize"));
  weight.bits = 4;
  TRY_ASSIGN(const uint64_t values, check_codes(weight));
  TRY(check_map(weight));
  const uint64_t groups = divide_up(values, weight.group_size);
  const bool nested = has_part(weight, "weight.nested_absmax");
  const std::span<const DType> scale_types = nested ? std::span<const DType>(kBytes) : kPlainFloats;
  TRY_ASSIGN(const TensorView* scales, require_part(weight, "weight.absmax", scale_types));
  TRY(require_shape("weight.absmax", *scales, {groups},
                    fmt::format("{} values with blocksize {}", values, weight.group_size)));
  return nested ? check_nested(state, groups, weight) : Result<void>{};
}

}  // namespace plumb
