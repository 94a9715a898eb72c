// SPDX-License-Identifier: Apache-2.0
#include "dump/zip_archive.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/byte_reader.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kDirectoryEntry = 0x02014b50;
constexpr uint32_t kDirectoryEnd = 0x06054b50;
constexpr uint32_t kDirectoryEnd64 = 0x06064b50;
constexpr uint32_t kLocator64 = 0x07064b50;
constexpr size_t kDirectoryEndBytes = 22;
constexpr size_t kLocator64Bytes = 20;
constexpr size_t kLocalHeaderBytes = 30;
// Deflate makes 258 bytes of 2 bits at most: never more than 1032 times the size.
constexpr uint64_t kMostDeflate = 1032;
// Arrays of measured values do not become a hundredth; up to this many bytes nobody minds.
constexpr uint64_t kMostRatio = 200;
constexpr uint64_t kHarmless = uint64_t{256} << 20;

struct Directory {
  uint64_t entries = 0, offset = 0, size = 0;
};

template <class T>
T value_at(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

std::unexpected<Error> corrupt(std::string message) {
  return fail(ErrorCode::Corrupt, std::move(message));
}

Result<Directory> read_directory64(std::span<const std::byte> bytes, size_t end) {
  if (end < kLocator64Bytes || value_at<uint32_t>(bytes, end - kLocator64Bytes) != kLocator64)
    return corrupt("the archive has 64-bit fields, but not the record that says where");
  const auto start = value_at<uint64_t>(bytes, end - kLocator64Bytes + 8);
  constexpr size_t kRecordBytes = 56;
  if (bytes.size() < kRecordBytes || start > bytes.size() - kRecordBytes ||
      value_at<uint32_t>(bytes, start) != kDirectoryEnd64)
    return corrupt(fmt::format("no 64-bit end of the archive's directory at byte {}", start));
  return Directory{.entries = value_at<uint64_t>(bytes, start + 32),
                   .offset = value_at<uint64_t>(bytes, start + 48),
                   .size = value_at<uint64_t>(bytes, start + 40)};
}

Result<Directory> find_directory(std::span<const std::byte> bytes) {
  if (bytes.size() >= kDirectoryEndBytes) {
    const size_t last = bytes.size() - kDirectoryEndBytes;
    const size_t first = last > 0xFFFF ? last - 0xFFFF : 0;
    for (size_t at = last + 1; at-- > first;) {
      if (value_at<uint32_t>(bytes, at) != kDirectoryEnd) continue;
      if (at + kDirectoryEndBytes + value_at<uint16_t>(bytes, at + 20) != bytes.size()) continue;
      const Directory found{.entries = value_at<uint16_t>(bytes, at + 10),
                            .offset = value_at<uint32_t>(bytes, at + 16),
                            .size = value_at<uint32_t>(bytes, at + 12)};
      if (found.entries == 0xFFFF || found.offset == 0xFFFFFFFF || found.size == 0xFFFFFFFF)
        return read_directory64(bytes, at);
      return found;
    }
  }
  return corrupt("the archive has no directory at its end: it was cut, or never finished");
}

// The 64-bit fields stand in an extra record, only those that did not fit, in this order.
Result<void> read_extra(std::span<const std::byte> extra, uint64_t& size, uint64_t& packed,
                        uint64_t& offset) {
  ByteReader reader(extra);
  while (reader.remaining() >= 4) {
    TRY_ASSIGN(const auto id, reader.read<uint16_t>());
    TRY_ASSIGN(const auto length, reader.read<uint16_t>());
    if (id != 1) {
      TRY(reader.skip(length));
      continue;
    }
    for (uint64_t* field : {&size, &packed, &offset}) {
      if (*field != 0xFFFFFFFF) continue;
      TRY_ASSIGN(*field, reader.read<uint64_t>());
    }
    return {};
  }
  return {};
}

Result<void> check_name(std::string_view name) {
  const auto refuse = [&](std::string_view why) {
    return corrupt(fmt::format("the archive's entry '{}' {}: refused", printable(name), why));
  };
  if (name.empty()) return refuse("has no name");
  if (name.front() == '/' || (name.size() > 1 && name[1] == ':'))
    return refuse("has an absolute path");
  if (name.find('\0') != std::string_view::npos || name.find('\\') != std::string_view::npos)
    return refuse("has a zero byte or a backslash in its name");
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    if (name.substr(start, end - start) == "..") return refuse("climbs out with '..'");
    start = end + 1;
  }
  return {};
}

