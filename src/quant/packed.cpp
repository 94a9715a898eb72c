// SPDX-License-Identifier: Apache-2.0
#include "quant/packed.h"

#include "core/check.h"
#include "core/half.h"
#include "quant/packed_words.h"
#include "quant/values.h"

namespace plumb {
namespace {

// 1/127 as bitsandbytes multiplies by it.
constexpr float kInverse127 = 7.874015718698502e-3F;

// AWQ: the nibble of output 8w + j, for each j.
constexpr size_t kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// make_packed() lets through F32, F16 and BF16 only.
float float_at(const TensorView& view, size_t index) {
  switch (view.dtype) {
    case DType::F16: return f16_to_f32(load<uint16_t>(view, index));
    case DType::BF16: return bf16_to_f32(load<uint16_t>(view, index));
    default: return load<float>(view, index);
  }
}

size_t group_of(const PackedWeight& weight, const TensorView* index, size_t i) {
  return index != nullptr ? static_cast<size_t>(load<int32_t>(*index, i)) : i / weight.group_size;
}

// w = scale * (code - zero): qweight [words, out], qzeros [groups, words], scales [groups, out].
void read_gptq(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& codes = weight.parts.at("qweight");
  const TensorView& zeros = weight.parts.at("qzeros");
  const TensorView& scales = weight.parts.at("scales");
  const TensorView* index = weight.uses_group_index ? &weight.parts.at("g_idx") : nullptr;
  const size_t zero_words = zeros.shape[1];
  const uint32_t mask = (1U << weight.bits) - 1U;
  for (size_t i = 0; i < weight.in; ++i) {
    const size_t group = group_of(weight, index, i);
    const uint32_t code = code_at(codes, row, weight.out, i, weight.packing, weight.bits);
    uint32_t zero = code_at(zeros, group * zero_words, 1, row, weight.packing, weight.bits);
    if (weight.one_below) zero = (zero + 1) & mask;
    const float scale = float_at(scales, group * weight.out + row);
    out[i] = scale * static_cast<float>(static_cast<int>(code) - static_cast<int>(zero));
  }
}

// w = (code - zero) * scale: qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out].
// Nibble n of a word, the lowest first, is output 8w + {0, 2, 4, 6, 1, 3, 5, 7}[n].
void read_awq(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& codes = weight.parts.at("qweight");
  const TensorView& zeros = weight.parts.at("qzeros");
  const TensorView& scales = weight.parts.at("scales");
  const size_t words = weight.out / 8;
  const size_t word = row / 8;
  const size_t shift = 4 * kNibbleOf[row % 8];
  for (size_t i = 0; i < weight.in; ++i) {
    const size_t group = i / weight.group_size;
    const auto code = static_cast<int>(load<uint32_t>(codes, i * words + word) >> shift & 15U);
    const auto zero = static_cast<int>(load<uint32_t>(zeros, group * words + word) >> shift & 15U);
    const float scale = float_at(scales, group * weight.out + row);
    out[i] = static_cast<float>(code - zero) * scale;
  }
}

float bnb_scale(const PackedWeight& weight, const TensorView& scales, size_t group) {
  if (weight.nested_group_size == 0) return float_at(scales, group);
  const TensorView& map = weight.parts.at("weight.nested_quant_map");
  const TensorView& nested = weight.parts.at("weight.nested_absmax");
  const float code = float_at(map, load<uint8_t>(scales, group));
  return code * float_at(nested, group / weight.nested_group_size) + weight.nested_offset;
}

// Values follow one another row by row, the first of a byte in its high nibble; groups run on from
// row to row.
void read_bnb_4bit(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& codes = weight.parts.at("weight");
  const TensorView& scales = weight.parts.at("weight.absmax");
  const TensorView& map = weight.parts.at("weight.quant_map");
  float table[16];
  for (size_t i = 0; i < 16; ++i) table[i] = float_at(map, i);
  float scale = 0;
  for (size_t i = 0; i < weight.in; ++i) {
    const size_t at = row * weight.in + i;
    if (i == 0 || at % weight.group_size == 0)
      scale = bnb_scale(weight, scales, at / weight.group_size);
    const auto byte = load<uint8_t>(codes, at / 2);
    out[i] = table[at % 2 == 0 ? byte >> 4 : byte & 15] * scale;
  }
}

void read_bnb_int8(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& codes = weight.parts.at("weight");
  const float scale = float_at(weight.parts.at("SCB"), row);
  for (size_t i = 0; i < weight.in; ++i)
    out[i] = static_cast<float>(load<int8_t>(codes, row * weight.in + i)) * scale * kInverse127;
}

const TensorView& weight_scale(const PackedWeight& weight) {
  const auto inverse = weight.parts.find("weight_scale_inv");
  return inverse != weight.parts.end() ? inverse->second : weight.parts.at("weight_scale");
}

// Values of one byte with a scale for a tensor, a row or a block of both.
void read_scaled(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& scales = weight_scale(weight);
  const size_t first_scale = row / weight.scale_rows * weight.scale_columns;
  read_values(weight.parts.at("weight"), uint64_t{row} * weight.in, weight.in, out);
  for (size_t i = 0; i < weight.in; ++i)
    out[i] *= float_at(scales, first_scale + i / weight.group_size);
}

// Zero points are I8, one each, or packed like the codes but down a column.
int compressed_zero(const PackedWeight& weight, const TensorView& zeros, size_t row, size_t group) {
  const size_t columns = weight.scale_columns;
  const size_t zero_row = row / weight.scale_rows;
  if (zeros.dtype == DType::I8) return load<int8_t>(zeros, zero_row * columns + group);
  const int middle = 1 << (weight.bits - 1);
  return static_cast<int>(code_at(zeros, group, columns, row, weight.packing, weight.bits)) -
         middle;
}

// w = (code - middle - zero) * scale: weight_packed [out, words], weight_scale [out, groups].
void read_compressed(const PackedWeight& weight, size_t row, float* out) {
  const TensorView& codes = weight.parts.at("weight_packed");
  const TensorView& scales = weight.parts.at("weight_scale");
  const auto zeros = weight.parts.find("weight_zero_point");
  const TensorView* index = weight.uses_group_index ? &weight.parts.at("weight_g_idx") : nullptr;
  const size_t words = codes.shape[1];
  const size_t first_scale = row / weight.scale_rows * weight.scale_columns;
  const int middle = 1 << (weight.bits - 1);
  for (size_t i = 0; i < weight.in; ++i) {
    const size_t group = group_of(weight, index, i);
    const auto code =
        static_cast<int>(code_at(codes, row * words, 1, i, weight.packing, weight.bits));
    const int zero =
        zeros == weight.parts.end() ? 0 : compressed_zero(weight, zeros->second, row, group);
    out[i] = static_cast<float>(code - middle - zero) * float_at(scales, first_scale + group);
  }
}

}  // namespace

const char* packed_name(PackedScheme scheme) {
  switch (scheme) {
    case PackedScheme::Gptq: return "GPTQ";
    case PackedScheme::Awq: return "AWQ";
    case PackedScheme::BnbNf4: return "bitsandbytes NF4";
    case PackedScheme::BnbFp4: return "bitsandbytes FP4";
    case PackedScheme::BnbInt8: return "bitsandbytes int8";
    case PackedScheme::Float8: return "float8 with scales";
    case PackedScheme::ScaledInt8: return "int8 with scales";
    case PackedScheme::CompressedInt: return "compressed-tensors packed integers";
  }
  return "unknown";
}

void read_packed_row(const PackedWeight& weight, size_t row, float* out) {
  CHECK(row < weight.out);
  switch (weight.scheme) {
    case PackedScheme::Gptq: return read_gptq(weight, row, out);
    case PackedScheme::Awq: return read_awq(weight, row, out);
    case PackedScheme::BnbNf4:
    case PackedScheme::BnbFp4: return read_bnb_4bit(weight, row, out);
    case PackedScheme::BnbInt8: return read_bnb_int8(weight, row, out);
    case PackedScheme::Float8:
    case PackedScheme::ScaledInt8: return read_scaled(weight, row, out);
    case PackedScheme::CompressedInt: return read_compressed(weight, row, out);
  }
}

}  // namespace plumb
