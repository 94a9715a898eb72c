// SPDX-License-Identifier: Apache-2.0
#include "formats/apr.h"

#include <fmt/format.h>
#include <lz4.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/byte_reader.h"
#include "formats/json_metadata.h"

namespace plumb {
namespace {

using Bytes = std::span<const std::byte>;

constexpr int kMaxJsonDepth = 32;
constexpr uint64_t kMaxMetadata = uint64_t{32} << 20;
constexpr size_t kSmallestEntry = 2 + 1 + 2 + 16;  // a name of one byte, no dimensions
constexpr size_t kFooterBytes = 4;
constexpr uint16_t kKnownFlags = 0x0FFF;

// Weights do not shrink to a thousandth. What does is made to fill the memory.
constexpr uint64_t kMaxImage = uint64_t{64} << 30;
constexpr uint64_t kMaxExpansion = 1024;
constexpr uint64_t kFreeExpansion = uint64_t{64} << 20;  // so that small files may be all zeros
constexpr uint64_t kMaxLz4Expansion = 255;  // a byte of a length stands for at most 255 bytes

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
T load(Bytes bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

uint64_t align_up(uint64_t value) { return (value + kAprAlignment - 1) & ~(kAprAlignment - 1); }

// --- The family of formats that begin with "APR" ---

std::unexpected<Error> other_format(const std::string& what) {
  return fail(ErrorCode::Unsupported, what);
}

bool is_shard_manifest(std::string_view text) {
  const auto start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos || text[start] != '{') return false;
  return text.substr(0, 4096).find("\"shard_count\"") != std::string_view::npos;
}

// Names what is no APR v2; says nothing if the bytes may be one.
Result<void> check_family(Bytes bytes) {
  if (bytes.empty()) return fail(ErrorCode::Corrupt, "the file is empty");
  const auto text = text_of(bytes);
  if (text.starts_with("APRN"))
    return other_format(
        "this is an APR v1 file ('APRN'), which holds models of classical machine learning; "
        "language models are in APR v2: import the source of the model again with 'apr import'");
  if (text.starts_with("APR1"))
    return other_format(
        "this is a file of whisper.apr ('APR1'), not an APR v2; convert it with 'apr convert'");
  if (text.starts_with("APR2"))
    return other_format(
        "its magic is 'APR2', a draft of APR v2 that aprender does not read either; v2 begins with "
        "'APR\\0': convert the model again");
  if (is_shard_manifest(text))
    return other_format(
        "this is the manifest (JSON) of an APR in several files; open a single file, or join the "
        "shards first");
  if (!text.starts_with(std::string_view("APR\0", 4)))
    return fail(ErrorCode::Corrupt,
                fmt::format("not an APR file: its first bytes are '{}', expected 'APR\\x00'",
                            printable(text.substr(0, 4))));
  if (bytes.size() < kAprHeaderBytes)
    return fail(ErrorCode::Corrupt,
                fmt::format("the file ends inside its header: it has {} bytes, the header {}",
                            bytes.size(), kAprHeaderBytes));
  // The version and the flags of a v2 are 2 or more when they are read as one number.
  if (load<uint32_t>(bytes, 4) <= 1)
    return other_format(
        "this is a memory dump of realizar's MmapAprTransformer, not an APR v2; convert the model "
        "again with 'apr import'");
  return {};
}

// --- The header ---

struct Header {
  uint8_t major = 0, minor = 0;
  uint16_t flags = 0;
  uint32_t tensor_count = 0;
  uint64_t metadata_offset = 0;
  uint32_t metadata_size = 0;
  uint64_t index_offset = 0, data_offset = 0;
  uint32_t checksum = 0;
};

Header load_header(Bytes bytes) {
  Header header;
  header.major = load<uint8_t>(bytes, 4);
  header.minor = load<uint8_t>(bytes, 5);
  header.flags = load<uint16_t>(bytes, 6);
  header.tensor_count = load<uint32_t>(bytes, 8);
  header.metadata_offset = load<uint64_t>(bytes, 12);
  header.metadata_size = load<uint32_t>(bytes, 20);
  header.index_offset = load<uint64_t>(bytes, 24);
  header.data_offset = load<uint64_t>(bytes, 32);
  header.checksum = load<uint32_t>(bytes, 40);
  return header;
}

// A transformer as JSON has a JSON array for an index: "[{" would be the size of an impossible
// name.
bool holds_json_index(Bytes bytes, const Header& header) {
  if ((header.flags & (kAprLz4 | kAprZstd)) != 0 || header.index_offset > bytes.size() - 2)
    return false;
  return bytes[header.index_offset] == std::byte{'['} &&
         load<uint16_t>(bytes, header.index_offset) > kAprMaxName;
}

// --- Compression: 64 bytes of header as they are, then everything else as one blob ---

Result<std::vector<std::byte>> expand_lz4(Bytes bytes) {
  const auto blob = bytes.subspan(kAprHeaderBytes);
  if (blob.size() < 4) return fail(ErrorCode::Corrupt, "the LZ4 data ends inside its size");
  const uint64_t claim = load<uint32_t>(blob, 0);
  const uint64_t packed = blob.size() - 4;
  if (claim > packed * kMaxLz4Expansion)
    return fail(ErrorCode::Corrupt,
                fmt::format("the LZ4 data claims {} bytes, but its {} bytes cannot give more than "
                            "{}",
                            claim, packed, packed * kMaxLz4Expansion));
  if (claim > LZ4_MAX_INPUT_SIZE || packed > LZ4_MAX_INPUT_SIZE)
    return fail(ErrorCode::Unsupported,
                fmt::format("the LZ4 block has {} bytes, more than the {} that LZ4 allows", claim,
                            LZ4_MAX_INPUT_SIZE));
  std::vector<std::byte> image(kAprHeaderBytes + claim);
  std::memcpy(image.data(), bytes.data(), kAprHeaderBytes);
  const int given = LZ4_decompress_safe(reinterpret_cast<const char*>(blob.data() + 4),
                                        reinterpret_cast<char*>(image.data() + kAprHeaderBytes),
                                        static_cast<int>(packed), static_cast<int>(claim));
  if (given < 0) return fail(ErrorCode::Corrupt, "the LZ4 data is damaged");
  if (static_cast<uint64_t>(given) != claim)
    return fail(ErrorCode::Corrupt,
                fmt::format("the LZ4 data gives {} bytes, its size says {}", given, claim));
  return image;
}

Result<uint64_t> zstd_limit(Bytes blob) {
  const uint64_t limit = std::min(kMaxImage, blob.size() > kMaxImage / kMaxExpansion
                                                 ? kMaxImage
                                                 : blob.size() * kMaxExpansion + kFreeExpansion);
  const auto claim = ZSTD_getFrameContentSize(blob.data(), blob.size());
  if (claim == ZSTD_CONTENTSIZE_ERROR)
    return fail(ErrorCode::Corrupt,
                "the flag ZSTD_COMPRESSED is set, but no Zstd frame follows "
                "the header");
  if (claim != ZSTD_CONTENTSIZE_UNKNOWN && claim > limit)
    return fail(ErrorCode::Corrupt, fmt::format("the Zstd data claims {} bytes from {}; at most {} "
                                                "are accepted",
                                                claim, blob.size(), limit));
  return limit;
}

// Grows with what comes out, never by what the frame claims.
Result<std::vector<std::byte>> expand_zstd(Bytes bytes) {
  const auto blob = bytes.subspan(kAprHeaderBytes);
  TRY_ASSIGN(const uint64_t limit, zstd_limit(blob));
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(),
                                                                   ZSTD_freeDCtx);
  if (!context) throw std::bad_alloc();
  std::vector<std::byte> image(bytes.begin(), bytes.begin() + kAprHeaderBytes);
  std::vector<std::byte> chunk(ZSTD_DStreamOutSize());
  ZSTD_inBuffer input{blob.data(), blob.size(), 0};
  size_t state = 1;  // 0: the frame has ended
  while (state != 0) {
    ZSTD_outBuffer output{chunk.data(), chunk.size(), 0};
    state = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(state))
      return fail(ErrorCode::Corrupt,
                  fmt::format("the Zstd data is damaged near byte {}: {}",
                              kAprHeaderBytes + input.pos, ZSTD_getErrorName(state)));
    if (image.size() - kAprHeaderBytes + output.pos > limit)
      return fail(ErrorCode::Corrupt, fmt::format("the Zstd data gives more than {} bytes from {}",
                                                  limit, blob.size()));
    image.insert(image.end(), chunk.begin(), chunk.begin() + static_cast<ptrdiff_t>(output.pos));
    if (state != 0 && input.pos == input.size && output.pos < output.size)
      return fail(ErrorCode::Corrupt, "the Zstd data is cut short");
  }
  if (input.pos != input.size)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} bytes at byte {} stand after the end of the Zstd data",
                            input.size - input.pos, kAprHeaderBytes + input.pos));
  return image;
}

