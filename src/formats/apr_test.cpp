// SPDX-License-Identifier: Apache-2.0
#include "formats/apr.h"

#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/apr_writer.h"
#include "formats/json_metadata.h"

namespace plumb {
namespace {

using Buffer = std::vector<std::byte>;
using Shape = std::vector<uint64_t>;

constexpr OpenOptions kNoChecksums{.verify_checksums = false};

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

template <class T>
void put(std::string& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// Bytes on the heap without a byte to spare, so that a sanitizer sees any read past the end.
Buffer buffer(const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return {data, data + bytes.size()};
}

std::string padded(std::string bytes) {
  bytes.resize((bytes.size() + 63) / 64 * 64);
  return bytes;
}

std::string pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + 1);
  return bytes;
}

// Written here a second time, so that a wrong checksum in the code is not its own witness.
uint32_t slow_crc(std::string_view bytes) {
  uint32_t crc = ~uint32_t{0};
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1U ^ (crc & 1U ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

uint32_t header_crc(const std::string& bytes) {
  return slow_crc(bytes.substr(0, 40) + bytes.substr(44, 20));
}

// Makes both checksums right again after the bytes were changed.
void sign(std::string& bytes, bool footer = true) {
  put(bytes, 40, header_crc(bytes));
  if (footer)
    put(bytes, bytes.size() - 4, slow_crc(std::string_view(bytes).substr(0, bytes.size() - 4)));
}

struct Raw {
  std::string name;
  uint8_t type = 0;
  Shape dims = {};
  std::string data = {};
  std::optional<uint64_t> offset = {}, size = {};  // claims in place of the truth
};

// A file from its parts, with right checksums.
struct Parts {
  uint16_t flags = kAprRowMajor;
  std::string metadata = R"({"model_type":"test"})";
  std::vector<Raw> tensors = {{"a", 12, {1, 256}, pattern(144)}, {"w", 0, {2}, pattern(8)}};
  bool footer = true, header_checksum = true;
  std::optional<uint32_t> tensor_count = {};

  std::string index() const {
    std::string bytes;
    uint64_t offset = 0;
    for (const auto& tensor : tensors) {
      bytes += raw(static_cast<uint16_t>(tensor.name.size())) + tensor.name + raw(tensor.type) +
               raw(static_cast<uint8_t>(tensor.dims.size()));
      for (const uint64_t dim : tensor.dims) bytes += raw(dim);
      bytes += raw(tensor.offset.value_or(offset));
      bytes += raw(tensor.size.value_or(tensor.data.size()));
      offset += padded(tensor.data).size();
    }
    return bytes;
  }
  std::string file() const {
    const std::string json = padded(metadata);
    const std::string entries = padded(index());
    std::string bytes = std::string("APR\0\2\0", 6) + raw(flags) +
                        raw(tensor_count.value_or(static_cast<uint32_t>(tensors.size()))) +
                        raw(uint64_t{64}) + raw(static_cast<uint32_t>(metadata.size())) +
                        raw(uint64_t{64 + json.size()}) +
                        raw(uint64_t{64 + json.size() + entries.size()});
    bytes = padded(bytes) + json + entries;
    for (const auto& tensor : tensors) bytes += padded(tensor.data);
    if (header_checksum) put(bytes, 40, header_crc(bytes));
    if (footer) bytes += raw(slow_crc(bytes));
    return bytes;
  }
};

std::string plain_file() { return Parts().file(); }

Parts with_metadata(const std::string& metadata) {
  Parts parts;
  parts.metadata = metadata;
  return parts;
}

Parts with_tensors(std::vector<Raw> tensors) {
  Parts parts;
  parts.tensors = std::move(tensors);
  return parts;
}

Parts with_flags(uint16_t flags) {
  Parts parts;
  parts.flags = flags;
  return parts;
}

// As realizar's Q4_K converter writes it: no footer, GGUF's names and order of dimensions.
Parts realizar() {
  Parts parts;
  parts.flags = kAprQuantized;
  parts.metadata = R"({"model_type":"transformer_lm_q4k","num_hidden_layers":3,"n_embd":64})";
  parts.tensors = {{"blk.0.attn_q.weight", 12, {256, 3}, pattern(432)},
                   {"output.weight", 8, {64, 2}, pattern(136)},
                   {"token_embd.weight", 2, {32, 5}, pattern(90)}};
  parts.footer = false;
  return parts;
}

AprContent accepted(const std::string& bytes, const Buffer& copy, OpenOptions options = {}) {
  auto content = parse_apr(copy, options);
  EXPECT_TRUE(content.has_value()) << content.error().message << " (" << bytes.size() << " bytes)";
  return content ? std::move(*content) : AprContent{};
}

// For what is looked at without the tensors' bytes.
AprContent accepted(const std::string& bytes) { return accepted(bytes, buffer(bytes)); }

void expect_refusal(const std::string& bytes, const std::vector<std::string>& parts,
                    OpenOptions options = {}) {
  const auto content = parse_apr(buffer(bytes), options);
  ASSERT_FALSE(content.has_value()) << "accepted, expected: " << parts.front();
  for (const auto& part : parts)
    EXPECT_NE(content.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << content.error().message.substr(0, 500);
}

bool has_warning(const AprContent& content, const std::string& part) {
  return std::ranges::any_of(content.warnings, [&](const std::string& warning) {
    return warning.find(part) != std::string::npos;
  });
}

void expect_inside(const AprContent& content, std::span<const std::byte> bytes) {
  const auto image = content.image.empty() ? bytes : std::span(content.image);
  for (const auto& tensor : content.tensors) {
    const auto count = element_count(tensor.view.shape);
    ASSERT_TRUE(count.has_value()) << tensor.name;
    ASSERT_EQ(tensor_bytes(tensor.view.dtype, *count), tensor.view.bytes.size()) << tensor.name;
    ASSERT_EQ(tensor.view.bytes.data(), image.data() + tensor.file_offset) << tensor.name;
    ASSERT_LE(tensor.file_offset + tensor.view.bytes.size(), image.size()) << tensor.name;
  }
}

std::filesystem::path scratch(const std::string& name) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  return std::filesystem::path(testing::TempDir()) /
         (std::string("apr-") + test->test_suite_name() + "-" + test->name() + "-" + name);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

int64_t integer(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end() || !std::holds_alternative<int64_t>(found->second)) {
    ADD_FAILURE() << key << " is no integer";
    return -1;
  }
  return std::get<int64_t>(found->second);
}

// --- The golden file ---

// 516 bytes made by hand from the description of the format.
std::string golden() {
  std::string bytes(
      "APR\0\2\0\0\4\2\0\0\0\x40\0\0\0\0\0\0\0\x15\0\0\0\x80\0\0\0\0\0\0\0"
      "\0\1\0\0\0\0\0\0\x18\x98\x5f\xcb",
      44);
  bytes = padded(bytes) + padded(R"({"model_type":"test"})");
  std::string index("\1\0a\x0c\2\1\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0", 21);
  index += raw(uint64_t{0}) + raw(uint64_t{144});
  index += std::string("\1\0w\0\1\2\0\0\0\0\0\0\0", 13) + raw(uint64_t{192}) + raw(uint64_t{8});
  bytes += padded(index);
  std::string data;
  for (int i = 0; i < 144; ++i) data += static_cast<char>(i);
  return bytes + padded(data) + padded(raw(1.0F) + raw(-2.0F)) + "\xf4\x53\x7d\xf4";
}

TEST(Apr, WritesTheGoldenFileByteForByte) {
  // Guards against a layout that only our own reader understands.
  const std::string want = golden();
  ASSERT_EQ(want.size(), 516U);
  ASSERT_EQ(sha256_hex(buffer(want)),
            "890521ae2da7b451caa3b270eaab3ab7ba2e46d7b00746b7e4eaded3e5471baa");
  const Buffer a = buffer(want.substr(0x100, 144));
  const Buffer w = buffer(want.substr(0x1C0, 8));
  const auto path = scratch("golden.apr");
  // Not sorted: the writer does that.
  const std::vector<AprTensor> tensors = {{"w", {DType::F32, {2}, w}},
                                          {"a", {DType::Q4_K, {1, 256}, a}}};
  const auto written = write_apr(path, {{"model_type", std::string("test")}}, tensors,
                                 {.flags = uint16_t{kAprRowMajor}});
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_EQ(read_file(path), want);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".partial"));
}

TEST(Apr, ReadsTheGoldenFile) {
  const Buffer bytes = buffer(golden());
  const auto content = accepted(golden(), bytes);
  expect_inside(content, bytes);
  EXPECT_TRUE(content.warnings.empty());
  EXPECT_EQ(content.format_text, "APR v2");
  EXPECT_EQ(to_text(content.metadata.at("model_type")), "'test'");
  ASSERT_EQ(content.tensors.size(), 2U);
  EXPECT_EQ(content.tensors[0].name, "a");
  EXPECT_EQ(content.tensors[0].view.dtype, DType::Q4_K);
  EXPECT_EQ(content.tensors[0].view.shape, (Shape{1, 256}));
  EXPECT_EQ(content.tensors[0].file_offset, 0x100U);
  EXPECT_EQ(content.tensors[0].view.bytes[143], std::byte{143});
  EXPECT_EQ(content.tensors[1].view.dtype, DType::F32);
  float value = 0;
  std::memcpy(&value, content.tensors[1].view.bytes.data() + 4, 4);
  EXPECT_EQ(value, -2.0F);
}

TEST(Apr, TheBuilderOfTheseTestsMakesTheGoldenFile) {
  // Guards against tests of files that no writer makes.
  Parts parts;
  parts.tensors[0].data = golden().substr(0x100, 144);
  parts.tensors[1].data = golden().substr(0x1C0, 8);
  EXPECT_EQ(parts.file(), golden());
}

// The bytes before the data of two files that the real `apr` wrote. Their data is put back as a
// pattern: what is tested is what stands in front of it.
struct RealHead {
  const char* file;
  size_t size, tensors;
  const char* first;
  Shape shape;
  int64_t vocabulary;
};
class AprRealHead : public testing::TestWithParam<RealHead> {};

TEST_P(AprRealHead, IsReadRight) {
  // Guards against a reader that agrees with our writer and with nobody else.
  const auto& want = GetParam();
  std::string bytes =
      read_file(std::filesystem::path(PLUMB_SOURCE_DIR) / "tests/corpus/apr" / want.file);
  ASSERT_FALSE(bytes.empty());
  EXPECT_EQ(bytes.substr(40, 4), raw(header_crc(bytes)));
  bytes += pattern(want.size - 4 - bytes.size());
  bytes += raw(slow_crc(bytes));
  const Buffer copy = buffer(bytes);
  const auto content = accepted(bytes, copy);
  expect_inside(content, copy);
  EXPECT_TRUE(content.warnings.empty()) << content.warnings.front();
  ASSERT_EQ(content.tensors.size(), want.tensors);
  EXPECT_EQ(content.tensors[0].name, want.first);
  EXPECT_EQ(content.tensors[0].view.shape, want.shape);
  EXPECT_EQ(integer(content.metadata, "num_layers"), 3);
  EXPECT_EQ(integer(content.metadata, "tokenizer.vocab_size"), want.vocabulary);
  const auto& words = content.metadata.at("tokenizer.vocabulary");
  EXPECT_EQ(kind_of(words), "an array of " + std::to_string(want.vocabulary) + " values");
  EXPECT_TRUE(std::holds_alternative<std::monostate>(content.metadata.at("license")));
}

INSTANTIATE_TEST_SUITE_P(
    , AprRealHead,
    testing::Values(RealHead{"head-qwen3-st", 382916, 36, "lm_head.weight", {120, 64}, 120},
                    RealHead{"head-gpt2-gguf", 683524, 41, "blk.0.attn_norm.bias", {64}, 120}));

// --- Round trips ---

TEST(Apr, EveryTypeComesBack) {
  // Guards against a type byte that the reader takes for another type.
  struct Case {
    DType dtype;
    Shape shape;
  };
  const std::vector<Case> cases = {
      {DType::F32, {3, 5}},     {DType::F16, {7}},
      {DType::BF16, {2, 2, 3}}, {DType::F64, {4}},
      {DType::I32, {1}},        {DType::I64, {}},
      {DType::I8, {33}},        {DType::U8, {1, 1, 9}},
      {DType::Q4_K, {2, 512}},  {DType::Q6_K, {3, 256}},
      {DType::AprQ4, {5, 13}},  {DType::AprQ8, {3, 7}},
      {DType::F32, {0, 4}},     {DType::F32, {1, 1, 1, 1, 1, 1, 1, 2}}};
  std::vector<Buffer> data;
  std::vector<AprTensor> tensors;
  for (const auto& [dtype, shape] : cases) {
    data.push_back(buffer(pattern(*tensor_bytes(dtype, *element_count(shape)))));
    tensors.push_back({"t" + std::to_string(data.size()), {dtype, shape, data.back()}});
  }
  tensors.back().name = std::string(kAprMaxName, 'n');
  const auto path = scratch("types.apr");
  const auto written = write_apr(path, {}, tensors);
  ASSERT_TRUE(written.has_value()) << written.error().message;
  const auto model = open_apr(path);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  EXPECT_EQ(model->format, FileFormat::Apr);
  ASSERT_EQ(model->parts.size(), 1U);
  ASSERT_EQ(model->tensors.size(), tensors.size());
  for (const auto& tensor : tensors) {
    const auto found = std::ranges::find(model->tensors, tensor.name, &TensorEntry::name);
    ASSERT_NE(found, model->tensors.end()) << tensor.name;
    EXPECT_EQ(found->view.dtype, tensor.view.dtype) << tensor.name;
    EXPECT_EQ(found->view.shape, tensor.view.shape) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(found->view.bytes, tensor.view.bytes)) << tensor.name;
  }
}

