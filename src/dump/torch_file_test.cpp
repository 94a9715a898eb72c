// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <chrono>
#include <cstring>

#include "dump/pickle.h"
#include "dump/readers.h"
#include "quant/values.h"

namespace plumb {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// --- Instructions of a pickle ---

std::string text(const std::string& value) {
  std::string out = "X";
  put<uint32_t>(out, static_cast<uint32_t>(value.size()));
  return out + value;
}
std::string number(int32_t value) {
  std::string out = "J";
  put(out, value);
  return out;
}
std::string long_number(int64_t value) {
  std::string out = "\x8a\x08";
  put(out, value);
  return out;
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string tuple(const std::vector<std::string>& items) {
  std::string out = "(";
  for (const auto& item : items) out += item;
  return out + "t";
}
std::string sizes(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const auto value : values) items.push_back(long_number(value));
  return tuple(items);
}
std::string storage(const std::string& type, const std::string& key, int64_t count) {
  return tuple({text("storage"), global(type == "UntypedStorage" ? "torch.storage" : "torch", type),
                text(key), text("cpu"), long_number(count)}) +
         "Q";
}
const std::string kHooks = global("collections", "OrderedDict") + ")R";

std::string tensor(const std::string& type, const std::string& key, int64_t count, int64_t offset,
                   const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({storage(type, key, count), long_number(offset), sizes(shape), sizes(strides),
                "\x89", kHooks}) +
         "R";
}
std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }

// --- Archives ---

using Members = std::vector<std::pair<std::string, std::string>>;

std::string zip(const Members& members) {
  std::string out, directory;
  for (const auto& [name, content] : members) {
    std::string head;
    put<uint16_t>(head, 20);
    put<uint32_t>(head, 0);
    put<uint32_t>(head, 0);
    put<uint32_t>(head, static_cast<uint32_t>(crc32_z(
                            0, reinterpret_cast<const Bytef*>(content.data()), content.size())));
    put<uint32_t>(head, static_cast<uint32_t>(content.size()));
    put<uint32_t>(head, static_cast<uint32_t>(content.size()));
    put<uint16_t>(head, static_cast<uint16_t>(name.size()));
    put<uint16_t>(head, 0);
    directory += std::string("PK\x01\x02") + std::string(2, '\0') + head + std::string(10, '\0');
    put<uint32_t>(directory, static_cast<uint32_t>(out.size()));
    directory += name;
    out += std::string("PK\x03\x04") + head + name + content;
  }
  const auto offset = static_cast<uint32_t>(out.size());
  out += directory + std::string("PK\x05\x06") + std::string(4, '\0');
  put<uint16_t>(out, static_cast<uint16_t>(members.size()));
  put<uint16_t>(out, static_cast<uint16_t>(members.size()));
  put<uint32_t>(out, static_cast<uint32_t>(directory.size()));
  put<uint32_t>(out, offset);
  put<uint16_t>(out, 0);
  return out;
}

std::string floats(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) put(out, static_cast<float>(i));
  return out;
}

// A file of 12 floats 0, 1, … in storage '0'.
std::string file(const std::string& body, const std::string& order = "little") {
  return zip({{"x/data.pkl", pickle(body)}, {"x/byteorder", order}, {"x/data/0", floats(12)}});
}

DumpSource source_of(const std::string& content) {
  auto owner = std::make_shared<std::string>(content);
  return {"some.pt", std::as_bytes(std::span(*owner)), owner};
}

Result<Dump> read(const std::string& content) { return read_torch(source_of(content)); }

std::vector<float> values(const DumpTensor& tensor) {
  std::vector<float> out(*element_count(tensor.view.shape));
  read_values(tensor.view, 0, out.size(), out.data());
  return out;
}

using Floats = std::vector<float>;

