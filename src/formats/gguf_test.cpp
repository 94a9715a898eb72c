// SPDX-License-Identifier: Apache-2.0
#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace plumb {
namespace {

// GGUF's numbers for the types of values.
enum : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

constexpr uint64_t kTwo63 = uint64_t{1} << 63;

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

std::string text(const std::string& value) { return raw<uint64_t>(value.size()) + value; }

std::string entry(const std::string& key, uint32_t type, const std::string& value) {
  return text(key) + raw(type) + value;
}

std::string array(uint32_t type, uint64_t count, const std::string& values) {
  return raw(type) + raw(count) + values;
}

std::string tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                   uint64_t offset) {
  std::string bytes = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) bytes += raw(dim);
  return bytes + raw(type) + raw(offset);
}

// A file from its parts; a claim in place of a true count makes it a lie.
struct Parts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> metadata = {entry("general.architecture", kString, text("llama"))};
  std::vector<std::string> tensors = {tensor("a", {4, 2}, 0, 0), tensor("b", {32}, 8, 32)};
  std::optional<uint64_t> claimed_tensors = {}, claimed_metadata = {};
  size_t alignment = 32;
  size_t data_bytes = 66;  // a: 8 F32; b: one block of Q8_0 at 32

  std::string header() const {
    std::string bytes = magic + raw(version) + raw(claimed_tensors.value_or(tensors.size())) +
                        raw(claimed_metadata.value_or(metadata.size()));
    for (const auto& part : metadata) bytes += part;
    for (const auto& part : tensors) bytes += part;
    return bytes;
  }
  std::string file() const {
    std::string bytes = header();
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i + 1);
    return bytes;
  }
};

// Bytes on the heap without a byte to spare, so that a sanitizer sees any read past the end.
using Buffer = std::vector<std::byte>;

Buffer buffer(const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return {data, data + bytes.size()};
}

Result<GgufContent> parse(const std::string& bytes) { return parse_gguf(buffer(bytes)); }