TEST(Apr, MetadataComesBack) {
  // Guards against numbers that turn into text, and floats that lose digits.
  const auto array = [](std::vector<MetadataValue> values) {
    return std::make_shared<const MetadataArray>(std::move(values));
  };
  const Metadata metadata = {
      {"null", std::monostate{}},
      {"yes", true},
      {"least", std::numeric_limits<int64_t>::min()},
      {"largest", std::numeric_limits<uint64_t>::max()},
      {"third", 1.0 / 3},
      {"whole", 10000.0},
      {"text", std::string("\"quoted\" \xE2\x96\x81\n")},
      {"tokenizer.vocabulary", array({std::string("a"), std::string("b")})},
      {"mixed", array({int64_t{1}, 0.5, false, std::monostate{}, array({int64_t{2}})})},
  };
  const auto path = scratch("metadata.apr");
  ASSERT_TRUE(write_apr(path, metadata, {}).has_value());
  const auto model = open_apr(path);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  ASSERT_EQ(model->metadata.size(), metadata.size());
  for (const auto& [key, value] : metadata)
    EXPECT_TRUE(same_value(model->metadata.at(key), value)) << key;
  EXPECT_EQ(model->metadata.at("whole").index(), metadata.at("whole").index());
  EXPECT_EQ(read_file(path).substr(6, 2), raw(uint16_t{kAprRowMajor | kAprHasVocab}));
}