Result<std::vector<std::byte>> expand(Bytes bytes, uint16_t flags) {
  try {
    return (flags & kAprLz4) != 0 ? expand_lz4(bytes) : expand_zstd(bytes);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::Io, "there is not enough memory to decompress it");
  }
}

// aprender sets the flags of compression and does not compress.
bool holds_plain_metadata(Bytes bytes, const Header& header) {
  if (header.metadata_offset < kAprHeaderBytes || header.metadata_offset > bytes.size() ||
      header.metadata_size > bytes.size() - header.metadata_offset || header.metadata_size < 2)
    return false;
  const auto text = text_of(bytes.subspan(header.metadata_offset, header.metadata_size));
  return text.front() == '{' && text.back() == '}' && nlohmann::json::accept(text);
}

// --- The index ---

struct IndexEntry {
  std::string name;
  uint8_t type_byte = 0;
  std::vector<uint64_t> dims;
  uint64_t offset = 0, size = 0;
};

// What a type byte has meant to one writer or another. The number of bytes decides between them:
// within one table, no two meanings of a byte give the same size to the same shape.
struct Meaning {
  uint8_t byte;
  DType dtype;
};
// 2, 3, 6, 7 and 8 are aprender's types of one time, or ggml's as realizar writes them.
constexpr Meaning kMeanings[] = {
    {0, DType::F32},     {1, DType::F16},   {2, DType::BF16},  {2, DType::Q4_0},
    {3, DType::F64},     {3, DType::Q4_1},  {4, DType::I32},   {5, DType::I64},
    {6, DType::I8},      {6, DType::Q5_0},  {7, DType::U8},    {7, DType::Q5_1},
    {8, DType::AprQ4},   {8, DType::Q8_0},  {9, DType::AprQ8}, {12, DType::Q4_K},
    {13, DType::Q5_K},   {14, DType::Q6_K}, {30, DType::BF16}, {128, DType::AprQ4},
    {129, DType::AprQ8},
};
// realizar's Q4_K converter writes ggml's numbers; at first it wrote 8 for Q4_K and Q5_K, 9 for
// Q6_K and 10 for Q8_0. It has no APR types: an 8 of 144 bytes for 256 values is Q4_K there.
constexpr Meaning kRealizarMeanings[] = {
    {0, DType::F32},   {1, DType::F16},   {2, DType::Q4_0},  {3, DType::Q4_1},  {6, DType::Q5_0},
    {7, DType::Q5_1},  {8, DType::Q8_0},  {8, DType::Q4_K},  {8, DType::Q5_K},  {9, DType::Q6_K},
    {10, DType::Q8_0}, {12, DType::Q4_K}, {13, DType::Q5_K}, {14, DType::Q6_K},
};

