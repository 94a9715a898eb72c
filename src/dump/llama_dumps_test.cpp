// SPDX-License-Identifier: Apache-2.0
// The binary dumps of llama.cpp and apr: .kld, llama-results, saved logits, APRT.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "dump/readers.h"
#include "formats/gguf_writer.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

class Bytes {
 public:
  template <class T>
  Bytes& add(T value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Bytes& text(std::string_view text) {
    for (const char c : text) add(c);
    return *this;
  }
  template <class T>
  Bytes& list(std::initializer_list<T> values) {
    for (const T value : values) add(value);
    return *this;
  }
  const std::vector<std::byte>& get() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

DumpSource source(const std::vector<std::byte>& bytes, const char* path = "x.bin") {
  return {path, bytes, nullptr};
}

template <class T>
std::vector<T> values(const TensorView& view) {
  std::vector<T> out(view.bytes.size() / sizeof(T));
  std::memcpy(out.data(), view.bytes.data(), view.bytes.size());
  return out;
}

class Folder {
 public:
  Folder() : path_(fs::path(testing::TempDir()) / fmt::format("plumb_dumps_{}", getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path write(const std::string& name, std::span<const std::byte> bytes) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }
  fs::path write(const std::string& name, std::string_view text) const {
    return write(name, std::as_bytes(std::span(text)));
  }

 private:
  fs::path path_;
};

// Chunks of 4 tokens of a vocabulary of 3: one row each, and one number for the odd vocabulary.
std::vector<std::byte> kld(int chunks) {
  Bytes bytes;
  bytes.text("_logits_").list<int32_t>({4, 3, chunks});
  for (int i = 0; i < 4 * chunks; ++i) bytes.add(int32_t{i % 3});
  for (int i = 0; i < chunks; ++i)
    bytes.add(0.5F).add(-4.0F - static_cast<float>(i)).list<uint16_t>({0, 2, 7, 0});
  return bytes.get();
}

TEST(Kld, DecodesTheRowsOfEachChunk) {
  const auto bytes = kld(2);
  ASSERT_TRUE(looks_like_kld(bytes));
  const auto dump = read_kld(source(bytes));
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 6u);
  const auto& second = dump->tensors[3];
  EXPECT_EQ(second.name, "log_probs");
  EXPECT_EQ(second.pass, 1u);
  EXPECT_EQ(second.view.shape, (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(values<float>(second.view), (std::vector<float>{-5, -4, -1.5F}));
  EXPECT_EQ(second.precision, 0.25);  // half a step
  EXPECT_EQ(dump->tensors[4].name, "positions");
  EXPECT_EQ(values<int32_t>(dump->tensors[4].view), (std::vector<int32_t>{2}));
  EXPECT_EQ(dump->tensors[5].name, "tokens");
  EXPECT_EQ(values<int32_t>(dump->tensors[5].view), (std::vector<int32_t>{1, 2, 0, 1}));
  EXPECT_FALSE(dump->tokens);
  EXPECT_NE(dump->notes.at(0).find("16 nats"), std::string::npos);
  const auto one = kld(1);
  const auto single = read_kld(source(one));
  ASSERT_TRUE(single);
  EXPECT_EQ(single->tokens, (std::vector<int64_t>{0, 1, 2, 0}));
  EXPECT_EQ(single->tensors.size(), 2u);
}

TEST(Kld, RefusesAnySizeButTheRightOne) {
  const auto bytes = kld(2);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(read_kld(source(cut))) << size;
  }
  auto longer = bytes;
  longer.push_back({});
  EXPECT_FALSE(read_kld(source(longer)));
}

TEST(Kld, BelievesNoHeader) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  for (const auto& header : std::vector<std::array<int32_t, 3>>{{kMost, kMost, kMost},
                                                                {-4, 3, 2},
                                                                {4, -3, 2},
                                                                {4, 3, -2},
                                                                {0, 3, 2},
                                                                {1, 3, 2},
                                                                {4, 0, 2},
                                                                {4, 3, 0},
                                                                {4, 3, kMost},
                                                                {2, kMost, kMost}}) {
    auto bytes = kld(2);
    std::memcpy(bytes.data() + 8, header.data(), sizeof(header));
    const auto dump = read_kld(source(bytes));
    ASSERT_FALSE(dump);
    EXPECT_TRUE(dump.error().message.starts_with("x.bin: "));
  }
  auto bytes = kld(2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + 20 + 4 * 8, &nan, sizeof(nan));
  auto dump = read_kld(source(bytes));
  ASSERT_FALSE(dump);
  EXPECT_NE(dump.error().message.find("byte 52"), std::string::npos) << dump.error().message;
  bytes = kld(2);
  bytes[20] = std::byte{3};  // a token that the vocabulary does not have
  dump = read_kld(source(bytes));
  ASSERT_FALSE(dump);
  EXPECT_NE(dump.error().message.find("byte 20"), std::string::npos);
}

std::vector<std::byte> results(std::vector<uint64_t> shape) {
  const Folder folder;
  const std::vector<int32_t> tokens = {5, 6};
  const std::vector<float> logits = {0, 1, 2, 10, 11, 12};
  const std::vector<GgufTensor> tensors = {
      {"tokens", {DType::I32, {2}, std::as_bytes(std::span(tokens))}},
      {"logits", {DType::F32, std::move(shape), std::as_bytes(std::span(logits))}}};
  const auto path = folder.write("results.gguf", "");
  EXPECT_TRUE(write_gguf(path, {{"path_model", std::string("m.gguf")}}, tensors));
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST(LlamaResults, ReadsTheLogitsTokenByToken) {
  // The writer says ne = {tokens, vocabulary}, so rows first it is [3, 2]; the data are [2, 3].
  for (const auto& declared : std::vector<std::vector<uint64_t>>{{3, 2}, {2, 3}}) {
    const auto bytes = results(declared);
    ASSERT_TRUE(looks_like_results(bytes));
    const auto dump = read_results(source(bytes));
    ASSERT_TRUE(dump) << dump.error().message;
    EXPECT_EQ(dump->tokens, (std::vector<int64_t>{5, 6}));
    ASSERT_EQ(dump->tensors.size(), 1u);
    EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{2, 3}));
    EXPECT_EQ(values<float>(dump->tensors[0].view)[3], 10);
    EXPECT_EQ(dump->model.at("path"), "m.gguf");
  }
}

TEST(LlamaResults, RefusesOtherFiles) {
  EXPECT_FALSE(read_results(source(results({6, 1}))));
  EXPECT_FALSE(read_results(source(results({6}))));
  const auto bytes = results({3, 2});
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    const auto dump = read_results(source(cut));
    EXPECT_EQ(dump.has_value(), looks_like_results(cut)) << size;
    // Only padding after the last value may be missing.
    EXPECT_TRUE(!dump || size + 31 >= bytes.size()) << size;
  }
}