TEST(Apr, WrittenMetadataHasEachKeyInOneSpelling) {
  // Guards against two spellings of a key: realizar drops all metadata of such a file.
  const Metadata metadata = {{"n_embd", int64_t{64}},        {"num_layers", int64_t{3}},
                             {"n_layer", int64_t{3}},        {"num_heads", std::monostate{}},
                             {"n_head", int64_t{4}},         {"model.hidden_size", int64_t{64}},
                             {"tensor_shapes.a", int64_t{1}}};
  const auto path = scratch("alias.apr");
  ASSERT_TRUE(write_apr(path, metadata, {}).has_value());
  EXPECT_EQ(read_file(path).substr(64, 73),
            R"({"hidden_size":64,"model.hidden_size":64,"num_heads":4,"num_layers":3})" +
                std::string(3, '\0'));
}

TEST(Apr, FlagsFollowFromTheContent) {
  const Buffer data = buffer(pattern(144));
  const std::vector<AprTensor> tensors = {{"a", {DType::Q4_K, {256}, data}}};
  const auto path = scratch("flags.apr");
  ASSERT_TRUE(write_apr(path, {}, tensors).has_value());
  EXPECT_EQ(read_file(path).substr(6, 2), raw(uint16_t{kAprRowMajor | kAprQuantized}));
  for (const uint16_t flags : {kAprLz4, kAprEncrypted, kAprSharded, kAprColumnMajor}) {
    const auto written = write_apr(path, {}, tensors, {.flags = flags});
    ASSERT_FALSE(written.has_value());
    EXPECT_NE(written.error().message.find("are not written"), std::string::npos);
  }
}

TEST(Apr, TheWriterRefusesWhatAprCannotHold) {
  // Guards against files that no reader of APR opens, and against half files.
  const auto path = scratch("refused.apr");
  std::filesystem::remove(path);
  const Buffer data = buffer(pattern(4096));
  const auto refused = [&](const Metadata& metadata, const std::vector<AprTensor>& tensors,
                           const std::string& part) {
    const auto written = write_apr(path, metadata, tensors);
    ASSERT_FALSE(written.has_value()) << part;
    EXPECT_NE(written.error().message.find(part), std::string::npos) << written.error().message;
    EXPECT_NE(written.error().message.find("refused.apr: "), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(path.string() + ".partial"));
  };
  const auto view = [&](DType dtype, Shape shape) {
    const auto size = *tensor_bytes(dtype, *element_count(shape));
    return TensorView{dtype, std::move(shape), std::span(data).first(size)};
  };
  const auto f32 = view(DType::F32, {2});
  refused({}, {{"a", view(DType::Q8_0, {32})}}, "'a': APR has no type for Q8_0; widen it to F16");
  refused({}, {{"a", view(DType::Q5_K, {256})}}, "no type for Q5_K; widen");
  refused({}, {{"a", view(DType::I16, {2})}}, "no type for I16; convert it to I32");
  refused({}, {{"a", view(DType::F8_E4M3, {2})}}, "no type for F8_E4M3; widen it");
  refused({}, {{std::string(257, 'n'), f32}}, "257 bytes, APR allows 1 to 256");
  refused({}, {{"", f32}}, "0 bytes, APR allows 1 to 256");
  refused({}, {{"same", f32}, {"b", f32}, {"same", f32}}, "two tensors have the name 'same'");
  refused({}, {{"a", view(DType::F32, Shape(9, 1))}}, "more than 8 dimensions");
  refused({}, {{"a", {DType::F32, {3}, f32.bytes}}}, "[3] of F32 needs 12 bytes, it has 8");
  refused({}, {{"a", {DType::F32, {1ULL << 40, 1ULL << 40}, f32.bytes}}}, "over 2^64");
  refused({}, {{"a", {DType::Q4_K, {2, 128}, std::span(data).first(144)}}}, "rows of 128 values");
  refused({{"x", std::numeric_limits<double>::quiet_NaN()}}, {}, "'x': nan cannot be said in JSON");
  refused({{"x", std::string("\xFF")}}, {}, "'x': it holds text that is not UTF-8");
  refused({{"\xFF", true}}, {}, "key is not UTF-8");
  refused({{"x", std::string(kAprMaxMetadata, 'x')}}, {}, "APR allows 16777216");
  MetadataValue deep = int64_t{1};
  for (int i = 0; i < 40; ++i)
    deep = std::make_shared<const MetadataArray>(std::vector<MetadataValue>{deep});
  refused({{"x", deep}}, {}, "'x': arrays are nested deeper");
}

TEST(Apr, TheWriterSaysWhereItCannotWrite) {
  const auto missing = write_apr("/nonexistent/x.apr", {}, {});
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::Io);
  EXPECT_NE(missing.error().message.find("No such file"), std::string::npos);
  const auto folder = scratch("folder");
  std::filesystem::create_directories(folder / "full");
  const auto onto_folder = write_apr(folder, {}, {});
  ASSERT_FALSE(onto_folder.has_value());
  EXPECT_NE(onto_folder.error().message.find("cannot rename"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.string() + ".partial"));
}

// --- Damage ---

TEST(Apr, OneFlippedBitAnywhereIsAnError) {
  // Guards against damage that passes: each bit of the file is under a checksum.
  const std::string whole = plain_file();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      EXPECT_FALSE(parse_apr(buffer(bytes)).has_value()) << "byte " << i << " bit " << bit;
    }
  }
}