// Blocks of ggml lie in one row each; those of APR's own types run on over the whole tensor.
bool has_row_blocks(DType dtype) { return info(dtype).block_elements > 1 && !is_apr_type(dtype); }

uint64_t row_of(std::span<const uint64_t> shape) { return shape.empty() ? 1 : shape.back(); }

std::string block_trouble(DType dtype, std::span<const uint64_t> shape, uint64_t count,
                          uint64_t size) {
  const auto& type = info(dtype);
  const uint64_t row = row_of(shape);
  if (!has_row_blocks(dtype) || row == 0 || row % type.block_elements == 0) return {};
  const uint64_t row_blocks = row / type.block_elements + 1;
  uint64_t blocks = 0;
  if (size % type.block_bytes != 0 || __builtin_mul_overflow(count / row, row_blocks, &blocks))
    return {};
  if (size / type.block_bytes == blocks)
    return fmt::format(
        "its rows of {} values are padded to {} whole blocks of {} each ({} values), "
        "which is not read; quantize from a source with rows of a multiple of {}, or "
        "store it as F16",
        row, row_blocks, type.block_elements, type.name, type.block_elements);
  if (tensor_bytes(dtype, count) == size)
    return fmt::format(
        "its blocks of {} values ({}) run on across rows of {}, which is not read; "
        "store it as F16",
        type.block_elements, type.name, row);
  return {};
}