TEST(SavedLogits, JoinsTheFilesOfOneRun) {
  const Folder folder;
  const auto bin = folder.write(
      "llamacpp-m.Q4_1.bin", Bytes().list<float>({1.760883F, -11.5946F, 1e-7F, 123456.7F}).get());
  EXPECT_FALSE(looks_like_saved_logits(bin));  // nothing says what it is
  folder.write("llamacpp-m.Q4_1-tokens.bin", Bytes().list<int32_t>({504, 3575, 314}).get());
  folder.write("llamacpp-m.Q4_1-prompt.txt",
               "prompt: token ids: 1\nn_tokens: 3\ntoken ids: 504, 3575, 314\n");
  folder.write("llamacpp-m.Q4_1.txt", "0: 1.76088\n1: -11.5946\n2: 1e-07\n3: 123457\n");
  EXPECT_TRUE(looks_like_saved_logits(bin));
  const auto dump = read_saved_logits(bin);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tokens, (std::vector<int64_t>{504, 3575, 314}));
  EXPECT_EQ(dump->engine.at("name"), "llama.cpp");
  EXPECT_EQ(dump->model.at("name"), "m.Q4_1");
  ASSERT_EQ(dump->tensors.size(), 2u);
  EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{1, 4}));
  EXPECT_EQ(dump->tensors[1].name, "positions");
  EXPECT_EQ(values<int32_t>(dump->tensors[1].view), (std::vector<int32_t>{2}));
  EXPECT_TRUE(dump->notes.empty());
}

TEST(SavedLogits, ReadsEmbeddingsAndTheOtherEngine) {
  const Folder folder;
  const auto bin =
      folder.write("pytorch-m-embeddings.bin", Bytes().list<float>({0.1234567F, 2, 3, 4}).get());
  folder.write("pytorch-m-embeddings-prompt.txt", "prompt: x\nn_tokens: 2\ntoken ids: 1, 2\n");
  folder.write("pytorch-m-embeddings.txt", "0: 0.123457\n1: 2.000000\n");
  const auto dump = read_saved_logits(bin);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->engine.at("name"), "transformers");
  EXPECT_EQ(dump->model.at("name"), "m");
  EXPECT_EQ(dump->tensors.at(0).name, "embeddings");
  EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{2, 2}));
  EXPECT_EQ(dump->notes.size(), 2u);  // half of the text, and it may be pooled
}

