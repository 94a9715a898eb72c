// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "model/plan.h"

namespace plumb {
namespace {

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

std::string text(const std::string& value) { return raw<uint64_t>(value.size()) + value; }

// A metadata value: GGUF's number of its type, then its bytes.
std::string u32(uint32_t value) { return raw(4U) + raw(value); }
std::string i32(int32_t value) { return raw(5U) + raw(value); }
std::string f32(float value) { return raw(6U) + raw(value); }
std::string flag(bool value) { return raw(7U) + raw(value); }
std::string str(const std::string& value) { return raw(8U) + text(value); }
std::string strs(const std::vector<std::string>& values) {
  std::string bytes = raw(9U) + raw(8U) + raw<uint64_t>(values.size());
  for (const auto& value : values) bytes += text(value);
  return bytes;
}

constexpr uint64_t kWidth = 8;
constexpr uint64_t kFfn = 16;
constexpr uint64_t kVocabulary = 12;
constexpr uint64_t kKv = 4;  // one head of four values

struct TinyTensor {
  std::string name;
  std::vector<uint64_t> dims;  // as GGUF orders them: columns first
  uint32_t type = 0;           // F32
};

// A llama of one layer: width 8, two heads, one of keys and values, ffn 16, vocabulary 12.
struct TinyModel {
  std::vector<std::pair<std::string, std::string>> metadata = {
      {"general.architecture", str("llama")},
      {"general.name", str("tiny")},
      {"llama.context_length", u32(64)},
      {"llama.embedding_length", u32(kWidth)},
      {"llama.block_count", u32(1)},
      {"llama.feed_forward_length", u32(kFfn)},
      {"llama.attention.head_count", u32(2)},
      {"llama.attention.head_count_kv", u32(1)},
      {"llama.attention.layer_norm_rms_epsilon", f32(1e-5F)},
      {"llama.rope.freq_base", f32(10000)},
  };
  std::vector<TinyTensor> tensors = {
      {"token_embd.weight", {kWidth, kVocabulary}},
      {"blk.0.attn_norm.weight", {kWidth}},
      {"blk.0.attn_q.weight", {kWidth, kWidth}},
      {"blk.0.attn_k.weight", {kWidth, kKv}},
      {"blk.0.attn_v.weight", {kWidth, kKv}},
      {"blk.0.attn_output.weight", {kWidth, kWidth}},
      {"blk.0.ffn_norm.weight", {kWidth}},
      {"blk.0.ffn_gate.weight", {kWidth, kFfn}},
      {"blk.0.ffn_up.weight", {kWidth, kFfn}},
      {"blk.0.ffn_down.weight", {kFfn, kWidth}},
      {"output_norm.weight", {kWidth}},
  };

