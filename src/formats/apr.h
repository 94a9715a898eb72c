// SPDX-License-Identifier: Apache-2.0
// APR v2, the model format of aprender and realizar: docs/formats/apr.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "formats/metadata.h"
#include "formats/model_file.h"

namespace plumb {

// Bits of the u16 at byte 6.
enum AprFlag : uint16_t {
  kAprLz4 = 0x0001,
  kAprZstd = 0x0002,
  kAprEncrypted = 0x0004,
  kAprSigned = 0x0008,
  kAprSharded = 0x0010,
  kAprQuantized = 0x0020,
  kAprHasFilterbank = 0x0040,
  kAprHasModelCard = 0x0080,
  kAprStreaming = 0x0100,
  kAprHasVocab = 0x0200,
  kAprRowMajor = 0x0400,
  kAprColumnMajor = 0x0800,
};

inline constexpr size_t kAprHeaderBytes = 64;
inline constexpr size_t kAprAlignment = 64;  // of sections and tensors
inline constexpr size_t kAprMaxName = 256;   // bytes
inline constexpr size_t kAprMaxDimensions = 8;
inline constexpr uint64_t kAprMaxMetadata = uint64_t{16} << 20;  // bytes, what aprender allows

// CRC-32 of zlib and PNG; `start` is the CRC of what stands before.
uint32_t apr_crc(std::span<const std::byte> bytes, uint32_t start = 0);
// The checksum of a header: all of its 64 bytes but the 4 at byte 40 that hold it.
uint32_t apr_header_crc(std::span<const std::byte, kAprHeaderBytes> header);

// Some metadata keys have more than one spelling ("n_embd" for "hidden_size"). Gives each its
// canonical spelling too, which counts if both are there, with a warning if they differ.
void add_canonical_keys(Metadata& metadata, std::vector<std::string>& warnings);
bool is_apr_alias(std::string_view key);

struct AprContent {
  uint16_t flags = 0;
  std::string format_text;
  Metadata metadata;
  std::vector<TensorEntry> tensors;  // views into the given bytes, or into `image`
  std::vector<std::string> warnings;
  std::vector<std::byte> image;  // the whole file decompressed; empty if it was not compressed
};

// In a compressed file, `file_offset` of a tensor counts in the decompressed image.
Result<AprContent> parse_apr(std::span<const std::byte> bytes, OpenOptions options = {});
Result<ModelFile> open_apr(const std::filesystem::path& path, OpenOptions options = {});

// Whether a file that begins so is for open_apr: any file of the family, also those that it only
// knows by name.
bool looks_like_apr(std::span<const std::byte> head);

}  // namespace plumb