TEST(Apr, AChecksumErrorSaysWhichOneAndBothNumbers) {
  const std::string whole = golden();
  const auto flipped = [&](size_t offset) {
    std::string bytes = whole;
    bytes[offset] = static_cast<char>(bytes[offset] ^ 1);
    return bytes;
  };
  const std::string header = "the header checksum (at byte 40) is 0x";
  expect_refusal(flipped(8), {header + "cb5f9818, the bytes give 0x", "header is damaged"});
  expect_refusal(flipped(40), {header + "cb5f9819, the bytes give 0xcb5f9818"});
  expect_refusal(flipped(50), {header});  // a reserved byte
  const std::string footer = "the footer checksum (at byte 512) is 0x";
  expect_refusal(flipped(64 + 5), {footer + "f47d53f4, the bytes give 0x"});  // in the metadata
  expect_refusal(flipped(64 + 30), {footer});                                 // padding
  expect_refusal(flipped(0x82), {footer});                                    // a name
  expect_refusal(flipped(0x100 + 20), {footer});                              // data
  expect_refusal(flipped(0x1C8 + 5), {footer});                               // padding of data
  expect_refusal(flipped(512), {footer + "f47d53f5, the bytes give 0xf47d53f4"});
  // Without the pass over the file, only the header is under a checksum.
  EXPECT_TRUE(parse_apr(buffer(flipped(0x100 + 20)), kNoChecksums).has_value());
  expect_refusal(flipped(8), {header}, kNoChecksums);
}

TEST(Apr, ChangedBytesUnderRightChecksumsAreAnErrorOrViewsInside) {
  // Guards against a crash by a hostile file, which has right checksums.
  for (const Parts& parts : {Parts{}, realizar()}) {
    const std::string whole = parts.file();
    size_t data = 0;
    std::memcpy(&data, whole.data() + 32, 8);
    for (size_t i = 0; i < data; ++i) {
      for (const int change : {0x01, 0x10, 0x80, 0xFF}) {
        std::string bytes = whole;
        bytes[i] = static_cast<char>(bytes[i] ^ change);
        sign(bytes, parts.footer);
        const Buffer copy = buffer(bytes);
        const auto content = parse_apr(copy);
        if (content) expect_inside(*content, copy);
        else EXPECT_FALSE(content.error().message.empty());
      }
    }
  }
}

TEST(Apr, EveryTruncationIsAnError) {
  // Guards against reads past the end.
  for (const auto& options : {OpenOptions{}, kNoChecksums}) {
    const std::string whole = plain_file();
    for (size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(parse_apr(buffer(whole.substr(0, size)), options).has_value()) << size;
  }
  const std::string whole = realizar().file();
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse_apr(buffer(whole.substr(0, size))).has_value()) << size;
}

TEST(Apr, WhatStandsBehindTheEndIsRefused) {
  const std::string whole = plain_file();
  expect_refusal(whole + "x", {"517 bytes, expected 516", "belongs to nothing"});
  expect_refusal(whole + std::string(64, '\0'), {"580 bytes, expected 516"});
  expect_refusal(realizar().file() + std::string(64, '\0'), {"belongs to nothing"});
  Parts cut;
  cut.footer = false;
  expect_refusal(cut.file(), {"the footer checksum is absent", "ends at byte 512", "cut short"});
}

// --- Hostile numbers ---

TEST(Apr, CountsAndOffsetsOutsideTheFileAreRefused) {
  // Guards against memory or reads by a number that was not checked, also where it wraps around.
  const auto changed = [](size_t offset, auto value) {
    std::string bytes = plain_file();
    put(bytes, offset, value);
    sign(bytes);
    return bytes;
  };
  constexpr uint64_t kMost = ~uint64_t{0};
  expect_refusal(changed(8, ~uint32_t{0}), {"4294967295 tensors cannot fit in an index of 128"});
  expect_refusal(changed(8, uint32_t{3}), {"tensor entry 3 of 3", "name has 0 bytes"});
  expect_refusal(changed(20, uint32_t{1U << 30}), {"1073741824 bytes is larger than"});
  expect_refusal(changed(20, uint32_t{1U << 20}), {"the metadata (1048576 bytes at byte 64)"});
  for (const uint64_t offset : {uint64_t{0}, uint64_t{63}, uint64_t{1000}, kMost - 10, kMost})
    expect_refusal(changed(12, offset),
                   {"the metadata (21 bytes at byte " + std::to_string(offset)});
  for (const uint64_t offset : {uint64_t{0}, uint64_t{84}, uint64_t{1000}, kMost})
    expect_refusal(changed(24, offset), {"the index at byte " + std::to_string(offset)});
  for (const uint64_t offset : {uint64_t{0}, uint64_t{127}, uint64_t{1000}, kMost})
    expect_refusal(changed(32, offset), {"the data at byte " + std::to_string(offset)});
  expect_refusal(changed(32, uint64_t{200}), {"begins at byte 200, not a multiple of 64"});
  expect_refusal(changed(32, uint64_t{128}), {"2 tensors cannot fit in an index of 0 bytes"});
}

TEST(Apr, IndexEntriesAreChecked) {
  const auto refuse = [](Raw tensor, const std::vector<std::string>& parts) {
    expect_refusal(with_tensors({std::move(tensor)}).file(), parts);
  };
  constexpr uint64_t kMost = ~uint64_t{0};
  refuse({std::string(257, 'n'), 0, {1}, pattern(4)}, {"name has 257 bytes", "1 to 256"});
  refuse({"", 0, {1}, pattern(4)}, {"name has 0 bytes"});
  refuse({"a", 0, Shape(9, 1), pattern(4)}, {"'a' has 9 dimensions", "at most 8"});
  refuse({"a", 0, {1ULL << 32, 1ULL << 32}, pattern(4)}, {"tensor 'a'", "overflows 64 bits"});
  refuse({"a", 0, {1ULL << 62}, pattern(4)}, {"need over 2^64 bytes as F32"});
  refuse({"a", 0, {1}, pattern(4), 1024}, {"runs past the end"});
  refuse({"a", 0, {1}, pattern(4), 66}, {"(4 bytes at data offset 66) runs past the end"});
  refuse({"a", 0, {1}, pattern(4), 64}, {"the file ends too early", "260 bytes, expected 324"});
  refuse({"a", 0, {1}, pattern(4), kMost}, {"(4 bytes at data offset 18446744073709551615)"});
  refuse({"a", 0, {1}, pattern(4), {}, kMost}, {"(18446744073709551615 bytes at data offset 0)"});
  refuse({"a", 0, {15}, pattern(64), 4, 60}, {"data offset 4 is not a multiple of 64"});
  expect_refusal(
      with_tensors(
          {{"a", 0, {32}, pattern(128)}, {"b", 0, {1}, pattern(4), 64}, {"c", 0, {1}, pattern(4)}})
          .file(),
      {"the data of 'a' and 'b' overlap"});
  expect_refusal(with_tensors({{"a", 0, {1}, pattern(4)}, {"a", 0, {1}, pattern(4)}}).file(),
                 {"the tensor name 'a' stands twice"});
  expect_refusal(with_tensors({{"b", 0, {1}, pattern(4)}, {"a", 0, {1}, pattern(4)}}).file(),
                 {"not sorted", "'a' comes after 'b'"});
  // An entry that the start of the data cuts off.
  Parts parts = with_tensors({{std::string(60, 'n'), 0, {1}, pattern(4)}});
  parts.tensor_count = 2;
  parts.tensors.push_back({"z" + std::string(255, 'z'), 0, {1}, pattern(4)});
  std::string bytes = parts.file();
  uint64_t index = 0;
  std::memcpy(&index, bytes.data() + 24, 8);
  put(bytes, 32, index + 128);
  sign(bytes);
  expect_refusal(bytes, {"tensor entry 2 of 2", "the index ends too early", "data begins at byte"});
}

