// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "dump/readers.h"
#include "formats/safetensors.h"
#include "quant/values.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;
using Floats = std::vector<float>;
using Shape = std::vector<uint64_t>;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string npy(const std::string& shape, const Floats& values) {
  const auto header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n", shape);
  std::string out("\x93NUMPY\x01\x00", 8);
  put<uint16_t>(out, static_cast<uint16_t>(header.size()));
  out += header;
  for (const float value : values) put(out, value);
  return out;
}

std::string npy_ids(const std::vector<int64_t>& ids) {
  const auto header =
      fmt::format("{{'descr': '<i8', 'fortran_order': False, 'shape': ({},), }}\n", ids.size());
  std::string out("\x93NUMPY\x01\x00", 8);
  put<uint16_t>(out, static_cast<uint16_t>(header.size()));
  out += header;
  for (const int64_t id : ids) put(out, id);
  return out;
}

std::string aprt(uint32_t layer, const Floats& values) {
  std::string out = "APRT";
  put(out, layer);
  put<uint32_t>(out, static_cast<uint32_t>(values.size()));
  for (const float value : values) put(out, value);
  return out;
}
constexpr uint32_t kWhole = 0xFFFFFFFF;

std::string safetensors(const std::string& name, DType dtype, const Shape& shape,
                        const std::string& data) {
  std::vector<SafetensorsEntry> entries = {{name, dtype, shape}};
  return safetensors_header(entries, {}) + data;
}

// A tensor of one float, in the form before 1.6: short to write.
std::string torch(float value) {
  const auto text = [](const std::string& content) {
    std::string out = "X";
    put<uint32_t>(out, static_cast<uint32_t>(content.size()));
    return out + content;
  };
  std::string out = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  out += "\x80\x02M\xe9\x03.\x80\x02}(" + text("little_endian") + "\x88u.";
  out += "\x80\x02}(" + text("value") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
         "ctorch\nFloatStorage\n" + text("1") + text("cpu") + "K\x01NtQK";
  out += std::string("\0K\x01\x85K\x01\x85\x89", 8);
  out += "ccollections\nOrderedDict\n)RtRu.\x80\x02](" + text("1") + "e.";
  put<int64_t>(out, 1);
  put(out, value);
  return out;
}

Floats values(const DumpTensor& tensor) {
  Floats out(*element_count(tensor.view.shape));
  read_values(tensor.view, 0, out.size(), out.data());
  return out;
}

class Folders : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / fmt::format("plumb_folders_{}", test->name());
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void add(const std::string& name, const std::string& content) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << content;
  }
  // "pass:name" of each tensor.
  static std::vector<std::string> names(const Dump& dump) {
    std::vector<std::string> out;
    for (const auto& tensor : dump.tensors)
      out.push_back(fmt::format("{}:{}", tensor.pass, tensor.name));
    return out;
  }
  std::string refusal() {
    const auto dump = read_folder(root_);
    return dump ? "" : dump.error().message;
  }

  fs::path root_;
};

using Names = std::vector<std::string>;

TEST_F(Folders, AprtStagesAreNamedByTheirLayer) {
  add("layer-10/ffn_out.bin", aprt(10, {1}));
  add("layer-2/ffn_out.bin", aprt(2, {2}));
  add("lm_head.bin", aprt(kWhole, {3}));
  add("notes.md", "x");
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump), Names({"0:layer-2.ffn_out", "0:layer-10.ffn_out", "0:lm_head"}));
  ASSERT_EQ(dump->notes.size(), 1U);
  EXPECT_EQ(dump->notes[0], "1 file was not read: notes.md");
}

// One folder for each position: rows of one tensor, but for scores, which grow.
TEST_F(Folders, AprtPositionsBecomeRows) {
  for (int position = 0; position < 11; ++position) {
    const auto folder = fmt::format("cpu/pos-{:04}/", position);
    add(folder + "layer-0/ffn_out.bin", aprt(0, {float(position), 1}));
    add(folder + "layer-0/attn_scores.bin", aprt(0, Floats(position + 1, 1)));
  }
  auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 12U);
  const auto& joined = dump->tensors.back();
  EXPECT_EQ(joined.name, "layer-0.ffn_out");
  EXPECT_EQ(joined.view.shape, Shape({11, 2}));
  EXPECT_EQ(values(joined)[20], 10);
  EXPECT_EQ(dump->tensors[10].pass, 10U);
  EXPECT_EQ(dump->engine.at("device"), "cpu");
  fs::remove_all(root_ / "cpu/pos-0004");
  EXPECT_NE(refusal().find("some are missing"), std::string::npos) << refusal();
  add("gpu/pos-0000/lm_head.bin", aprt(kWhole, {3}));
  EXPECT_NE(refusal().find("two runs"), std::string::npos) << refusal();
}