Result<std::span<const std::byte>> find_content(std::span<const std::byte> bytes, uint64_t offset,
                                                uint64_t packed, std::string_view name,
                                                uint64_t directory) {
  const auto place = [&] { return fmt::format("the archive's entry '{}'", printable(name)); };
  if (directory < kLocalHeaderBytes || offset > directory - kLocalHeaderBytes ||
      value_at<uint32_t>(bytes, offset) != kLocalHeader)
    return corrupt(fmt::format("{}: no entry starts at byte {}", place(), offset));
  const uint64_t name_bytes = value_at<uint16_t>(bytes, offset + 26);
  const uint64_t start =
      offset + kLocalHeaderBytes + name_bytes + value_at<uint16_t>(bytes, offset + 28);
  if (start > directory || packed > directory - start)
    return corrupt(fmt::format("{}: its {} bytes from byte {} on run into the directory at {}",
                               place(), packed, start, directory));
  const std::string_view local(reinterpret_cast<const char*>(bytes.data()) + offset + 30,
                               name_bytes);
  if (local != name)
    return corrupt(
        fmt::format("{}: it is called '{}' in its own place", place(), printable(local)));
  return bytes.subspan(start, packed);
}

// One record of the directory.
Result<ZipEntry> read_entry(ByteReader& reader, std::span<const std::byte> bytes,
                            uint64_t directory) {
  TRY_ASSIGN(const auto head, reader.read_text(46));
  const auto record = std::as_bytes(std::span(head));
  if (value_at<uint32_t>(record, 0) != kDirectoryEntry)
    return corrupt("the archive's directory has something else where an entry is expected");
  ZipEntry entry;
  TRY_ASSIGN(entry.name, reader.read_text(value_at<uint16_t>(record, 28)));
  TRY_ASSIGN(const auto extra, reader.read_text(value_at<uint16_t>(record, 30)));
  TRY(reader.skip(value_at<uint16_t>(record, 32)));
  TRY(check_name(entry.name));
  const auto place = fmt::format("the archive's entry '{}'", printable(entry.name));
  const auto method = value_at<uint16_t>(record, 10);
  if (value_at<uint16_t>(record, 8) & 1U)
    return fail(ErrorCode::Unsupported, place + " is encrypted: save it without a password");
  if (method != 0 && method != 8)
    return fail(ErrorCode::Unsupported,
                fmt::format("{} is packed by method {}; only stored (0) and deflate (8) are read",
                            place, method));
  entry.deflated = method == 8;
  entry.crc = value_at<uint32_t>(record, 16);
  uint64_t packed = value_at<uint32_t>(record, 20);
  entry.size = value_at<uint32_t>(record, 24);
  uint64_t offset = value_at<uint32_t>(record, 42);
  TRY(read_extra(std::as_bytes(std::span(extra)), entry.size, packed, offset));
  if (!entry.deflated && packed != entry.size)
    return corrupt(fmt::format("{} is stored, yet has {} bytes for {}", place, packed, entry.size));
  if (entry.deflated && entry.size / kMostDeflate > packed)
    return corrupt(fmt::format("{} says that {} bytes become {}: no compression does that", place,
                               packed, entry.size));
  TRY_ASSIGN(entry.raw, find_content(bytes, offset, packed, entry.name, directory));
  return entry;
}

