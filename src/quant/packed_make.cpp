// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "quant/packed_checks.h"
#include "quant/packed_words.h"

namespace plumb {
namespace {

constexpr DType kFloat8[] = {DType::F8_E4M3, DType::F8_E5M2};
constexpr DType kInt8[] = {DType::I8};

Result<void> require_bits(uint64_t configured, uint64_t expected) {
  if (configured == 0 || configured == expected) return {};
  return fail(ErrorCode::Unsupported, fmt::format("{} bits, expected {}", configured, expected));
}

// The words of zero points tell the bits where the configuration does not.
uint64_t gptq_bits(const PackedConfig& config, const TensorView& zeros, uint64_t out) {
  if (config.bits != 0) return config.bits;
  const uint64_t bits = zeros.shape[1] <= UINT32_MAX ? zeros.shape[1] * 32 / out : 0;
  return divide_up(out * bits, 32) == zeros.shape[1] ? bits : 0;
}

void warn_of_group_order(PackedWeight& weight, const PackedConfig& config) {
  if (!weight.uses_group_index || config.desc_act.value_or(true)) return;
  const TensorView& index = weight.parts.at("g_idx");
  for (size_t i = 0; i < weight.in; ++i) {
    if (static_cast<size_t>(load<int32_t>(index, i)) == i / weight.group_size) continue;
    weight.warnings.push_back(
        fmt::format("g_idx puts input {} into group {}, although desc_act is false: kernels that "
                    "go by desc_act read other weights",
                    i, load<int32_t>(index, i)));
    return;
  }
}

// In the first format a zero point of 0 is stored as the highest code.
void warn_of_wrapped_zeros(PackedWeight& weight) {
  const TensorView& zeros = weight.parts.at("qzeros");
  const uint32_t highest = (1U << weight.bits) - 1U;
  size_t wrapped = 0;
  for (size_t group = 0; group < zeros.shape[0]; ++group) {
    for (size_t row = 0; row < weight.out; ++row) {
      const size_t first = group * zeros.shape[1];
      if (code_at(zeros, first, 1, row, weight.packing, weight.bits) == highest) ++wrapped;
    }
  }
  if (wrapped == 0) return;
  weight.warnings.push_back(
      fmt::format("{} of {} zero points are stored as {}: read as 0, while some kernels read {}",
                  wrapped, zeros.shape[0] * weight.out, highest, highest + 1));
}

Result<void> complete_gptq(PackedWeight& weight, const PackedConfig& config) {
  const std::string& format = config.checkpoint_format;
  if (!format.empty() && format != "gptq" && format != "gptq_v2")
    return fail(ErrorCode::Unsupported,
                fmt::format("checkpoint_format '{}', expected gptq or gptq_v2", format));
  weight.one_below = format != "gptq_v2";
  TRY_ASSIGN(const TensorView* codes, require_part(weight, "qweight", {DType::I32}));
  TRY_ASSIGN(const TensorView* zeros, require_part(weight, "qzeros", {DType::I32}));
  TRY_ASSIGN(const TensorView* scales, require_part(weight, "scales", kPlainFloats));
  TRY(require_dimensions("qweight", *codes, 2));
  TRY(require_dimensions("qzeros", *zeros, 2));
  TRY(require_dimensions("scales", *scales, 2));
  weight.out = codes->shape[1];
  weight.bits = gptq_bits(config, *zeros, weight.out);
  TRY_ASSIGN(weight.packing, packing_of(weight.bits));
  const auto [per_pack, words] = weight.packing;

  weight.uses_group_index = has_part(weight, "g_idx");
  weight.in = codes->shape[0] / words * per_pack;
  if (weight.uses_group_index) {
    TRY_ASSIGN(const TensorView* index, require_part(weight, "g_idx", {DType::I32}));
    TRY(require_dimensions("g_idx", *index, 1));
    weight.in = index->shape[0];
  }
  const uint64_t groups = scales->shape[0];
  TRY(require_shape("qweight", *codes, {divide_up(weight.in, per_pack) * words, weight.out},
                    fmt::format("{} inputs of {} bits", weight.in, weight.bits)));
  TRY(require_shape("scales", *scales, {groups, weight.out}, "qweight has as many outputs"));
  TRY(require_shape("qzeros", *zeros, {groups, divide_up(weight.out, per_pack) * words},
                    fmt::format("scales is {}, {} bits", text_of(*scales), weight.bits)));
  TRY_ASSIGN(weight.group_size, group_size_of(weight.in, groups, config.group_size));
  if (weight.uses_group_index) TRY(require_group_index(weight, "g_idx", groups));
  if (!weight.uses_group_index && groups > 1 && config.desc_act.value_or(false))
    return fail(ErrorCode::Corrupt, "g_idx is missing, although desc_act is true");
  warn_of_group_order(weight, config);
  if (weight.one_below) warn_of_wrapped_zeros(weight);
  return {};
}

Result<void> complete_awq(PackedWeight& weight, const PackedConfig& config) {
  std::string version = config.version.empty() ? config.checkpoint_format : config.version;
  std::transform(version.begin(), version.end(), version.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; });
  if (!version.empty() && version != "gemm")
    return fail(ErrorCode::Unsupported,
                fmt::format("the layout '{}', expected gemm: gemv, gemv_fast and marlin store "
                            "their weights in other orders",
                            version));
  TRY(require_bits(config.bits, 4));
  TRY_ASSIGN(const TensorView* codes, require_part(weight, "qweight", {DType::I32}));
  TRY_ASSIGN(const TensorView* zeros, require_part(weight, "qzeros", {DType::I32}));
  TRY_ASSIGN(const TensorView* scales, require_part(weight, "scales", kPlainFloats));
  TRY(require_dimensions("qweight", *codes, 2));
  TRY(require_dimensions("scales", *scales, 2));
  weight.bits = 4;
  weight.in = codes->shape[0];
  weight.out = codes->shape[1] * 8;
  const uint64_t groups = scales->shape[0];
  TRY(require_shape("scales", *scales, {groups, weight.out},
                    fmt::format("qweight is {}, 8 outputs a word", text_of(*codes))));
  TRY(require_shape("qzeros", *zeros, {groups, codes->shape[1]},
                    fmt::format("scales is {}, 8 outputs a word", text_of(*scales))));
  TRY_ASSIGN(weight.group_size, group_size_of(weight.in, groups, config.group_size));
  return {};
}

Result<void> complete_bnb_int8(PackedWeight& weight) {
  TRY_ASSIGN(const TensorView* codes, require_part(weight, "weight", {DType::I8}));
  TRY_ASSIGN(const TensorView* scales, require_part(weight, "SCB", kPlainFloats));
  TRY(require_dimensions("weight", *codes, 2));
  weight.bits = 8;
  weight.out = codes->shape[0];
  weight.in = codes->shape[1];
  weight.group_size = weight.in;
  TRY(require_shape("SCB", *scales, {weight.out}, "one for each output"));
  if (!has_part(weight, "weight_format")) return {};
  TRY_ASSIGN(const TensorView* format, require_part(weight, "weight_format", {DType::U8}));
  if (format->bytes.size() == 1 && format->bytes[0] == std::byte{0}) return {};
  return fail(ErrorCode::Unsupported,
              "weight_format is not 0 (rows): the other orders are those of one GPU");
}

// Which outputs and inputs share a scale, from the shape of the scales.
Result<void> read_scale_layout(PackedWeight& weight, std::string_view part,
                               const TensorView& scales, const PackedConfig& config) {
  const auto [block_rows, block_columns] = config.weight_block_size;
  const bool blocks = block_rows != 0 && block_columns != 0;
  const std::vector<uint64_t>& shape = scales.shape;
  weight.scale_columns = 1;
  weight.group_size = weight.in;
  if (blocks && shape == std::vector<uint64_t>{divide_up(weight.out, block_rows),
                                               divide_up(weight.in, block_columns)}) {
    weight.scale_rows = block_rows;
    weight.scale_columns = shape[1];
    weight.group_size = block_columns;
  } else if (*element_count(shape) == 1) {
    weight.scale_rows = weight.out;
  } else if (shape == std::vector<uint64_t>{weight.out} ||
             shape == std::vector<uint64_t>{weight.out, 1}) {
    weight.scale_rows = 1;
  } else if (!blocks && shape.size() == 2 && shape[0] == weight.out) {
    weight.scale_columns = shape[1];
    TRY_ASSIGN(weight.group_size, group_size_of(weight.in, shape[1], config.group_size));
  } else {
    return fail(
        ErrorCode::Corrupt,
        fmt::format("{} is {}, expected one scale, one for each of {} outputs, or {}", part,
                    text_of(scales), weight.out,
                    blocks ? fmt::format("one for each block of {} x {} of {} x {}", block_rows,
                                         block_columns, weight.out, weight.in)
                           : "blocks, of which the configuration gives no weight_block_size"));
  }
  return {};
}

Result<void> require_no_zero_point(const PackedWeight& weight) {
  if (!has_part(weight, "weight_zero_point")) return {};
  for (const std::byte byte : weight.parts.at("weight_zero_point").bytes)
    if (byte != std::byte{0}) return fail(ErrorCode::Unsupported, "weight_zero_point is not all 0");
  return {};
}

Result<void> complete_scaled(PackedWeight& weight, const PackedConfig& config) {
  const bool inverse = has_part(weight, "weight_scale_inv");
  if (inverse && has_part(weight, "weight_scale"))
    return fail(ErrorCode::Corrupt, "both weight_scale and weight_scale_inv are there");
  const std::span<const DType> types =
      weight.scheme == PackedScheme::Float8 ? std::span<const DType>(kFloat8) : kInt8;
  const char* scale_part = inverse ? "weight_scale_inv" : "weight_scale";
  TRY_ASSIGN(const TensorView* codes, require_part(weight, "weight", types));
  TRY_ASSIGN(const TensorView* scales, require_part(weight, scale_part, kPlainFloats));
  TRY(require_dimensions("weight", *codes, 2));
  weight.bits = 8;
  weight.out = codes->shape[0];
  weight.in = codes->shape[1];
  TRY(require_no_zero_point(weight));
  return read_scale_layout(weight, scale_part, *scales, config);
}

// weight_shape is [out, in]; `words` are those of one row.
Result<void> read_weight_shape(PackedWeight& weight, uint64_t rows) {
  TRY_ASSIGN(const TensorView* shape,
             require_part(weight, "weight_shape", {DType::I64, DType::I32}));
  TRY(require_shape("weight_shape", *shape, {2}, "outputs and inputs"));
  int64_t sizes[2] = {};
  for (size_t i = 0; i < 2; ++i) {
    if (shape->dtype == DType::I64) sizes[i] = load<int64_t>(*shape, i);
    else sizes[i] = load<int32_t>(*shape, i);
  }
  // More than 32 codes do not fit into a word, so a larger size needs no arithmetic.
  if (sizes[0] < 1 || sizes[1] < 1 || static_cast<uint64_t>(sizes[0]) != rows ||
      sizes[1] > INT32_MAX)
    return fail(ErrorCode::Corrupt,
                fmt::format("weight_shape holds {} and {}, expected {} outputs (weight_packed has "
                            "as many rows) and 1 to {} inputs",
                            sizes[0], sizes[1], rows, INT32_MAX));
  weight.out = static_cast<size_t>(sizes[0]);
  weight.in = static_cast<size_t>(sizes[1]);
  return {};
}

Result<void> check_compressed_zeros(PackedWeight& weight, const TensorView& scales) {
  if (!has_part(weight, "weight_zero_point")) return {};
  TRY_ASSIGN(const TensorView* zeros,
             require_part(weight, "weight_zero_point", {DType::I32, DType::I8}));
  if (zeros->dtype == DType::I8) {
    if (zeros->shape == scales.shape) return {};
    return fail(ErrorCode::Corrupt, fmt::format("weight_zero_point is {}, weight_scale {}",
                                                text_of(*zeros), text_of(scales)));
  }
  if (weight.scale_rows != 1)
    return fail(ErrorCode::Unsupported, "packed zero points with one scale for the tensor");
  return require_shape("weight_zero_point", *zeros,
                       {divide_up(weight.out, weight.packing.codes), weight.scale_columns},
                       fmt::format("{} outputs of {} bits", weight.out, weight.bits));
}

// compressed-tensors leaves an index that is not in use at -1.
bool index_is_unused(const TensorView& index) {
  for (size_t i = 0; i < index.bytes.size() / sizeof(int32_t); ++i)
    if (load<int32_t>(index, i) != -1) return false;
  return true;
}

Result<void> complete_compressed(PackedWeight& weight, const PackedConfig& config) {
  const std::string& format = config.format;
  if (!format.empty() && format != "pack-quantized" && format != "mixed-precision")
    return fail(ErrorCode::Unsupported,
                fmt::format("the format '{}', expected pack-quantized", format));
  TRY_ASSIGN(const TensorView* codes, require_part(weight, "weight_packed", {DType::I32}));
  TRY_ASSIGN(const TensorView* scales, require_part(weight, "weight_scale", kPlainFloats));
  TRY(require_dimensions("weight_packed", *codes, 2));
  TRY(read_weight_shape(weight, codes->shape[0]));
  weight.bits = config.bits;
  for (const size_t bits : {size_t{2}, size_t{8}, size_t{4}})
    if (config.bits == 0 && divide_up(weight.in * bits, 32) == codes->shape[1]) weight.bits = bits;
  // Versions of the library disagree on the packing of bits that do not divide 32.
  if (weight.bits != 2 && weight.bits != 4 && weight.bits != 8)
    return fail(ErrorCode::Unsupported, fmt::format("{} bits, expected 2, 4 or 8", weight.bits));
  TRY_ASSIGN(weight.packing, packing_of(weight.bits));
  TRY(require_shape("weight_packed", *codes,
                    {weight.out, divide_up(weight.in, weight.packing.codes)},
                    fmt::format("{} inputs of {} bits", weight.in, weight.bits)));
  PackedConfig grouped = config;
  grouped.weight_block_size = {0, 0};
  TRY(read_scale_layout(weight, "weight_scale", *scales, grouped));
  TRY(check_compressed_zeros(weight, *scales));
  if (!has_part(weight, "weight_g_idx")) return {};
  TRY_ASSIGN(const TensorView* index, require_part(weight, "weight_g_idx", {DType::I32}));
  if (index_is_unused(*index)) return {};
  weight.uses_group_index = true;
  return require_group_index(weight, "weight_g_idx", weight.scale_columns);
}

Result<void> complete(PackedWeight& weight, const PackedConfig& config) {
  switch (weight.scheme) {
    case PackedScheme::Gptq: return complete_gptq(weight, config);
    case PackedScheme::Awq: return complete_awq(weight, config);
    case PackedScheme::BnbNf4:
    case PackedScheme::BnbFp4: return complete_bnb_4bit(weight);
    case PackedScheme::BnbInt8: return complete_bnb_int8(weight);
    case PackedScheme::Float8:
    case PackedScheme::ScaledInt8: return complete_scaled(weight, config);
    case PackedScheme::CompressedInt: return complete_compressed(weight, config);
  }
  return {};
}

}  // namespace

Result<PackedWeight> make_packed(PackedScheme scheme, std::string name,
                                 std::map<std::string, TensorView> parts,
                                 const PackedConfig& config) {
  PackedWeight weight;
  weight.name = std::move(name);
  weight.scheme = scheme;
  weight.parts = std::move(parts);
  if (auto completed = complete(weight, config); !completed)
    return std::unexpected(std::move(completed.error())
                               .within(fmt::format("{} ({})", weight.name, packed_name(scheme))));
  return weight;
}

}  // namespace plumb
