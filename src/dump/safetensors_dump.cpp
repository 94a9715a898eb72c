// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "dump/parts.h"
#include "dump/readers.h"
#include "formats/safetensors.h"

namespace plumb {

bool looks_like_safetensors(std::span<const std::byte> bytes) {
  if (bytes.size() < 9 || bytes[8] != std::byte{'{'}) return false;
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own library
  return header >= 2 && header <= kMaxHeader;
}

Result<Dump> read_safetensors_dump(const DumpSource& source) {
  Dump dump;
  dump.kind = "safetensors";
  dump.label = source.path.string();
  dump.owners.push_back(source.owner);
  auto content = parse_safetensors(source.bytes);
  if (!content) return std::unexpected(std::move(content.error()).within(dump.label));
  dump.engine = std::move(content->metadata);
  for (auto& [name, view] : content->tensors) {
    DumpTensor tensor;
    tensor.name = name;
    tensor.view = std::move(view);
    dump.tensors.push_back(std::move(tensor));
  }
  // The writer's order: of the data. Names break ties, for empty tensors lie nowhere.
  std::ranges::sort(dump.tensors, {}, [](const DumpTensor& t) {
    return std::pair(t.view.bytes.data(), std::string_view(t.name));
  });
  for (auto& tensor : dump.tensors)
    tensor.view.bytes = keep_aligned(tensor.view.bytes, info(tensor.view.dtype).block_bytes, dump);
  take_tokens(dump);
  return dump;
}

}  // namespace plumb
