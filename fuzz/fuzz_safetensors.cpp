// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: an Error, or views that lie within the bytes and whose values
// can be read.
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "formats/safetensors.h"
#include "quant/values.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto content = plumb::parse_safetensors(bytes);
  if (!content) {
    CHECK(!content.error().message.empty());
    return 0;
  }
  float sink = 0;
  for (const auto& [name, view] : content->tensors) {
    const auto count = plumb::element_count(view.shape);
    CHECK(count && view.bytes.size() == plumb::tensor_bytes(view.dtype, *count));
    if (*count == 0) continue;
    CHECK(view.bytes.data() >= bytes.data() &&
          view.bytes.data() + view.bytes.size() <= bytes.data() + bytes.size());
    float value = 0;
    plumb::read_values(view, *count - 1, 1, &value);
    sink += value;
  }
  volatile float kept = sink;  // The reads above must not be optimized away.
  (void)kept;
  return 0;
}
