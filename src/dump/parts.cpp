// SPDX-License-Identifier: Apache-2.0
#include "dump/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "core/memory.h"

namespace plumb {
namespace {

void copy_value(std::byte* to, const std::byte* from, size_t item, bool reverse) {
  if (reverse) std::reverse_copy(from, from + item, to);
  else std::memcpy(to, from, item);
}

int64_t read_integer(DType dtype, const std::byte* from) {
  const auto read = [from]<class T>(T value) {
    std::memcpy(&value, from, sizeof(value));
    return static_cast<int64_t>(value);
  };
  switch (dtype) {
    case DType::I64: return read(int64_t{});
    case DType::I32: return read(int32_t{});
    case DType::I16: return read(int16_t{});
    case DType::U32: return read(uint32_t{});
    default: return read(uint16_t{});
  }
}

}  // namespace

std::vector<std::byte> gather(const std::byte* start, size_t item, std::span<const uint64_t> shape,
                              std::span<const uint64_t> strides, bool reverse) {
  const uint64_t count = element_count(shape).value_or(0);
  std::vector<std::byte> out(count * item);
  if (count == 0) return out;
  const size_t rank = shape.size();
  const uint64_t inner = rank == 0 ? 1 : shape[rank - 1];
  const uint64_t step = rank == 0 ? 0 : strides[rank - 1];
  std::vector<uint64_t> index(rank, 0);
  std::byte* to = out.data();
  for (uint64_t done = 0; done < count; done += inner) {
    uint64_t offset = 0;
    for (size_t d = 0; d + 1 < rank; ++d) offset += index[d] * strides[d];
    const std::byte* from = start + offset * item;
    if (step == 1 && !reverse) {
      std::memcpy(to, from, inner * item);
      to += inner * item;
    } else {
      for (uint64_t i = 0; i < inner; ++i, to += item)
        copy_value(to, from + i * step * item, item, reverse);
    }
    for (size_t d = rank; d-- > 1;) {
      if (++index[d - 1] < shape[d - 1]) break;
      index[d - 1] = 0;
    }
  }
  return out;
}

std::optional<std::vector<uint64_t>> row_major_strides(std::span<const uint64_t> shape) {
  std::vector<uint64_t> strides(shape.size());
  uint64_t step = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = step;
    if (__builtin_mul_overflow(step, std::max<uint64_t>(shape[d], 1), &step)) return std::nullopt;
  }
  return strides;
}

std::span<const std::byte> keep_aligned(std::span<const std::byte> bytes, size_t item, Dump& dump) {
  if (reinterpret_cast<uintptr_t>(bytes.data()) % item == 0) return bytes;
  return dump.keep({bytes.begin(), bytes.end()});
}

Result<void> check_memory(uint64_t bytes, std::string_view what) {
  constexpr uint64_t kSmall = uint64_t{64} << 20;
  if (bytes <= kSmall) return {};
  const uint64_t there = available_memory();
  if (bytes <= there) return {};
  return fail(ErrorCode::Unsupported, fmt::format("{} needs {} of memory, there are {}", what,
                                                  format_bytes(bytes), format_bytes(there)));
}

bool is_token_name(std::string_view name) {
  const size_t cut = name.find_last_of("./");
  if (cut != std::string_view::npos) name.remove_prefix(cut + 1);
  return name == "input_ids" || name == "token_ids" || name == "tokens";
}

std::optional<std::vector<int64_t>> read_tokens(const TensorView& view) {
  if (view.dtype != DType::I64 && view.dtype != DType::I32 && view.dtype != DType::I16 &&
      view.dtype != DType::U32 && view.dtype != DType::U16)
    return std::nullopt;
  const auto& shape = view.shape;
  if (shape.size() != 1 && !(shape.size() == 2 && shape[0] == 1)) return std::nullopt;
  const size_t item = info(view.dtype).block_bytes;
  std::vector<int64_t> tokens(view.bytes.size() / item);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = read_integer(view.dtype, view.bytes.data() + i * item);
  return tokens;
}

void take_tokens(Dump& dump) {
  std::map<size_t, std::vector<int64_t>> passes;
  for (const auto& tensor : dump.tensors) {
    if (!is_token_name(tensor.name)) continue;
    const auto tokens = read_tokens(tensor.view);
    if (!tokens) {
      dump.notes.push_back(
          fmt::format("'{}' is {} {}, not one sequence of whole numbers: not taken as the tokens",
                      tensor.name, info(tensor.view.dtype).name, to_text(tensor.view.shape)));
      return;
    }
    const auto [place, is_new] = passes.emplace(tensor.pass, *tokens);
    if (is_new || place->second == *tokens) continue;
    dump.notes.push_back(
        fmt::format("the dump holds several different lists of tokens ('{}' is one): none is taken",
                    tensor.name));
    return;
  }
  if (passes.empty()) return;
  std::vector<int64_t> all;
  for (const auto& [pass, tokens] : passes) all.insert(all.end(), tokens.begin(), tokens.end());
  if (dump.tokens && *dump.tokens != all) {
    dump.notes.emplace_back("the dump holds several different lists of tokens: none is taken");
    dump.tokens.reset();
    return;
  }
  dump.tokens = std::move(all);
}

void number_occurrences(Dump& dump) {
  std::map<std::pair<size_t, std::string>, size_t> seen;
  for (auto& tensor : dump.tensors) tensor.occurrence = seen[{tensor.pass, tensor.name}]++;
}

}  // namespace plumb