  TinyModel& set(const std::string& key, const std::string& value) {
    remove(key);
    metadata.emplace_back(key, value);
    return *this;
  }
  TinyModel& remove(const std::string& key) {
    std::erase_if(metadata, [&](const auto& entry) { return entry.first == key; });
    return *this;
  }
  TinyModel& set_tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type = 0) {
    const auto found = std::ranges::find(tensors, name, &TinyTensor::name);
    if (found != tensors.end()) *found = {name, std::move(dims), type};
    else tensors.push_back({name, std::move(dims), type});
    return *this;
  }
  TinyModel& remove_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == name; });
    return *this;
  }

  // F32 values are 1, 2, 3 and so on through the file; F16 values are all a quarter.
  std::string bytes() const {
    std::string header =
        "GGUF" + raw(3U) + raw<uint64_t>(tensors.size()) + raw<uint64_t>(metadata.size());
    for (const auto& [key, value] : metadata) header += text(key) + value;
    std::string data;
    float value = 0;
    for (const auto& tensor : tensors) {
      header += text(tensor.name) + raw(static_cast<uint32_t>(tensor.dims.size()));
      uint64_t count = 1;
      for (const uint64_t dim : tensor.dims) {
        header += raw(dim);
        count *= dim;
      }
      header += raw(tensor.type) + raw<uint64_t>(data.size());
      for (uint64_t i = 0; i < count; ++i)
        data += tensor.type == 1 ? raw<uint16_t>(0x3400) : raw(value += 1);
      pad(data);
    }
    pad(header);
    return header + data;
  }
  static void pad(std::string& bytes) { bytes.resize((bytes.size() + 31) / 32 * 32); }
};

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/plumb_model_" + std::to_string(getpid()) + ".gguf";
  }
  void TearDown() override { std::filesystem::remove(path_); }

  Result<Model> load(const TinyModel& tiny) const {
    std::filesystem::remove(path_);  // A model that was loaded before keeps its bytes.
    std::ofstream(path_, std::ios::binary) << tiny.bytes();
    return load_model(path_);
  }

  void expect_refusal(const TinyModel& tiny, ErrorCode code, const std::string& message) const {
    const auto model = load(tiny);
    ASSERT_FALSE(model.has_value()) << "accepted, expected: " << message;
    EXPECT_TRUE(model.error().message.starts_with(path_.string() + ": ")) << model.error().message;
    EXPECT_NE(model.error().message.find(message), std::string::npos)
        << model.error().message << "\nexpected: " << message;
    EXPECT_EQ(model.error().code, code) << message;
  }
  void expect_corrupt(const TinyModel& tiny, const std::string& message) const {
    expect_refusal(tiny, ErrorCode::Corrupt, message);
  }
  void expect_unsupported(const TinyModel& tiny, const std::string& message) const {
    expect_refusal(tiny, ErrorCode::Unsupported, message);
  }

  std::filesystem::path path_;
};

std::vector<std::string> names(const Plan& plan) {
  std::vector<std::string> result;
  for (const auto& step : plan.steps) result.push_back(step.name);
  return result;
}

const Step& step(const Plan& plan, const std::string& name) {
  return plan.steps.at(plan.find(name).value());
}

TEST_F(ModelTest, LoadsATinyModel) {
  // Guards against a configuration that is not that of the file.
  const auto model = load(TinyModel());
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const auto& config = model->config;
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.vocabulary, kVocabulary);
  EXPECT_EQ(config.context, 64U);
  EXPECT_EQ(config.width, kWidth);
  EXPECT_EQ(config.layers, 1U);
  EXPECT_EQ(config.heads, 2U);
  EXPECT_EQ(config.kv_heads, 1U);
  EXPECT_EQ(config.head_dim, 4U);
  EXPECT_EQ(config.ffn, kFfn);
  EXPECT_EQ(config.epsilon, static_cast<double>(1e-5F));
  EXPECT_EQ(config.rope_base, 10000);
  EXPECT_EQ(config.rope_scaling.factor, 1);
  EXPECT_EQ(config.rope_dimensions, 4U);
  EXPECT_EQ(config.rope_pairing, RopePairing::Neighbours);
  EXPECT_EQ(config.window, 0U);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(model->tokenizer, nullptr);
  EXPECT_EQ(model->tokenizer_missing, "the file has no tokenizer");
  EXPECT_EQ(model->weight_types, "F32");
  const std::string bytes = TinyModel().bytes();
  EXPECT_EQ(model->sha256, sha256_hex(std::as_bytes(std::span(bytes))));
}

TEST_F(ModelTest, WeightsHaveRowsOfInputs) {
  // Guards against a matrix that is transposed: GGUF stores the shape in reverse.
  const auto model = load(TinyModel().set_tensor("output_norm.weight", {kWidth}, 1));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const auto gate = model->find("blk.0.ffn_gate.weight");
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->rows, kFfn);
  EXPECT_EQ(gate->columns, kWidth);
  const auto values = gate->values();
  ASSERT_EQ(values.size(), kFfn * kWidth);
  EXPECT_EQ(values[kWidth], values[0] + kWidth);
  float second_row = 0;
  std::memcpy(&second_row, gate->row(1), sizeof(second_row));
  EXPECT_EQ(second_row, values[kWidth]);
  const auto norm = model->find("output_norm.weight");
  EXPECT_EQ(norm->rows, 1U);
  EXPECT_EQ(norm->values(), std::vector<float>(kWidth, 0.25F));
  EXPECT_EQ(model->find("blk.1.ffn_gate.weight"), nullptr);
}

