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
  I64,
  I32,
  I16,
  I8,
  U8,
  Bool,
  Q4_0,
  Q4_1,
  Q8_0,
  Q4_K,
  Q6_K
};

struct DTypeInfo {
  DType dtype;
  std::string_view name;         // as GGUF tools spell it: "Q4_K"
  std::string_view short_name;   // as traces spell it: "q4_k"
  std::string_view safetensors;  // empty: that format does not have it
  int ggml_id;                   // -1: ggml does not have it
  size_t block_elements;
  size_t block_bytes;
};

inline constexpr std::array<DTypeInfo, 15> kDTypes = {{
    {DType::F64, "F64", "f64", "F64", 28, 1, 8},
    {DType::F32, "F32", "f32", "F32", 0, 1, 4},
    {DType::F16, "F16", "f16", "F16", 1, 1, 2},
    {DType::BF16, "BF16", "bf16", "BF16", 30, 1, 2},
    {DType::I64, "I64", "i64", "I64", 27, 1, 8},
    {DType::I32, "I32", "i32", "I32", 26, 1, 4},
    {DType::I16, "I16", "i16", "I16", 25, 1, 2},
    {DType::I8, "I8", "i8", "I8", 24, 1, 1},
    {DType::U8, "U8", "u8", "U8", -1, 1, 1},
    {DType::Bool, "BOOL", "bool", "BOOL", -1, 1, 1},
    {DType::Q4_0, "Q4_0", "q4_0", "", 2, 32, 18},
    {DType::Q4_1, "Q4_1", "q4_1", "", 3, 32, 20},
    {DType::Q8_0, "Q8_0", "q8_0", "", 8, 32, 34},
    {DType::Q4_K, "Q4_K", "q4_k", "", 12, 256, 144},
    {DType::Q6_K, "Q6_K", "q6_k", "", 14, 256, 210},
}};

constexpr const DTypeInfo& info(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

constexpr bool table_in_order() {
  for (size_t i = 0; i < kDTypes.size(); ++i)
    if (static_cast<size_t>(kDTypes[i].dtype) != i) return false;
  return true;
}
static_assert(table_in_order(), "info() indexes the table by the enumerator");

constexpr bool is_quantized(DType dtype) { return info(dtype).block_elements > 1; }

// The types that a weight may have: those that dequantize() turns into float.
constexpr bool is_weight_type(DType dtype) {
  return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16 || is_quantized(dtype);
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

}  // namespace plumb
