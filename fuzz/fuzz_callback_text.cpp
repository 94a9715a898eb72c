// SPDX-License-Identifier: Apache-2.0
// Any bytes as the text of llama.cpp's callback: an Error, or tensors whose bytes fit their shapes.
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "dump/readers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  size_t touched = plumb::looks_like_callback_text(bytes);
  const auto dump = plumb::read_callback_text({"/nowhere/run.txt", bytes, nullptr});
  if (!dump) {
    CHECK(!dump.error().message.empty());
    return 0;
  }
  for (const auto& tensor : dump->tensors) {
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
