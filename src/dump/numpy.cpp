// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "dump/parts.h"
#include "dump/readers.h"
#include "dump/zip_archive.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kLongestHeader = 65536;
constexpr size_t kMostDimensions = 64;

struct NpyHeader {
  DType dtype = DType::F32;
  bool big_endian = false;
  bool fortran = false;
  bool is_void = false;  // taken for bfloat16
  std::vector<uint64_t> shape;
  size_t data_offset = 0;
  uint64_t data_bytes = 0;
};

std::unexpected<Error> corrupt(std::string message) {
  return fail(ErrorCode::Corrupt, std::move(message));
}

// The few forms of a Python literal that NumPy writes into a header.
class HeaderText {
 public:
  explicit HeaderText(std::string_view text) : text_(text) {}

  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool accept_word(std::string_view word) {
    skip_space();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  std::optional<std::string_view> quoted() {
    skip_space();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) return std::nullopt;
    const size_t end = text_.find(text_[at_], at_ + 1);
    if (end == std::string_view::npos) return std::nullopt;
    const auto inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return inside;
  }
  std::optional<uint64_t> number() {
    skip_space();
    const size_t start = at_;
    uint64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
          __builtin_add_overflow(value, static_cast<uint64_t>(text_[at_] - '0'), &value))
        return std::nullopt;
    }
    if (at_ == start) return std::nullopt;
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // Python 2 wrote long numbers so
    return value;
  }
  bool at_end() {
    skip_space();
    return at_ == text_.size();
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t'))
      ++at_;
  }
  std::string_view text_;
  size_t at_ = 0;
};

Result<void> read_type(std::string_view descr, NpyHeader& header) {
  struct Known {
    std::string_view code;
    DType dtype;
  };
  static constexpr Known kKnown[] = {{"f2", DType::F16}, {"f4", DType::F32}, {"f8", DType::F64},
                                     {"i1", DType::I8},  {"i2", DType::I16}, {"i4", DType::I32},
                                     {"i8", DType::I64}, {"u1", DType::U8},  {"u2", DType::U16},
                                     {"u4", DType::U32}, {"u8", DType::U64}, {"b1", DType::Bool}};
  const auto unknown = [&](std::string_view why) {
    return fail(
        ErrorCode::Unsupported,
        fmt::format("values of type '{}' {}; floats of 2, 4 and 8 bytes, whole numbers, bool "
                    "and bfloat16 ('<V2') are read",
                    printable(descr), why));
  };
  if (descr.size() < 2) return unknown("are not known");
  const char order = descr[0];
  const auto code = descr.substr(1);
  if (code == "V2" && order != '>') {
    header.dtype = DType::BF16;
    header.is_void = true;
    return {};
  }
  if (code[0] == 'O') return unknown("are Python objects (a pickle): refused");
  if (code[0] == 'c') return unknown("are complex numbers");
  if (code[0] == 'U' || code[0] == 'S') return unknown("are text");
  if (code[0] == 'V') return unknown("are raw bytes, and nothing says what they mean");
  const auto* known = std::ranges::find(kKnown, code, &Known::code);
  if (known == std::end(kKnown)) return unknown("are not read");
  header.dtype = known->dtype;
  const bool one_byte = info(known->dtype).block_bytes == 1;
  if (order != '<' && order != '>' && order != '=' && !(order == '|' && one_byte))
    return unknown("have no known byte order");
  if (order == '=') return unknown("do not say their byte order");
  header.big_endian = order == '>' && !one_byte;
  return {};
}

Result<void> read_shape(HeaderText& text, std::vector<uint64_t>& shape) {
  if (!text.accept('(')) return corrupt("the header's shape is not a tuple");
  while (!text.accept(')')) {
    const auto size = text.number();
    if (!size) return corrupt("the header's shape holds something else than sizes");
    shape.push_back(*size);
    if (shape.size() > kMostDimensions)
      return corrupt(fmt::format("the header's shape has more than {} sizes", kMostDimensions));
    if (text.accept(',')) continue;
    if (!text.accept(')')) return corrupt("the header's shape does not end");
    break;
  }
  return {};
}