TEST_F(ModelTest, EveryTensorIsNeeded) {
  // Guards against a crash, or a zero matrix, where the file lacks a tensor.
  for (const auto& tensor : TinyModel().tensors)
    expect_corrupt(TinyModel().remove_tensor(tensor.name),
                   fmt::format("{} is missing", tensor.name));
  expect_corrupt(TinyModel().set("llama.block_count", u32(2)),
                 "all tensors of layer 1 are missing: the metadata says 2 layers");
}

TEST_F(ModelTest, EveryShapeIsChecked) {
  // Guards against reads past the end of a weight that is smaller than the metadata says.
  for (const auto& tensor : TinyModel().tensors) {
    auto dims = tensor.dims;
    dims.back() += 2;
    if (tensor.name == "token_embd.weight") dims = {kWidth + 2, kVocabulary};
    const auto size = [](const std::vector<uint64_t>& d) {
      return d.size() == 2 ? fmt::format("{}x{}", d[1], d[0]) : fmt::format("{}", d[0]);
    };
    expect_corrupt(TinyModel().set_tensor(tensor.name, dims),
                   fmt::format("{} is {}, the metadata asks for {}", tensor.name, size(dims),
                               size(tensor.dims)));
  }
  expect_corrupt(TinyModel().set_tensor("blk.0.attn_v.weight", {kWidth, 0}),
                 "blk.0.attn_v.weight is 0x8, the metadata asks for 4x8");
  expect_corrupt(TinyModel().set("llama.feed_forward_length", u32(32)),
                 "blk.0.ffn_gate.weight is 16x8, the metadata asks for 32x8");
  expect_corrupt(TinyModel().set_tensor("blk.0.attn_v.weight", {2, 4, 4}),
                 "blk.0.attn_v.weight is 4x4x2, the metadata asks for 4x8");
  expect_corrupt(TinyModel().set_tensor("blk.0.attn_norm.weight", {}),
                 "blk.0.attn_norm.weight is a single value, the metadata asks for 8");
  expect_unsupported(TinyModel().set_tensor("blk.0.attn_v.weight", {kWidth, kKv}, 26),
                     "tensor 'blk.0.attn_v.weight' has type I32, which is not run here");
}

// The other tensors that stand or fall with one.
std::vector<std::pair<std::string, uint64_t>> groups_of(const std::string& name) {
  const std::vector<std::vector<std::pair<std::string, uint64_t>>> groups = {
      {{"blk.0.attn_q.bias", kWidth}, {"blk.0.attn_k.bias", kKv}, {"blk.0.attn_v.bias", kKv}},
      {{"blk.0.ffn_gate.bias", kFfn},
       {"blk.0.ffn_up.bias", kFfn},
       {"blk.0.ffn_down.bias", kWidth}}};
  for (auto group : groups) {
    const auto size = group.size();
    std::erase_if(group, [&](const auto& member) { return member.first == name; });
    if (group.size() < size) return group;
  }
  return {};
}

