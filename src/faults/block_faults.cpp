// SPDX-License-Identifier: Apache-2.0
// Faults in how blocks of quantized weights are read.
#include <algorithm>
#include <cstring>

#include "faults/build.h"
#include "quant/dequantize.h"

namespace plumb::faults {
namespace {

// A matrix of blocks, or the rows of an embedding.
bool has_blocks(const Step& step) {
  return step.weight && is_quantized(step.weight->dtype) &&
         (is_product(step.op) || step.op == Op::Embedding);
}

using EditBlock = std::function<void(std::byte* block)>;

// The step with every block of its weight edited.
FaultVariant with_blocks(const Step& right, EditBlock edit, std::string expected, std::string found,
                         std::string text) {
  return variant(
      [right, edit] {
        auto copy = weight_of_bytes(*right.weight);
        const size_t size = info(copy->dtype).block_bytes;
        for (size_t at = 0; at < copy->storage.size(); at += size) edit(copy->storage.data() + at);
        Step step = right;
        step.weight = copy;
        return step;
      },
      std::move(expected), std::move(found), std::move(text));
}

std::string described(const Step& step) {
  return fmt::format("{} ({})", step.weight->name, info(step.weight->dtype).name);
}

// Low and high halves of each byte exchanged, in the types that pack two values into one byte.
Variants weights_nibbles(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  size_t skip = 0;  // bytes of scales before the packed values
  switch (right.weight->dtype) {
    case DType::Q4_0:
    case DType::IQ4_NL: skip = 2; break;
    case DType::Q4_1: skip = 4; break;
    case DType::Q4_K: skip = 16; break;
    default: return {};
  }
  const size_t size = info(right.weight->dtype).block_bytes;
  return {with_blocks(
      right,
      [=](std::byte* block) {
        for (size_t i = skip; i < size; ++i) block[i] = (block[i] << 4) | (block[i] >> 4);
      },
      "low nibble first", "high nibble first",
      fmt::format("the nibbles of {} are taken in the wrong order", described(right)))};
}

// Values that lie side by side in a byte where they should lie half a block apart.
Variants weights_interleaved(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  size_t skip = 0;
  size_t run = 16;  // bytes whose low nibbles come first, then the high ones
  switch (right.weight->dtype) {
    case DType::Q4_0:
    case DType::IQ4_NL: skip = 2; break;
    case DType::Q4_1: skip = 4; break;
    case DType::Q4_K:
      skip = 16;
      run = 32;
      break;
    default: return {};
  }
  const size_t size = info(right.weight->dtype).block_bytes;
  const auto edit = [=](std::byte* block) {
    for (size_t first = skip; first < size; first += run) {
      // The value at 2i is the low nibble of byte i: written back so that a right reader gives it.
      std::vector<std::byte> values(2 * run);
      for (size_t i = 0; i < run; ++i) {
        values[2 * i] = block[first + i] & std::byte{15};
        values[2 * i + 1] = block[first + i] >> 4;
      }
      for (size_t i = 0; i < run; ++i) block[first + i] = values[i] | (values[run + i] << 4);
    }
  };
  return {with_blocks(
      right, edit, "half a block apart", "side by side",
      fmt::format("the two values of each byte of {} are taken for neighbours", described(right)))};
}

// The bytes of the tensor go through the kernel of another block type; what it needs beyond the
// tensor it takes from whatever lies behind it in the file.
Variants weights_block_type(const FaultContext& c) {
  const Step& right = step_of(c);
  if (right.op != Op::MatMul || !is_quantized(right.weight->dtype)) return {};
  const auto* data = right.weight->bytes.data();
  std::span<const std::byte> file;  // the one that holds the tensor
  for (const auto& part : c.model.file->parts)
    if (const auto bytes = part.file.bytes();
        data >= bytes.data() && data < bytes.data() + bytes.size())
      file = bytes;
  if (file.empty()) return {};
  const auto left = static_cast<size_t>(file.data() + file.size() - data);
  const size_t count = right.weight->rows * right.weight->columns;
  Variants all;
  for (const DType dtype : {DType::Q6_K, DType::Q4_K, DType::Q4_0, DType::Q4_1, DType::Q8_0}) {
    if (dtype == right.weight->dtype || right.weight->columns % info(dtype).block_elements != 0 ||
        bytes_of(dtype, count) > left)
      continue;
    auto weight = std::make_shared<Weight>(*right.weight);
    weight->dtype = dtype;
    weight->bytes = {data, bytes_of(dtype, count)};
    Step step = right;
    step.weight = std::move(weight);
    all.push_back(
        variant(step, std::string(info(right.weight->dtype).name), std::string(info(dtype).name),
                fmt::format("the {} blocks of {} are read as {}", info(right.weight->dtype).name,
                            right.weight->name, info(dtype).name)));
  }
  return all;
}

// Q4_0 read as Q4_1, Q5_0 as Q5_1, with an offset of 0.
WeightPtr with_offset_zero(const Weight& right) {
  auto copy = std::make_shared<Weight>(right);
  copy->dtype = right.dtype == DType::Q4_0 ? DType::Q4_1 : DType::Q5_1;
  const size_t from = info(right.dtype).block_bytes;
  const size_t to = info(copy->dtype).block_bytes;
  const size_t blocks = right.bytes.size() / from;
  copy->storage.assign(blocks * to, std::byte{0});
  for (size_t b = 0; b < blocks; ++b) {  // d, an offset of 0, the rest
    std::memcpy(&copy->storage[b * to], &right.bytes[b * from], 2);
    std::memcpy(&copy->storage[b * to + 4], &right.bytes[b * from + 2], from - 2);
  }
  copy->bytes = copy->storage;
  return copy;
}

// Q3_K and Q6_K, which no other type can hold without their zero. With every number 0, which are
// the first bytes of a block, a right reader gives what it subtracts.
WeightPtr nothing_subtracted(const Weight& right) {
  auto blank = weight_of_bytes(right);
  const size_t numbers = right.dtype == DType::Q3_K ? 96 : 192;
  const size_t size = info(right.dtype).block_bytes;
  for (size_t at = 0; at < blank->storage.size(); at += size)
    std::memset(&blank->storage[at], 0, numbers);
  auto values = right.values();
  const auto subtracted = blank->values();
  for (size_t i = 0; i < values.size(); ++i) values[i] -= subtracted[i];
  return weight_of_floats(right, values);
}

// The number that stands for zero is not subtracted. An embedding of floats would have to be
// exact, so that of the K types is left out.
Variants weights_zero_point(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  const auto dtype = right.weight->dtype;
  const bool is_k = dtype == DType::Q3_K || dtype == DType::Q6_K;
  const char* zero = dtype == DType::Q4_0   ? "8"
                     : dtype == DType::Q5_0 ? "16"
                     : dtype == DType::Q3_K ? "4"
                     : dtype == DType::Q6_K ? "32"
                                            : nullptr;
  if (zero == nullptr || (is_k && !is_product(right.op))) return {};
  const auto make = [right, is_k] {
    Step step = right;
    step.weight = is_k ? nothing_subtracted(*right.weight) : with_offset_zero(*right.weight);
    return step;
  };
  return {
      variant(make, zero, "0",
              fmt::format("{} is not subtracted from the values of {}", zero, described(right)))};
}

// Where the offset of a block lies; the scale d is in the two bytes before it.
std::optional<size_t> offset_at(DType dtype) {
  switch (dtype) {
    case DType::Q4_1:
    case DType::Q5_1:
    case DType::Q4_K:
    case DType::Q5_K: return 2;
    case DType::Q2_K: return 82;
    default: return {};
  }
}

Variants weights_offset_missing(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  const auto at = offset_at(right.weight->dtype);
  if (!at) return {};
  return {with_blocks(
      right, [at](std::byte* block) { std::memset(block + *at, 0, 2); }, "d q + m", "d q",
      fmt::format("the offset of the blocks of {} is left out", described(right)))};
}

Variants weights_scales_swapped(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  const auto at = offset_at(right.weight->dtype);
  if (!at) return {};
  return {with_blocks(
      right,
      [at](std::byte* block) { std::swap_ranges(block + *at - 2, block + *at, block + *at); },
      "d, m", "m, d",
      fmt::format("scale and offset of the blocks of {} are exchanged", described(right)))};
}

// The bits beyond the nibble are not read.
Variants weights_high_bits(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  size_t first = 0;
  size_t count = 0;
  switch (right.weight->dtype) {
    case DType::Q5_0:
      first = 2;
      count = 4;
      break;
    case DType::Q5_1:
      first = 4;
      count = 4;
      break;
    case DType::Q5_K:
      first = 16;
      count = 32;
      break;
    case DType::Q6_K:
      first = 128;
      count = 64;
      break;
    case DType::Q3_K:
      first = 0;
      count = 32;
      break;
    default: return {};
  }
  return {with_blocks(
      right, [=](std::byte* block) { std::memset(block + first, 0, count); }, "read", "0",
      fmt::format("the high bits of the values of {} are taken for 0", described(right)))};
}

// The two high bits of the later sub-blocks' scales, which lie beside the earlier ones.
Variants weights_sub_scales(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  if (right.weight->dtype != DType::Q4_K && right.weight->dtype != DType::Q5_K) return {};
  return {with_blocks(
      right,
      [](std::byte* block) {
        for (size_t i = 4; i < 12; ++i) block[i] &= std::byte{0x3F};
      },
      "6 bits", "4 bits",
      fmt::format("the scales of sub-blocks 4 to 7 of {} are read without their high bits",
                  described(right)))};
}

// Blocks of each row from another place: `source` gives the block of the whole matrix that is read
// for a block; outside it: zeros.
FaultVariant with_block_order(const Step& right,
                              std::function<size_t(size_t row, size_t at)> source,
                              std::string expected, std::string found, std::string text) {
  return variant(
      [right, source] {
        const auto& weight = *right.weight;
        auto copy = weight_of_bytes(weight);
        const size_t size = info(weight.dtype).block_bytes;
        const size_t in_row = weight.columns / info(weight.dtype).block_elements;
        const size_t blocks = weight.bytes.size() / size;
        for (size_t b = 0; b < blocks; ++b) {
          const size_t from = source(b / in_row, b % in_row);
          auto* to = copy->storage.data() + b * size;
          if (from < blocks) std::memcpy(to, weight.bytes.data() + from * size, size);
          else std::memset(to, 0, size);
        }
        Step step = right;
        step.weight = copy;
        return step;
      },
      std::move(expected), std::move(found), std::move(text));
}

Variants weights_block_order(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  const size_t in_row = right.weight->columns / info(right.weight->dtype).block_elements;
  const size_t rows = right.weight->rows;
  if (right.weight->matrices != 1) return {};
  Variants all;
  if (in_row > 1)
    all.push_back(with_block_order(
        right,
        [=](size_t row, size_t at) {
          const size_t other = at % 2 == 0 ? at + 1 : at - 1;
          return row * in_row + (other < in_row ? other : at);
        },
        "0 1 2 3", "1 0 3 2",
        fmt::format("neighbouring blocks of {} are exchanged", described(right))));
  if (in_row > 1 && rows > 1)
    all.push_back(with_block_order(
        right, [=](size_t row, size_t at) { return at * rows + row; }, "row by row",
        "column by column",
        fmt::format("the blocks of {} are read as if they lay column by column",
                    described(right))));
  return all;
}

// Rows that are taken to be a block longer than they are.
Variants weights_row_stride(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right) || right.weight->rows < 2 || right.weight->matrices != 1) return {};
  const size_t in_row = right.weight->columns / info(right.weight->dtype).block_elements;
  return {with_block_order(
      right, [=](size_t row, size_t at) { return row * (in_row + 1) + at; }, number(in_row),
      number(in_row + 1),
      fmt::format("the rows of {} are taken to be a block longer than they are",
                  described(right)))};
}