Result<void> read_fields(std::string_view source, NpyHeader& header) {
  HeaderText text(source);
  bool has_descr = false, has_order = false, has_shape = false;
  const auto once = [](bool& seen) { return !std::exchange(seen, true); };
  if (!text.accept('{')) return corrupt("the header is not a Python dict");
  while (!text.accept('}')) {
    const auto key = text.quoted();
    if (!key || !text.accept(':')) return corrupt("the header is not a Python dict of names");
    if (*key == "descr" && once(has_descr)) {
      const auto descr = text.quoted();
      if (!descr)
        return fail(ErrorCode::Unsupported,
                    "the array has records of several fields; save each field by itself");
      TRY(read_type(*descr, header));
    } else if (*key == "fortran_order" && once(has_order)) {
      header.fortran = text.accept_word("True");
      if (!header.fortran && !text.accept_word("False"))
        return corrupt("the header's fortran_order is neither True nor False");
    } else if (*key == "shape" && once(has_shape)) {
      TRY(read_shape(text, header.shape));
    } else {
      return corrupt(
          fmt::format("the header has '{}', which is unknown or there twice", printable(*key)));
    }
    if (text.accept(',')) continue;
    if (!text.accept('}')) return corrupt("the header's dict does not end");
    break;
  }
  if (!text.at_end()) return corrupt("the header goes on after its dict");
  if (!has_descr || !has_order || !has_shape)
    return corrupt("the header lacks one of 'descr', 'fortran_order' and 'shape'");
  return {};
}

// `bytes` are the start of the file at least; its data may lie beyond them.
Result<NpyHeader> read_header(std::span<const std::byte> bytes) {
  if (!looks_like_npy(bytes)) return corrupt("it does not start as a NumPy array does");
  const auto byte_at = [&](size_t i) { return std::to_integer<size_t>(bytes[i]); };
  const size_t version = bytes.size() > 6 ? byte_at(6) : 0;
  const size_t start = version == 1 ? 10 : 12;
  if (bytes.size() < start) return corrupt("the file ends inside of its header");
  if (version < 1 || version > 3)
    return fail(ErrorCode::Unsupported, fmt::format("its version is {}; 1 to 3 are read", version));
  size_t length = byte_at(8) | byte_at(9) << 8;
  if (version > 1) length |= byte_at(10) << 16 | byte_at(11) << 24;
  if (length > kLongestHeader)
    return corrupt(fmt::format("its header would have {} bytes, more than {} are not read", length,
                               kLongestHeader));
  if (length > bytes.size() - start)
    return corrupt(fmt::format("its header of {} bytes runs past the end of the file ({} left)",
                               length, bytes.size() - start));
  NpyHeader header;
  TRY(read_fields({reinterpret_cast<const char*>(bytes.data()) + start, length}, header));
  header.data_offset = start + length;
  const auto count = element_count(header.shape);
  const auto size = count ? tensor_bytes(header.dtype, *count) : std::nullopt;
  if (!size || *size > UINT64_MAX / 2 || !row_major_strides(header.shape))
    return corrupt(fmt::format("the size of its shape {} overflows", to_text(header.shape)));
  header.data_bytes = *size;
  return header;
}

std::span<const std::byte> in_order(const NpyHeader& header, std::span<const std::byte> data,
                                    Dump& dump) {
  const size_t item = info(header.dtype).block_bytes;
  if (!header.fortran && !header.big_endian) return keep_aligned(data, item, dump);
  auto strides = *row_major_strides(header.shape);
  if (header.fortran) {
    uint64_t step = 1;
    for (size_t d = 0; d < strides.size(); ++d) {
      strides[d] = step;
      step *= std::max<uint64_t>(header.shape[d], 1);  // no overflow: row_major_strides said so
    }
  }
  return dump.keep(gather(data.data(), item, header.shape, strides, header.big_endian));
}

