// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "core/result.h"

namespace plumb {

// Reads little-endian values from bytes that another owns. No read goes past the end.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  template <class T>
  Result<T> read() {
    TRY(require(sizeof(T)));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  Result<std::string_view> read_text(uint64_t size) {
    TRY(require(size));
    const auto* start = reinterpret_cast<const char*>(bytes_.data() + offset_);
    offset_ += size;
    return std::string_view(start, size);
  }

  Result<void> skip(uint64_t size) {
    TRY(require(size));
    offset_ += size;
    return {};
  }

 private:
  Result<void> require(uint64_t size) const {
    if (size <= remaining()) return {};
    return fail(ErrorCode::Corrupt,
                fmt::format("the file ends too early: at byte {} it needs {} more, has {}", offset_,
                            size, remaining()));
  }

  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
};

}  // namespace plumb