Result<DType> resolve_dtype(const IndexEntry& entry, std::span<const uint64_t> shape,
                            std::span<const Meaning> meanings) {
  const auto count = element_count(shape);
  if (!count)
    return fail(ErrorCode::Corrupt,
                fmt::format("the size of its shape {} overflows 64 bits", to_text(shape)));
  std::string needed;
  for (const auto& meaning : meanings) {
    if (meaning.byte != entry.type_byte) continue;
    const auto& type = info(meaning.dtype);
    const auto bytes = tensor_bytes(meaning.dtype, *count);
    const bool whole = !has_row_blocks(meaning.dtype) || row_of(shape) % type.block_elements == 0;
    if (whole && bytes == entry.size) return meaning.dtype;
    if (auto trouble = block_trouble(meaning.dtype, shape, *count, entry.size); !trouble.empty())
      return fail(ErrorCode::Unsupported, std::move(trouble));
    needed += fmt::format("{}{} bytes as {}", needed.empty() ? "" : " or ",
                          bytes ? fmt::format("{}", *bytes) : "over 2^64", type.name);
  }
  if (needed.empty())
    return fail(ErrorCode::Unsupported,
                fmt::format("its type byte {} is not one of APR's", entry.type_byte));
  return fail(ErrorCode::Corrupt,
              fmt::format("its type byte {} and shape {} need {}, the index says {}",
                          entry.type_byte, to_text(shape), needed, entry.size));
}

// --- Metadata ---

struct AprAlias {
  const char* alias;
  const char* canonical;
};
constexpr AprAlias kAliases[] = {
    {"hidden_dim", "hidden_size"},
    {"d_model", "hidden_size"},
    {"n_embd", "hidden_size"},
    {"n_layers", "num_layers"},
    {"num_hidden_layers", "num_layers"},
    {"n_layer", "num_layers"},
    {"n_heads", "num_heads"},
    {"num_attention_heads", "num_heads"},
    {"n_head", "num_heads"},
    {"n_kv_heads", "num_kv_heads"},
    {"num_key_value_heads", "num_kv_heads"},
    {"n_vocab", "vocab_size"},
    {"ffn_dim", "intermediate_size"},
    {"intermediate_dim", "intermediate_size"},
    {"n_inner", "intermediate_size"},
    {"max_seq_len", "max_position_embeddings"},
    {"context_length", "max_position_embeddings"},
    {"n_ctx", "max_position_embeddings"},
    {"layer_norm_eps", "rms_norm_eps"},
    {"norm_eps", "rms_norm_eps"},
};

bool is_null(const MetadataValue& value) { return std::holds_alternative<std::monostate>(value); }

std::string string_in(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  const auto* text = found == metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
  return text == nullptr ? std::string() : *text;
}

bool same_shape(const MetadataValue& value, std::span<const uint64_t> shape) {
  const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&value);
  if (array == nullptr || (*array)->size() != shape.size()) return false;
  size_t at = 0;
  bool same = true;
  (*array)->for_each([&](const MetadataValue& item) {
    const auto* dim = std::get_if<int64_t>(&item);
    same = dim != nullptr && *dim >= 0 && static_cast<uint64_t>(*dim) == shape[at++];
    return same;
  });
  return same;
}

// The index counts; old writers had the dimensions of the metadata the wrong way round.
void check_tensor_shapes(AprContent& content) {
  constexpr std::string_view kPrefix = "tensor_shapes.";
  std::unordered_map<std::string_view, const TensorEntry*> by_name;
  for (const auto& entry : content.tensors) by_name.emplace(entry.name, &entry);
  size_t differ = 0;
  std::string first;
  for (auto place = content.metadata.lower_bound(std::string(kPrefix));
       place != content.metadata.end() && place->first.starts_with(kPrefix); ++place) {
    const auto name = std::string_view(place->first).substr(kPrefix.size());
    const auto found = by_name.find(name);
    if (found != by_name.end() && same_shape(place->second, found->second->view.shape)) continue;
    if (differ++ == 0)
      first = fmt::format(
          "'{}': {} there, {}", printable(name), to_text(place->second),
          found == by_name.end() ? "not in the index" : to_text(found->second->view.shape));
  }
  if (differ > 0)
    content.warnings.push_back(
        fmt::format("tensor_shapes in the metadata disagrees with the index on {} tensors ({}); "
                    "the index counts",
                    differ, first));
}

// --- The file ---

class AprParser {
 public:
  AprParser(Bytes bytes, OpenOptions options) : bytes_(bytes), options_(options) {}