Result<void> check_entries(const std::vector<ZipEntry>& entries) {
  std::set<std::string_view> names;
  std::vector<const ZipEntry*> order;
  uint64_t packed = 0;
  uint64_t unpacked = 0;  // no overflow: at most 1032 times the bytes of the file
  for (const auto& entry : entries) {
    packed += entry.raw.size();
    unpacked += entry.size;
    if (!names.insert(entry.name).second)
      return corrupt(fmt::format("the archive has '{}' twice", printable(entry.name)));
    order.push_back(&entry);
  }
  if (unpacked > kHarmless && unpacked / kMostRatio > packed)
    return fail(
        ErrorCode::Unsupported,
        fmt::format("the archive's {} bytes would become {}: refused; if that is meant, save "
                    "without compression",
                    packed, unpacked));
  std::ranges::sort(order, {}, [](const ZipEntry* e) { return e->raw.data(); });
  for (size_t i = 1; i < order.size(); ++i) {
    const auto& before = order[i - 1]->raw;
    if (before.data() + before.size() > order[i]->raw.data())
      return corrupt(fmt::format("the archive's entries '{}' and '{}' overlap",
                                 printable(order[i - 1]->name), printable(order[i]->name)));
  }
  return {};
}

}  // namespace

Result<std::vector<ZipEntry>> parse_zip(std::span<const std::byte> bytes) {
  TRY_ASSIGN(const auto directory, find_directory(bytes));
  if (directory.offset > bytes.size() || directory.size > bytes.size() - directory.offset)
    return corrupt(fmt::format("the archive's directory of {} bytes at byte {} runs past the end",
                               directory.size, directory.offset));
  ByteReader reader(bytes.subspan(directory.offset, directory.size));
  std::vector<ZipEntry> entries;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    TRY_ASSIGN(auto entry, read_entry(reader, bytes, directory.offset));
    if (!entry.name.ends_with('/')) entries.push_back(std::move(entry));
  }
  if (reader.remaining() != 0)
    return corrupt(fmt::format("the archive's directory has {} bytes more than its {} entries take",
                               reader.remaining(), directory.entries));
  TRY(check_entries(entries));
  return entries;
}

Result<std::vector<std::byte>> inflate_start(const ZipEntry& entry, uint64_t count) {
  const auto place = [&] { return fmt::format("the archive's entry '{}'", printable(entry.name)); };
  std::vector<std::byte> out(std::min(count, entry.size));
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
    return fail(ErrorCode::Io, "zlib could not be started");
  constexpr uint64_t kPiece = uint64_t{1} << 30;  // zlib counts in 32 bits
  size_t in = 0;
  size_t made = 0;
  int status = Z_OK;
  while (made < out.size() && status == Z_OK) {
    stream.next_in =
        const_cast<Bytef*>(reinterpret_cast<const Bytef*>(entry.raw.data())) + in;  // NOLINT
    const auto give = std::min<uint64_t>(entry.raw.size() - in, kPiece);
    const auto room = std::min<uint64_t>(out.size() - made, kPiece);
    stream.avail_in = static_cast<uInt>(give);
    stream.next_out = reinterpret_cast<Bytef*>(out.data()) + made;
    stream.avail_out = static_cast<uInt>(room);
    status = inflate(&stream, Z_NO_FLUSH);
    in += give - stream.avail_in;
    made += room - stream.avail_out;
  }
  inflateEnd(&stream);
  if (made == out.size()) return out;
  return corrupt(
      fmt::format("{}: its packed bytes are broken near byte {} of {}: {} of {} came out", place(),
                  in, entry.raw.size(), made, entry.size));
}

Result<std::vector<std::byte>> inflate_entry(const ZipEntry& entry) {
  TRY_ASSIGN(auto content, inflate_start(entry, entry.size));
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size());
  if (crc == entry.crc) return content;
  return corrupt(
      fmt::format("the archive's entry '{}': its checksum is {:08x}, its bytes give {:08x}",
                  printable(entry.name), entry.crc, crc));
}

Result<void> check_stored(const ZipEntry& entry, bool allow_no_checksum) {
  if (entry.crc == 0 && allow_no_checksum) return {};
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(entry.raw.data()), entry.raw.size());
  if (crc == entry.crc) return {};
  return corrupt(
      fmt::format("the archive's entry '{}': its checksum is {:08x}, its bytes give {:08x}",
                  printable(entry.name), entry.crc, crc));
}

}  // namespace plumb
