// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .kld, an APRT, a GGUF of llama-results or a JSON dump, which the first byte
// chooses: an Error, or tensors whose bytes fit their shapes.
#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/check.h"
#include "dump/readers.h"

namespace {

std::optional<plumb::Result<plumb::Dump>> read(uint8_t kind, const plumb::DumpSource& source) {
  if (kind == 'k') return plumb::read_kld(source);
  if (kind == 'a') return plumb::read_aprt(source);
  if (kind == 'r' && plumb::looks_like_results(source.bytes)) return plumb::read_results(source);
  if (kind == 'j') return plumb::read_json_dump(source);
  return std::nullopt;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span bytes(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  // A folder that is not there: no name in the bytes may find a file.
  const auto dump = read(data[0], {"/nowhere/dump", bytes, nullptr});
  if (!dump) return 0;
  if (!*dump) {
    CHECK(!dump->error().message.empty());
    return 0;
  }
  size_t touched = 0;
  for (const auto& tensor : (*dump)->tensors) {
    const auto count = plumb::element_count(tensor.view.shape);
    CHECK(count && tensor.view.bytes.size() == plumb::bytes_of(tensor.view.dtype, *count));
    if (tensor.view.bytes.empty()) continue;
    touched += static_cast<size_t>(tensor.view.bytes.front());
    touched += static_cast<size_t>(tensor.view.bytes.back());
  }
  volatile size_t sink = touched;  // The reads above must not be optimized away.
  (void)sink;
  return 0;
}