void expect_refusal(const std::string& bytes, ErrorCode code,
                    const std::vector<std::string>& parts) {
  const auto content = parse(bytes);
  ASSERT_FALSE(content.has_value()) << "accepted, expected: " << parts.front();
  EXPECT_EQ(content.error().code, code) << content.error().message;
  for (const auto& part : parts)
    EXPECT_NE(content.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << content.error().message;
}

void expect_corrupt(const Parts& parts, const std::vector<std::string>& words) {
  expect_refusal(parts.file(), ErrorCode::Corrupt, words);
}

Parts with_entry(const std::string& key, uint32_t type, const std::string& value) {
  Parts parts;
  parts.metadata.push_back(entry(key, type, value));
  return parts;
}

Parts with_tensor(const std::string& bytes) {
  Parts parts;
  parts.tensors[1] = bytes;
  return parts;
}

// What every accepted content must hold, whatever the file says.
void expect_inside(const GgufContent& content, const Buffer& bytes) {
  for (const auto& item : content.tensors) {
    const auto count = element_count(item.view.shape);
    ASSERT_TRUE(count.has_value()) << item.name;
    ASSERT_EQ(item.view.bytes.size(), bytes_of(item.view.dtype, *count)) << item.name;
    ASSERT_LE(item.file_offset, bytes.size()) << item.name;
    ASSERT_LE(item.view.bytes.size(), bytes.size() - item.file_offset) << item.name;
    if (item.view.bytes.empty()) continue;
    ASSERT_EQ(item.view.bytes.data(), bytes.data() + item.file_offset) << item.name;
  }
}

template <class T>
T value_of(const GgufContent& content, const std::string& key) {
  const auto found = content.metadata.find(key);
  if (found == content.metadata.end() || !std::holds_alternative<T>(found->second)) {
    ADD_FAILURE() << key << " is missing or has another type";
    return {};
  }
  return std::get<T>(found->second);
}

TEST(Gguf, ReadsNumbersOfEveryWidthExactly) {
  // Guards against a value that is cut, sign-extended or rounded on its way.
  Parts parts;
  parts.metadata = {
      entry("u8", kU8, raw<uint8_t>(255)),
      entry("i8", kI8, raw<int8_t>(-128)),
      entry("u16", kU16, raw<uint16_t>(65535)),
      entry("i16", kI16, raw<int16_t>(-32768)),
      entry("u32", kU32, raw<uint32_t>(4294967295U)),
      entry("i32", kI32, raw(std::numeric_limits<int32_t>::min())),
      entry("u64", kU64, raw<uint64_t>(kTwo63 - 1)),
      entry("u64.large", kU64, raw(kTwo63)),
      entry("i64", kI64, raw(std::numeric_limits<int64_t>::min())),
      entry("f32", kF32, raw(0.1F)),
      entry("f64", kF64, raw(0.1)),
      entry("no", kBool, raw<uint8_t>(0)),
      entry("yes", kBool, raw<uint8_t>(1)),
  };
  const auto content = parse(parts.file());
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(value_of<int64_t>(*content, "u8"), 255);
  EXPECT_EQ(value_of<int64_t>(*content, "i8"), -128);
  EXPECT_EQ(value_of<int64_t>(*content, "u16"), 65535);
  EXPECT_EQ(value_of<int64_t>(*content, "i16"), -32768);
  EXPECT_EQ(value_of<int64_t>(*content, "u32"), 4294967295);
  EXPECT_EQ(value_of<int64_t>(*content, "i32"), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(value_of<int64_t>(*content, "u64"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(value_of<uint64_t>(*content, "u64.large"), kTwo63);
  EXPECT_EQ(value_of<int64_t>(*content, "i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(value_of<double>(*content, "f32"), static_cast<double>(0.1F));
  EXPECT_EQ(value_of<double>(*content, "f64"), 0.1);
  EXPECT_FALSE(value_of<bool>(*content, "no"));
  EXPECT_TRUE(value_of<bool>(*content, "yes"));
  EXPECT_EQ(content->metadata.size(), 13U);
}

TEST(Gguf, ReadsStringsWithAnyBytes) {
  // Guards against a string that ends at its first zero byte.
  const std::string any("a\0\xFFz", 4);
  const auto content = parse(with_entry("s", kString, text(any)).file());
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(value_of<std::string>(*content, "s"), any);
  EXPECT_EQ(to_text(content->metadata.at("s")), "'a\\x00\\xffz'");
}

TEST(Gguf, ReadsArraysAndArraysOfArrays) {
  // Guards against nested arrays that are refused or flattened: the text of the format allows them.
  using ArrayPtr = std::shared_ptr<const MetadataArray>;
  const std::string one = array(kI32, 2, raw<int32_t>(1) + raw<int32_t>(-2));
  const std::string two = array(kString, 1, text("three"));
  Parts parts = with_entry("nested", kArray, array(kArray, 2, one + two));
  parts.metadata.push_back(entry("none", kArray, array(kF64, 0, "")));
  parts.metadata.push_back(entry("after", kU32, raw<uint32_t>(7)));
  const Buffer bytes = buffer(parts.file());  // arrays point into it
  const auto content = parse_gguf(bytes);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  const auto outer = value_of<ArrayPtr>(*content, "nested");
  ASSERT_TRUE(outer && outer->size() == 2);
  const auto first = std::get<ArrayPtr>(outer->values()[0]);
  ASSERT_EQ(first->size(), 2U);
  EXPECT_EQ(std::get<int64_t>(first->values()[1]), -2);
  const auto second = std::get<ArrayPtr>(outer->values()[1]);
  ASSERT_EQ(second->size(), 1U);
  EXPECT_EQ(std::get<std::string>(second->values()[0]), "three");
  EXPECT_TRUE(value_of<ArrayPtr>(*content, "none")->values().empty());
  EXPECT_EQ(value_of<int64_t>(*content, "after"), 7);
  EXPECT_EQ(to_text(content->metadata.at("nested")),
            "array of 2 [array of 2 [1, -2], array of 1 ['three']]");
}

TEST(Gguf, ReadsTensorsOfVersions2And3) {
  // Guards against a version that is read with the layout of another, and a shape that is reversed.
  for (const uint32_t version : {2U, 3U}) {
    Parts parts;
    parts.version = version;
    const Buffer bytes = buffer(parts.file());
    const auto content = parse_gguf(bytes);
    ASSERT_TRUE(content.has_value()) << content.error().message;
    EXPECT_EQ(content->version, version);
    ASSERT_EQ(content->tensors.size(), 2U);
    EXPECT_EQ(content->tensors[0].name, "a");
    EXPECT_EQ(content->tensors[0].view.dtype, DType::F32);
    EXPECT_EQ(content->tensors[0].view.shape, (std::vector<uint64_t>{2, 4}));
    EXPECT_EQ(content->tensors[0].view.bytes[0], std::byte{1});
    EXPECT_EQ(content->tensors[1].view.dtype, DType::Q8_0);
    EXPECT_EQ(content->tensors[1].view.bytes.size(), 34U);
    EXPECT_EQ(content->tensors[1].view.bytes[0], std::byte{33});
    expect_inside(*content, bytes);
  }
}

TEST(Gguf, ReadsTensorsOfNoAndOfFourDimensions) {
  // Guards against a scalar that has 0 elements, and a limit on dimensions that is one too low.
  Parts parts;
  parts.tensors = {tensor("scalar", {}, 0, 0), tensor("four", {1, 2, 1, 2}, 0, 32),
                   tensor("empty", {0, 8}, 0, 64)};
  const auto content = parse(parts.file());
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(content->tensors[0].view.bytes.size(), 4U);
  EXPECT_EQ(content->tensors[1].view.shape, (std::vector<uint64_t>{2, 1, 2, 1}));
  EXPECT_EQ(content->tensors[1].view.bytes.size(), 16U);
  EXPECT_TRUE(content->tensors[2].view.bytes.empty());
}

TEST(Gguf, FollowsTheAlignmentOfTheFile) {
  // Guards against data that is taken from the default alignment: each weight would be shifted.
  for (const uint32_t alignment : {1U, 2U, 8U, 64U, 4096U}) {
    Parts parts = with_entry("general.alignment", kU32, raw(alignment));
    parts.alignment = alignment;
    parts.tensors = {tensor("a", {2}, 0, 0), tensor("b", {1}, 0, std::max(8U, alignment))};
    parts.data_bytes = alignment + 12;
    const Buffer bytes = buffer(parts.file());
    const auto content = parse_gguf(bytes);
    ASSERT_TRUE(content.has_value()) << content.error().message;
    EXPECT_EQ(content->tensors[0].view.bytes[0], std::byte{1}) << alignment;
    expect_inside(*content, bytes);
  }
}

TEST(Gguf, RefusesOtherFiles) {
  // Guards against any other file that is read as a model.
  expect_refusal("", ErrorCode::Corrupt, {"the file is empty"});
  expect_refusal("GG", ErrorCode::Corrupt, {"at byte 0 it needs 4 more, has 2"});
  Parts parts;
  parts.magic = "GGU\x01";
  expect_corrupt(parts, {"not a GGUF file", "'GGU\\x01'"});
}

TEST(Gguf, RefusesVersionsItDoesNotKnow) {
  // Guards against a guess at a layout that is not known.
  const auto refused = [](uint32_t version, const std::vector<std::string>& words) {
    Parts parts;
    parts.version = version;
    expect_refusal(parts.file(), ErrorCode::Unsupported, words);
  };
  refused(0, {"GGUF version 0"});
  refused(1, {"GGUF version 1 is no longer in use"});
  refused(4, {"GGUF version 4 is not known here (known: 2 and 3)"});
  refused(99, {"GGUF version 99"});
  refused(std::byteswap(3U), {"50331648 = 3", "big-endian"});
}

TEST(Gguf, RefusesCountsThatNoFileCanHold) {
  // Guards against memory that is taken because a hostile file claims to need it.
  for (const uint64_t claim : {kTwo63, ~uint64_t{0}, (uint64_t{1} << 61) + 1, uint64_t{1000}}) {
    Parts parts;
    parts.claimed_tensors = claim;
    expect_corrupt(parts, {std::to_string(claim) + " tensors cannot fit in a file of"});
    parts.claimed_tensors.reset();
    parts.claimed_metadata = claim;
    expect_corrupt(parts, {std::to_string(claim) + " metadata entries cannot fit"});
    for (const uint32_t type : {kU8, kU64, kString, kArray}) {
      expect_corrupt(with_entry("x", kArray, array(type, claim, "")),
                     {"metadata entry 2 of 2, 'x'", "array of " + std::to_string(claim)});
    }
    expect_corrupt(with_entry("x", kString, raw(claim)),
                   {"metadata entry 2 of 2, 'x'", "a string of " + std::to_string(claim)});
    expect_corrupt(with_tensor(raw(claim)), {"tensor entry 2 of 2", "runs past the end"});
  }
  Parts parts;
  parts.metadata.push_back(raw(kTwo63));
  expect_corrupt(parts, {"metadata entry 2 of 2", "a string of 9223372036854775808 bytes"});
}

TEST(Gguf, CountsOneTooMuchAreNotReadFromWhatFollows) {
  // Guards against an entry that is made of the data section: here, of zeros.
  Parts parts;
  parts.data_bytes = 0;
  parts.tensors.clear();
  parts.claimed_metadata = 2;
  std::string bytes = parts.header();
  bytes.resize(bytes.size() + 64);
  expect_refusal(bytes, ErrorCode::Corrupt, {"metadata entry 2 of 2", "1 to 65535 bytes, found 0"});
}

TEST(Gguf, LargeArraysStayInTheFile) {
  // Guards against an array of single bytes that takes forty times its size in memory.
  constexpr size_t kMany = 5'000'000;
  const Buffer bytes =
      buffer(with_entry("x", kArray, array(kU8, kMany, std::string(kMany, 'x'))).file());
  const auto content = parse_gguf(bytes);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  const auto values = value_of<std::shared_ptr<const MetadataArray>>(*content, "x");
  EXPECT_EQ(values->size(), kMany);
  size_t seen = 0;
  values->for_each([&](const MetadataValue& value) {
    EXPECT_EQ(value, MetadataValue(int64_t{'x'}));
    return ++seen < 10;
  });
  EXPECT_EQ(seen, 10U);
}

TEST(Gguf, RefusesArraysThatAreNestedDeep) {
  // Guards against recursion that follows the file: 20000 levels overflow the stack.
  const auto nested = [](size_t depth) {
    std::string bytes;
    for (size_t i = 0; i < depth; ++i) bytes += array(kArray, 1, "");
    return with_entry("x.deep", kArray, bytes + array(kU8, 1, "x")).file();
  };
  EXPECT_TRUE(parse(nested(3)).has_value());
  expect_refusal(nested(4), ErrorCode::Unsupported, {"'x.deep'", "nested deeper than 4"});
  expect_refusal(nested(20000), ErrorCode::Unsupported, {"'x.deep'", "nested deeper than 4"});
}

TEST(Gguf, RefusesValuesWithoutMeaning) {
  // Guards against a reader that goes on after a type whose size it cannot know.
  expect_corrupt(with_entry("x", 13, ""),
                 {"metadata entry 2 of 2, 'x'", "unknown metadata type 13"});
  expect_corrupt(with_entry("x", 77, raw<uint64_t>(1)), {"'x'", "unknown metadata type 77"});
  expect_corrupt(with_entry("x", kArray, array(99, 1, "1234")),
                 {"'x'", "unknown metadata type 99"});
  expect_corrupt(with_entry("x", kBool, raw<uint8_t>(2)), {"'x'", "bool must be 0 or 1, found 2"});
  expect_corrupt(with_entry("x", kArray, array(kBool, 2, std::string("\0\3", 2))), {"found 3"});
  expect_corrupt(with_entry("", kBool, raw<uint8_t>(0)), {"1 to 65535 bytes, found 0"});
  expect_corrupt(with_entry(std::string(65536, 'k'), kBool, raw<uint8_t>(0)), {"found 65536"});
}

TEST(Gguf, RefusesWhatIsGivenTwice) {
  // Guards against a reader that silently picks one of two answers.
  expect_corrupt(with_entry("general.architecture", kString, text("other")),
                 {"metadata entry 2 of 2, 'general.architecture'", "given before"});
  expect_corrupt(with_tensor(tensor("a", {32}, 8, 32)),
                 {"tensor entry 2 of 2", "named 'a' was given before"});
}

TEST(Gguf, RefusesShapesThatOverflow) {
  // Guards against products that wrap around to a size that seems right.
  const auto wraps = (uint64_t{1} << 61) + 3;
  expect_corrupt(with_tensor(tensor("b", {512, wraps}, 0, 32)),
                 {"tensor 'b'", std::to_string(wraps) + ", 512]", "overflows 64 bits"});
  expect_corrupt(with_tensor(tensor("b", {uint64_t{1} << 62}, 0, 32)),
                 {"tensor 'b'", "overflows 64 bits"});
  expect_corrupt(with_tensor(tensor("b", {1, 0, 2, kTwo63}, 0, 32)), {"tensor 'b'", "overflows"});
  expect_corrupt(with_tensor(tensor("b", {~uint64_t{0} - 31}, 8, 32)),
                 {"tensor 'b'", "overflows 64 bits"});
}

TEST(Gguf, RefusesDataOutsideTheFile) {
  // Guards against views past the end, also where offset plus size wraps around.
  for (const uint64_t offset : {uint64_t{64}, uint64_t{1} << 50, ~uint64_t{0} - 31, kTwo63}) {
    expect_corrupt(with_tensor(tensor("b", {32}, 8, offset)),
                   {"tensor 'b'", "34 bytes at data offset " + std::to_string(offset),
                    "runs past the end of the file"});
  }
  Parts parts;
  parts.data_bytes -= 1;
  expect_corrupt(parts, {"tensor 'b'", "runs past the end of the file"});
}

TEST(Gguf, RefusesDataThatOverlapsOrIsNotAligned) {
  // Guards against two weights that share bytes, and an offset that was written for other rules.
  Parts parts;
  parts.tensors = {tensor("first", {16}, 0, 0), tensor("second", {4}, 0, 32)};
  expect_corrupt(parts, {"'first' and 'second' overlap"});
  parts.tensors = {tensor("second", {4}, 0, 32), tensor("first", {16}, 0, 0)};
  expect_corrupt(parts, {"'first' and 'second' overlap"});
  expect_corrupt(with_tensor(tensor("b", {4}, 0, 36)),
                 {"tensor 'b'", "offset 36 is not a multiple of the alignment 32"});
}

TEST(Gguf, RefusesAlignmentsThatAreNoPowerOfTwo) {
  // Guards against a division by 0 and an alignment that no other reader accepts.
  const std::string words = "general.alignment must be a power of two, found ";
  for (const uint32_t alignment : {0U, 3U, 24U})
    expect_corrupt(with_entry("general.alignment", kU32, raw(alignment)),
                   {words + std::to_string(alignment)});
  expect_corrupt(with_entry("general.alignment", kString, text("32")), {words + "'32'"});
  expect_corrupt(with_entry("general.alignment", kI64, raw<int64_t>(-32)), {words + "-32"});
  expect_corrupt(with_entry("general.alignment", kF32, raw(32.0F)), {words + "32"});
  expect_corrupt(with_entry("general.alignment", kU64, raw(kTwo63)), {words});
  // 2^62 is a power of two, but no file reaches its data.
  expect_corrupt(with_entry("general.alignment", kU64, raw(uint64_t{1} << 62)),
                 {"tensor 'a'", "runs past the end"});
}

TEST(Gguf, RefusesBlockTypesItCannotRead) {
  // Guards against weights that are decoded with the layout of another type.
  const auto refused = [](uint32_t type, const std::string& words) {
    expect_refusal(with_tensor(tensor("b", {256}, type, 32)).file(), ErrorCode::Unsupported,
                   {"tensor entry 2 of 2: 'b'", words});
  };
  refused(4, "block type 4 (Q4_2, removed in 2023) is no longer in use");
  refused(5, "block type 5 (Q4_3");
  refused(31, "block type 31 (a repacked");
  refused(36, "block type 36 (a repacked");
  refused(41, "block type 41 (Q1_0) is not supported: its block layout would be needed");
  refused(9999, "unknown block type 9999");
  refused(0xFFFFFFFFU, "unknown block type 4294967295");
}

TEST(Gguf, RefusesRowsThatAreNotWholeBlocks) {
  // Guards against a row that ends within a block: its bytes would be too few.
  expect_corrupt(
      with_tensor(tensor("b", {33}, 8, 32)),
      {"tensor entry 2 of 2: 'b'", "rows of 33 values are not a multiple of 32", "Q8_0"});
  expect_corrupt(with_tensor(tensor("b", {32, 8}, 12, 32)),
                 {"rows of 32 values are not a multiple of 256", "Q4_K"});
  expect_corrupt(with_tensor(tensor("b", {}, 8, 32)), {"rows of 1 values", "Q8_0"});
}

TEST(Gguf, RefusesMoreThanFourDimensions) {
  // Guards against a loop over a claimed number of dimensions.
  expect_corrupt(with_tensor(tensor("b", {1, 1, 1, 1, 1}, 0, 32)),
                 {"tensor entry 2 of 2: 'b'", "5 dimensions, at most 4"});
  expect_corrupt(with_tensor(text("b") + raw(0xFFFFFFFFU)), {"'b': 4294967295 dimensions"});
}

// A file with every part that the format has, for the tests that break it at each place.
Parts rich_parts() {
  Parts parts = with_entry("f", kF32, raw(1.5F));
  parts.metadata.push_back(entry("l", kArray, array(kString, 2, text("x") + text("yz"))));
  parts.metadata.push_back(
      entry("n", kArray, array(kArray, 2, array(kU8, 1, "1") + array(kI16, 1, "12"))));
  parts.metadata.push_back(entry("t", kBool, raw<uint8_t>(1)));
  parts.metadata.push_back(entry("general.alignment", kU32, raw(32U)));
  return parts;
}

TEST(Gguf, RefusesAFileThatIsCutAnywhere) {
  // Guards against reads past the end and against a part of a model that passes for the whole.
  const std::string whole = rich_parts().file();
  ASSERT_TRUE(parse(whole).has_value());
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse(whole.substr(0, size)).has_value()) << size << " of " << whole.size();
}

TEST(Gguf, SurvivesEveryChangedByte) {
  // Guards against a crash, a hang or a view outside the file whatever one byte says.
  const std::string whole = rich_parts().file();
  const size_t header = rich_parts().header().size();
  size_t accepted = 0;
  for (size_t at = 0; at < header; ++at) {
    for (unsigned change = 1; change < 256; ++change) {
      const bool chosen =
          change == 0x01 || change == 0x04 || change == 0x7F || change == 0x80 || change == 0xFF;
      if (at >= 64 && !chosen) continue;
      std::string bytes = whole;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
      const Buffer copy = buffer(bytes);
      const auto content = parse_gguf(copy);
      if (!content) {
        EXPECT_FALSE(content.error().message.empty());
        continue;
      }
      ++accepted;
      expect_inside(*content, copy);
      // The magic has no other form, and of the 255 other versions of one byte only 2 is known.
      EXPECT_FALSE(at < 4 || (at == 4 && change != 1) || (at > 4 && at < 8))
          << at << " ^ " << change;
    }
  }
  EXPECT_GT(accepted, 100U);  // Names and values may change: the test has seen both outcomes.
}

TEST(Gguf, OpensAFileAndNamesItInErrors) {
  // Guards against messages without a file, and views that outlive their file.
  const auto path = std::filesystem::path(testing::TempDir()) / "plumb_gguf_test.gguf";
  std::ofstream(path, std::ios::binary) << Parts().file();
  const auto file = open_gguf(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->format_text, "GGUF v3");
  EXPECT_EQ(file->tensors.at(1).view.bytes.back(), std::byte{66});
  EXPECT_EQ(file->tensors[1].view.bytes.data(),
            file->parts[0].file.bytes().data() + file->tensors[1].file_offset);

  std::ofstream(path, std::ios::binary) << "GGUX";
  const auto broken = open_gguf(path);
  ASSERT_FALSE(broken.has_value());
  EXPECT_TRUE(broken.error().message.starts_with(path.string() + ": not a GGUF file"))
      << broken.error().message;
  std::filesystem::remove(path);
  const auto missing = open_gguf(path);
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::NotFound);
  EXPECT_TRUE(missing.error().message.starts_with(path.string())) << missing.error().message;
}

TEST(Gguf, TextOfValuesIsShortAndPrintable) {
  // Guards against messages that are as long as a vocabulary or that steer a terminal.
  std::vector<MetadataValue> many;
  for (int64_t i = 0; i < 1000; ++i) many.emplace_back(i);
  EXPECT_EQ(to_text(MetadataValue(std::make_shared<const MetadataArray>(many))),
            "array of 1000 [0, 1, 2, 3, …]");
  EXPECT_EQ(to_text(MetadataValue(std::string("\x1B[2J"))), "'\\x1b[2J'");
  EXPECT_EQ(to_text(MetadataValue(std::string(100, 'x'))), "'" + std::string(80, 'x') + "'…");
  EXPECT_EQ(to_text(MetadataValue(true)), "true");
  EXPECT_EQ(to_text(MetadataValue(uint64_t{kTwo63})), "9223372036854775808");
  EXPECT_EQ(to_text(MetadataValue(0.5)), "0.5");
}

}  // namespace
}  // namespace plumb