TEST(SavedLogits, RefusesFilesThatContradictEachOther) {
  const auto error = [](std::string_view text, std::string_view prompt, size_t tokens_size = 8,
                        size_t size = 8) {
    const Folder folder;
    const auto numbers = Bytes().list<float>({1.5F, -2.25F}).get();
    const auto ids = Bytes().list<int32_t>({7, 8}).get();
    const auto bin = folder.write("a.bin", std::span(numbers).first(size));
    folder.write("a-tokens.bin", std::span(ids).first(tokens_size));
    if (!text.empty()) folder.write("a.txt", text);
    if (!prompt.empty()) folder.write("a-prompt.txt", prompt);
    const auto dump = read_saved_logits(bin);
    return dump ? std::string() : dump.error().message;
  };
  EXPECT_EQ(error("0: 1.5\n1: -2.25\n", "token ids: 7, 8"), "");
  EXPECT_NE(error("0: 1.5\n1: -2.2501\n", "").find("a.txt: line 2: value 1 is -2.2501"),
            std::string::npos);
  EXPECT_NE(error("0: 1.5\n2: -2.25\n", ""), "");
  EXPECT_NE(error("0: 1.5\n1: \n", ""), "");
  EXPECT_NE(error("0: nan\n", ""), "");
  EXPECT_NE(error("", "token ids: 7, 9\n"), "");
  EXPECT_NE(error("", "token ids: 7, x\n"), "");
  EXPECT_NE(error("", "prompt: x\n"), "");
  EXPECT_NE(error("", "", 7), "");
  EXPECT_NE(error("", "", 8, 7), "");
  EXPECT_NE(error("", "", 8, 0), "");
}

TEST(Aprt, ReadsOneStage) {
  auto bytes = Bytes().text("APRT").list<uint32_t>({3, 2}).list<float>({1, 2}).get();
  ASSERT_TRUE(looks_like_aprt(bytes));
  auto dump = read_aprt(source(bytes, "layer-3/ffn_out.bin"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors.at(0).name, "layer-3.ffn_out");
  EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{2}));
  EXPECT_EQ(values<float>(dump->tensors[0].view), (std::vector<float>{1, 2}));
  bytes = Bytes().text("APRT").list<uint32_t>({0xFFFFFFFF, 1}).add(5.0F).get();
  dump = read_aprt(source(bytes, "lm_head.bin"));
  ASSERT_TRUE(dump);
  EXPECT_EQ(dump->tensors.at(0).name, "lm_head");
}

TEST(Aprt, ReadsTheOtherHeaderWithTheSameMagic) {
  const auto head = [] { return std::move(Bytes().text("APRT").list<uint8_t>({1, 2, 0, 0})); };
  auto bytes = head().list<uint32_t>({2, 1}).list<float>({1, 2}).get();
  auto dump = read_aprt(source(bytes, "x.aprt"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors.at(0).name, "x");
  EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{2, 1}));
  EXPECT_EQ(dump->notes.size(), 1u);
  // One dimension has the size of a stage of layer 257.
  bytes = Bytes().text("APRT").list<uint8_t>({1, 1, 0, 0}).add(uint32_t{1}).add(9.0F).get();
  dump = read_aprt(source(bytes, "x.aprt"));
  ASSERT_TRUE(dump);
  EXPECT_EQ(dump->tensors.at(0).name, "x");
  EXPECT_FALSE(read_aprt(source(head().list<uint32_t>({3, 1}).list<float>({1, 2}).get())));
  EXPECT_FALSE(read_aprt(source(head().list<uint32_t>({0xFFFFFFFF, 0xFFFFFFFF}).get())));
}

TEST(Aprt, RefusesAnySizeButTheRightOne) {
  auto bytes = Bytes().text("APRT").list<uint32_t>({3, 2}).list<float>({1, 2}).get();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(read_aprt(source(cut))) << size;
  }
  bytes.push_back({});
  const auto dump = read_aprt(source(bytes));
  ASSERT_FALSE(dump);
  EXPECT_NE(dump.error().message.find("21 bytes"), std::string::npos) << dump.error().message;
}

}  // namespace
}  // namespace plumb
