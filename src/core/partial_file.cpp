// SPDX-License-Identifier: Apache-2.0
#include "core/partial_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace plumb {

Result<PartialFile> PartialFile::create(const std::filesystem::path& path) {
  PartialFile file;
  file.path_ = path;
  file.partial_ = path.string() + ".partial";
  file.fd_ = ::open(file.partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd_ < 0)
    return fail(ErrorCode::Io,
                fmt::format("{}: cannot write: {}", file.partial_.string(), std::strerror(errno)));
  return file;
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : path_(std::move(other.path_)),
      partial_(std::move(other.partial_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_) {}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

Result<void> PartialFile::trouble(const char* what) const {
  return fail(ErrorCode::Io,
              fmt::format("{}: {}: {}", partial_.string(), what, std::strerror(errno)));
}

Result<void> PartialFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return trouble("cannot write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    size_ += static_cast<uint64_t>(written);
  }
  return {};
}

Result<void> PartialFile::write(std::string_view text) {
  return write(std::as_bytes(std::span(text)));
}

Result<void> PartialFile::pad_to(uint64_t alignment) {
  const uint64_t missing = (alignment - size_ % alignment) % alignment;
  return write(std::string(missing, '\0'));
}

Result<void> PartialFile::finish() {
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) {
    const auto failed = trouble("cannot write");
    ::unlink(partial_.c_str());
    return failed;
  }
  if (::rename(partial_.c_str(), path_.c_str()) != 0) {
    const auto failed = trouble("cannot rename to its name");
    ::unlink(partial_.c_str());
    return failed;
  }
  return {};
}

}  // namespace plumb
