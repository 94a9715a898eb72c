// SPDX-License-Identifier: Apache-2.0
// Any bytes as a NumPy array and as an archive of them: an Error, or tensors whose values can be
// read.
#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "dump/readers.h"
#include "quant/values.h"

namespace {

float touch(const plumb::Result<plumb::Dump>& dump) {
  if (!dump) {
    CHECK(!dump.error().message.empty());
    return 0;
  }
  float sink = 0;
  for (const auto& tensor : dump->tensors) {
    const auto count = plumb::element_count(tensor.view.shape);
    CHECK(count && tensor.view.bytes.size() == plumb::tensor_bytes(tensor.view.dtype, *count));
    if (*count == 0) continue;
    float value = 0;
    plumb::read_values(tensor.view, *count - 1, 1, &value);
    sink += value;
  }
  return sink;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const plumb::DumpSource source{"x.npz", bytes, nullptr};
  volatile float kept = touch(plumb::read_npy(source)) + touch(plumb::read_npz(source)) +
                        touch(plumb::read_safetensors_dump(source));
  (void)kept;  // The reads above must not be optimized away.
  return 0;
}