  Result<AprContent> parse() {
    TRY(read_header());
    TRY(open_image());
    TRY(check_sections());
    TRY(read_index());
    TRY(check_end());
    TRY(read_metadata());
    TRY(check_variant());
    TRY(check_names());
    TRY(place_tensors());
    TRY(check_overlaps());
    check_tensor_shapes(content_);
    add_canonical_keys(content_.metadata, content_.warnings);
    describe();
    return std::move(content_);
  }

 private:
  void warn(std::string text) { content_.warnings.push_back(std::move(text)); }
  bool is_row_major() const { return (header_.flags & kAprRowMajor) != 0; }

  Result<void> read_header();
  Result<void> check_flags();
  Result<void> open_image();
  Result<void> check_sections();
  Result<IndexEntry> read_index_entry(ByteReader& reader);
  Result<void> read_index();
  Result<void> check_end();
  Result<void> read_metadata();
  Result<void> check_variant();
  Result<void> check_names();
  Result<TensorEntry> place_tensor(IndexEntry& entry);
  Result<void> place_tensors();
  Result<void> check_overlaps();
  void describe();

  Bytes bytes_;  // the file; the decompressed image once there is one
  OpenOptions options_;
  Header header_;
  AprContent content_;
  std::vector<IndexEntry> index_;
  bool no_header_checksum_ = false;
  bool no_footer_ = false;
  bool is_realizar_ = false;  // made by realizar's converter of Q4_K files
  std::string compression_;
};

Result<void> AprParser::read_header() {
  TRY(check_family(bytes_));
  header_ = load_header(bytes_);
  content_.flags = header_.flags;
  if (holds_json_index(bytes_, header_))
    return other_format(
        "this is a model as JSON by realizar's GgufToAprConverter, not an APR v2 of tensors; "
        "convert the model again with 'apr import'");
  const uint32_t computed = apr_header_crc(bytes_.first<kAprHeaderBytes>());
  no_header_checksum_ = header_.checksum == 0 && computed != 0 && !is_row_major();
  if (header_.checksum != computed && !no_header_checksum_)
    return fail(ErrorCode::Corrupt,
                fmt::format("the header checksum (at byte 40) is 0x{:08x}, the bytes give "
                            "0x{:08x}: the header is damaged",
                            header_.checksum, computed));
  if (header_.major != 2)
    return fail(ErrorCode::Unsupported, fmt::format("APR version {}.{} is not known here (known: "
                                                    "2.0)",
                                                    header_.major, header_.minor));
  if (header_.minor != 0) warn(fmt::format("its version is 2.{}, known is 2.0", header_.minor));
  if (std::ranges::any_of(bytes_.subspan(44, 20), [](std::byte b) { return b != std::byte{0}; }))
    warn("the reserved bytes 44 to 63 of the header are not zero; they are ignored");
  return check_flags();
}

Result<void> AprParser::check_flags() {
  const uint16_t flags = header_.flags;
  if ((flags & kAprColumnMajor) != 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("LAYOUT-002 violation: the flags 0x{:04x} (at byte 6) say column-major "
                            "(0x0800), which APR forbids; convert the model again",
                            flags));
  if ((flags & kAprEncrypted) != 0)
    return fail(ErrorCode::Unsupported,
                "the file is encrypted (flag 0x0004); decrypt it first with 'apr decrypt'");
  if ((flags & kAprLz4) != 0 && (flags & kAprZstd) != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("the flags 0x{:04x} (at byte 6) say LZ4 and Zstd at once", flags));
  if ((flags & kAprSigned) != 0) warn("the flag SIGNED is set; no signature is checked");
  if ((flags & ~kKnownFlags) != 0)
    warn(fmt::format("the flags 0x{:04x} have bits that are not known: 0x{:04x}", flags,
                     flags & ~kKnownFlags));
  return {};
}

Result<void> AprParser::open_image() {
  const uint16_t kind = header_.flags & (kAprLz4 | kAprZstd);
  if (kind == 0) return {};
  const char* name = kind == kAprLz4 ? "LZ4" : "ZSTD";
  if (holds_plain_metadata(bytes_, header_)) {
    warn(
        fmt::format("the flag {}_COMPRESSED is set, but the file is not compressed (aprender "
                    "writes such files); it is read as it stands",
                    name));
    return {};
  }
  TRY_ASSIGN(content_.image, expand(bytes_, kind));
  bytes_ = content_.image;
  compression_ = kind == kAprLz4 ? ", LZ4" : ", Zstd";
  return {};
}

