// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>

#include "dump/readers.h"
#include "quant/values.h"

namespace plumb {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string npy(const std::string& fields, const std::string& data, int version = 1) {
  std::string header = fields + "\n";
  std::string out = "\x93NUMPY";
  out += static_cast<char>(version);
  out += '\0';
  if (version == 1) put<uint16_t>(out, static_cast<uint16_t>(header.size()));
  else put<uint32_t>(out, static_cast<uint32_t>(header.size()));
  return out + header + data;
}

std::string fields(const std::string& descr, const std::string& shape, bool fortran = false) {
  return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}", descr,
                     fortran ? "True" : "False", shape);
}

template <class T>
std::string bytes_of_values(std::initializer_list<T> values) {
  std::string out;
  for (const T value : values) put(out, value);
  return out;
}

std::string deflate_raw(const std::string& content) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(content.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

struct Member {
  std::string name, content;
  bool packed = false;
  std::optional<uint32_t> says_size = {};  // a lie
};

std::string zip(const std::vector<Member>& members, bool zip64 = false) {
  std::string out, directory;
  for (const auto& member : members) {
    const std::string raw = member.packed ? deflate_raw(member.content) : member.content;
    const uint32_t crc = static_cast<uint32_t>(
        crc32_z(0, reinterpret_cast<const Bytef*>(member.content.data()), member.content.size()));
    const auto size = member.says_size.value_or(static_cast<uint32_t>(member.content.size()));
    std::string extra;
    if (zip64) {
      put<uint16_t>(extra, 1);
      put<uint16_t>(extra, 16);
      put<uint64_t>(extra, size);
      put<uint64_t>(extra, raw.size());
    }
    std::string head;
    put<uint16_t>(head, 20);
    put<uint16_t>(head, 0);
    put<uint16_t>(head, member.packed ? 8 : 0);
    put<uint32_t>(head, 0);
    put<uint32_t>(head, crc);
    put<uint32_t>(head, zip64 ? 0xFFFFFFFF : static_cast<uint32_t>(raw.size()));
    put<uint32_t>(head, zip64 ? 0xFFFFFFFF : size);
    put<uint16_t>(head, static_cast<uint16_t>(member.name.size()));
    put<uint16_t>(head, static_cast<uint16_t>(extra.size()));
    directory += std::string("PK\x01\x02") + std::string(2, '\0') + head + std::string(10, '\0');
    put<uint32_t>(directory, static_cast<uint32_t>(out.size()));
    directory += member.name + extra;
    out += std::string("PK\x03\x04") + head + member.name + extra + raw;
  }
  const auto offset = static_cast<uint32_t>(out.size());
  const auto count = static_cast<uint16_t>(members.size());
  out += directory + std::string("PK\x05\x06") + std::string(4, '\0');
  put<uint16_t>(out, count);
  put<uint16_t>(out, count);
  put<uint32_t>(out, static_cast<uint32_t>(directory.size()));
  put<uint32_t>(out, offset);
  put<uint16_t>(out, 0);
  return out;
}

DumpSource source_of(const std::string& content) {
  auto owner = std::make_shared<std::string>(content);
  return {"some.file", std::as_bytes(std::span(*owner)), owner};
}

std::vector<float> values(const DumpTensor& tensor) {
  std::vector<float> out(*element_count(tensor.view.shape));
  read_values(tensor.view, 0, out.size(), out.data());
  return out;
}

using Floats = std::vector<float>;
using Shape = std::vector<uint64_t>;

TEST(Numpy, ReadsEachVersionOfTheHeader) {
  const auto data = bytes_of_values<float>({1, 2, 3, 4, 5, 6});
  for (const int version : {1, 2, 3}) {
    const auto dump = read_npy(source_of(npy(fields("<f4", "(2, 3)"), data, version)));
    ASSERT_TRUE(dump) << dump.error().message;
    EXPECT_EQ(dump->tensors[0].view.shape, Shape({2, 3}));
    EXPECT_EQ(values(dump->tensors[0]), Floats({1, 2, 3, 4, 5, 6}));
  }
  EXPECT_FALSE(read_npy(source_of(npy(fields("<f4", "(2, 3)"), data, 4))));
}

// np.asfortranarray writes columns; rows come out.
TEST(Numpy, TurnsFortranOrderAndBigEndianRound) {
  auto dump = read_npy(
      source_of(npy(fields("<i2", "(2, 3)", true), bytes_of_values<int16_t>({1, 4, 2, 5, 3, 6}))));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({1, 2, 3, 4, 5, 6}));
  dump = read_npy(source_of(npy(fields(">i4", "(2,)"), std::string("\0\0\0\1\0\0\1\0", 8))));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({1, 256}));
  dump =
      read_npy(source_of(npy(fields(">i2", "(2, 2)", true), std::string("\0\1\0\3\0\2\0\4", 8))));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({1, 2, 3, 4}));
}