// A block taken to be two bytes longer: a scale of four bytes.
Variants weights_block_size(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!has_blocks(right)) return {};
  const size_t size = info(right.weight->dtype).block_bytes;
  const auto make = [right, size] {
    auto copy = weight_of_bytes(*right.weight);
    const auto& from = right.weight->bytes;
    for (size_t b = 0; b * size < from.size(); ++b) {
      const size_t begin = std::min(b * (size + 2), from.size());
      const size_t count = std::min(size, from.size() - begin);
      std::memset(&copy->storage[b * size], 0, size);
      std::memcpy(&copy->storage[b * size], from.data() + begin, count);
    }
    Step step = right;
    step.weight = copy;
    return step;
  };
  return {variant(make, number(size), number(size + 2),
                  fmt::format("the blocks of {} are taken to have {} bytes and not {}",
                              described(right), size + 2, size))};
}

// The end of each row that a kernel of whole tiles does not reach.
Variants weights_last_columns(const FaultContext& c) {
  const Step& right = step_of(c);
  if (!is_product(right.op) || !right.weight) return {};
  const size_t columns = right.weight->columns;
  const size_t in_block = info(right.weight->dtype).block_elements;
  std::vector<size_t> usual = {
      columns % 256, columns % 128, columns % 64, 32, 64, 128, 256, 1, 2, 4, 8, 16};
  Variants all;
  for (const size_t count : whole_candidates(c, usual, 1)) {
    if (count >= columns || count % in_block != 0) continue;
    const auto make = [right, count] {
      auto copy = weight_of_bytes(*right.weight);
      const auto& weight = *right.weight;
      const size_t row = bytes_of(weight.dtype, weight.columns);
      const size_t tail = bytes_of(weight.dtype, count);
      for (size_t end = row; end <= copy->storage.size(); end += row)
        std::memset(&copy->storage[end - tail], 0, tail);
      Step step = right;
      step.weight = copy;
      return step;
    };
    all.push_back(variant(
        make, number(columns), number(columns - count),
        fmt::format("the last {} columns of {} are left out of the sum", count, described(right))));
  }
  return all;
}

}  // namespace