Result<void> AprParser::check_sections() {
  const uint64_t size = bytes_.size();
  const auto& h = header_;
  if (h.metadata_size > kMaxMetadata)
    return fail(ErrorCode::Unsupported,
                fmt::format("the metadata of {} bytes is larger than the {} that are accepted",
                            h.metadata_size, kMaxMetadata));
  if (h.metadata_size > kAprMaxMetadata)
    warn(fmt::format("the metadata has {} bytes; aprender's limit is {}", h.metadata_size,
                     kAprMaxMetadata));
  if (h.metadata_offset < kAprHeaderBytes || h.metadata_offset > size ||
      h.metadata_size > size - h.metadata_offset)
    return fail(ErrorCode::Corrupt,
                fmt::format("the metadata ({} bytes at byte {}) does not lie between the header "
                            "({} bytes) and the end of the file ({} bytes)",
                            h.metadata_size, h.metadata_offset, kAprHeaderBytes, size));
  if (h.index_offset < h.metadata_offset + h.metadata_size || h.index_offset > size)
    return fail(ErrorCode::Corrupt,
                fmt::format("the index at byte {} does not lie between the end of the metadata "
                            "(byte {}) and the end of the file ({} bytes)",
                            h.index_offset, h.metadata_offset + h.metadata_size, size));
  if (h.data_offset < h.index_offset || h.data_offset > size)
    return fail(ErrorCode::Corrupt,
                fmt::format("the data at byte {} does not lie between the index (byte {}) and the "
                            "end of the file ({} bytes)",
                            h.data_offset, h.index_offset, size));
  if (h.data_offset % kAprAlignment != 0)
    return fail(ErrorCode::Corrupt, fmt::format("the data begins at byte {}, not a multiple of {}",
                                                h.data_offset, kAprAlignment));
  if (h.tensor_count > (h.data_offset - h.index_offset) / kSmallestEntry)
    return fail(ErrorCode::Corrupt, fmt::format("{} tensors cannot fit in an index of {} bytes",
                                                h.tensor_count, h.data_offset - h.index_offset));
  return {};
}

Result<IndexEntry> AprParser::read_index_entry(ByteReader& reader) {
  const auto require = [&](uint64_t size) -> Result<void> {
    if (reader.remaining() >= size) return {};
    return fail(ErrorCode::Corrupt,
                fmt::format("the index ends too early: {} more bytes are needed at byte {}, the "
                            "data begins at byte {}",
                            size, reader.offset(), header_.data_offset));
  };
  IndexEntry entry;
  TRY(require(2));
  TRY_ASSIGN(const uint16_t name_size, reader.read<uint16_t>());
  if (name_size == 0 || name_size > kAprMaxName)
    return fail(ErrorCode::Corrupt, fmt::format("its name has {} bytes (at byte {}), expected 1 to "
                                                "{}",
                                                name_size, reader.offset() - 2, kAprMaxName));
  TRY(require(name_size + 2U));
  TRY_ASSIGN(entry.name, reader.read_text(name_size));
  TRY_ASSIGN(entry.type_byte, reader.read<uint8_t>());
  TRY_ASSIGN(const uint8_t dimensions, reader.read<uint8_t>());
  if (dimensions > kAprMaxDimensions)
    return fail(
        ErrorCode::Corrupt,
        fmt::format("'{}' has {} dimensions (at byte {}), at most {} are allowed",
                    printable(entry.name), dimensions, reader.offset() - 1, kAprMaxDimensions));
  TRY(require(dimensions * uint64_t{8} + 16));
  entry.dims.resize(dimensions);
  for (auto& dim : entry.dims) {
    TRY_ASSIGN(dim, reader.read<uint64_t>());
  }
  TRY_ASSIGN(entry.offset, reader.read<uint64_t>());
  TRY_ASSIGN(entry.size, reader.read<uint64_t>());
  return entry;
}

Result<void> AprParser::read_index() {
  ByteReader reader(bytes_.first(header_.data_offset));
  TRY(reader.skip(header_.index_offset));
  index_.reserve(header_.tensor_count);
  for (uint32_t i = 0; i < header_.tensor_count; ++i) {
    auto entry = read_index_entry(reader);
    if (!entry)
      return std::unexpected(
          std::move(entry.error())
              .within(fmt::format("tensor entry {} of {}", i + 1, header_.tensor_count)));
    const uint64_t room = bytes_.size() - header_.data_offset;
    if (entry->offset > room || entry->size > room - entry->offset)
      return fail(ErrorCode::Corrupt,
                  fmt::format("tensor '{}': its data ({} bytes at data offset {}) runs past the "
                              "end of the file ({} bytes, data from byte {})",
                              printable(entry->name), entry->size, entry->offset, bytes_.size(),
                              header_.data_offset));
    index_.push_back(std::move(*entry));
  }
  return {};
}

