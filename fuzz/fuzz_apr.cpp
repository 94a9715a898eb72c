// SPDX-License-Identifier: Apache-2.0
// Any bytes as an APR file: an Error, or views that lie within the bytes or the decompressed image.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "formats/apr.h"

namespace {

size_t touch(const plumb::Result<plumb::AprContent>& content, std::span<const std::byte> bytes) {
  if (!content) {
    CHECK(!content.error().message.empty());
    return 0;
  }
  size_t touched = content->format_text.size();
  const auto image = content->image.empty() ? bytes : std::span(content->image);
  for (const auto& [key, value] : content->metadata) touched += plumb::to_text(value).size();
  for (const auto& tensor : content->tensors) {
    const auto count = plumb::element_count(tensor.view.shape);
    CHECK(count && plumb::tensor_bytes(tensor.view.dtype, *count) == tensor.view.bytes.size());
    CHECK(tensor.view.bytes.data() == image.data() + tensor.file_offset);
    CHECK(tensor.file_offset + tensor.view.bytes.size() <= image.size());
    if (tensor.view.bytes.empty()) continue;
    touched += static_cast<size_t>(tensor.view.bytes.front());
    touched += static_cast<size_t>(tensor.view.bytes.back());
  }
  return touched;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  size_t touched = touch(plumb::parse_apr(bytes), bytes);
  if (size >= plumb::kAprHeaderBytes) {
    // Once more under a right header checksum: no mutation would ever find it.
    std::vector<std::byte> copy(bytes.begin(), bytes.end());
    const uint32_t checksum =
        plumb::apr_header_crc(std::span(copy).first<plumb::kAprHeaderBytes>());
    std::memcpy(copy.data() + 40, &checksum, sizeof(checksum));
    touched += touch(plumb::parse_apr(copy, {.verify_checksums = false}), copy);
  }
  volatile size_t sink = touched;  // The reads above must not be optimized away.
  (void)sink;
  return 0;
}
