// SPDX-License-Identifier: Apache-2.0
#include "core/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace plumb {

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // Without O_NONBLOCK, a pipe that nobody writes to would hold us here for ever.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const auto code = errno == ENOENT ? ErrorCode::NotFound : ErrorCode::Io;
    return fail(code, fmt::format("cannot open: {}", std::strerror(errno)));
  }
  struct stat status{};
  MappedFile file;
  std::string trouble;
  if (fstat(fd, &status) != 0) {
    trouble = std::strerror(errno);
  } else if (S_ISDIR(status.st_mode)) {
    trouble = "it is a folder, not a file";
  } else if (!S_ISREG(status.st_mode)) {
    trouble = "it is not a regular file (a pipe or a device cannot be mapped)";
  } else if (status.st_size > 0) {
    file.size_ = static_cast<size_t>(status.st_size);
    void* data = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      trouble = std::strerror(errno);
      file.size_ = 0;
    } else {
      file.data_ = static_cast<const std::byte*>(data);
    }
  }
  ::close(fd);
  if (!trouble.empty()) return fail(ErrorCode::Io, "cannot read: " + trouble);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

Sha256::Sha256() : state_(EVP_MD_CTX_new()) {
  CHECK(state_ != nullptr);
  CHECK(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(state_), EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(state_)); }

void Sha256::add(std::span<const std::byte> bytes) {
  CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(state_), bytes.data(), bytes.size()) == 1);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(state_), digest.data(), &length) == 1);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.hex();
}

std::string sha256_hex(std::span<const std::span<const std::byte>> parts) {
  Sha256 hash;
  for (const auto& part : parts) hash.add(part);
  return hash.hex();
}

}  // namespace plumb