// The file must end where its data ends: with the checksum in most files, without it in realizar's.
Result<void> AprParser::check_end() {
  uint64_t end = header_.data_offset;
  for (const auto& entry : index_)
    end = std::max(end, header_.data_offset + entry.offset + entry.size);
  const uint64_t padded = align_up(end);
  const uint64_t size = bytes_.size();
  no_footer_ = size == padded;
  if (no_footer_) return {};
  if (size < padded + kFooterBytes)
    return fail(ErrorCode::Corrupt,
                fmt::format("the file ends too early: it has {} bytes, expected {} (data to byte "
                            "{}, padding, a checksum of {} bytes)",
                            size, padded + kFooterBytes, end, kFooterBytes));
  if (size > padded + kFooterBytes)
    return fail(ErrorCode::Corrupt,
                fmt::format("the file has {} bytes, expected {}: what stands behind the data and "
                            "its checksum belongs to nothing",
                            size, padded + kFooterBytes));
  if (!options_.verify_checksums) return {};
  const auto stored = load<uint32_t>(bytes_, padded);
  const uint32_t computed = apr_crc(bytes_.first(padded));
  if (stored == computed) return {};
  return fail(ErrorCode::Corrupt,
              fmt::format("the footer checksum (at byte {}) is 0x{:08x}, the bytes give 0x{:08x}: "
                          "the file was damaged or changed after it was written",
                          padded, stored, computed));
}

Result<void> AprParser::read_metadata() {
  const auto text = text_of(bytes_.subspan(header_.metadata_offset, header_.metadata_size));
  const auto what = fmt::format("the metadata (at byte {})", header_.metadata_offset);
  TRY_ASSIGN(const auto json, parse_json_metadata(text, what, kMaxJsonDepth, content_.warnings));
  return add_json(content_.metadata, "", json, content_.warnings);
}

Result<void> AprParser::check_variant() {
  is_realizar_ = !is_row_major() && no_footer_ &&
                 string_in(content_.metadata, "model_type") == "transformer_lm_q4k";
  if (is_realizar_) {
    warn(
        "a file of realizar's Q4_K converter: it has no checksum over its data, and tensors of "
        "types that the converter did not know are marked as F32");
    if (no_header_checksum_) warn("its header has no checksum");
    return {};
  }
  if (no_header_checksum_)
    return fail(ErrorCode::Corrupt,
                fmt::format("the header checksum (at byte 40) is 0, the bytes give 0x{:08x}",
                            apr_header_crc(bytes_.first<kAprHeaderBytes>())));
  if (no_footer_)
    return fail(ErrorCode::Corrupt,
                fmt::format("the footer checksum is absent: the file ends at byte {}, with its "
                            "data; {} bytes more are expected, so it was cut short",
                            bytes_.size(), kFooterBytes));
  return {};
}

Result<void> AprParser::check_names() {
  std::unordered_set<std::string_view> names;
  for (const auto& entry : index_)
    if (!names.insert(entry.name).second)
      return fail(ErrorCode::Corrupt, fmt::format("the tensor name '{}' stands twice in the index",
                                                  printable(entry.name, kAprMaxName)));
  const auto place = std::ranges::is_sorted_until(index_, {}, &IndexEntry::name);
  if (place == index_.end()) return {};
  const auto text = fmt::format("the index is not sorted: '{}' comes after '{}'",
                                printable(place->name), printable(std::prev(place)->name));
  if (!is_realizar_) return fail(ErrorCode::Corrupt, text);
  warn(text);
  return {};
}

Result<TensorEntry> AprParser::place_tensor(IndexEntry& entry) {
  TensorEntry tensor;
  tensor.view.shape = std::move(entry.dims);
  // realizar's converter copies GGUF's order of dimensions, innermost first.
  if (is_realizar_) std::ranges::reverse(tensor.view.shape);
  const auto meanings = is_realizar_ ? std::span<const Meaning>(kRealizarMeanings)
                                     : std::span<const Meaning>(kMeanings);
  TRY_ASSIGN(tensor.view.dtype, resolve_dtype(entry, tensor.view.shape, meanings));
  if (entry.offset % kAprAlignment != 0)
    return fail(ErrorCode::Corrupt, fmt::format("its data offset {} is not a multiple of {}",
                                                entry.offset, kAprAlignment));
  tensor.file_offset = header_.data_offset + entry.offset;
  tensor.view.bytes = bytes_.subspan(tensor.file_offset, entry.size);
  tensor.name = std::move(entry.name);
  return tensor;
}

