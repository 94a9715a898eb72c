// SPDX-License-Identifier: Apache-2.0
// APRT, one stage of `apr trace --save-tensor`: "APRT", a layer, a count, F32 values. What stage it
// is, only the file's name says. An example of apr's cookbook has another header under the same
// magic: type, number of dimensions, dimensions.
#include <fmt/format.h>

#include <cstring>

#include "core/byte_reader.h"
#include "dump/readers.h"

namespace plumb {
namespace {

constexpr std::string_view kMagic = "APRT";
constexpr uint32_t kWholeModel = 0xFFFFFFFF;

// The tensor of `apr trace`, or nothing if the sizes are not its own.
std::optional<DumpTensor> read_trace(std::span<const std::byte> bytes, const std::string& stem) {
  ByteReader reader(bytes.subspan(kMagic.size()));
  const auto layer = reader.read<uint32_t>();
  const auto count = reader.read<uint32_t>();
  if (!layer || !count || reader.remaining() != uint64_t{*count} * sizeof(float))
    return std::nullopt;
  DumpTensor tensor;
  tensor.name = *layer == kWholeModel ? stem : fmt::format("layer-{}.{}", *layer, stem);
  tensor.view = {DType::F32, {*count}, bytes.last(reader.remaining())};
  return tensor;
}

// The cookbook's type, number of dimensions and padding. Read as a layer they would be number 257,
// 513, … which no model has.
bool has_cookbook_header(std::span<const std::byte> bytes) {
  constexpr std::byte kTypeF32{1};
  constexpr std::byte kMaxRank{8};
  return bytes.size() >= 8 && bytes[4] == kTypeF32 && bytes[5] > std::byte{0} &&
         bytes[5] <= kMaxRank && bytes[6] == std::byte{0} && bytes[7] == std::byte{0};
}

// The tensor of the cookbook's layout, or nothing if the size does not fit its dimensions.
std::optional<DumpTensor> read_cookbook(std::span<const std::byte> bytes, const std::string& stem) {
  ByteReader reader(bytes.subspan(8));
  DumpTensor tensor;
  tensor.name = stem;
  for (int i = 0; i < static_cast<int>(bytes[5]); ++i) {
    const auto dim = reader.read<uint32_t>();
    if (!dim) return std::nullopt;
    tensor.view.shape.push_back(*dim);
  }
  const auto count = element_count(tensor.view.shape);
  const auto size = count ? tensor_bytes(DType::F32, *count) : std::nullopt;
  if (!size || *size != reader.remaining()) return std::nullopt;
  tensor.view.dtype = DType::F32;
  tensor.view.bytes = bytes.last(reader.remaining());
  return tensor;
}

}  // namespace

bool looks_like_aprt(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<Dump> read_aprt(const DumpSource& source) {
  Dump dump;
  dump.kind = "APRT";
  dump.label = source.path.string();
  dump.engine["name"] = "apr";
  if (!looks_like_aprt(source.bytes))
    return fail(ErrorCode::Corrupt, dump.label + ": 'APRT' is expected at byte 0");
  const auto stem = source.path.stem().string();
  const bool cookbook = has_cookbook_header(source.bytes);
  auto tensor = cookbook ? read_cookbook(source.bytes, stem) : read_trace(source.bytes, stem);
  if (cookbook)
    dump.notes.emplace_back(
        "the header is not that of `apr trace` but of the cookbook's example: it has a shape, and "
        "names no layer");
  if (!tensor) {
    if (cookbook)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: {} bytes do not fit the {} dimensions of its header (the layout "
                              "of the cookbook's example): the file is cut or damaged",
                              dump.label, source.bytes.size(), static_cast<int>(source.bytes[5])));
    uint32_t count = 0;
    if (source.bytes.size() >= 12) std::memcpy(&count, source.bytes.data() + 8, sizeof(count));
    return fail(
        ErrorCode::Corrupt,
        fmt::format("{}: {} bytes, but a header that says {} values needs {}: the file is "
                    "cut or damaged",
                    dump.label, source.bytes.size(), count, 12 + uint64_t{count} * sizeof(float)));
  }
  dump.owners.push_back(source.owner);
  dump.tensors.push_back(std::move(*tensor));
  return dump;
}

}  // namespace plumb
