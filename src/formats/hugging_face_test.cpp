// SPDX-License-Identifier: Apache-2.0
#include "formats/hugging_face.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "formats/safetensors.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

class HuggingFace : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  void text(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  void weights(const std::string& file, const std::vector<std::string>& names) {
    static const std::vector<std::byte> bytes(8, std::byte{1});
    std::vector<SafetensorsTensor> tensors;
    for (const auto& name : names) tensors.push_back({name, {DType::F32, {2}, bytes}});
    ASSERT_TRUE(write_safetensors(folder_ / file, {}, tensors));
  }
  std::string error(const std::string& name = "") {
    const auto file = open_model_file(name.empty() ? folder_ : folder_ / name);
    return file ? "opened" : file.error().message;
  }
  fs::path folder_ = fs::temp_directory_path() / ("plumb-hugging-face-" + std::to_string(getpid()));
};

TEST_F(HuggingFace, AFolderGivesConfigAndWeights) {
  weights("model.safetensors", {"b", "a"});
  text("config.json", R"({"model_type": "llama", "rope_parameters": {"rope_theta": 5e5},
                          "sliding_window": null, "eos_token_id": [1, 2]})");
  text("generation_config.json", R"({"temperature": 0.5})");
  text("tokenizer_config.json", R"({"add_bos_token": true})");
  text("tokenizer.json", "{}");
  text("chat_template.jinja", "{{ x }}");
  const auto file = open_model_file(folder_);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->format, FileFormat::HuggingFace);
  EXPECT_EQ(file->metadata.at("model_type"), MetadataValue(std::string("llama")));
  EXPECT_EQ(file->metadata.at("rope_parameters.rope_theta"), MetadataValue(5e5));
  EXPECT_EQ(file->metadata.at("sliding_window"), MetadataValue());
  EXPECT_EQ(file->metadata.at("generation_config.temperature"), MetadataValue(0.5));
  EXPECT_EQ(file->metadata.at("tokenizer_config.add_bos_token"), MetadataValue(true));
  EXPECT_EQ(file->metadata.at("tokenizer_config.chat_template"),
            MetadataValue(std::string("{{ x }}")));
  EXPECT_TRUE(file->side_files.contains("tokenizer.json"));
  EXPECT_NE(file->find("a"), nullptr);
  EXPECT_EQ(file->find("c"), nullptr);
}

TEST_F(HuggingFace, ShardsComeTogetherByTheIndex) {
  weights("x-1.safetensors", {"a"});
  weights("x-2.safetensors", {"b", "unlisted"});
  text(
      "model.safetensors.index.json",
      R"({"metadata": {"total_size": 99}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}})");
  const auto file = open_model_file(folder_);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->parts.size(), 2U);
  EXPECT_EQ(file->tensors.size(), 3U);
  ASSERT_EQ(file->warnings.size(), 3U);  // unlisted, total_size, no config.json
  EXPECT_NE(file->warnings[0].find("'unlisted'"), std::string::npos);
  EXPECT_NE(file->warnings[1].find("99 bytes"), std::string::npos);
  ASSERT_TRUE(open_model_file(folder_ / "model.safetensors.index.json"));
}

TEST_F(HuggingFace, AnIndexThatLiesIsRefused) {
  weights("x-1.safetensors", {"a"});
  const auto index = [&](const std::string& map) {
    text("model.safetensors.index.json", R"({"weight_map": )" + map + "}");
    return error();
  };
  EXPECT_NE(index(R"({"a": "x-2.safetensors"})").find("it is not there"), std::string::npos);
  EXPECT_NE(index(R"({"b": "x-1.safetensors"})").find("does not hold it"), std::string::npos);
  EXPECT_NE(index(R"({"a": "../x-1.safetensors"})").find("plain file name"), std::string::npos);
  EXPECT_NE(index(R"({"a": "/etc/passwd"})").find("plain file name"), std::string::npos);
  EXPECT_NE(index(R"({"a": 1})").find("not a string"), std::string::npos);
  EXPECT_NE(index("[]").find("weight_map"), std::string::npos);
  weights("x-2.safetensors", {"a"});
  EXPECT_NE(index(R"({"a": "x-1.safetensors", "b": "x-2.safetensors"})").find("another file"),
            std::string::npos);
}

TEST_F(HuggingFace, AFolderWithoutModelSaysWhatIsThere) {
  EXPECT_NE(error().find("without model weights"), std::string::npos);
  text("pytorch_model.bin", "PK");
  EXPECT_NE(error().find("PyTorch pickles"), std::string::npos);
  text("m.gguf", "GGUF");
  EXPECT_NE(error().find("with m.gguf; name that file"), std::string::npos);
  weights("one.safetensors", {"a"});
  EXPECT_TRUE(open_model_file(folder_));
  weights("two.safetensors", {"b"});
  EXPECT_NE(error().find("2 safetensors files but no"), std::string::npos);
}

TEST_F(HuggingFace, AConfigThatIsNoJsonIsRefused) {
  weights("model.safetensors", {"a"});
  text("config.json", "{\"a\": ");
  EXPECT_NE(error().find("config.json: the file is not valid JSON"), std::string::npos);
  text("config.json", R"({"a": 1, "a": 2})");
  EXPECT_NE(error().find("stands twice"), std::string::npos);
  text("config.json", std::string(1000, '['));
  EXPECT_NE(error().find("nested deeper"), std::string::npos);
}

TEST_F(HuggingFace, OtherFilesAreNamedByWhatTheyAre) {
  text("a", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_NE(error("a").find("Git LFS pointer"), std::string::npos);
  text("b", "PK\x03\x04rest of it");
  EXPECT_NE(error("b").find("PyTorch checkpoint"), std::string::npos);
  text("c", "<!DOCTYPE html>");
  EXPECT_NE(error("c").find("download failed"), std::string::npos);
  text("d", "hello, this is a text");
  EXPECT_NE(error("d").find("first bytes are 'hello, t'"), std::string::npos);
  text("e", "");
  EXPECT_NE(error("e").find("the file is empty"), std::string::npos);
  EXPECT_NE(error("missing").find("cannot open"), std::string::npos);
}

TEST_F(HuggingFace, WritingSafetensorsRefusesWhatItCannotHold) {
  const std::vector<std::byte> bytes(18);
  const auto message = [&](std::vector<SafetensorsTensor> tensors) {
    const auto result = write_safetensors(folder_ / "w.safetensors", {}, tensors);
    return result ? std::string("written") : result.error().message;
  };
  EXPECT_NE(message({{"a", {DType::Q4_0, {32}, bytes}}}).find("has no type Q4_0"),
            std::string::npos);
  EXPECT_NE(message({{"a", {DType::U8, {17}, bytes}}}).find("does not take 18 bytes"),
            std::string::npos);
  EXPECT_NE(message({{"a", {DType::U8, {18}, bytes}}, {"a", {DType::U8, {18}, bytes}}})
                .find("name is taken"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "w.safetensors.partial"));
  EXPECT_EQ(message({{"a", {DType::F8_E4M3, {18}, bytes}}, {"b", {DType::I16, {3, 3}, bytes}}}),
            "written");
  const auto file = open_safetensors(folder_ / "w.safetensors");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->find("b")->view.shape, (std::vector<uint64_t>{3, 3}));
  EXPECT_EQ(file->find("a")->view.dtype, DType::F8_E4M3);
}

}  // namespace
}  // namespace plumb
