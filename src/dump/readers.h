// SPDX-License-Identifier: Apache-2.0
// The kinds of dumps. Each has a look at the content and a reader; open_dump() asks them in turn.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "dump/dump.h"

namespace plumb {

// A file whose bytes are in memory or mapped; `owner` keeps them.
struct DumpSource {
  std::filesystem::path path;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};
Result<DumpSource> open_source(const std::filesystem::path& path);  // inflates gzip

// --- NumPy (numpy.cpp): .npy of versions 1 to 3, .npz stored or deflated ---
bool looks_like_npy(std::span<const std::byte> bytes);
bool looks_like_zip(std::span<const std::byte> bytes);
// One array, in row-major order and little-endian whatever the file has; its name is empty.
Result<DumpTensor> parse_npy(std::span<const std::byte> bytes, Dump& dump);
Result<Dump> read_npy(const DumpSource& source);
Result<Dump> read_npz(const DumpSource& source);

// --- torch.save (torch_file.cpp with pickle.cpp): the zip form and the one before 1.6 ---
bool looks_like_torch(std::span<const std::byte> bytes);
Result<Dump> read_torch(const DumpSource& source);

// --- safetensors (safetensors_dump.cpp): any, also without plumb's metadata ---
bool looks_like_safetensors(std::span<const std::byte> bytes);
Result<Dump> read_safetensors_dump(const DumpSource& source);

// --- JSON files (json_dumps.cpp): Polygraphy RunResults, msprobe dump.json, transformers' debugger
// ---
bool looks_like_json(std::span<const std::byte> bytes);
Result<Dump> read_json_dump(const DumpSource& source);

// --- llama.cpp ---
bool looks_like_callback_text(std::span<const std::byte> bytes);  // callback_text.cpp
Result<Dump> read_callback_text(const DumpSource& source);
bool looks_like_kld(std::span<const std::byte> bytes);  // kld.cpp
Result<Dump> read_kld(const DumpSource& source);
bool looks_like_results(
    std::span<const std::byte> bytes);  // llama_results.cpp: a GGUF of llama-results
Result<Dump> read_results(const DumpSource& source);
bool looks_like_saved_logits(
    const std::filesystem::path& path);  // saved_logits.cpp: the .bin by its siblings
Result<Dump> read_saved_logits(const std::filesystem::path& path);

// --- apr (aprt.cpp) ---
bool looks_like_aprt(std::span<const std::byte> bytes);
Result<Dump> read_aprt(const DumpSource& source);

// --- Folders (folders.cpp): what kind it is, and its files joined in order ---
Result<Dump> read_folder(const std::filesystem::path& path);

}  // namespace plumb