Result<void> AprParser::place_tensors() {
  content_.tensors.reserve(index_.size());
  for (auto& entry : index_) {
    auto tensor = place_tensor(entry);
    if (!tensor)
      return std::unexpected(
          std::move(tensor.error()).within(fmt::format("tensor '{}'", printable(entry.name))));
    content_.tensors.push_back(std::move(*tensor));
  }
  return {};
}

Result<void> AprParser::check_overlaps() {
  std::vector<const TensorEntry*> order;
  for (const auto& tensor : content_.tensors)
    if (!tensor.view.bytes.empty()) order.push_back(&tensor);
  std::ranges::sort(order, {}, &TensorEntry::file_offset);
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i - 1]->file_offset + order[i - 1]->view.bytes.size() > order[i]->file_offset)
      return fail(
          ErrorCode::Corrupt,
          fmt::format("the data of '{}' and '{}' overlap at byte {}", printable(order[i - 1]->name),
                      printable(order[i]->name), order[i]->file_offset));
  return {};
}

void AprParser::describe() {
  content_.format_text =
      fmt::format("APR v2{}{}", is_realizar_ ? ", realizar Q4_K" : "", compression_);
  if ((header_.flags & kAprSharded) != 0) {
    const auto number = [&](const char* key) {
      const auto found = content_.metadata.find(key);
      return found == content_.metadata.end() ? std::string("?") : to_text(found->second);
    };
    const auto shard = fmt::format("shard_index {} of shard_count {}",
                                   number("sharding.shard_index"), number("sharding.shard_count"));
    content_.format_text += ", one shard";
    warn(fmt::format("the file is one of several ({}); tensors of the others are not read", shard));
  }
  if (string_in(content_.metadata, "format") == "entrenar-checkpoint")
    warn(
        "a training checkpoint of entrenar: the weights of its linear layers are stored "
        "transposed ([in, out])");
}

}  // namespace

uint32_t apr_crc(Bytes bytes, uint32_t start) {
  return static_cast<uint32_t>(
      crc32_z(start, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

uint32_t apr_header_crc(std::span<const std::byte, kAprHeaderBytes> header) {
  return apr_crc(header.subspan<44, 20>(), apr_crc(header.first<40>()));
}

bool is_apr_alias(std::string_view key) {
  return std::ranges::any_of(kAliases, [&](const AprAlias& row) { return key == row.alias; });
}

// A null says as little as no key.
void add_canonical_keys(Metadata& metadata, std::vector<std::string>& warnings) {
  for (const auto& [alias, canonical] : kAliases) {
    const auto found = metadata.find(alias);
    if (found == metadata.end() || is_null(found->second)) continue;
    const auto place = metadata.find(canonical);
    if (place == metadata.end() || is_null(place->second)) {
      metadata.insert_or_assign(canonical, found->second);
    } else if (!same_value(place->second, found->second)) {
      warnings.push_back(fmt::format("the metadata says '{}' = {} and '{}' = {}; '{}' counts",
                                     canonical, to_text(place->second), alias,
                                     to_text(found->second), canonical));
    }
  }
}

Result<AprContent> parse_apr(Bytes bytes, OpenOptions options) {
  return AprParser(bytes, options).parse();
}

Result<ModelFile> open_apr(const std::filesystem::path& path, OpenOptions options) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  auto content = parse_apr(file->bytes(), options);
  if (!content) return std::unexpected(std::move(content.error()).within(path.string()));
  ModelFile model;
  model.path = path;
  model.format = FileFormat::Apr;
  model.format_text = std::move(content->format_text);
  model.parts.push_back({path, std::move(*file)});
  if (!content->image.empty()) model.buffers.push_back(std::move(content->image));
  model.metadata = std::move(content->metadata);
  model.tensors = std::move(content->tensors);
  model.warnings = std::move(content->warnings);
  return model;
}

bool looks_like_apr(Bytes head) {
  const auto text = text_of(head);
  if (is_shard_manifest(text)) return true;
  return text.size() >= 4 && text.starts_with("APR") &&
         (text[3] == '\0' || text[3] == '1' || text[3] == '2' || text[3] == 'N');
}

}  // namespace plumb
