// SPDX-License-Identifier: Apache-2.0
// The base file of llama-perplexity --kl-divergence-base: "_logits_", tokens, and for the second
// half of each chunk the log-probabilities of all tokens, in 16 bits each.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/byte_reader.h"
#include "core/check.h"
#include "dump/readers.h"

namespace plumb {
namespace {

constexpr std::string_view kMagic = "_logits_";
constexpr uint64_t kHeaderBytes = 20;
constexpr uint64_t kMaxDecodedBytes = uint64_t{4} << 30;

struct Layout {
  uint64_t context = 0, vocabulary = 0, chunks = 0;

  uint64_t first_position() const { return context / 2; }
  uint64_t rows() const { return context - 1 - first_position(); }  // of a chunk
  // A row: scale, minimum, one number of 16 bits a token, and one more if their number is odd.
  uint64_t row_bytes() const { return 8 + (vocabulary + 1) / 2 * 4; }
};

// What the three numbers promise, or nothing if it does not fit in 64 bits.
std::optional<uint64_t> file_size(const Layout& layout) {
  uint64_t tokens = 0, rows = 0, row_bytes = 0, size = 0;
  if (__builtin_mul_overflow(layout.context * 4, layout.chunks, &tokens) ||
      __builtin_mul_overflow(layout.rows(), layout.chunks, &rows) ||
      __builtin_mul_overflow(rows, layout.row_bytes(), &row_bytes) ||
      __builtin_add_overflow(tokens + kHeaderBytes, row_bytes, &size))
    return std::nullopt;
  return size;
}

Result<Layout> read_layout(ByteReader& reader) {
  TRY_ASSIGN(const auto magic, reader.read_text(kMagic.size()));
  if (magic != kMagic) return fail(ErrorCode::Corrupt, "'_logits_' is expected at byte 0");
  TRY_ASSIGN(const int32_t context, reader.read<int32_t>());
  TRY_ASSIGN(const int32_t vocabulary, reader.read<int32_t>());
  TRY_ASSIGN(const int32_t chunks, reader.read<int32_t>());
  if (context < 2 || vocabulary < 1 || chunks < 1)
    return fail(ErrorCode::Corrupt,
                fmt::format("the header says a context of {}, {} tokens in the vocabulary and {} "
                            "chunks",
                            context, vocabulary, chunks));
  return Layout{static_cast<uint64_t>(context), static_cast<uint64_t>(vocabulary),
                static_cast<uint64_t>(chunks)};
}

Result<void> check_size(const Layout& layout, uint64_t found) {
  const auto expected = file_size(layout);
  if (!expected || *expected != found)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} chunks of {} tokens, {} in the vocabulary, take {} bytes; the file "
                            "has {}. It is cut or was not written to its end",
                            layout.chunks, layout.context, layout.vocabulary,
                            expected ? fmt::to_string(*expected) : "more than 2^64", found));
  // Every decoded value has two bytes in the file, so none of these products overflows.
  const uint64_t decoded = layout.chunks * layout.rows() * layout.vocabulary * sizeof(float);
  if (decoded > kMaxDecodedBytes)
    return fail(ErrorCode::Unsupported,
                fmt::format("its values take {:.1f} GiB in memory, at most {} are read: write the "
                            "file again with fewer chunks (--chunks {})",
                            static_cast<double>(decoded) / (1 << 30), kMaxDecodedBytes >> 30,
                            layout.chunks * kMaxDecodedBytes / decoded));
  return {};
}

Result<std::vector<int64_t>> read_tokens(ByteReader& reader, const Layout& layout) {
  std::vector<int64_t> tokens;
  for (uint64_t i = 0; i < layout.context * layout.chunks; ++i) {
    const size_t offset = reader.offset();
    TRY_ASSIGN(const int32_t token, reader.read<int32_t>());
    if (token < 0 || static_cast<uint64_t>(token) >= layout.vocabulary)
      return fail(ErrorCode::Corrupt, fmt::format("byte {}: token {} of a vocabulary of {}", offset,
                                                  token, layout.vocabulary));
    tokens.push_back(token);
  }
  return tokens;
}