TEST(Apr, OffsetsComeInAnyOrder) {
  // The streaming writer lays data out as it comes; only the index is sorted.
  const auto parts = with_tensors(
      {{"a", 0, {16}, pattern(64), 64}, {"b", 0, {16}, pattern(64), 0}, {"c", 0, {0}, "", 64}});
  const Buffer bytes = buffer(parts.file());
  const auto content = accepted(parts.file(), bytes);
  expect_inside(content, bytes);
  EXPECT_EQ(content.tensors[0].file_offset, content.tensors[1].file_offset + 64);
}

// --- Types ---

std::optional<DType> type_of(uint8_t byte, Shape shape, size_t size) {
  const auto content =
      parse_apr(buffer(with_tensors({{"a", byte, std::move(shape), pattern(size)}}).file()));
  return content ? std::optional(content->tensors[0].view.dtype) : std::nullopt;
}

TEST(Apr, TheSizeDecidesWhatATypeByteMeans) {
  // Guards against the same byte read as another writer's type: numbers that look right and are
  // not.
  struct Case {
    uint8_t byte;
    size_t size;  // of [2, 256]
    DType want;
  };
  const Case cases[] = {
      {0, 2048, DType::F32},   {1, 1024, DType::F16},    {2, 1024, DType::BF16},
      {2, 288, DType::Q4_0},   {3, 4096, DType::F64},    {3, 320, DType::Q4_1},
      {4, 2048, DType::I32},   {5, 4096, DType::I64},    {6, 512, DType::I8},
      {6, 352, DType::Q5_0},   {7, 512, DType::U8},      {7, 384, DType::Q5_1},
      {8, 288, DType::AprQ4},  {8, 544, DType::Q8_0},    {9, 516, DType::AprQ8},
      {12, 288, DType::Q4_K},  {13, 352, DType::Q5_K},   {14, 420, DType::Q6_K},
      {30, 1024, DType::BF16}, {128, 288, DType::AprQ4}, {129, 516, DType::AprQ8},
  };
  for (const auto& [byte, size, want] : cases)
    EXPECT_EQ(type_of(byte, {2, 256}, size), want) << int{byte} << " with " << size;
  for (int byte = 0; byte < 256; ++byte)
    for (const size_t size : {287U, 289U, 513U, 2047U, 2049U})
      EXPECT_EQ(type_of(static_cast<uint8_t>(byte), {2, 256}, size), std::nullopt) << byte;
  for (const uint8_t byte : {10, 11, 15, 16, 29, 31, 127, 130, 255})
    for (const size_t size : {288U, 544U, 2048U})
      EXPECT_EQ(type_of(byte, {2, 256}, size), std::nullopt) << int{byte};
}

TEST(Apr, NoSizeFitsTwoMeaningsOfAByte) {
  // Guards against a choice by the order of a table.
  struct Pair {
    uint8_t byte;
    DType first, second;
  };
  const Pair kPairs[] = {{2, DType::BF16, DType::Q4_0},
                         {3, DType::F64, DType::Q4_1},
                         {6, DType::I8, DType::Q5_0},
                         {7, DType::U8, DType::Q5_1},
                         {8, DType::AprQ4, DType::Q8_0}};
  for (const auto& [byte, first, second] : kPairs) {
    for (uint64_t count = 32; count <= 8192; count *= 2) {
      const auto one = *tensor_bytes(first, count);
      const auto other = *tensor_bytes(second, count);
      ASSERT_NE(one, other) << int{byte} << " " << count;
      EXPECT_EQ(type_of(byte, {count}, one), first) << int{byte} << " " << count;
      EXPECT_EQ(type_of(byte, {count}, other), second) << int{byte} << " " << count;
    }
    // Rows that are no whole blocks have one meaning only: 9 values of Q4_0 would have 18 bytes
    // too.
    EXPECT_EQ(type_of(byte, {9}, *tensor_bytes(first, 9)), first) << int{byte};
    const auto cut = *tensor_bytes(second, 9);
    if (cut != *tensor_bytes(first, 9)) {
      EXPECT_EQ(type_of(byte, {9}, cut), std::nullopt) << int{byte};
    }
  }
}

TEST(Apr, ATypeErrorSaysWhatEachMeaningNeeds) {
  expect_refusal(with_tensors({{"a", 2, {1, 32}, pattern(20)}}).file(),
                 {"tensor 'a'",
                  "type byte 2 and shape [1, 32] need 64 bytes as BF16 or 18 bytes as "
                  "Q4_0, the index says 20"});
  expect_refusal(with_tensors({{"a", 10, {32}, pattern(34)}}).file(),
                 {"type byte 10 is not one of APR's"});
}

TEST(Apr, KQuantsThatDoNotFollowTheRowsAreRefusedByName) {
  // aprender's own quantizer pads each row; read as if it did not, all rows but the first are
  // wrong.
  expect_refusal(with_tensors({{"a", 12, {3, 40}, pattern(432)}}).file(),
                 {"rows of 40 values are padded to 1 whole blocks of 256", "Q4_K"});
  expect_refusal(with_tensors({{"a", 14, {2, 300}, pattern(840)}}).file(),
                 {"rows of 300 values are padded to 2 whole blocks", "Q6_K"});
  expect_refusal(with_tensors({{"a", 12, {2, 128}, pattern(144)}}).file(),
                 {"blocks of 256 values (Q4_K) run on across rows of 128"});
  expect_refusal(with_tensors({{"a", 12, {2, 128}, pattern(145)}}).file(), {"the index says 145"});
}

// --- Flags and the family ---

TEST(Apr, FlagsThatChangeTheMeaningAreRefused) {
  expect_refusal(with_flags(kAprColumnMajor).file(), {"LAYOUT-002 violation", "0x0800"});
  expect_refusal(with_flags(kAprColumnMajor | kAprRowMajor).file(), {"LAYOUT-002 violation"});
  expect_refusal(with_flags(kAprRowMajor | kAprEncrypted).file(), {"encrypted", "apr decrypt"});
  expect_refusal(with_flags(kAprLz4 | kAprZstd).file(), {"LZ4 and Zstd at once"});
  const auto message = parse_apr(buffer(with_flags(kAprColumnMajor).file())).error().message;
  EXPECT_TRUE(message.starts_with("LAYOUT-002 violation")) << message;
}