TEST(Numpy, ReadsScalarsEmptyArraysAndBfloat16) {
  auto dump = read_npy(source_of(npy(fields("<f8", "()"), bytes_of_values<double>({2.5}))));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors[0].view.shape, Shape());
  EXPECT_EQ(values(dump->tensors[0]), Floats({2.5F}));
  dump = read_npy(source_of(npy(fields("|b1", "(0, 4)"), "")));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors[0].view.shape, Shape({0, 4}));
  dump = read_npy(source_of(npy(fields("<V2", "(1,)"), std::string("\x80\x3f", 2))));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors[0].view.dtype, DType::BF16);
  EXPECT_EQ(dump->notes.size(), 1U);
  EXPECT_EQ(values(dump->tensors[0]), Floats({1}));
}

TEST(Numpy, RefusesOtherTypesByName) {
  for (const auto* descr :
       {"|O", "<c8", "<U3", "|S4", "<f16", "<V3", "|V1", "<M8[ns]", "=f4", "f"}) {
    const auto dump = read_npy(source_of(npy(fields(descr, "(1,)"), std::string(16, '\0'))));
    ASSERT_FALSE(dump) << descr;
    EXPECT_NE(dump.error().message.find(fmt::format("'{}'", descr)), std::string::npos)
        << dump.error().message;
  }
  EXPECT_FALSE(read_npy(source_of(npy(
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", std::string(4, 0)))));
}

// A shape that promises more than the file has must not be allocated.
TEST(Numpy, RefusesLyingHeaders) {
  for (const auto* shape : {"(1099511627776,)", "(4294967296, 4294967296)", "(2,)", "(0,)", "(-1,)",
                            "(1.5,)", "1", "(99999999999999999999999,)"})
    EXPECT_FALSE(read_npy(source_of(npy(fields("<f4", shape), std::string(4, '\0'))))) << shape;
  EXPECT_FALSE(read_npy(source_of(npy("{'descr': '<f4', 'shape': (1,)}", std::string(4, '\0')))));
  EXPECT_FALSE(read_npy(source_of(
      npy("{'descr': '<f4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", "\0\0\0\0"))));
}

TEST(Numpy, CutOrChangedAnywhereIsAnErrorOrAnArray) {
  const std::string whole = npy(fields("<f4", "(2, 3)", true), std::string(24, 'x'));
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(read_npy(source_of(whole.substr(0, size)))) << size;
  for (size_t i = 0; i < whole.size(); ++i) {
    auto changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x15);
    const auto dump = read_npy(source_of(changed));
    if (dump) values(dump->tensors[0]);
  }
}

std::vector<Member> two_members(bool packed) {
  return {
      {"arr_0.npy", npy(fields("<f4", "(2,)"), bytes_of_values<float>({1, 2})), packed},
      {"tokens.npy", npy(fields("<i8", "(1, 3)"), bytes_of_values<int64_t>({7, 8, 9})), packed}};
}

TEST(Npz, ReadsStoredDeflatedAnd64BitArchives) {
  for (const bool packed : {false, true}) {
    for (const bool zip64 : {false, true}) {
      const auto dump = read_npz(source_of(zip(two_members(packed), zip64)));
      ASSERT_TRUE(dump) << dump.error().message;
      ASSERT_EQ(dump->tensors.size(), 2U);
      EXPECT_EQ(dump->tensors[0].name, "arr_0");
      EXPECT_EQ(values(dump->tensors[0]), Floats({1, 2}));
      EXPECT_EQ(dump->tokens, std::vector<int64_t>({7, 8, 9}));
    }
  }
}

TEST(Npz, RefusesPathsThatLeaveTheArchiveAndNamesTwice) {
  const auto array = npy(fields("|u1", "(1,)"), "x");
  for (const auto* name : {"../a.npy", "/a.npy", "a/../../b.npy", "C:a.npy", "a\\b.npy"})
    EXPECT_FALSE(read_npz(source_of(zip({{name, array}})))) << name;
  const auto twice = read_npz(source_of(zip({{"a.npy", array}, {"a.npy", array}})));
  ASSERT_FALSE(twice);
  EXPECT_NE(twice.error().message.find("'a.npy' twice"), std::string::npos);
}

// A few kilobytes that become gigabytes: the declared size has to be what the array's header says.
TEST(Npz, RefusesBombs) {
  const auto small = npy(fields("<f4", "(1,)"), std::string(4, '\0'));
  const auto padded = small + std::string(1 << 20, '\0');
  EXPECT_FALSE(read_npz(source_of(zip({{"a.npy", padded, true}}))));
  EXPECT_FALSE(read_npz(source_of(zip({{"a.npy", small, true, 0xFFFFFF00}}))));
  EXPECT_FALSE(read_npz(source_of(zip({{"a.npy", small, true, 20}}))));
  EXPECT_FALSE(read_npz(source_of(zip({{"a.npy", small, false, 0x7FFFFFFF}}))));
  std::string noise(1 << 20, '\0');
  for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<char>(i * i * 2654435761U >> 13);
  const auto ratio = read_npz(source_of(zip({{"a.npy", noise, true, 0x20000000}})));
  ASSERT_FALSE(ratio);
  EXPECT_NE(ratio.error().message.find("would become"), std::string::npos) << ratio.error().message;
  const auto huge = npy(fields("<f4", "(1073741824,)"), std::string(4, '\0'));
  EXPECT_FALSE(read_npz(source_of(zip({{"a.npy", huge, true}}))));
}

TEST(Npz, CutOrChangedAnywhereIsAnErrorOrTheArrays) {
  for (const bool packed : {false, true}) {
    const std::string whole = zip(two_members(packed));
    for (size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(read_npz(source_of(whole.substr(0, size)))) << size;
    for (size_t i = 0; i < whole.size(); ++i) {
      auto changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ 0x11);
      const auto dump = read_npz(source_of(changed));
      if (!dump) continue;
      for (const auto& tensor : dump->tensors) values(tensor);
    }
  }
}

TEST(Npz, NamesWhatIsNoArray) {
  auto members = two_members(false);
  members.push_back({"readme.txt", "x"});
  const auto dump = read_npz(source_of(zip(members)));
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->notes.size(), 1U);
  EXPECT_NE(dump->notes[0].find("readme.txt"), std::string::npos);
}

TEST(SafetensorsDump, TakesTokensAndMetadata) {
  std::string header =
      R"({"__metadata__":{"made_by":"test"},"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("input_ids":{"dtype":"I32","shape":[2],"data_offsets":[4,12]}})";
  std::string file;
  put<uint64_t>(file, header.size());
  file += header + bytes_of_values<float>({1.5F}) + bytes_of_values<int32_t>({3, 4});
  EXPECT_TRUE(looks_like_safetensors(std::as_bytes(std::span(file))));
  const auto dump = read_safetensors_dump(source_of(file));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors[0].name, "z");
  EXPECT_EQ(values(dump->tensors[0]), Floats({1.5F}));
  EXPECT_EQ(dump->tokens, std::vector<int64_t>({3, 4}));
  EXPECT_EQ(dump->engine.at("made_by"), "test");
}

}  // namespace
}  // namespace plumb