std::vector<Fault> block_faults() {
  const char* steps = "projections with block types";
  return {
      {"weights.nibbles", "4-bit values are unpacked in the wrong order",
       "projections in Q4_0, Q4_1, Q4_K, IQ4_NL", weights_nibbles},
      {"weights.interleaved", "the values of a byte are taken for neighbours",
       "projections in Q4_0, Q4_1, Q4_K, IQ4_NL", weights_interleaved},
      {"weights.zero_point", "the zero point is not subtracted",
       "projections in Q4_0, Q5_0, Q3_K, Q6_K", weights_zero_point},
      {"weights.offset_missing", "the offset of each block is left out",
       "projections in Q4_1, Q5_1, Q2_K, Q4_K, Q5_K", weights_offset_missing},
      {"weights.scales_swapped", "scale and offset of each block are exchanged",
       "projections in Q4_1, Q5_1, Q2_K, Q4_K, Q5_K", weights_scales_swapped},
      {"weights.high_bits", "the bits beyond the nibble are not read",
       "projections in Q5_0, Q5_1, Q3_K, Q5_K, Q6_K", weights_high_bits},
      {"weights.sub_scales", "the high bits of the scales of sub-blocks 4 to 7 are not read",
       "projections in Q4_K, Q5_K", weights_sub_scales},
      {"weights.last_columns", "the last columns are left out of the sum (parameter: how many)",
       "projections", weights_last_columns},
      {"weights.block_order", "blocks in each other's place", steps, weights_block_order},
      {"weights.row_stride", "rows are taken to be a block longer", steps, weights_row_stride},
      {"weights.block_size", "blocks are taken to be two bytes longer", steps, weights_block_size},
      {"weights.block_type", "blocks are read as those of another type", steps, weights_block_type},
  };
}

}  // namespace plumb::faults