TEST(Apr, OddFlagsAreAWarningAndTheOthersNone) {
  const auto quiet =
      accepted(with_flags(0x0400 | 0x0020 | 0x0040 | 0x0080 | 0x0100 | 0x0200).file());
  EXPECT_TRUE(quiet.warnings.empty()) << quiet.warnings.front();
  EXPECT_EQ(quiet.flags, 0x07E0);
  // Neither layout bit: a file from before they were made.
  EXPECT_TRUE(accepted(with_flags(0).file()).warnings.empty());
  EXPECT_TRUE(has_warning(accepted(with_flags(0x0408).file()), "SIGNED"));
  EXPECT_TRUE(has_warning(accepted(with_flags(0xF400).file()), "not known: 0xf000"));
  Parts shard = with_flags(0x0410);
  shard.metadata = R"({"sharding":{"shard_index":1,"shard_count":3}})";
  const auto content = accepted(shard.file());
  EXPECT_TRUE(has_warning(content, "shard_index 1 of shard_count 3"));
  EXPECT_EQ(content.format_text, "APR v2, one shard");
}

TEST(Apr, VersionsAndReservedBytes) {
  std::string bytes = plain_file();
  bytes[4] = 3;
  sign(bytes);
  expect_refusal(bytes, {"APR version 3.0 is not known here (known: 2.0)"});
  bytes[4] = 2;
  bytes[5] = 1;
  bytes[63] = 1;
  sign(bytes);
  const auto content = accepted(bytes);
  EXPECT_TRUE(has_warning(content, "its version is 2.1"));
  EXPECT_TRUE(has_warning(content, "reserved bytes"));
}

TEST(Apr, FilesOfTheFamilyAreKnownByName) {
  // Guards against a message about checksums for a file that was never an APR v2.
  const auto known = [](const std::string& bytes, const std::string& part) {
    expect_refusal(bytes, {part});
    EXPECT_TRUE(looks_like_apr(buffer(bytes.substr(0, 64))));
    const auto content = parse_apr(buffer(bytes));
    EXPECT_EQ(content.error().code, ErrorCode::Unsupported) << content.error().message;
  };
  known("APRN\1\0" + std::string(100, '\1'), "APR v1 file ('APRN')");
  known("APR1" + std::string(100, '\1'), "whisper.apr");
  known("APR2" + std::string(100, '\1'), "draft of APR v2");
  known(std::string("APR\0\1\0\0\0", 8) + std::string(100, '\1'), "MmapAprTransformer");
  known(R"({"version":"2.0","shard_count":2,"shards":[]})", "manifest (JSON)");
  // A transformer as JSON, where the index would be.
  for (const char* index : {"[{\"name\":\"weights\"}]", "[\n"}) {
    std::string bytes = plain_file();
    std::memcpy(bytes.data() + 128, index, std::strlen(index));
    put(bytes, 40, uint32_t{0});
    known(bytes, "model as JSON by realizar");
  }
  expect_refusal("GGUF" + std::string(100, '\0'), {"not an APR file", "'GGUF'"});
  expect_refusal("", {"the file is empty"});
  expect_refusal("AP", {"not an APR file"});
  expect_refusal(std::string("APR\0", 4), {"ends inside its header", "4 bytes"});
  EXPECT_TRUE(looks_like_apr(buffer(golden())));
  for (const std::string head : {"", "APR", "APRT", "APRX", "GGUF", "{\"a\":1}"})
    EXPECT_FALSE(looks_like_apr(buffer(head))) << head;
}

TEST(Apr, ANameOf91BytesIsNoJson) {
  // 91 is '[': the size of the first name must not be taken for the start of a JSON index.
  const auto parts = with_tensors({{std::string(91, 'n'), 0, {1}, pattern(4)}});
  EXPECT_EQ(accepted(parts.file()).tensors.size(), 1U);
}

TEST(Apr, RealizarsFilesAreReadInTheirOwnOrder) {
  // Guards against transposed shapes: this writer copies GGUF's dimensions, innermost first.
  const Buffer bytes = buffer(realizar().file());
  const auto content = accepted(realizar().file(), bytes);
  expect_inside(content, bytes);
  ASSERT_EQ(content.tensors.size(), 3U);
  EXPECT_EQ(content.tensors[0].view.shape, (Shape{3, 256}));
  EXPECT_EQ(content.tensors[0].view.dtype, DType::Q4_K);
  EXPECT_EQ(content.tensors[1].view.shape, (Shape{2, 64}));
  EXPECT_EQ(content.tensors[1].view.dtype, DType::Q8_0);
  EXPECT_EQ(content.tensors[2].view.dtype, DType::Q4_0);
  EXPECT_EQ(content.format_text, "APR v2, realizar Q4_K");
  EXPECT_TRUE(has_warning(content, "no checksum over its data"));
  EXPECT_EQ(content.warnings.size(), 1U);
  EXPECT_EQ(integer(content.metadata, "num_layers"), 3);
  EXPECT_EQ(integer(content.metadata, "hidden_size"), 64);
}

TEST(Apr, RealizarsFirstFilesHaveOtherNumbersForTypes) {
  // Guards against Q4_K read as APR's Q4, which has the same size: 8 meant Q4_K there.
  Parts parts = realizar();
  parts.header_checksum = false;
  parts.tensors = {{"q", 8, {256, 2}, pattern(288)},
                   {"a", 9, {256}, pattern(210)},
                   {"b", 10, {32}, pattern(34)},
                   {"c", 8, {256}, pattern(176)}};
  const auto content = accepted(parts.file());
  ASSERT_EQ(content.tensors.size(), 4U);
  EXPECT_EQ(content.tensors[0].view.dtype, DType::Q4_K);
  EXPECT_EQ(content.tensors[1].view.dtype, DType::Q6_K);
  EXPECT_EQ(content.tensors[2].view.dtype, DType::Q8_0);
  EXPECT_EQ(content.tensors[3].view.dtype, DType::Q5_K);
  EXPECT_TRUE(has_warning(content, "its header has no checksum"));
  EXPECT_TRUE(has_warning(content, "not sorted: 'a' comes after 'q'"));
}

TEST(Apr, OnlyRealizarsFilesMayLackChecksums) {
  Parts other = realizar();
  other.metadata = R"({"model_type":"qwen2"})";
  expect_refusal(other.file(), {"the footer checksum is absent"});
  Parts row_major = realizar();
  row_major.flags = kAprRowMajor;
  expect_refusal(row_major.file(), {"the footer checksum is absent"});
  Parts no_header;
  no_header.header_checksum = false;
  expect_refusal(no_header.file(), {"the header checksum (at byte 40) is 0x00000000"});
  no_header.flags = 0;
  expect_refusal(no_header.file(), {"the header checksum (at byte 40) is 0, the bytes give 0x"});
}

// --- Compression ---

std::string packed(Parts parts, uint16_t flag) {
  parts.flags |= flag;
  const std::string whole = parts.file();
  const std::string body = whole.substr(64);
  std::string blob(LZ4_COMPRESSBOUND(body.size()) + ZSTD_COMPRESSBOUND(body.size()), '\0');
  if (flag == kAprLz4) {
    const int size = LZ4_compress_default(body.data(), blob.data(), static_cast<int>(body.size()),
                                          static_cast<int>(blob.size()));
    blob = raw(static_cast<uint32_t>(body.size())) + blob.substr(0, static_cast<size_t>(size));
  } else {
    blob.resize(ZSTD_compress(blob.data(), blob.size(), body.data(), body.size(), 3));
  }
  return whole.substr(0, 64) + blob;
}