// One entry of an .npz.
Result<DumpTensor> read_member(const ZipEntry& entry, Dump& dump) {
  if (!entry.deflated) {
    TRY(check_stored(entry, false));
    return parse_npy(entry.raw, dump);
  }
  // The header says how much there is, before anything of that size is allocated.
  TRY_ASSIGN(const auto start, inflate_start(entry, kLongestHeader + 12));
  TRY_ASSIGN(const auto header, read_header(start));
  if (header.data_offset + header.data_bytes != entry.size)
    return corrupt(fmt::format("{} {} take {} bytes, but the archive says that it has {}",
                               to_text(header.shape), info(header.dtype).name,
                               header.data_offset + header.data_bytes, entry.size));
  TRY(check_memory(entry.size, "this array"));
  TRY_ASSIGN(auto content, inflate_entry(entry));
  return parse_npy(dump.keep(std::move(content)), dump);
}

}  // namespace

bool looks_like_npy(std::span<const std::byte> bytes) {
  return bytes.size() >= kMagic.size() &&
         std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

bool looks_like_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && (std::memcmp(bytes.data(), "PK\x03\x04", 4) == 0 ||
                               std::memcmp(bytes.data(), "PK\x05\x06", 4) == 0);
}

Result<DumpTensor> parse_npy(std::span<const std::byte> bytes, Dump& dump) {
  TRY_ASSIGN(const auto header, read_header(bytes));
  const auto data = bytes.subspan(header.data_offset);
  if (data.size() != header.data_bytes)
    return corrupt(fmt::format(
        "{} {} take {} bytes of data, the file has {}{}", to_text(header.shape),
        info(header.dtype).name, header.data_bytes, data.size(),
        data.size() > header.data_bytes ? "; several arrays in one file are not read" : ""));
  DumpTensor tensor;
  tensor.view = {
      .dtype = header.dtype, .shape = header.shape, .bytes = in_order(header, data, dump)};
  return tensor;
}

Result<Dump> read_npy(const DumpSource& source) {
  Dump dump;
  dump.kind = "npy";
  dump.label = source.path.string();
  dump.owners.push_back(source.owner);
  auto tensor = parse_npy(source.bytes, dump);
  if (!tensor) return std::unexpected(std::move(tensor.error()).within(dump.label));
  if (tensor->view.dtype == DType::BF16)
    dump.notes.emplace_back("values of type '<V2' were taken as bfloat16");
  dump.tensors.push_back(std::move(*tensor));
  return dump;
}

Result<Dump> read_npz(const DumpSource& source) {
  Dump dump;
  dump.kind = "npz";
  dump.label = source.path.string();
  dump.owners.push_back(source.owner);
  auto entries = parse_zip(source.bytes);
  if (!entries) return std::unexpected(std::move(entries.error()).within(dump.label));
  uint64_t needed = 0;  // by all arrays together; no overflow: each is at most 1032 times its bytes
  for (const auto& entry : *entries) needed += entry.deflated ? entry.size : 0;
  if (auto fits = check_memory(needed, "the unpacked archive"); !fits)
    return std::unexpected(std::move(fits.error()).within(dump.label));
  for (const auto& entry : *entries) {
    if (!entry.name.ends_with(".npy")) {
      dump.notes.push_back(
          fmt::format("'{}' in the archive is not a .npy: skipped", printable(entry.name)));
      continue;
    }
    auto tensor = read_member(entry, dump);
    if (!tensor)
      return std::unexpected(std::move(tensor.error())
                                 .within(fmt::format("'{}'", printable(entry.name)))
                                 .within(dump.label));
    if (tensor->view.dtype == DType::BF16)
      dump.notes.push_back(
          fmt::format("'{}': values of type '<V2' were taken as bfloat16", printable(entry.name)));
    tensor->name = entry.name.substr(0, entry.name.size() - 4);
    tensor->source = entry.name;
    dump.tensors.push_back(std::move(*tensor));
  }
  take_tokens(dump);
  return dump;
}

}  // namespace plumb
