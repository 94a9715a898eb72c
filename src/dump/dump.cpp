// SPDX-License-Identifier: Apache-2.0
#include "dump/dump.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "core/mapped_file.h"
#include "dump/readers.h"

namespace plumb {
namespace {

constexpr size_t kMaxInflated = size_t{4} << 30;
// Of a file that becomes larger than this, so many times its bytes at most (as for zip archives).
constexpr size_t kHarmless = size_t{256} << 20;
constexpr size_t kMostRatio = 200;

// zlib's stream, ended on every way out.
struct Inflater {
  z_stream stream{};
  bool started = false;
  ~Inflater() {
    if (started) inflateEnd(&stream);
  }
};

Result<std::vector<std::byte>> inflate_gzip(std::span<const std::byte> bytes) {
  Inflater inflater;
  constexpr int kGzip = 16 + MAX_WBITS;
  if (inflateInit2(&inflater.stream, kGzip) != Z_OK)
    return fail(ErrorCode::Io, "zlib did not start");
  inflater.started = true;
  auto& z = inflater.stream;
  z.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
  size_t left = bytes.size();
  std::vector<std::byte> out;
  int state = Z_OK;
  while (state != Z_STREAM_END) {
    if (z.avail_in == 0) {
      z.avail_in = static_cast<uInt>(std::min(left, size_t{1} << 30));
      left -= z.avail_in;
    }
    const size_t at = out.size();
    out.resize(at + (size_t{1} << 20));
    z.next_out = reinterpret_cast<Bytef*>(out.data() + at);
    z.avail_out = static_cast<uInt>(out.size() - at);
    state = inflate(&z, Z_NO_FLUSH);
    out.resize(out.size() - z.avail_out);
    if (state != Z_OK && state != Z_STREAM_END)
      return fail(ErrorCode::Corrupt,
                  fmt::format("gzip: {} after {} bytes", z.msg != nullptr ? z.msg : "cut short",
                              out.size()));
    if (out.size() > kHarmless && out.size() / kMostRatio > bytes.size())
      return fail(ErrorCode::Unsupported,
                  fmt::format("gzip: its {} bytes would become more than {}: refused; if that is "
                              "meant, unpack it yourself",
                              bytes.size(), out.size()));
    if (out.size() > kMaxInflated)
      return fail(
          ErrorCode::Unsupported,
          fmt::format("gzip: more than {} bytes come out: unpack it yourself", kMaxInflated));
  }
  return out;
}

std::string first_bytes(std::span<const std::byte> bytes) {
  std::string text;
  for (size_t i = 0; i < std::min(bytes.size(), size_t{8}); ++i)
    text += fmt::format("{}{:02x}", i > 0 ? " " : "", static_cast<unsigned>(bytes[i]));
  return text.empty() ? "nothing" : text;
}

Result<Dump> read_file(const DumpSource& source) {
  const auto bytes = source.bytes;
  if (looks_like_npy(bytes)) return read_npy(source);
  if (looks_like_torch(bytes)) return read_torch(source);
  if (looks_like_zip(bytes)) return read_npz(source);
  if (looks_like_kld(bytes)) return read_kld(source);
  if (looks_like_results(bytes)) return read_results(source);
  if (looks_like_aprt(bytes)) return read_aprt(source);
  if (looks_like_safetensors(bytes)) return read_safetensors_dump(source);
  if (looks_like_json(bytes)) return read_json_dump(source);
  if (looks_like_callback_text(bytes)) return read_callback_text(source);
  if (looks_like_saved_logits(source.path)) return read_saved_logits(source.path);
  return fail(
      ErrorCode::Unsupported,
      fmt::format("not a dump that is known here: it begins with {}. Known are .npy, .npz, "
                  "torch.save, safetensors, "
                  "llama.cpp's callback text, saved logits (with their -tokens.bin), .kld and "
                  "llama-results, APRT, "
                  "JSON of Polygraphy, msprobe and transformers' debugger, and folders of these",
                  first_bytes(bytes)));
}

}  // namespace

std::span<const std::byte> Dump::keep(std::vector<std::byte> bytes) {
  auto kept = std::make_shared<std::vector<std::byte>>(std::move(bytes));
  const std::span<const std::byte> view = *kept;
  owners.push_back(std::move(kept));
  return view;
}

Result<DumpSource> open_source(const std::filesystem::path& path) {
  TRY_ASSIGN(auto file, MappedFile::open(path));
  auto owner = std::make_shared<MappedFile>(std::move(file));
  DumpSource source{path, owner->bytes(), owner};
  const bool gzip = source.bytes.size() > 18 && source.bytes[0] == std::byte{0x1F} &&
                    source.bytes[1] == std::byte{0x8B};
  if (!gzip) return source;
  auto inflated = inflate_gzip(source.bytes);
  if (!inflated) return std::unexpected(std::move(inflated).error().within(path.string()));
  auto kept = std::make_shared<std::vector<std::byte>>(std::move(*inflated));
  return DumpSource{path, *kept, kept};
}

Result<Dump> open_dump(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    TRY_ASSIGN(auto dump, read_folder(path));
    dump.label = path.string();
    return dump;
  }
  TRY_ASSIGN(const auto source, open_source(path));
  auto dump = read_file(source);
  if (!dump) {
    const auto where = path.string();
    if (dump.error().message.starts_with(where)) return dump;
    return std::unexpected(std::move(dump).error().within(where));
  }
  dump->label = path.string();
  dump->owners.push_back(source.owner);
  return dump;
}

}  // namespace plumb
