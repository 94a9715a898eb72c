// SPDX-License-Identifier: Apache-2.0
// Weight matrices that a Hugging Face checkpoint stores as several tensors: docs/formats/packed.md.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "core/tensor.h"

namespace plumb {

enum class PackedScheme {
  Gptq,
  Awq,           // the GEMM layout of AutoAWQ
  BnbNf4,        // bitsandbytes, 4 bits
  BnbFp4,        //
  BnbInt8,       // bitsandbytes, LLM.int8()
  Float8,        // F8_E4M3 or F8_E5M2 with scales for a tensor, its rows or its blocks
  ScaledInt8,    // I8 with scales in the same ways (compressed-tensors "int-quantized")
  CompressedInt  // compressed-tensors "pack-quantized"
};

// What quantization_config says, as far as it bears on the weights. Empty, 0 and nothing mean that
// it does not say.
struct PackedConfig {
  std::string method{};             // quant_method: "gptq", "awq", "bitsandbytes", "fp8"…
  std::string checkpoint_format{};  // GPTQ: "gptq" (also if absent), "gptq_v2"
  std::string version{};            // AWQ: "gemm" (also if absent)
  std::string format{};             // compressed-tensors: "pack-quantized"…
  uint64_t bits = 0;
  int64_t group_size = 0;                              // -1: one group over all inputs
  std::optional<bool> desc_act{};                      // GPTQ: act-order
  std::array<uint64_t, 2> weight_block_size = {0, 0};  // rows, columns
};

// Inputs whose codes fill `words` 32-bit words without a rest; code i of them is bits
// [i * bits, (i + 1) * bits) of the words, the lowest bit of the first word first.
struct CodePacking {
  size_t codes = 0;
  size_t words = 0;
};

// One logical matrix [out, in]. The views are those of the file, checked by make_packed().
struct PackedWeight {
  std::string name;  // of the matrix: "model.layers.0.mlp.up_proj.weight"
  PackedScheme scheme = PackedScheme::Gptq;
  size_t out = 0;
  size_t in = 0;
  size_t bits = 0;
  size_t group_size = 0;  // inputs of one scale; of bitsandbytes' 4 bits: values of one, row by row
  std::map<std::string, TensorView> parts;  // as make_packed() names them
  std::vector<std::string> sources;         // names of the tensors it is made of
  std::vector<std::string> warnings;        // what libraries are known to read differently

  // Derived; for read_packed_row() only.
  CodePacking packing;
  bool one_below = false;  // GPTQ v1: stored zero points are one below their value
  bool uses_group_index = false;
  size_t scale_rows = 1;         // outputs of one scale
  size_t scale_columns = 0;      // scales of one row
  size_t nested_group_size = 0;  // scales of one scale of scales
  float nested_offset = 0;
};

// "GPTQ", "bitsandbytes NF4"…
const char* packed_name(PackedScheme scheme);

// Builds a matrix from its parts, named as in the file without the module's name: "qweight",
// "scales"; "weight.absmax" for bitsandbytes. `name` is that of the matrix. Checks every dtype,
// shape, size, group index and field: after this no read can leave the bytes.
Result<PackedWeight> make_packed(PackedScheme scheme, std::string name,
                                 std::map<std::string, TensorView> parts,
                                 const PackedConfig& config);

// The `in` values of row `row` (an output feature), each the float product that docs/formats/
// packed.md defines, not rounded to the checkpoint's 16-bit type.
void read_packed_row(const PackedWeight& weight, size_t row, float* out);

// All packed matrices of a checkpoint, in the order of their names, found by the names of their
// parts. `sources` of the results are the tensors that are used up; the rest stand for themselves.
// A part without its matrix, a scheme that is not supported and a matrix that is both packed and
// plain are errors.
Result<std::vector<PackedWeight>> find_packed(const std::map<std::string, TensorView>& tensors,
                                              const PackedConfig& config);

}  // namespace plumb
