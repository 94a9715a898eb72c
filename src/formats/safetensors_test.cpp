// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace plumb {
namespace {

using Buffer = std::vector<std::byte>;

// Bytes on the heap without a byte to spare, so that a sanitizer sees any read past the end.
Buffer buffer(const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return {data, data + bytes.size()};
}

std::string length(uint64_t size) { return {reinterpret_cast<const char*>(&size), sizeof(size)}; }

std::string file(const std::string& header, size_t data_bytes) {
  std::string bytes = length(header.size()) + header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i + 1);
  return bytes;
}

std::string tensor(const std::string& name, const std::string& shape, const std::string& offsets,
                   const std::string& dtype = "F32") {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

const std::string kA = tensor("a", "[2,4]", "[0,32]");
const std::string kB = tensor("b", "[6]", "[32,44]", "F16");
const std::string kValid = "{\"__metadata__\":{\"k\":\"v\"}," + kA + "," + kB + "}";
constexpr size_t kValidData = 44;

void expect_refusal(const std::string& bytes, const std::vector<std::string>& parts) {
  const Buffer copy = buffer(bytes);
  const auto content = parse_safetensors(copy);
  ASSERT_FALSE(content.has_value()) << "accepted, expected: " << parts.front();
  for (const auto& part : parts)
    EXPECT_NE(content.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << content.error().message.substr(0, 500);
}

void expect_inside(const SafetensorsContent& content, const Buffer& bytes) {
  for (const auto& [name, view] : content.tensors) {
    const auto count = element_count(view.shape);
    ASSERT_TRUE(count.has_value()) << name;
    ASSERT_EQ(view.bytes.size(), bytes_of(view.dtype, *count)) << name;
    if (view.bytes.empty()) continue;
    ASSERT_GE(view.bytes.data(), bytes.data()) << name;
    ASSERT_LE(view.bytes.data() + view.bytes.size(), bytes.data() + bytes.size()) << name;
  }
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  // Guards against tensors that are read from the start of the file in place of the data.
  const Buffer bytes = buffer(file(kValid, kValidData));
  const auto content = parse_safetensors(bytes);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(content->metadata, (std::map<std::string, std::string>{{"k", "v"}}));
  ASSERT_EQ(content->tensors.size(), 2U);
  const auto& a = content->tensors.at("a");
  EXPECT_EQ(a.dtype, DType::F32);
  EXPECT_EQ(a.shape, (std::vector<uint64_t>{2, 4}));
  EXPECT_EQ(a.bytes[0], std::byte{1});
  const auto& b = content->tensors.at("b");
  EXPECT_EQ(b.dtype, DType::F16);
  EXPECT_EQ(b.bytes.size(), 12U);
  EXPECT_EQ(b.bytes[0], std::byte{33});
  expect_inside(*content, bytes);
}

TEST(Safetensors, ReadsWhatIsUnusualAndAllowed) {
  // Guards against refusals of right files: any order, scalars, empty tensors, spaces, no tensors.
  const auto accepted = [](const std::string& header, size_t data) {
    const auto content = parse_safetensors(buffer(file(header, data)));
    EXPECT_TRUE(content.has_value()) << header << ": " << content.error().message;
  };
  accepted("{}", 0);
  accepted("{}   ", 0);
  accepted("{" + kB + "," + kA + "}", kValidData);
  accepted("{" + tensor("s", "[]", "[0,4]") + "}", 4);
  accepted("{" + tensor("e", "[0,8]", "[32,32]") + "," + kA + "}", 32);
  accepted("{" + tensor("", "[1]", "[0,1]", "BOOL") + "}", 1);
  accepted("{" + tensor("i", "[1]", "[0,8]", "I64") + "}", 8);
}

TEST(Safetensors, RefusesLengthsOutsideTheFile) {
  // Guards against memory or reads by a length that was not checked, also where it wraps around.
  expect_refusal("", {"0 bytes are too short"});
  expect_refusal("1234", {"4 bytes are too short"});
  for (const uint64_t size : {uint64_t{3}, uint64_t{200'000'000}, ~uint64_t{0} - 7, ~uint64_t{0}})
    expect_refusal(length(size) + "{}", {std::to_string(size) + " bytes runs past the end"});
  constexpr size_t kTooLarge = 100'000'001;
  expect_refusal(length(kTooLarge) + std::string(kTooLarge, ' '),
                 {"larger than the format allows"});
}

TEST(Safetensors, RefusesHeadersThatAreNoJsonObject) {
  // Guards against a crash in the parser, and a message that repeats the whole file.
  expect_refusal(file("", 0), {"the header is not valid JSON"});
  expect_refusal(file("{\"a\":", 0), {"the header is not valid JSON"});
  expect_refusal(file("{} x", 0), {"the header is not valid JSON"});
  expect_refusal(file("{\"\xFF\":1}", 0), {"the header is not valid JSON"});
  expect_refusal(file("[]", 0), {"the header is not a JSON object"});
  expect_refusal(file("1", 0), {"the header is not a JSON object"});
  const auto content = parse_safetensors(buffer(file("{\"" + std::string(100'000, 'x'), 0)));
  ASSERT_FALSE(content.has_value());
  EXPECT_LT(content.error().message.size(), 300U);
}

TEST(Safetensors, RefusesDeepJson) {
  // Guards against recursion that follows the file.
  for (const size_t depth : {9U, 20'000U, 1'000'000U}) {
    const std::string deep = "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
    expect_refusal(file(deep, 0), {"the header is nested deeper than 8 levels"});
  }
  // Brackets in strings are no nesting.
  const std::string brackets = R"({"__metadata__":{"k":"[[[[[[[[[[\"[["}})";
  EXPECT_TRUE(parse_safetensors(buffer(file(brackets, 0))).has_value());
}

TEST(Safetensors, ManyObjectsTakeNoLongTime) {
  // Guards against a parser that takes the square of their number: these would take minutes.
  std::string header = "{\"a\":[{}";
  for (int i = 0; i < 300'000; ++i) header += ",{}";
  const auto start = std::chrono::steady_clock::now();
  expect_refusal(file(header + "]}", 0), {"tensor 'a'", "needs 'dtype'"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Safetensors, RefusesANameTwice) {
  // Guards against a parser that keeps the last of two answers, with which all else is right.
  const std::string a = tensor("a", "[1]", "[0,4]");
  expect_refusal(file("{" + a + "," + a + "}", 4), {"the name 'a' stands twice in the header"});
  const std::string empty = tensor("", "[1]", "[0,4]");
  expect_refusal(file("{" + empty + "," + empty + "}", 4), {"the name '' stands twice"});
  const std::string escaped = tensor("\\u0061", "[1]", "[0,4]");
  expect_refusal(file("{" + a + "," + escaped + "}", 4), {"the name 'a' stands twice"});
  const std::string shape_twice =
      R"({"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,4]}})";
  expect_refusal(file(shape_twice, 4), {"the name 'shape' stands twice"});
  expect_refusal(file(R"({"__metadata__":{"k":"1","k":"2"}})", 0), {"the name 'k' stands twice"});
  expect_refusal(file(R"({"__metadata__":{},"__metadata__":{}})", 0), {"'__metadata__' stands"});
  // The same name in two objects is none of that.
  EXPECT_TRUE(parse_safetensors(buffer(file(R"({"__metadata__":{"a":"1"},)" + a + "}", 4))));
}

TEST(Safetensors, RefusesOverlapsHolesAndTrailingBytes) {
  // Guards against bytes that two tensors share and bytes that hide between or after them.
  const auto after_a = [](const std::string& shape, const std::string& offsets) {
    return "{" + kA + "," + tensor("b", shape, offsets) + "}";
  };
  expect_refusal(file(after_a("[2]", "[28,36]"), 36), {"the data of 'a' and 'b' overlap"});
  expect_refusal(file(after_a("[2,4]", "[0,32]"), 32), {"the data of 'a' and 'b' overlap"});
  expect_refusal(file(after_a("[0]", "[16,16]"), 32), {"the data of 'a' and 'b' overlap"});
  expect_refusal(file(after_a("[2]", "[40,48]"), 48), {"8 bytes before 'b' belong to no tensor"});
  expect_refusal(file(kValid, kValidData + 16), {"16 bytes after the data belong to no tensor"});
  expect_refusal(file("{}", 1), {"1 bytes after the data"});
}

TEST(Safetensors, RefusesOffsetsOutsideTheData) {
  // Guards against views past the end of the file.
  expect_refusal(file(kValid, kValidData - 5), {"tensor 'b'", "ends at 44", "only 39 bytes"});
  const auto one = [](const std::string& shape, const std::string& offsets) {
    return file("{" + tensor("a", shape, offsets) + "}", 32);
  };
  expect_refusal(one("[2,4]", "[32,0]"), {"tensor 'a'", "[32, 0] are reversed"});
  expect_refusal(one("[2,4]", "[18446744073709551584,18446744073709551615]"), {"tensor 'a'"});
  expect_refusal(one("[2,4]", "[0,18446744073709551648]"), {"tensor 'a'", "data_offsets"});
  expect_refusal(one("[2,4]", "[-32,0]"), {"tensor 'a'", "at least 0, found -32"});
  expect_refusal(one("[2,4]", "[0.0,32.0]"), {"tensor 'a'", "whole numbers", "0.0"});
  expect_refusal(one("[2,4]", "[0]"), {"tensor 'a'", "data_offsets must be two numbers"});
  expect_refusal(one("[2,4]", "\"0\""), {"tensor 'a'", "data_offsets is not an array"});
}

TEST(Safetensors, RefusesShapesThatDisagreeWithTheData) {
  // Guards against a row length that is not that of the data, and products that wrap around.
  const auto one = [](const std::string& shape) {
    return file("{" + tensor("a", shape, "[0,32]") + "}", 32);
  };
  expect_refusal(one("[2,5]"), {"tensor 'a'", "[2, 5]", "needs 40 bytes", "give 32"});
  expect_refusal(one("[4,4611686018427387906]"), {"tensor 'a'", "overflows 64 bits"});
  expect_refusal(one("[4611686018427387912]"), {"tensor 'a'", "overflows 64 bits"});
  expect_refusal(one("[-2,-4]"), {"tensor 'a'", "found -2"});
  expect_refusal(one("[2.0,4]"), {"tensor 'a'", "found 2.0"});
  expect_refusal(one("[true]"), {"tensor 'a'", "found true"});
  expect_refusal(one("8"), {"tensor 'a'", "shape is not an array"});
  expect_refusal(one("[]"), {"tensor 'a'", "needs 4 bytes"});
}

TEST(Safetensors, RefusesEntriesThatSayTooLittle) {
  // Guards against a guess at a type or a crash on a missing key.
  const auto one = [](const std::string& value) { return file("{\"a\":" + value + "}", 4); };
  expect_refusal(one("1"), {"tensor 'a'", "needs 'dtype', 'shape' and 'data_offsets'"});
  expect_refusal(one("{}"), {"tensor 'a'", "needs 'dtype'"});
  expect_refusal(one(R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})"), {"tensor 'a'"});
  expect_refusal(one(R"({"dtype":"F32","data_offsets":[0,4]})"), {"tensor 'a'"});
  expect_refusal(one(R"({"dtype":"F32","shape":[1]})"), {"tensor 'a'"});
  for (const char* dtype : {"F31", "", "f32", "Q8_0", "F8_E9M9"})
    expect_refusal(file("{" + tensor("a", "[1]", "[0,4]", dtype) + "}", 4),
                   {"tensor 'a'", "unknown dtype '" + std::string(dtype) + "'"});
  expect_refusal(file(R"({"__metadata__":1})", 0), {"__metadata__ is not an object"});
  expect_refusal(file(R"({"__metadata__":{"k":1}})", 0), {"__metadata__ 'k' is not a string"});
}

TEST(Safetensors, RefusesAFileThatIsCutAnywhere) {
  // Guards against a part of a file that passes for the whole.
  const std::string whole = file(kValid, kValidData);
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse_safetensors(buffer(whole.substr(0, size))).has_value()) << size;
}

TEST(Safetensors, SurvivesEveryChangedByte) {
  // Guards against a crash or a view outside the file whatever one byte says.
  const std::string whole = file(kValid, kValidData);
  size_t accepted = 0;
  for (size_t at = 0; at < whole.size() - kValidData; ++at) {
    for (unsigned change = 1; change < 256; ++change) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
      const Buffer copy = buffer(bytes);
      const auto content = parse_safetensors(copy);
      if (!content) continue;
      ++accepted;
      expect_inside(*content, copy);
      ASSERT_GE(at, 8U) << "a changed length of the header was accepted";
    }
  }
  EXPECT_GT(accepted, 100U);  // Names may change: the test has seen both outcomes.
}

TEST(Safetensors, HeaderOfTheWriterIsReadBack) {
  // Guards against a writer whose offsets, names or types its own reader takes otherwise.
  std::vector<SafetensorsEntry> entries = {{"b \"quoted\"", DType::F64, {3, 1}},
                                           {"a", DType::I32, {5}},
                                           {"none", DType::F32, {0, 4}},
                                           {"ü", DType::BF16, {}}};
  const std::map<std::string, std::string> metadata = {{"k", "{\"x\": [1]}"}, {"z", "\n"}};
  std::string bytes = safetensors_header(entries, metadata);
  EXPECT_EQ(bytes.size() % 8, 0U);
  EXPECT_EQ(entries[0].offset, bytes.size());
  EXPECT_EQ(entries[1].offset, bytes.size() + 24);
  EXPECT_EQ(entries[3].offset, bytes.size() + 44);
  bytes.resize(bytes.size() + 46);
  const Buffer copy = buffer(bytes);
  const auto content = parse_safetensors(copy);
  ASSERT_TRUE(content.has_value()) << content.error().message;
  EXPECT_EQ(content->metadata, metadata);
  ASSERT_EQ(content->tensors.size(), entries.size());
  for (const auto& entry : entries) {
    const auto& view = content->tensors.at(entry.name);
    EXPECT_EQ(view.dtype, entry.dtype) << entry.name;
    EXPECT_EQ(view.shape, entry.shape) << entry.name;
    EXPECT_EQ(view.bytes.data(), copy.data() + entry.offset) << entry.name;
  }
}

TEST(Safetensors, JsonObjectNamesWhatIsWrong) {
  // Guards against messages about "the header" where another text of the file is meant.
  EXPECT_EQ(parse_json_object(R"({"a":[{"b":1},{"b":2}]})", "it", 3).value()["a"][1]["b"], 2);
  EXPECT_EQ(parse_json_object("[]", "it", 3).error().message, "it is not a JSON object");
  EXPECT_EQ(parse_json_object(R"({"a":[{"b":1,"b":2}]})", "it", 3).error().message,
            "the name 'b' stands twice in it");
  EXPECT_EQ(parse_json_object(R"({"a":[[1]]})", "it", 2).error().message,
            "it is nested deeper than 2 levels");
}

}  // namespace
}  // namespace plumb