// Decodes the rows of a chunk; gives half of the largest step between two values.
Result<double> read_chunk(ByteReader& reader, const Layout& layout, std::span<std::byte> out) {
  double precision = 0;
  std::byte* next = out.data();
  for (uint64_t row = 0; row < layout.rows(); ++row) {
    const size_t offset = reader.offset();
    TRY_ASSIGN(const float scale, reader.read<float>());
    TRY_ASSIGN(const float minimum, reader.read<float>());
    if (!std::isfinite(scale) || !std::isfinite(minimum) || scale < 0)
      return fail(ErrorCode::Corrupt, fmt::format("byte {}: a row has the scale {} and the minimum "
                                                  "{}",
                                                  offset, scale, minimum));
    TRY_ASSIGN(const auto text, reader.read_text(layout.row_bytes() - 8));
    for (uint64_t i = 0; i < layout.vocabulary; ++i) {
      uint16_t q = 0;
      std::memcpy(&q, text.data() + i * 2, sizeof(q));
      const float value = scale * static_cast<float>(q) + minimum;
      std::memcpy(next, &value, sizeof(value));
      next += sizeof(value);
    }
    precision = std::max(precision, static_cast<double>(scale) / 2);
  }
  CHECK(next == out.data() + out.size());
  return precision;
}

DumpTensor integers(std::string name, size_t pass, std::span<const int32_t> values, Dump& dump) {
  const auto bytes = std::as_bytes(values);
  DumpTensor tensor;
  tensor.name = std::move(name);
  tensor.pass = pass;
  tensor.view = {DType::I32, {values.size()}, dump.keep({bytes.begin(), bytes.end()})};
  return tensor;
}

Result<void> add_chunk(ByteReader& reader, const Layout& layout, size_t chunk, Dump& dump) {
  std::vector<std::byte> bytes(layout.rows() * layout.vocabulary * sizeof(float));
  DumpTensor tensor;
  TRY_ASSIGN(tensor.precision, read_chunk(reader, layout, bytes));
  tensor.name = "log_probs";
  tensor.pass = chunk;
  tensor.view = {DType::F32, {layout.rows(), layout.vocabulary}, dump.keep(std::move(bytes))};
  dump.tensors.push_back(std::move(tensor));
  std::vector<int32_t> positions;
  for (uint64_t row = 0; row < layout.rows(); ++row)
    positions.push_back(static_cast<int32_t>(layout.first_position() + row));
  dump.tensors.push_back(integers("positions", chunk, positions, dump));
  return {};
}

Result<Dump> read(const DumpSource& source) {
  Dump dump;
  dump.kind = "llama-perplexity base file";
  dump.label = source.path.string();
  dump.engine["name"] = "llama.cpp";
  ByteReader reader(source.bytes);
  TRY_ASSIGN(const Layout layout, read_layout(reader));
  TRY(check_size(layout, source.bytes.size()));
  TRY_ASSIGN(auto tokens, read_tokens(reader, layout));
  for (uint64_t chunk = 0; chunk < layout.chunks; ++chunk) {
    TRY(add_chunk(reader, layout, chunk, dump));
    if (layout.chunks == 1) continue;
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(chunk * layout.context);
    const std::vector<int32_t> own(first, first + static_cast<std::ptrdiff_t>(layout.context));
    dump.tensors.push_back(integers("tokens", chunk, own, dump));
  }
  if (layout.chunks == 1) dump.tokens = std::move(tokens);
  dump.model["vocabulary"] = fmt::to_string(layout.vocabulary);
  dump.notes.push_back(
      "log-probabilities in 16 bits each: what lies more than 16 nats below the best token is "
      "stored as that floor, so small ones are too large and a row sums to slightly more than 1");
  dump.notes.push_back(
      "the tokens are those of the text: with a model that wants a BOS, each chunk was evaluated "
      "with it in place of its first token");
  if (layout.chunks > 1)
    dump.notes.push_back(
        fmt::format("it holds {} texts of {} tokens, each fed by itself, and a trace is one run: "
                    "write it with --chunks 1 to compare it",
                    layout.chunks, layout.context));
  return dump;
}

}  // namespace

bool looks_like_kld(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<Dump> read_kld(const DumpSource& source) {
  auto dump = read(source);
  if (!dump) return std::unexpected(std::move(dump.error()).within(source.path.string()));
  return dump;
}

}  // namespace plumb
