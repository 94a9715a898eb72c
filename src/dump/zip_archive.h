// SPDX-License-Identifier: Apache-2.0
// ZIP archives as NumPy and PyTorch write them: stored or deflated, with the 64-bit fields.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"

namespace plumb {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  uint32_t crc = 0;
  uint64_t size = 0;               // of the content, as declared
  std::span<const std::byte> raw;  // as it lies in the archive
};

// The entries in the order of the archive's directory; folders are left out. Refuses names that
// are absolute or climb with '..', a name twice, entries that overlap, encryption and sizes that no
// compression gives (a "zip bomb").
Result<std::vector<ZipEntry>> parse_zip(std::span<const std::byte> bytes);

// The first `count` bytes of a deflated entry, fewer if it is shorter. Allocates no more than that.
Result<std::vector<std::byte>> inflate_start(const ZipEntry& entry, uint64_t count);

// All of a deflated entry, which must have its declared size and checksum. The caller has checked
// that the size is a sensible one.
Result<std::vector<std::byte>> inflate_entry(const ZipEntry& entry);

// The checksum of a stored entry. 0 for "not computed" is taken if the caller allows it.
Result<void> check_stored(const ZipEntry& entry, bool allow_no_checksum);

}  // namespace plumb
