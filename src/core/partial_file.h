// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/result.h"

namespace plumb {

// PATH.partial, which becomes PATH when all of it is written; PATH never holds half a file. Without
// finish() nothing is left behind.
class PartialFile {
 public:
  static Result<PartialFile> create(const std::filesystem::path& path);
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&&) = delete;
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile();

  Result<void> write(std::span<const std::byte> bytes);
  Result<void> write(std::string_view text);
  Result<void> pad_to(uint64_t alignment);  // with zeros
  uint64_t size() const { return size_; }
  Result<void> finish();

 private:
  PartialFile() = default;
  Result<void> trouble(const char* what) const;

  std::filesystem::path path_, partial_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

}  // namespace plumb
