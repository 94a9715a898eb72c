// SPDX-License-Identifier: Apache-2.0
#include "formats/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

#include "formats/apr.h"
#include "formats/gguf.h"
#include "formats/hugging_face.h"

namespace plumb {
namespace {

struct KnownFormat {
  std::string_view start;
  const char* what;  // and what to do
};

// What people hand to a model reader by mistake.
constexpr KnownFormat kOtherFormats[] = {
    {"PK\x03\x04",
     "a zip archive: a PyTorch checkpoint (.pt, .bin), .npz or .keras; save the "
     "weights as safetensors"},
    {"\x80\x02", "a Python pickle: an old PyTorch checkpoint; save the weights as safetensors"},
    {"\x80\x04", "a Python pickle: save the weights as safetensors"},
    {"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with git lfs"},
    {"lmgg", "a GGML file from before GGUF; convert the model again"},
    {"fmgg", "a GGML file from before GGUF; convert the model again"},
    {"tjgg", "a GGJT file from before GGUF; convert the model again"},
    {"\x89HDF", "an HDF5 file (Keras); save the weights as safetensors"},
    {"\x93NUMPY", "a NumPy array, not a model"},
    {"<!DOCTYPE", "a web page; the download failed"},
    {"<html", "a web page; the download failed"},
};

std::string unknown_format(std::string_view head) {
  for (const auto& format : kOtherFormats)
    if (head.starts_with(format.start)) return fmt::format("this is {}", format.what);
  return fmt::format(
      "not a model file: its first bytes are '{}'; expected a GGUF, an APR, a safetensors file, a "
      "model.safetensors.index.json or a folder with config.json",
      printable(head.substr(0, 8)));
}

}  // namespace

const TensorEntry* ModelFile::find(const std::string& name) const {
  const auto found = std::ranges::find(tensors, name, &TensorEntry::name);
  return found == tensors.end() ? nullptr : &*found;
}

uint64_t ModelFile::size_bytes() const {
  uint64_t size = 0;
  for (const auto& part : parts) size += part.file.bytes().size();
  return size;
}

std::string sha256_of(const ModelFile& file) {
  std::vector<std::span<const std::byte>> parts;
  for (const auto& part : file.parts) parts.push_back(part.file.bytes());
  return sha256_hex(parts);
}

Result<ModelFile> open_model_file(const std::filesystem::path& path, OpenOptions options) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return open_hugging_face_folder(path);
  std::array<char, 32> buffer{};
  std::string_view head;
  {
    TRY_ASSIGN(const auto file, [&]() -> Result<MappedFile> {
      auto mapped = MappedFile::open(path);
      if (!mapped) return std::unexpected(std::move(mapped.error()).within(path.string()));
      return mapped;
    }());
    const auto bytes = file.bytes();
    if (bytes.empty())
      return fail(ErrorCode::Corrupt, fmt::format("{}: the file is empty", path.string()));
    const size_t size = std::min(bytes.size(), buffer.size());
    std::memcpy(buffer.data(), bytes.data(), size);
    head = {buffer.data(), size};
  }
  if (head.starts_with("GGUF")) return open_gguf(path);
  if (looks_like_apr(std::as_bytes(std::span(head)))) return open_apr(path, options);
  const auto extension = path.extension();
  if (extension == ".json") return open_safetensors_index(path);
  // The extension is believed for what is too broken to be recognized, so that the message names
  // what is wrong with it.
  if (extension == ".gguf") return open_gguf(path);
  if (extension == ".apr") return open_apr(path, options);
  if (extension == ".safetensors" || (head.size() > 8 && head[8] == '{'))
    return open_safetensors(path);
  return fail(ErrorCode::Corrupt, fmt::format("{}: {}", path.string(), unknown_format(head)));
}

}  // namespace plumb