TEST_F(ModelTest, OptionalTensorsAreChecked) {
  // Guards against biases, a head or frequencies that are read past their end.
  for (const auto& [name, size] :
       std::vector<std::pair<std::string, uint64_t>>{{"blk.0.attn_q.bias", kWidth},
                                                     {"blk.0.attn_k.bias", kKv},
                                                     {"blk.0.attn_v.bias", kKv},
                                                     {"blk.0.attn_output.bias", kWidth},
                                                     {"blk.0.ffn_gate.bias", kFfn},
                                                     {"blk.0.ffn_up.bias", kFfn},
                                                     {"blk.0.ffn_down.bias", kWidth},
                                                     {"rope_freqs.weight", 2}}) {
    auto tiny = TinyModel().set_tensor(name, {size});
    // The biases of q, k and v come together, and so do those of the feed-forward part.
    for (const auto& [other, other_size] : groups_of(name)) tiny.set_tensor(other, {other_size});
    EXPECT_TRUE(load(tiny).has_value()) << name;
    expect_corrupt(tiny.set_tensor(name, {size - 1}),
                   fmt::format("{} is {}, the metadata asks for {}", name, size - 1, size));
  }
  expect_corrupt(TinyModel().set_tensor("blk.0.attn_q.bias", {kWidth}), "they come together");
  expect_corrupt(TinyModel().set_tensor("output.weight", {kWidth, 11}),
                 "output.weight is 11x8, the metadata asks for 12x8");
}

TEST_F(ModelTest, ATensorWithoutAPlaceIsRefused) {
  // Guards against a part of the model that is silently left out.
  expect_unsupported(TinyModel().set_tensor("blk.0.attn_q_norm.weight", {4}),
                     "blk.0.attn_q_norm.weight is not a tensor of llama");
  expect_corrupt(
      TinyModel().set_tensor("blk.1.attn_norm.weight", {kWidth}),
      "layer 1 has tensors (blk.1.attn_norm.weight, 1 in all), the metadata says 1 layers");
  expect_unsupported(TinyModel().set_tensor("token_embd.bias", {kWidth}),
                     "token_embd.bias is not a tensor of llama");
}

TEST_F(ModelTest, NoVocabularyIsRefused) {
  // Guards against a model without a single token, to which every shape of the head fits.
  expect_corrupt(TinyModel().set_tensor("token_embd.weight", {kWidth, 0}),
                 "tensor 'token_embd.weight' has no values");
}