TEST(Apr, CompressedFilesAreRead) {
  for (const uint16_t flag : {kAprLz4, kAprZstd}) {
    Parts parts;
    parts.tensors[1] = {"w", 0, {100, 100}, std::string(40000, '\1')};
    const std::string small = packed(parts, flag);
    ASSERT_LT(small.size(), 2000U);
    const auto path = scratch("packed.apr");
    std::ofstream(path, std::ios::binary) << small;
    const auto model = open_apr(path);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_EQ(model->format_text, flag == kAprLz4 ? "APR v2, LZ4" : "APR v2, Zstd");
    ASSERT_EQ(model->buffers.size(), 1U);
    ASSERT_EQ(model->tensors.size(), 2U);
    EXPECT_EQ(model->tensors[0].view.bytes[143], std::byte(pattern(144)[143]));
    const auto& w = model->tensors[1].view;
    EXPECT_EQ(w.bytes.size(), 40000U);
    EXPECT_TRUE(std::ranges::all_of(w.bytes, [](std::byte b) { return b == std::byte{1}; }));
    EXPECT_EQ(w.bytes.data(), model->buffers[0].data() + model->tensors[1].file_offset);
  }
}

TEST(Apr, DamageInCompressedFilesIsAnError) {
  for (const uint16_t flag : {kAprLz4, kAprZstd}) {
    const std::string small = packed({}, flag);
    for (size_t size = 0; size < small.size(); ++size)
      EXPECT_FALSE(parse_apr(buffer(small.substr(0, size))).has_value()) << flag << " " << size;
    const Buffer copy = buffer(small);
    const auto whole = accepted(small, copy);
    for (size_t i = 0; i < small.size(); ++i) {
      std::string bytes = small;
      bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
      const auto content = parse_apr(buffer(bytes));
      // One stream may be said in two ways; what comes out of it may not differ.
      if (content) {
        EXPECT_EQ(content->image, whole.image) << flag << " " << i;
      }
    }
    EXPECT_FALSE(parse_apr(buffer(small + "x")).has_value());
  }
}

