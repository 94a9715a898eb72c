// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <list>

#include "formats/gguf.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

class GgufWriter : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  // Bytes that count up, so that two tensors differ.
  TensorView tensor(DType dtype, std::vector<uint64_t> shape) {
    auto& bytes = storage_.emplace_back(*tensor_bytes(dtype, *element_count(shape)));
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(i * 7 + storage_.size());
    return {dtype, std::move(shape), bytes};
  }
  fs::path folder_ = fs::temp_directory_path() / ("plumb-gguf-writer-" + std::to_string(getpid()));
  std::list<std::vector<std::byte>> storage_;
};

MetadataValue array_of(std::vector<MetadataValue> values) {
  return std::make_shared<const MetadataArray>(std::move(values));
}

TEST_F(GgufWriter, WhatIsWrittenReadsBackBitForBit) {
  const Metadata metadata = {
      {"general.architecture", std::string("llama")},
      {"general.name", std::string("\xff\0odd", 5)},
      {"a.flag", true},
      {"a.u32", int64_t{4294967295}},
      {"a.i32", int64_t{-5}},
      {"a.i64", int64_t{-3000000000}},
      {"a.u64", uint64_t{18446744073709551615U}},
      {"a.f32", 0.5},
      {"a.f64", 0.1},
      {"a.strings", array_of({std::string("x"), std::string()})},
      {"a.numbers", array_of({int64_t{-1}, int64_t{7}})},
      {"a.reals", array_of({1.5, 0.1})},
      {"a.nested", array_of({array_of({int64_t{1}}), array_of({true, false})})}};
  std::vector<GgufTensor> tensors;
  for (const auto& type : kDTypes)
    if (type.ggml_id >= 0)
      tensors.push_back(
          {"t." + std::string(type.name), tensor(type.dtype, {3, 2 * type.block_elements})});
  tensors.push_back({"scalar", tensor(DType::F32, {})});
  tensors.push_back({"four", tensor(DType::F16, {2, 3, 1, 5})});
  const auto path = folder_ / "m.gguf";
  ASSERT_TRUE(write_gguf(path, metadata, tensors));
  EXPECT_FALSE(fs::exists(path.string() + ".partial"));
  const auto file = open_gguf(path);
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->metadata.size(), metadata.size());
  for (const auto& [key, value] : metadata)
    EXPECT_TRUE(same_value(file->metadata.at(key), value)) << key;
  ASSERT_EQ(file->tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(file->tensors[i].name, tensors[i].name);
    EXPECT_EQ(file->tensors[i].view.dtype, tensors[i].view.dtype);
    EXPECT_EQ(file->tensors[i].view.shape, tensors[i].view.shape);
    EXPECT_EQ(std::memcmp(file->tensors[i].view.bytes.data(), tensors[i].view.bytes.data(),
                          tensors[i].view.bytes.size()),
              0);
  }
}

// A file of another writer keeps the types of its arrays, so writing it again gives the same file.
TEST_F(GgufWriter, WritingAFileAgainGivesTheSameBytes) {
  const fs::path source = fs::path(PLUMB_SOURCE_DIR) / "tests/models/tiny-stories-q4_k.gguf";
  const auto first = open_gguf(source);
  ASSERT_TRUE(first);
  const auto write = [&](const ModelFile& file, const fs::path& path) {
    std::vector<GgufTensor> tensors;
    for (const auto& t : file.tensors) tensors.push_back({t.name, t.view});
    ASSERT_TRUE(write_gguf(path, file.metadata, tensors));
  };
  write(*first, folder_ / "1.gguf");
  const auto second = open_gguf(folder_ / "1.gguf");
  ASSERT_TRUE(second);
  write(*second, folder_ / "2.gguf");
  const auto third = open_gguf(folder_ / "2.gguf");
  ASSERT_TRUE(third);
  EXPECT_EQ(sha256_of(*second), sha256_of(*third));
  for (const auto& [key, value] : first->metadata)
    EXPECT_TRUE(same_value(third->metadata.at(key), value)) << key;
}

