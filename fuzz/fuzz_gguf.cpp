// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: an Error, or views that lie within the bytes.
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto content = plumb::parse_gguf(bytes);
  if (!content) {
    CHECK(!content.error().message.empty());
    return 0;
  }
  size_t touched = 0;
  for (const auto& [key, value] : content->metadata) touched += plumb::to_text(value).size();
  for (const auto& tensor : content->tensors) {
    const auto count = plumb::element_count(tensor.view.shape);
    CHECK(count && tensor.view.bytes.size() == plumb::bytes_of(tensor.view.dtype, *count));
    if (tensor.view.bytes.empty()) continue;
    CHECK(tensor.view.bytes.data() == bytes.data() + tensor.file_offset);
    touched += static_cast<size_t>(tensor.view.bytes.front());
    touched += static_cast<size_t>(tensor.view.bytes.back());
  }
  volatile size_t sink = touched;  // The reads above must not be optimized away.
  (void)sink;
  return 0;
}