TEST(Apr, ClaimsOfCompressedSizesAreBounded) {
  // Guards against memory by a claim: 4 GiB from a hundred bytes.
  std::string lz4 = packed({}, kAprLz4);
  put(lz4, 64, ~uint32_t{0});
  expect_refusal(lz4, {"the LZ4 data claims 4294967295 bytes", "cannot give more than"});
  std::string shorter = packed({}, kAprLz4);
  put(shorter, 64, uint32_t{100});
  expect_refusal(shorter, {"the LZ4 data is damaged"});
  std::string longer = packed({}, kAprLz4);
  put(longer, 64, uint32_t{1000});
  expect_refusal(longer, {"the LZ4 data gives 452 bytes, its size says 1000"});
  const std::string head = packed({}, kAprZstd).substr(0, 64);
  // A frame with a content size of 2^62 and no block yet.
  expect_refusal(head + "\x28\xB5\x2F\xFD\xE0" + raw(uint64_t{1} << 62) + std::string(8, '\0'),
                 {"the Zstd data claims 4611686018427387904 bytes", "are accepted"});
  // 200 MiB of zeros in a few kilobytes, with the size not said: it is stopped where it is.
  std::string bomb(1 << 20, '\0');
  const std::string zeros(200 << 20, '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  bomb.resize(ZSTD_compress2(context, bomb.data(), bomb.size(), zeros.data(), zeros.size()));
  ZSTD_freeCCtx(context);
  ASSERT_LT(bomb.size(), 100'000U);
  expect_refusal(head + bomb, {"the Zstd data gives more than"});
  expect_refusal(head + "no frame", {"no Zstd frame follows"});
}

TEST(Apr, AFlagOfCompressionOnAPlainFileIsAWarning) {
  // aprender's writer sets the flags and does not compress.
  for (const uint16_t flag : {kAprLz4, kAprZstd}) {
    const Buffer bytes = buffer(with_flags(kAprRowMajor | flag).file());
    const auto content = accepted("plain", bytes);
    EXPECT_TRUE(has_warning(content, "is set, but the file is not compressed"));
    EXPECT_TRUE(content.image.empty());
    expect_inside(content, bytes);
  }
}

// --- Metadata ---

TEST(Apr, BrokenMetadataIsAnErrorAndNeverEmptyMetadata) {
  const auto refuse = [](const std::string& json, const std::vector<std::string>& parts) {
    expect_refusal(with_metadata(json).file(), parts);
  };
  refuse("", {"the metadata (at byte 64) is not valid JSON"});
  refuse("{\"a\":", {"not valid JSON at its byte"});
  refuse("{\"a\":1e999}", {"not valid JSON"});
  refuse("{\"a\":\"\xFF\"}", {"not valid JSON"});
  refuse("[1]", {"is array, expected a JSON object"});
  refuse("7", {"is number, expected a JSON object"});
  refuse(std::string("{}\0{", 4), {"its byte 2 is zero"});
  refuse("{\"a\":" + std::string(100'000, '['), {"nested deeper than 32 levels"});
  std::string deep = "1";
  for (int i = 0; i < 40; ++i) deep = "{\"a\":" + deep + "}";
  refuse(deep, {"nested deeper than 32 levels"});
}

TEST(Apr, TwoSpellingsOfAKeyAreAWarning) {
  // realizar takes this for an error and runs on with default sizes.
  const auto differ = accepted(with_metadata(R"({"hidden_size":64,"n_embd":32})").file());
  EXPECT_EQ(integer(differ.metadata, "hidden_size"), 64);
  EXPECT_EQ(integer(differ.metadata, "n_embd"), 32);
  EXPECT_TRUE(has_warning(differ, "'hidden_size' = 64 and 'n_embd' = 32; 'hidden_size' counts"));
  const auto equal = accepted(with_metadata(R"({"hidden_size":64,"n_embd":64})").file());
  EXPECT_TRUE(equal.warnings.empty());
  const auto null =
      accepted(with_metadata(R"({"hidden_size":null,"n_embd":32,"d_model":48})").file());
  EXPECT_EQ(integer(null.metadata, "hidden_size"), 48);
  EXPECT_TRUE(has_warning(null, "'n_embd' = 32"));
  const auto twice = accepted(with_metadata(R"({"a":1,"a":2})").file());
  EXPECT_EQ(integer(twice.metadata, "a"), 2);
  EXPECT_TRUE(has_warning(twice, "the name 'a' stands twice"));
}

TEST(Apr, EveryAliasLeadsToItsKey) {
  const std::pair<const char*, const char*> kPairs[] = {
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
      {"norm_eps", "rms_norm_eps"}};
  for (const auto& [alias, key] : kPairs) {
    const auto content = accepted(with_metadata(std::string("{\"") + alias + "\":7}").file());
    EXPECT_EQ(integer(content.metadata, key), 7) << alias;
    EXPECT_TRUE(is_apr_alias(alias));
    EXPECT_FALSE(is_apr_alias(key));
  }
}

TEST(Apr, TensorShapesInTheMetadataDoNotOverruleTheIndex) {
  const auto check = [](const std::string& shapes) {
    return accepted(with_metadata("{\"tensor_shapes\":" + shapes + "}").file());
  };
  EXPECT_TRUE(check(R"({"a":[1,256],"w":[2]})").warnings.empty());
  const auto reversed = check(R"({"a":[256,1],"w":[2]})");
  EXPECT_TRUE(has_warning(reversed, "disagrees with the index on 1 tensors ('a': array of 2"));
  EXPECT_EQ(reversed.tensors[0].view.shape, (Shape{1, 256}));
  EXPECT_TRUE(has_warning(check(R"({"a":[1],"w":2,"x":[2]})"), "on 3 tensors"));
  EXPECT_TRUE(has_warning(check(R"({"w":[-2]})"), "on 1 tensors"));
}

TEST(Apr, TransposedCheckpointsAreNamed) {
  const auto content = accepted(with_metadata(R"({"format":"entrenar-checkpoint"})").file());
  EXPECT_TRUE(has_warning(content, "transposed"));
}

TEST(Apr, ALargeVocabularyIsReadQuickly) {
  // Guards against work that grows with the square of the vocabulary.
  std::string json = "{\"tokenizer.vocabulary\":[\"\"";
  for (int i = 1; i < 150'000; ++i) json += ",\"token-" + std::to_string(i) + "\"";
  json += "]}";
  const std::string bytes = with_metadata(json).file();
  const Buffer copy = buffer(bytes);
  const auto start = std::chrono::steady_clock::now();
  const auto content = accepted("large", copy);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(kind_of(content.metadata.at("tokenizer.vocabulary")), "an array of 150000 values");
}

TEST(Apr, TheFilesOfTheCorpusAreWhatTheirNamesSay) {
  size_t valid = 0;
  size_t refused = 0;
  for (const auto& file : std::filesystem::directory_iterator(
           std::filesystem::path(PLUMB_SOURCE_DIR) / "tests/corpus/apr")) {
    const auto name = file.path().filename().string();
    const auto model = open_apr(file.path());
    EXPECT_EQ(model.has_value(), name.starts_with("valid"))
        << name << ": " << (model ? "accepted" : model.error().message);
    ++(model ? valid : refused);
  }
  EXPECT_GE(valid, 10U);
  EXPECT_GE(refused, 30U);
}

TEST(Apr, OpenSaysWhichFile) {
  const auto missing = open_apr("/nonexistent.apr");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::NotFound);
  EXPECT_TRUE(missing.error().message.starts_with("/nonexistent.apr: "));
  const auto path = scratch("cut.apr");
  std::ofstream(path, std::ios::binary) << golden().substr(0, 300);
  const auto cut = open_apr(path);
  ASSERT_FALSE(cut.has_value());
  EXPECT_EQ(cut.error().code, ErrorCode::Corrupt);
  EXPECT_NE(cut.error().message.find("cut.apr: tensor 'a': its data (144 bytes at data offset 0) "
                                     "runs past the end of the file (300 bytes"),
            std::string::npos)
      << cut.error().message;
}

// --- JSON as metadata ---

TEST(JsonMetadata, ObjectsBecomeDottedKeys) {
  const auto json = nlohmann::json::parse(R"({
    "a": {"b": {"c": 1}, "empty": {}}, "n": null, "t": true, "i": -3, "u": 18446744073709551615,
    "f": 0.5, "s": "text", "l": [1, "x", [2, null]], "o": [{"k": [1, {}]}, 7], "e": []})");
  Metadata metadata;
  std::vector<std::string> warnings;
  ASSERT_TRUE(add_json(metadata, "", json, warnings).has_value());
  EXPECT_TRUE(warnings.empty());
  std::map<std::string, std::string> texts;
  for (const auto& [key, value] : metadata) texts[key] = to_text(value);
  EXPECT_EQ(texts, (std::map<std::string, std::string>{
                       {"a.b.c", "1"},
                       {"a.empty", "'{}'"},
                       {"n", "null"},
                       {"t", "true"},
                       {"i", "-3"},
                       {"u", "18446744073709551615"},
                       {"f", "0.5"},
                       {"s", "'text'"},
                       {"l", "array of 3 [1, 'x', array of 2 [2, null]]"},
                       {"o", R"(array of 2 ['{"k":[1,{}]}', 7])"},
                       {"e", "array of 0 []"},
                   }));
  EXPECT_TRUE(std::holds_alternative<int64_t>(metadata["i"]));
  EXPECT_TRUE(std::holds_alternative<uint64_t>(metadata["u"]));
  EXPECT_TRUE(std::holds_alternative<double>(metadata["f"]));
}

TEST(JsonMetadata, TheFirstOfTwoKeysStays) {
  Metadata metadata = {{"p.a", int64_t{1}}};
  std::vector<std::string> warnings;
  const auto json = nlohmann::json::parse(R"({"a": 2, "b": 3})");
  ASSERT_TRUE(add_json(metadata, "p", json, warnings).has_value());
  EXPECT_EQ(integer(metadata, "p.a"), 1);
  EXPECT_EQ(integer(metadata, "p.b"), 3);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_EQ(warnings[0], "the key 'p.a' is given more than once; 1 counts");
  ASSERT_TRUE(
      add_json(metadata, "", nlohmann::json::parse(R"({"x": {"y": 1}, "x.y": 2})"), warnings)
          .has_value());
  EXPECT_EQ(integer(metadata, "x.y"), 1);
  EXPECT_EQ(warnings.size(), 2U);
}

TEST(JsonMetadata, WhatIsNoObjectOrTooDeepIsRefused) {
  Metadata metadata;
  std::vector<std::string> warnings;
  const auto number = add_json(metadata, "config", nlohmann::json(7), warnings);
  ASSERT_FALSE(number.has_value());
  EXPECT_EQ(number.error().message, "config: found number, expected a JSON object");
  for (const bool object : {true, false}) {
    nlohmann::json deep = 1;
    for (int i = 0; i < 100; ++i)
      deep = object ? nlohmann::json{{"a", deep}} : nlohmann::json::array({deep});
    const auto result = add_json(metadata, "", nlohmann::json{{"a", deep}}, warnings);
    ASSERT_FALSE(result.has_value());
    EXPECT_NE(result.error().message.find("nested deeper than 64 levels"), std::string::npos);
  }
}

TEST(JsonMetadata, WarningsAreBounded) {
  // Guards against memory by a hostile file that repeats one name a million times.
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += "\"a\":1,";
  text += "\"a\":1}";
  std::vector<std::string> warnings;
  ASSERT_TRUE(parse_json_metadata(text, "it", 8, warnings).has_value());
  EXPECT_EQ(warnings.size(), 100U);
}

}  // namespace
}  // namespace plumb
