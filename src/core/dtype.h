// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace plumb {

enum class DType : uint8_t {
  F64,
  F32,
  F16,
  BF16,
  F8_E4M3,
  F8_E5M2,
  I64,
  I32,
  I16,
  I8,
  U64,
  U32,
  U16,
  U8,
  Bool,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q8_1,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  Q8_K,
  IQ1_S,
  IQ1_M,
  IQ2_XXS,
  IQ2_XS,
  IQ2_S,
  IQ3_XXS,
  IQ3_S,
  IQ4_NL,
  IQ4_XS,
  TQ1_0,
  TQ2_0,
  MXFP4,
  NVFP4,
  AprQ4,
  AprQ8
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;         // as GGUF tools spell it: "Q4_K"
  std::string_view short_name;   // as traces spell it: "q4_k"
  std::string_view safetensors;  // empty: that format does not have it
  int ggml_id;                   // -1: ggml does not have it
  size_t block_elements;
  size_t block_bytes;
  // Bytes before the first block of a tensor (AprQ8: one scale for the whole tensor).
  size_t tensor_header_bytes = 0;
};

inline constexpr std::array<DTypeInfo, 42> kDTypes = {{
    {DType::F64, "F64", "f64", "F64", 28, 1, 8},
    {DType::F32, "F32", "f32", "F32", 0, 1, 4},
    {DType::F16, "F16", "f16", "F16", 1, 1, 2},
    {DType::BF16, "BF16", "bf16", "BF16", 30, 1, 2},
    {DType::F8_E4M3, "F8_E4M3", "f8_e4m3", "F8_E4M3", -1, 1, 1},
    {DType::F8_E5M2, "F8_E5M2", "f8_e5m2", "F8_E5M2", -1, 1, 1},
    {DType::I64, "I64", "i64", "I64", 27, 1, 8},
    {DType::I32, "I32", "i32", "I32", 26, 1, 4},
    {DType::I16, "I16", "i16", "I16", 25, 1, 2},
    {DType::I8, "I8", "i8", "I8", 24, 1, 1},
    {DType::U64, "U64", "u64", "U64", -1, 1, 8},
    {DType::U32, "U32", "u32", "U32", -1, 1, 4},
    {DType::U16, "U16", "u16", "U16", -1, 1, 2},
    {DType::U8, "U8", "u8", "U8", -1, 1, 1},
    {DType::Bool, "BOOL", "bool", "BOOL", -1, 1, 1},
    {DType::Q4_0, "Q4_0", "q4_0", "", 2, 32, 18},
    {DType::Q4_1, "Q4_1", "q4_1", "", 3, 32, 20},
    {DType::Q5_0, "Q5_0", "q5_0", "", 6, 32, 22},
    {DType::Q5_1, "Q5_1", "q5_1", "", 7, 32, 24},
    {DType::Q8_0, "Q8_0", "q8_0", "", 8, 32, 34},
    {DType::Q8_1, "Q8_1", "q8_1", "", 9, 32, 36},
    {DType::Q2_K, "Q2_K", "q2_k", "", 10, 256, 84},
    {DType::Q3_K, "Q3_K", "q3_k", "", 11, 256, 110},
    {DType::Q4_K, "Q4_K", "q4_k", "", 12, 256, 144},
    {DType::Q5_K, "Q5_K", "q5_k", "", 13, 256, 176},
    {DType::Q6_K, "Q6_K", "q6_k", "", 14, 256, 210},
    {DType::Q8_K, "Q8_K", "q8_k", "", 15, 256, 292},
    {DType::IQ1_S, "IQ1_S", "iq1_s", "", 19, 256, 50},
    {DType::IQ1_M, "IQ1_M", "iq1_m", "", 29, 256, 56},
    {DType::IQ2_XXS, "IQ2_XXS", "iq2_xxs", "", 16, 256, 66},
    {DType::IQ2_XS, "IQ2_XS", "iq2_xs", "", 17, 256, 74},
    {DType::IQ2_S, "IQ2_S", "iq2_s", "", 22, 256, 82},
    {DType::IQ3_XXS, "IQ3_XXS", "iq3_xxs", "", 18, 256, 98},
    {DType::IQ3_S, "IQ3_S", "iq3_s", "", 21, 256, 110},
    {DType::IQ4_NL, "IQ4_NL", "iq4_nl", "", 20, 32, 18},
    {DType::IQ4_XS, "IQ4_XS", "iq4_xs", "", 23, 256, 136},
    {DType::TQ1_0, "TQ1_0", "tq1_0", "", 34, 256, 54},
    {DType::TQ2_0, "TQ2_0", "tq2_0", "", 35, 256, 66},
    {DType::MXFP4, "MXFP4", "mxfp4", "", 39, 32, 17},
    {DType::NVFP4, "NVFP4", "nvfp4", "", 40, 64, 36},
    {DType::AprQ4, "APR_Q4", "apr_q4", "", -1, 32, 18},
    {DType::AprQ8, "APR_Q8", "apr_q8", "", -1, 1, 1, 4},
}};

constexpr const DTypeInfo& info(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

constexpr bool table_in_order() {
  for (size_t i = 0; i < kDTypes.size(); ++i)
    if (static_cast<size_t>(kDTypes[i].dtype) != i) return false;
  return true;
}
static_assert(table_in_order(), "info() indexes the table by the enumerator");

constexpr bool is_apr_type(DType dtype) { return dtype == DType::AprQ4 || dtype == DType::AprQ8; }

constexpr bool is_quantized(DType dtype) {
  return info(dtype).block_elements > 1 || dtype == DType::AprQ8;
}

// The types whose rows dequantize() turns into float one by one. The APR types are not among them:
// their blocks run on from row to row.
constexpr bool is_weight_type(DType dtype) {
  return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16 ||
         (is_quantized(dtype) && !is_apr_type(dtype));
}

constexpr std::optional<DType> dtype_of_ggml(uint32_t id) {
  for (const auto& row : kDTypes)
    if (row.ggml_id >= 0 && static_cast<uint32_t>(row.ggml_id) == id) return row.dtype;
  return std::nullopt;
}

constexpr std::optional<DType> dtype_of_safetensors(std::string_view name) {
  for (const auto& row : kDTypes)
    if (!row.safetensors.empty() && row.safetensors == name) return row.dtype;
  return std::nullopt;
}

// Bytes of `elements` consecutive values; `elements` must be a whole number of blocks.
constexpr size_t bytes_of(DType dtype, size_t elements) {
  return elements / info(dtype).block_elements * info(dtype).block_bytes;
}

// Bytes of a whole tensor, nothing if they do not fit in 64 bits. A last block that is not full
// (APR only) takes its whole size.
constexpr std::optional<uint64_t> tensor_bytes(DType dtype, uint64_t elements) {
  const auto& type = info(dtype);
  const uint64_t blocks = elements / type.block_elements + (elements % type.block_elements != 0);
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(blocks, uint64_t{type.block_bytes}, &bytes) ||
      __builtin_add_overflow(bytes, uint64_t{type.tensor_header_bytes}, &bytes))
    return std::nullopt;
  return bytes;
}

}  // namespace plumb
