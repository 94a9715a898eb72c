// SPDX-License-Identifier: Apache-2.0
// What a model file says, in any format, with nothing interpreted.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/result.h"
#include "core/tensor.h"
#include "formats/metadata.h"

namespace plumb {

enum class FileFormat { Gguf, Safetensors, HuggingFace, Apr };

struct TensorEntry {
  std::string name;
  TensorView view;           // shape: rows first, as NumPy says it (GGUF stores the reverse)
  uint64_t file_offset = 0;  // of its first byte, in its part
  size_t part = 0;           // index into ModelFile::parts
};

// One file of a model: a GGUF, one of several splits or shards.
struct FilePart {
  std::filesystem::path path;
  MappedFile file;
};

// The views of `tensors` and the arrays of `metadata` point into `parts` and `buffers`.
struct ModelFile {
  std::filesystem::path path;  // as the user gave it: a file or a folder
  FileFormat format = FileFormat::Gguf;
  std::string format_text;  // "GGUF v3", "safetensors, 2 files", "Hugging Face folder", "APR v2"
  std::vector<FilePart> parts;
  std::vector<std::vector<std::byte>> buffers;  // decompressed images (APR)
  Metadata metadata;
  std::vector<TensorEntry> tensors;
  // What is odd but does not stop reading: an unknown flag, a checksum that is absent.
  std::vector<std::string> warnings;
  // Texts that lie beside the weights: "tokenizer.json", "tokenizer.model" (Hugging Face).
  std::map<std::string, std::filesystem::path> side_files;

  const TensorEntry* find(const std::string& name) const;
  uint64_t size_bytes() const;  // of all parts
};

// Opens a model by what it holds, not by its extension: a GGUF (one file or any of its splits), an
// APR, a safetensors file, a model.safetensors.index.json, a Hugging Face folder. Every count and
// offset is checked against the file before it is used, so a hostile claim allocates nothing.
// `verify_checksums` reads the whole file where the format has a checksum over it (APR's footer).
struct OpenOptions {
  bool verify_checksums = true;
};
Result<ModelFile> open_model_file(const std::filesystem::path& path, OpenOptions options = {});

// Of all parts, one after the other.
std::string sha256_of(const ModelFile& file);

}  // namespace plumb