TEST_F(ModelTest, EveryKeyIsNeeded) {
  // Guards against a default where the file does not say.
  expect_unsupported(TinyModel().remove("general.architecture"), "architecture '(not named)'");
  for (const char* key : {"llama.context_length", "llama.embedding_length", "llama.block_count",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.layer_norm_rms_epsilon"})
    expect_corrupt(TinyModel().remove(key), fmt::format("{} is missing", key));
  // These have defaults: as many heads of keys as of queries, base 10000, the name of the file.
  expect_corrupt(TinyModel().remove("llama.attention.head_count_kv"),
                 "blk.0.attn_k.weight is 4x8, the metadata asks for 8x8");
  const auto model = load(TinyModel().remove("llama.rope.freq_base").remove("general.name"));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  EXPECT_EQ(model->config.rope_base, 10000);
  EXPECT_EQ(model->config.name, path_.stem().string());
}

TEST_F(ModelTest, KeysOfTheWrongTypeAreRefused) {
  // Guards against "1" that is read as a number, or a count that is negative or a fraction.
  for (const std::string key :
       {"llama.context_length", "llama.embedding_length", "llama.block_count",
        "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.rope.dimension_count",
        "llama.attention.sliding_window", "llama.expert_count"}) {
    expect_corrupt(TinyModel().set(key, str("1")), key + " must be a whole number, found a string");
    expect_corrupt(TinyModel().set(key, i32(-1)), key + " is -1, must be from ");
    expect_corrupt(TinyModel().set(key, f32(1)), key + " must be a whole number, found a number");
    expect_corrupt(TinyModel().set(key, u32(1U << 31)), key + " is 2147483648, must be from ");
  }
  for (const std::string key : {"llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"}) {
    expect_corrupt(TinyModel().set(key, str("1")), key + " must be a number, found a string");
    expect_corrupt(TinyModel().set(key, f32(std::numeric_limits<float>::infinity())),
                   key + " must be a finite number, found inf");
    expect_corrupt(TinyModel().set(key, f32(std::numeric_limits<float>::quiet_NaN())),
                   key + " must be a finite number, found nan");
  }
  expect_unsupported(TinyModel().set("llama.rope.scaling.factor", str("1")),
                     "llama.rope.scaling.factor must be a number, found a string");
  expect_corrupt(TinyModel().set("llama.rope.scaling.type", flag(true)),
                 "llama.rope.scaling.type must be a string, found ");
}

TEST_F(ModelTest, NumbersThatCannotBeAreRefused) {
  // Guards against divisions by 0 and heads that do not add up.
  for (const char* key :
       {"llama.attention.head_count", "llama.attention.head_count_kv", "llama.embedding_length",
        "llama.feed_forward_length", "llama.context_length", "llama.block_count"})
    expect_corrupt(TinyModel().set(key, u32(0)), fmt::format("{} is 0, must be from 1", key));
  expect_corrupt(TinyModel()
                     .set("llama.attention.head_count", u32(3))
                     .set("llama.attention.head_count_kv", u32(2)),
                 "is not a multiple of llama.attention.head_count");
  expect_corrupt(TinyModel().set("llama.attention.head_count", u32(16)),
                 "llama.embedding_length 8 is not a multiple of llama.attention.head_count 16");
  expect_unsupported(TinyModel().set("llama.attention.value_length", u32(2)),
                     "values of a head (2) and of its key (4) differ in size");
  expect_unsupported(TinyModel().set("llama.rope.dimension_count", u32(3)), "must be even");
  expect_corrupt(TinyModel().set("llama.rope.dimension_count", u32(6)),
                 "RoPE turns 6 values of a head that has 4");
  expect_corrupt(TinyModel().set("llama.rope.freq_base", f32(0)),
                 "llama.rope.freq_base must be above zero, found 0");
  expect_unsupported(TinyModel()
                         .set("llama.rope.scaling.factor", f32(0))
                         .set("llama.rope.scaling.type", str("linear")),
                     "each must be above 0");
}

TEST_F(ModelTest, WhatIsNotDoneIsNamed) {
  // Guards against a model that runs and gives other numbers than its engine.
  expect_unsupported(TinyModel().set("general.architecture", str("mamba")),
                     "architecture 'mamba' cannot be run here (can be: llama, ");
  expect_unsupported(TinyModel().set("general.architecture", str("deepseek2")),
                     "architecture 'deepseek2' cannot be run here");
  expect_unsupported(
      TinyModel().set("llama.rope.scaling.type", str("unheard")),
      "the scaling of RoPE is 'unheard': done here are none, linear, yarn, longrope");
  for (const std::string key :
       {"llama.attn_logit_softcapping", "llama.logit_scale", "llama.attention.clamp_kqv"})
    expect_unsupported(TinyModel().set(key, f32(2)), key + " is 2, which llama does not do here");
  expect_unsupported(TinyModel().set("llama.attention.causal", flag(false)),
                     "llama.attention.causal is false");
}

TEST_F(ModelTest, RopeScalingIsThatOfLlamaCpp) {
  // Guards against positions that are not divided where the engine of the file divides them.
  const auto factor = [&](const TinyModel& tiny) {
    const auto model = load(tiny).value();
    return step(make_plan(model), "layer.0.attn.q_rope").rope.linear_factor;
  };
  const auto type = [](const char* name) {
    return TinyModel().set("llama.rope.scaling.type", str(name));
  };
  EXPECT_EQ(factor(type("linear")), 1);
  EXPECT_EQ(factor(type("linear").set("llama.rope.scaling.factor", f32(4))), 4);
  EXPECT_EQ(factor(type("none").set("llama.rope.scaling.factor", f32(4))), 1);
  EXPECT_EQ(factor(TinyModel().set("llama.rope.scaling.factor", f32(4))), 4);
  EXPECT_EQ(factor(TinyModel().set("llama.rope.scale_linear", f32(2))), 2);
}

TEST_F(ModelTest, TheTokenizerFitsTheVocabulary) {
  // Guards against ids of the tokenizer that have no row in the embedding.
  const auto with_tokens = [](size_t count) {
    std::vector<std::string> tokens;
    for (size_t i = 0; i < count; ++i) tokens.emplace_back(1, static_cast<char>('a' + i));
    return TinyModel()
        .set("tokenizer.ggml.model", str("gpt2"))
        .set("tokenizer.ggml.pre", str("smollm"))
        .set("tokenizer.ggml.tokens", strs(tokens))
        .set("tokenizer.ggml.merges", strs({"a b"}));
  };
  const auto model = load(with_tokens(kVocabulary));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  ASSERT_NE(model->tokenizer, nullptr);
  EXPECT_EQ(model->tokenizer->size(), kVocabulary);
  // A padded head is common; tokens without a row are not.
  expect_corrupt(with_tokens(13), "token_embd.weight is 12x8");
}

TEST_F(ModelTest, ATokenizerThatIsNotSupportedIsNoError) {
  // Guards against a model that cannot even run on ids, and ids that a wrong tokenizer made.
  const auto model =
      load(TinyModel()
               .set("tokenizer.ggml.model", str("unheard-of"))
               .set("tokenizer.ggml.tokens", strs(std::vector<std::string>(kVocabulary, "a"))));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  EXPECT_EQ(model->tokenizer, nullptr);
  EXPECT_NE(model->tokenizer_missing.find("unheard-of"), std::string::npos)
      << model->tokenizer_missing;
}

TEST_F(ModelTest, ThePlanHasTheStepsOfALlama) {
  // Guards against a step that is left out, doubled, out of order or fed by another step.
  const auto model = load(TinyModel());
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Plan plan = make_plan(*model);
  struct Row {
    std::string name;
    Op op;
    size_t width;
    std::vector<std::string> inputs;
  };
  const std::vector<Row> rows = {
      {"embedding", Op::Embedding, kWidth, {}},
      {"layer.0.attn.norm", Op::RmsNorm, kWidth, {"embedding"}},
      {"layer.0.attn.q", Op::MatMul, kWidth, {"layer.0.attn.norm"}},
      {"layer.0.attn.k", Op::MatMul, kKv, {"layer.0.attn.norm"}},
      {"layer.0.attn.v", Op::MatMul, kKv, {"layer.0.attn.norm"}},
      {"layer.0.attn.q_rope", Op::Rope, kWidth, {"layer.0.attn.q"}},
      {"layer.0.attn.k_rope", Op::Rope, kKv, {"layer.0.attn.k"}},
      {"layer.0.attn.scores", Op::Scores, 0, {"layer.0.attn.q_rope", "layer.0.attn.k_rope"}},
      {"layer.0.attn.weights", Op::Softmax, 0, {"layer.0.attn.scores"}},
      {"layer.0.attn.mix", Op::Mix, kWidth, {"layer.0.attn.weights", "layer.0.attn.v"}},
      {"layer.0.attn.out", Op::MatMul, kWidth, {"layer.0.attn.mix"}},
      {"layer.0.attn.residual", Op::Add, kWidth, {"embedding", "layer.0.attn.out"}},
      {"layer.0.ffn.norm", Op::RmsNorm, kWidth, {"layer.0.attn.residual"}},
      {"layer.0.ffn.gate", Op::MatMul, kFfn, {"layer.0.ffn.norm"}},
      {"layer.0.ffn.up", Op::MatMul, kFfn, {"layer.0.ffn.norm"}},
      {"layer.0.ffn.act", Op::Silu, kFfn, {"layer.0.ffn.gate"}},
      {"layer.0.ffn.glu", Op::Multiply, kFfn, {"layer.0.ffn.act", "layer.0.ffn.up"}},
      {"layer.0.ffn.out", Op::MatMul, kWidth, {"layer.0.ffn.glu"}},
      {"layer.0.residual", Op::Add, kWidth, {"layer.0.attn.residual", "layer.0.ffn.out"}},
      {"final.norm", Op::RmsNorm, kWidth, {"layer.0.residual"}},
      {"logits", Op::MatMul, kVocabulary, {"final.norm"}},
  };
  ASSERT_EQ(plan.steps.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(plan.steps[i].name, rows[i].name);
    EXPECT_EQ(plan.steps[i].op, rows[i].op) << rows[i].name;
    EXPECT_EQ(plan.steps[i].width, rows[i].width) << rows[i].name;
    std::vector<std::string> inputs;
    for (const size_t input : plan.steps[i].inputs) {
      ASSERT_LT(input, i) << rows[i].name << " takes a later step";
      inputs.push_back(plan.steps[input].name);
    }
    EXPECT_EQ(inputs, rows[i].inputs) << rows[i].name;
  }
  EXPECT_TRUE(can_split(plan));
  EXPECT_EQ(plan.find("layer.1.attn.q"), std::nullopt);
}

TEST_F(ModelTest, StepsCarryTheWeightsAndNumbersOfTheFile) {
  // Guards against two weights of one shape that change places: gate and up, k and v.
  const auto model = load(TinyModel()
                              .set("llama.attention.sliding_window", u32(5))
                              .set("llama.rope.dimension_count", u32(2))
                              .set("llama.rope.freq_base", f32(500)));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Plan plan = make_plan(*model);
  for (const auto& [name, weight] : std::vector<std::pair<std::string, std::string>>{
           {"embedding", "token_embd.weight"},
           {"layer.0.attn.norm", "blk.0.attn_norm.weight"},
           {"layer.0.attn.q", "blk.0.attn_q.weight"},
           {"layer.0.attn.k", "blk.0.attn_k.weight"},
           {"layer.0.attn.v", "blk.0.attn_v.weight"},
           {"layer.0.attn.out", "blk.0.attn_output.weight"},
           {"layer.0.ffn.norm", "blk.0.ffn_norm.weight"},
           {"layer.0.ffn.gate", "blk.0.ffn_gate.weight"},
           {"layer.0.ffn.up", "blk.0.ffn_up.weight"},
           {"layer.0.ffn.out", "blk.0.ffn_down.weight"},
           {"final.norm", "output_norm.weight"}}) {
    ASSERT_NE(step(plan, name).weight, nullptr) << name;
    EXPECT_EQ(step(plan, name).weight->name, weight);
  }
  EXPECT_EQ(step(plan, "layer.0.attn.norm").epsilon, static_cast<double>(1e-5F));
  const auto& rope = step(plan, "layer.0.attn.k_rope");
  EXPECT_EQ(rope.rope, (Rope{.base = 500, .dimensions = 2}));
  EXPECT_EQ(rope.head_dim, 4U);
  for (const char* name : {"layer.0.attn.scores", "layer.0.attn.weights", "layer.0.attn.mix"}) {
    const auto& attention = step(plan, name).attention;
    EXPECT_EQ(attention.heads, 2U);
    EXPECT_EQ(attention.kv_heads, 1U);
    EXPECT_EQ(attention.head_dim, 4U);
    EXPECT_EQ(attention.scale, 0.5);
    EXPECT_EQ(attention.window, 5U);
    EXPECT_EQ(attention.quirk, nullptr);
  }
}

TEST_F(ModelTest, BiasStepsAppearOnlyWithBiases) {
  // Guards against a bias that is left out, and a product and its sum under one name.
  const Plan plain = make_plan(load(TinyModel()).value());
  EXPECT_EQ(std::ranges::count(plain.steps, Op::Bias, &Step::op), 0);
  EXPECT_EQ(plain.find("layer.0.attn.q_matmul"), std::nullopt);
  EXPECT_EQ(step(plain, "layer.0.attn.out").bias, nullptr);

  const auto model = load(TinyModel()
                              .set_tensor("blk.0.attn_q.bias", {kWidth})
                              .set_tensor("blk.0.attn_k.bias", {kKv})
                              .set_tensor("blk.0.attn_v.bias", {kKv})
                              .set_tensor("blk.0.attn_output.bias", {kWidth}));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Plan plan = make_plan(*model);
  const auto all = names(plan);
  EXPECT_EQ(
      std::vector<std::string>(all.begin() + 2, all.begin() + 10),
      (std::vector<std::string>{"layer.0.attn.q_matmul", "layer.0.attn.q", "layer.0.attn.k_matmul",
                                "layer.0.attn.k", "layer.0.attn.v_matmul", "layer.0.attn.v",
                                "layer.0.attn.q_rope", "layer.0.attn.k_rope"}));
  const auto& q = step(plan, "layer.0.attn.q");
  EXPECT_EQ(q.op, Op::Bias);
  EXPECT_EQ(q.weight->name, "blk.0.attn_q.bias");
  EXPECT_EQ(plan.steps[q.inputs.at(0)].name, "layer.0.attn.q_matmul");
  EXPECT_EQ(plan.steps[q.inputs.at(0)].weight->name, "blk.0.attn_q.weight");
  EXPECT_EQ(plan.steps[step(plan, "layer.0.attn.q_rope").inputs.at(0)].name, "layer.0.attn.q");
  EXPECT_EQ(step(plan, "layer.0.attn.out").bias->name, "blk.0.attn_output.bias");
}

TEST_F(ModelTest, TheHeadIsTiedOnlyWithoutOneOfItsOwn) {
  // Guards against logits from the embedding where the file has a head.
  const auto tied = load(TinyModel());
  ASSERT_TRUE(tied.has_value());
  EXPECT_EQ(step(make_plan(*tied), "logits").weight->name, "token_embd.weight");
  const auto own = load(TinyModel().set_tensor("output.weight", {kWidth, kVocabulary}));
  ASSERT_TRUE(own.has_value()) << own.error().message;
  EXPECT_FALSE(own->config.tied_head);
  EXPECT_EQ(step(make_plan(*own), "logits").weight->name, "output.weight");
}

TEST_F(ModelTest, FrequenciesOfTheFileAreUsed) {
  // Guards against rope_freqs (Llama 3.1) that are loaded and never used.
  const auto model = load(TinyModel().set_tensor("rope_freqs.weight", {2}));
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Plan plan = make_plan(*model);
  for (const char* name : {"layer.0.attn.q_rope", "layer.0.attn.k_rope"}) {
    ASSERT_NE(step(plan, name).rope.factors, nullptr);
    EXPECT_EQ(step(plan, name).rope.factors->name, "rope_freqs.weight");
  }
}

TEST_F(ModelTest, LayersFollowEachOther) {
  // Guards against a second layer that takes the embedding, or the weights of the first.
  TinyModel tiny = TinyModel().set("llama.block_count", u32(2));
  for (const auto& tensor : TinyModel().tensors) {
    if (!tensor.name.starts_with("blk.0.")) continue;
    tiny.set_tensor("blk.1." + tensor.name.substr(6), tensor.dims);
  }
  const auto model = load(tiny);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Plan plan = make_plan(*model);
  EXPECT_EQ(plan.steps.size(), 3U + 2 * 18);
  const auto& norm = step(plan, "layer.1.attn.norm");
  EXPECT_EQ(plan.steps[norm.inputs.at(0)].name, "layer.0.residual");
  EXPECT_EQ(step(plan, "layer.1.ffn.out").weight->name, "blk.1.ffn_down.weight");
  EXPECT_EQ(plan.steps[step(plan, "final.norm").inputs.at(0)].name, "layer.1.residual");
}

TEST_F(ModelTest, AModelThatIsCutAnywhereIsRefused) {
  // Guards against a download that stopped and passes for a model.
  const std::string whole = TinyModel().bytes();
  for (size_t size = 0; size < whole.size(); size += 61) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << whole.substr(0, size);
    EXPECT_FALSE(load_model(path_).has_value()) << size << " of " << whole.size();
  }
  EXPECT_EQ(load_model(path_.string() + ".missing").error().code, ErrorCode::NotFound);
}

}  // namespace
}  // namespace plumb