TEST_F(Folders, DebuggerFilesAreNamedByTheirModule) {
  const std::string one("\0\0\x80\x3f", 4);
  const auto file = safetensors("data", DType::F32, {1, 1}, one);
  std::string ids;
  put<int64_t>(ids, 7);
  put<int64_t>(ids, 8);
  add("M.model.layers.0.mlp_outputs.safetensors", file);
  add("M.model.layers.0_inputs_kwargs_position_embeddings_1.safetensors", file);
  add("M.model.embed_tokens_inputs_args_0.safetensors",
      safetensors("data", DType::I64, {1, 2}, ids));
  add("M_outputs_logits.safetensors", file);
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump),
            Names({"0:model.embed_tokens.inputs.args.0", "0:model.layers.0.mlp.outputs",
                   "0:model.layers.0.inputs.kwargs.position_embeddings.1", "0:outputs.logits"}));
  EXPECT_EQ(dump->model.at("class"), "M");
  EXPECT_EQ(dump->tokens, std::vector<int64_t>({7, 8}));
  add("Other_outputs.safetensors", file);
  EXPECT_NE(refusal().find("two models"), std::string::npos) << refusal();
}

TEST_F(Folders, SglangFilesAreOrderedByPassRankAndIndex) {
  add("step=5___rank=0___dump_index=11___name=attn_output___layer_id=3.pt", torch(1));
  add("step=5___rank=0___dump_index=2___name=embed.pt", torch(2));
  add("step=6___rank=0___dump_index=12___name=model.layers.3.mlp___recompute_status=disabled___"
      "layer_id=3.pt",
      torch(3));
  auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump), Names({"0:embed", "0:layers.3.attn_output", "1:model.layers.3.mlp"}));
  EXPECT_EQ(values(dump->tensors[0]), Floats({2}));
  EXPECT_EQ(dump->notes, Names({"step 5 to 6 of the dump are passes 0 to 1 here"}));
  add("forward_pass_id=5___rank=1___name=attn_output___dump_index=1___layer_id=3.pt", torch(4));
  dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump)[2], "0:rank1/layers.3.attn_output");
  add("step=x___rank=0___name=a.pt", torch(4));
  EXPECT_NE(refusal().find("is not a number"), std::string::npos) << refusal();
}

TEST_F(Folders, ArraysAreNamedByTheirPathAndPassesByTheirNumbers) {
  add("step_3/attn/out.npy", npy("(1,)", {1}));
  add("step_10/attn/out.npy", npy("(1,)", {2}));
  add("step_3/tokens.npy", npy_ids({5, 6}));
  add("step_10/tokens.npy", npy_ids({7}));
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump), Names({"0:attn/out", "0:tokens", "1:attn/out", "1:tokens"}));
  EXPECT_EQ(dump->tokens, std::vector<int64_t>({5, 6, 7}));
}

// logits_0, logits_1 are passes if each is one row; hidden_0, hidden_1 of one shape and many rows
// are rather layers.
TEST_F(Folders, NumbersAtTheEndArePassesOnlyIfTheShapesSaySo) {
  for (int i = 0; i < 3; ++i) {
    add(fmt::format("logits_{}.npy", i), npy("(2,)", {1, 2}));
    add(fmt::format("hidden_{}.npy", i), npy("(2, 1)", {1, 2}));
    add(fmt::format("layer_{}.npy", i), npy("(2,)", {1, 2}));
  }
  add("q_0.npy", npy("(2, 1)", {1, 2}));
  add("q_1.npy", npy("(1, 1)", {1}));
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump), Names({"0:hidden_0", "0:hidden_1", "0:hidden_2", "0:layer_0", "0:layer_1",
                                 "0:layer_2", "0:logits", "0:q", "1:logits", "1:q", "2:logits"}));
  ASSERT_EQ(dump->notes.size(), 1U);
  EXPECT_NE(dump->notes[0].find("logits, q"), std::string::npos);
}

TEST_F(Folders, PassFilesOfRanksKeepTheirInnerNames) {
  add("TP0_PP0_Rank0_pid7/Pass00001.pt", torch(1));
  add("TP1_PP0_Rank1_pid8/Pass00001.pt", torch(2));
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(names(*dump), Names({"0:rank0/value", "0:rank1/value"}));
}

TEST_F(Folders, SaysWhatItFoundWhereKindsAreMixedOrUnknown) {
  EXPECT_NE(refusal().find("it is empty"), std::string::npos) << refusal();
  add("readme.txt", "hello");
  EXPECT_NE(refusal().find("1 other files (readme.txt)"), std::string::npos) << refusal();
  add("a.npy", npy("(1,)", {1}));
  add("layer-0/x.bin", aprt(0, {1}));
  EXPECT_NE(refusal().find("1 APRT stages of apr (layer-0/x.bin); 1 files of arrays (a.npy)"),
            std::string::npos)
      << refusal();
}

TEST_F(Folders, AModelIsNoDump) {
  add("config.json", "{}");
  add("model.safetensors", safetensors("w", DType::U8, {1}, "x"));
  EXPECT_NE(refusal().find("holds a model"), std::string::npos) << refusal();
}

TEST_F(Folders, LinksToFoldersAreNotFollowed) {
  add("a.npy", npy("(1,)", {1}));
  fs::create_directory_symlink(root_, root_ / "loop");
  const auto dump = read_folder(root_);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors.size(), 1U);
  EXPECT_EQ(dump->notes, Names({"'loop' is a link to a folder: not followed"}));
}

TEST_F(Folders, ABrokenFileIsNamed) {
  add("a.npy", npy("(1,)", {1}));
  add("b/c.npy", npy("(3,)", {1}));
  EXPECT_NE(refusal().find("b/c.npy: [3] F32 take 12 bytes of data, the file has 4"),
            std::string::npos)
      << refusal();
  EXPECT_FALSE(read_folder(root_ / "missing"));
}

}  // namespace
}  // namespace plumb