TEST(Torch, ReadsABareTensor) {
  const auto content = file(tensor("FloatStorage", "0", 12, 0, {3, 4}, {4, 1}));
  EXPECT_TRUE(looks_like_torch(std::as_bytes(std::span(content))));
  const auto dump = read(content);
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 1U);
  EXPECT_EQ(dump->tensors[0].name, "");
  EXPECT_EQ(values(dump->tensors[0]), Floats({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

// x.t()[1:], x.expand(…), x[:, None]: all are views of one storage.
TEST(Torch, CopiesViewsIntoRowMajorOrder) {
  const auto dump =
      read(file("}(" + text("transposed") + tensor("FloatStorage", "0", 12, 1, {3, 2}, {1, 4}) +
                text("repeated") + tensor("FloatStorage", "0", 12, 2, {2, 3}, {1, 0}) +
                text("single") + tensor("FloatStorage", "0", 12, 5, {1, 2}, {777, 1}) +
                text("empty") + tensor("FloatStorage", "0", 12, 0, {0, 7}, {7, 1}) +
                text("scalar") + tensor("FloatStorage", "0", 12, 11, {}, {}) + "u"));
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 5U);
  EXPECT_EQ(values(dump->tensors[0]), Floats({1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(values(dump->tensors[1]), Floats({2, 2, 2, 3, 3, 3}));
  EXPECT_EQ(values(dump->tensors[2]), Floats({5, 6}));
  EXPECT_EQ(values(dump->tensors[3]), Floats());
  EXPECT_EQ(values(dump->tensors[4]), Floats({11}));
  EXPECT_EQ(dump->tensors[4].name, "scalar");
}

TEST(Torch, NamesAreThePlaceInTheStructure) {
  const auto leaf = tensor("FloatStorage", "0", 12, 0, {2}, {1});
  const auto dump = read(file("}(" + text("layers") + "](" + leaf + tuple({leaf, text("a")}) + "e" +
                              number(7) + leaf + text("tokens") + "](" + number(5) + number(6) +
                              "e" + text("lr") + "N" + "u"));
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 3U);
  EXPECT_EQ(dump->tensors[0].name, "layers.0");
  EXPECT_EQ(dump->tensors[1].name, "layers.1.0");
  EXPECT_EQ(dump->tensors[2].name, "7");
  EXPECT_EQ(dump->tokens, std::vector<int64_t>({5, 6}));
  ASSERT_EQ(dump->notes.size(), 1U);
  EXPECT_EQ(dump->notes[0], "2 values are no tensors: layers.1.1 (a text), lr (None)");
}

TEST(Torch, ReadsTypesThatOnlyTheTensorNames) {
  const auto body = global("torch._utils", "_rebuild_tensor_v3") +
                    tuple({storage("UntypedStorage", "0", 48), number(0), sizes({2}), sizes({1}),
                           "\x89", kHooks, global("torch", "uint16")}) +
                    "R";
  auto dump = read(file(body));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors[0].view.dtype, DType::U16);
  dump = read(file(global("torch._utils", "_rebuild_parameter") +
                   tuple({tensor("FloatStorage", "0", 12, 3, {1}, {1}), "\x88", kHooks}) + "R"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({3}));
  EXPECT_FALSE(read(file(tensor("ComplexFloatStorage", "0", 6, 0, {1}, {1}))));
  EXPECT_FALSE(read(file(tensor("QInt8Storage", "0", 48, 0, {1}, {1}))));
}

TEST(Torch, TurnsBigEndianValuesRound) {
  const auto content = zip({{"x/data.pkl", pickle(tensor("IntStorage", "0", 2, 0, {2}, {1}))},
                            {"x/byteorder", "big"},
                            {"x/data/0", std::string("\0\0\0\1\0\0\1\0", 8)}});
  const auto dump = read(content);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({1, 256}));
  EXPECT_FALSE(read(file(tensor("FloatStorage", "0", 12, 0, {1}, {1}), "middle")));
}

std::string legacy(const std::string& body, const std::string& key, int64_t count,
                   const std::string& data) {
  std::string out = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  out += pickle(number(1001));
  out += pickle("}(" + text("little_endian") + "\x88u");
  out += pickle(body);
  out += pickle("](" + text(key) + "e");
  put(out, count);
  return out + data;
}

TEST(Torch, ReadsTheFormBefore16) {
  const auto content = legacy(tensor("FloatStorage", "9", 12, 4, {2}, {1}), "9", 12, floats(12));
  EXPECT_TRUE(looks_like_torch(std::as_bytes(std::span(content))));
  const auto dump = read(content);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values(dump->tensors[0]), Floats({4, 5}));
  for (size_t size = 0; size < content.size(); ++size)
    EXPECT_FALSE(read(content.substr(0, size))) << size;
  EXPECT_FALSE(read(content + "x"));
}

// A pickle is a program. What it asks for is named, and never run.
TEST(Torch, RefusesToCallAnything) {
  for (const auto& [body, name] : std::vector<std::pair<std::string, std::string>>{
           {global("os", "system") + tuple({text("echo")}) + "R", "os.system"},
           {text("os") + text("system") + "\x93" + tuple({text("echo")}) + "R", "os.system"},
           {"(ios\nsystem\n", "os.system"},
           {"(" + global("posix", "system") + text("echo") + "o", "posix.system"},
           {global("__builtin__", "eval") + tuple({text("1")}) + "R", "builtins.eval"},
           {global("torch.hub", "load") + ")R", "torch.hub.load"},
           {global("torch", "load") + ")R", "torch.load"},
           {global("torch.storage", "_load_from_bytes") + ")R", "torch.storage._load_from_bytes"},
           {"\x82\x01", "extension"}}) {
    const auto dump = read(file(body));
    ASSERT_FALSE(dump) << name;
    EXPECT_NE(dump.error().message.find(name), std::string::npos) << dump.error().message;
    EXPECT_NE(dump.error().message.find("refused, nothing was run"), std::string::npos);
  }
  const auto dump = read(file(global("os", "system") + tuple({text("echo")}) + "R"));
  EXPECT_NE(dump.error().message.find("asks to call os.system: refused, nothing was run"),
            std::string::npos)
      << dump.error().message;
  EXPECT_FALSE(read(file(tensor("FloatStorage", "0", 12, 0, {1}, {1}) + "}b")));
}

// expand() makes a tensor of 2^40 values from one: it must be refused before it is allocated.
TEST(Torch, RefusesViewsThatRepeatTooMuchOrLeaveTheirStorage) {
  constexpr int64_t kHuge = int64_t{1} << 40;
  for (const auto& body : {tensor("FloatStorage", "0", 12, 0, {kHuge}, {0}),
                           tensor("FloatStorage", "0", 12, 0, {kHuge, kHuge, kHuge}, {0, 0, 0}),
                           tensor("FloatStorage", "0", 12, 0, {13}, {1}),
                           tensor("FloatStorage", "0", 12, 12, {1}, {1}),
                           tensor("FloatStorage", "0", 12, 0, {2}, {INT64_MAX}),
                           tensor("FloatStorage", "0", 12, INT64_MAX, {2}, {INT64_MAX}),
                           tensor("FloatStorage", "0", 12, 0, {2}, {-1}),
                           tensor("FloatStorage", "0", 12, 0, {-2}, {1}),
                           tensor("FloatStorage", "0", 12, 0, {2, 2}, {1}),
                           tensor("FloatStorage", "0", 11, 0, {2}, {1}),
                           tensor("FloatStorage", "0", INT64_MAX, 0, {2}, {1}),
                           tensor("DoubleStorage", "0", 12, 0, {2}, {1}),
                           tensor("FloatStorage", "1", 12, 0, {2}, {1})})
    EXPECT_FALSE(read(file(body)));
}

// Many tensors that each repeat a little add up.
TEST(Torch, LimitsWhatAllViewsTakeTogether) {
  std::string body = "](";
  for (int i = 0; i < 30; ++i) body += tensor("FloatStorage", "0", 12, 0, {1 << 20}, {0});
  const auto dump = read(file(body + "e"));
  ASSERT_FALSE(dump);
  EXPECT_NE(dump.error().message.find("repeats"), std::string::npos) << dump.error().message;
}

TEST(Torch, StopsAtStructuresThatHoldThemselvesOrExplode) {
  const auto leaf = tensor("FloatStorage", "0", 12, 0, {1}, {1});
  EXPECT_FALSE(
      read(file("]q\x01h\x01"
                "a")));                                        // l = []; l.append(l)
  EXPECT_FALSE(read(file("}q\x01" + text("a") + "h\x01s")));   // d["a"] = d
  EXPECT_FALSE(read(file("]q\x01(h\x01h\x01" + leaf + "e")));  // twice itself
  std::string doubling = leaf;                                 // 2^60 paths to one tensor
  for (int i = 0; i < 60; ++i) doubling += "2\x86";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(read(file(doubling)));
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "](";
  EXPECT_FALSE(read(file(deep)));
  deep = leaf;
  for (int i = 0; i < 100'000; ++i) deep += "\x85";
  EXPECT_FALSE(read(file(deep)));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Torch, CutOrChangedAnywhereIsAnErrorOrTensors) {
  const auto whole = file("}(" + text("a") + tensor("FloatStorage", "0", 12, 1, {3, 2}, {1, 4}) +
                          text("tokens") + "](" + number(5) + "eu");
  ASSERT_TRUE(read(whole));
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(read(whole.substr(0, size))) << size;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int flip : {0x01, 0x20, 0xFF}) {
      auto changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      const auto dump = read(changed);
      if (!dump) continue;
      for (const auto& each : dump->tensors) values(each);
    }
  }
}

TEST(Pickle, ReadsTheTextFormOfProtocol0) {
  const std::string bytes =
      "(dp0\nVa\\u00e9\np1\n(lp2\nI1\naL-2L\naF1.5\naI01\naNasS'x\\n\\x41'\np3\nVv\ns.";
  const auto content = parse_pickle(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(content) << content.error().message;
  const auto& dict = content->at(content->root);
  ASSERT_EQ(dict.kind, PickleKind::Dict);
  ASSERT_EQ(dict.items.size(), 4U);
  EXPECT_EQ(content->at(dict.items[0]).text, "a\xC3\xA9");
  const auto& list = content->at(dict.items[1]);
  ASSERT_EQ(list.items.size(), 5U);
  EXPECT_EQ(content->at(list.items[1]).integer, -2);
  EXPECT_EQ(content->at(list.items[2]).number, 1.5);
  EXPECT_EQ(content->at(list.items[3]).kind, PickleKind::Bool);
  EXPECT_EQ(content->at(dict.items[2]).text, "x\nA");
}

// Protocols 4 and 5 have frames, memo without numbers, sets and names from the stack.
TEST(Pickle, ReadsProtocol4) {
  std::string bytes = "\x80\x04\x95";
  put<uint64_t>(bytes, 0);
  bytes +=
      "\x8f\x94(\x8c\x01"
      "aK\x05\x90\x8c\x0b"
      "collections\x8c\x0bOrderedDict\x93)R\x86.";
  const auto content = parse_pickle(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(content) << content.error().message;
  const auto& pair = content->at(content->root);
  ASSERT_EQ(pair.items.size(), 2U);
  EXPECT_EQ(content->at(pair.items[0]).kind, PickleKind::Set);
  EXPECT_EQ(content->at(pair.items[1]).kind, PickleKind::Dict);
}

TEST(Pickle, LimitsStepsAndCopies) {
  std::string many(9'000'000, 'N');
  EXPECT_FALSE(parse_pickle(std::as_bytes(std::span(many))));
  // A list of 100 000 values, then a million sets made of it.
  std::string copies = global("builtins", "set") + "q\x01(";
  for (int i = 0; i < 100'000; ++i) copies += "N";
  copies += "t\x85q\x02";
  for (int i = 0; i < 1'000'000; ++i) copies += "h\x01h\x02R";
  EXPECT_FALSE(parse_pickle(std::as_bytes(std::span(copies))));
}

}  // namespace
}  // namespace plumb
