// SPDX-License-Identifier: Apache-2.0
// Any bytes as what torch.save wrote, and as a pickle alone: an Error, or tensors whose values can
// be read. The second try has the bytes as the data.pkl of a sound archive, which no mutation
// finds.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/check.h"
#include "dump/pickle.h"
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

plumb::DumpSource source_of(std::span<const std::byte> bytes) { return {"x.pt", bytes, nullptr}; }

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// A stored archive of data.pkl and one storage, without checksums.
std::string archive_of(std::string_view pickle) {
  const std::string storage(64, '\x3f');
  std::string out;
  std::string directory;
  const auto add = [&](std::string_view name, std::string_view content, uint32_t crc) {
    std::string fields;
    put<uint16_t>(fields, 20);
    put<uint16_t>(fields, 0);
    put<uint16_t>(fields, 0);
    put<uint32_t>(fields, 0);
    put<uint32_t>(fields, crc);
    put<uint32_t>(fields, static_cast<uint32_t>(content.size()));
    put<uint32_t>(fields, static_cast<uint32_t>(content.size()));
    put<uint16_t>(fields, static_cast<uint16_t>(name.size()));
    put<uint16_t>(fields, 0);
    directory += std::string("PK\x01\x02") + std::string(2, '\0') + fields + std::string(10, '\0');
    put<uint32_t>(directory, static_cast<uint32_t>(out.size()));
    directory += name;
    out += std::string("PK\x03\x04") + fields;
    out += name;
    out += content;
  };
  add("x/data.pkl", pickle, 0);
  add("x/data/0", storage, 0);
  const auto offset = static_cast<uint32_t>(out.size());
  out += directory + std::string("PK\x05\x06") + std::string(4, '\0');
  put<uint16_t>(out, 2);
  put<uint16_t>(out, 2);
  put<uint32_t>(out, static_cast<uint32_t>(directory.size()));
  put<uint32_t>(out, offset);
  put<uint16_t>(out, 0);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  (void)plumb::looks_like_torch(bytes);
  float sink = touch(plumb::read_torch(source_of(bytes)));
  const auto pickle = plumb::parse_pickle(bytes);
  CHECK(pickle || !pickle.error().message.empty());
  const std::string archive = archive_of({reinterpret_cast<const char*>(data), size});
  const auto wrapped = std::as_bytes(std::span(archive));
  CHECK(plumb::looks_like_torch(wrapped));
  sink += touch(plumb::read_torch(source_of(wrapped)));
  volatile float kept = sink;  // The reads above must not be optimized away.
  (void)kept;
  return 0;
}