TEST_F(GgufWriter, RefusesWhatGgufCannotHold) {
  const auto path = folder_ / "m.gguf";
  const auto message = [&](const Metadata& metadata, std::vector<GgufTensor> tensors) {
    const auto result = write_gguf(path, metadata, tensors);
    return result ? std::string("written") : result.error().message;
  };
  EXPECT_NE(message({{"k", std::monostate()}}, {}).find("null has no place"), std::string::npos);
  EXPECT_NE(message({{"k", array_of({true, std::string("x")})}}, {}).find("mixed kinds"),
            std::string::npos);
  EXPECT_NE(message({{"general.alignment", int64_t{3}}}, {}).find("power of two"),
            std::string::npos);
  EXPECT_NE(message({}, {{"x", tensor(DType::AprQ4, {32})}}).find("no type APR_Q4"),
            std::string::npos);
  EXPECT_NE(message({}, {{std::string(64, 'n'), tensor(DType::F32, {1})}}).find("64 bytes"),
            std::string::npos);
  EXPECT_NE(message({}, {{"x", tensor(DType::F32, {1, 1, 1, 1, 1})}}).find("5 dimensions"),
            std::string::npos);
  EXPECT_NE(message({}, {{"x", tensor(DType::F32, {1})}, {"x", tensor(DType::F32, {1})}})
                .find("two tensors"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path.string() + ".partial"));
}

class GgufSplits : public GgufWriter {
 protected:
  // Two splits as llama.cpp's tool names and marks them.
  void write_splits(int64_t second_number = 1, int64_t total = 2) {
    ASSERT_TRUE(write_gguf(folder_ / "m-00001-of-00002.gguf",
                           {{"general.architecture", std::string("llama")},
                            {"split.no", int64_t{0}},
                            {"split.count", int64_t{2}},
                            {"split.tensors.count", total}},
                           std::vector<GgufTensor>{{"a", tensor(DType::F32, {2})}}));
    ASSERT_TRUE(write_gguf(folder_ / "m-00002-of-00002.gguf",
                           {{"split.no", second_number}, {"split.count", int64_t{2}}},
                           std::vector<GgufTensor>{{"b", tensor(DType::F32, {3})}}));
  }
};

TEST_F(GgufSplits, AnyPartOpensTheWholeModel) {
  write_splits();
  for (const auto* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const auto file = open_gguf(folder_ / name);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->format_text, "GGUF v3, 2 splits");
    EXPECT_EQ(file->metadata.at("general.architecture"), MetadataValue(std::string("llama")));
    ASSERT_EQ(file->tensors.size(), 2U);
    EXPECT_EQ(file->tensors[1].name, "b");
    EXPECT_EQ(file->tensors[1].part, 1U);
    const auto bytes = file->parts[1].file.bytes();
    EXPECT_EQ(file->tensors[1].view.bytes.data(), bytes.data() + file->tensors[1].file_offset);
  }
}

TEST_F(GgufSplits, WhatDoesNotFitTogetherIsNamed) {
  write_splits();
  fs::rename(folder_ / "m-00002-of-00002.gguf", folder_ / "kept");
  auto file = open_gguf(folder_ / "m-00001-of-00002.gguf");
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("m-00002-of-00002.gguf: this split of 2 is not there"),
            std::string::npos);
  fs::rename(folder_ / "kept", folder_ / "renamed.gguf");
  file = open_gguf(folder_ / "renamed.gguf");
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("split 2 of 2"), std::string::npos) << file.error().message;
  write_splits(0);
  file = open_gguf(folder_ / "m-00001-of-00002.gguf");
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("split.no is 0"), std::string::npos);
  write_splits(1, 3);
  file = open_gguf(folder_ / "m-00001-of-00002.gguf");
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("says 3 tensors, the 2 splits hold 2"), std::string::npos);
}

}  // namespace
}  // namespace plumb
