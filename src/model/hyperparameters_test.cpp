// SPDX-License-Identifier: Apache-2.0
#include "model/hyperparameters.h"

#include <gtest/gtest.h>

#include "model/architecture_fixture.h"

namespace plumb {
namespace {

using fixture::FakeModel;

// What the models of the fixture were made with.
struct Made {
  const char* name;
  const char* architecture;
  size_t width, heads, kv_heads, head_dim, ffn, layers, vocabulary, rope_dimensions;
  bool tied;
};

constexpr Made kMade[] = {
    {"llama-gqa", "llama", 256, 8, 2, 32, 512, 2, 112, 32, false},
    {"llama3-tied", "llama", 64, 4, 2, 16, 64, 3, 288, 16, true},
    {"llama-linear", "llama", 64, 4, 2, 16, 40, 3, 120, 16, false},
    {"mistral-swa", "llama", 64, 4, 2, 16, 40, 3, 120, 16, false},
    {"mixtral", "llama", 64, 4, 2, 16, 24, 3, 120, 16, false},
    {"qwen2-tied", "qwen2", 64, 4, 2, 16, 40, 3, 288, 16, true},
    {"qwen2-untied", "qwen2", 256, 8, 2, 32, 512, 2, 112, 32, false},
    {"qwen3", "qwen3", 64, 4, 2, 24, 40, 3, 120, 24, true},
    {"qwen3-moe", "qwen3moe", 64, 4, 2, 16, 96, 3, 120, 16, false},
    {"gemma2", "gemma2", 64, 4, 2, 16, 40, 4, 304, 16, true},
    {"gemma3-text", "gemma3", 64, 4, 2, 16, 40, 6, 120, 16, true},
    {"phi3", "phi3", 64, 4, 2, 16, 40, 3, 120, 16, false},
    {"smollm3", "smollm3", 64, 4, 2, 16, 40, 4, 120, 16, true},
    {"olmo2", "olmo2", 64, 4, 2, 16, 40, 3, 120, 16, false},
    {"gpt2", "gpt2", 64, 4, 4, 16, 256, 3, 120, 0, true},
    {"gpt-neox", "gptneox", 64, 4, 4, 16, 48, 3, 120, 8, false},
    {"falcon", "falcon", 64, 4, 1, 16, 256, 3, 120, 16, true},
    {"starcoder2", "starcoder2", 64, 4, 2, 16, 40, 3, 120, 16, true},
    {"granite", "granite", 64, 4, 2, 16, 40, 3, 120, 16, true},
    {"phi", "phi2", 64, 4, 4, 16, 256, 3, 120, 8, false},
    {"stablelm", "stablelm", 64, 4, 2, 16, 40, 3, 120, 4, false},
    {"cohere", "command-r", 64, 4, 2, 16, 40, 3, 120, 16, true},
    {"glm4", "glm4", 64, 4, 2, 16, 40, 3, 120, 8, false},
    {"exaone4", "exaone4", 64, 4, 2, 16, 40, 3, 120, 16, false},
};

void expect_made(const Hyperparameters& h, const Made& made) {
  EXPECT_EQ(h.architecture, made.architecture);
  EXPECT_EQ(h.width, made.width);
  EXPECT_EQ(h.heads, made.heads);
  EXPECT_EQ(h.kv_heads, made.kv_heads);
  EXPECT_EQ(h.head_dim, made.head_dim);
  EXPECT_EQ(h.value_dim, made.head_dim);
  EXPECT_EQ(h.ffn, made.ffn);
  EXPECT_EQ(h.layers, made.layers);
  EXPECT_EQ(h.vocabulary, made.vocabulary);
  EXPECT_EQ(h.rope_dimensions.value_or(0), made.rope_dimensions);
  EXPECT_EQ(h.tied, made.tied);
  EXPECT_TRUE(h.problems.empty()) << testing::PrintToString(h.problems);
}

// GGUF stores float32.
std::optional<float> narrow(const std::optional<double>& value) {
  return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
}

TEST(Hyperparameters, OfEveryModelInBothFormats) {
  ASSERT_EQ(fixture::zoo().size(), std::size(kMade));
  for (const auto& made : kMade) {
    SCOPED_TRACE(made.name);
    const auto& model = fixture::zoo().at(made.name);
    const auto hf = read_hyperparameters(fixture::hugging_face(model).file);
    const auto gguf = read_hyperparameters(fixture::gguf(model).file);
    {
      SCOPED_TRACE("config.json");
      expect_made(hf, made);
    }
    {
      SCOPED_TRACE("GGUF");
      expect_made(gguf, made);
    }
    EXPECT_EQ(hf.context, gguf.context);
    EXPECT_EQ(hf.experts, gguf.experts);
    EXPECT_EQ(hf.experts_used, gguf.experts_used);
    EXPECT_EQ(hf.expert_ffn, gguf.expert_ffn);
    EXPECT_EQ(narrow(hf.epsilon), narrow(gguf.epsilon));
    EXPECT_EQ(narrow(hf.rope_base), narrow(gguf.rope_base));
    EXPECT_EQ(hf.rope_base_local, gguf.rope_base_local);
    // llama.cpp's converter drops Mistral's window, and writes llama3's scaling as a tensor.
    if (std::string(made.name) == "mistral-swa") EXPECT_EQ(hf.window, 8);
    else EXPECT_EQ(hf.window, gguf.window);
    if (std::string(made.name) == "llama3-tied") EXPECT_EQ(hf.rope_scaling, "llama3");
    else EXPECT_EQ(hf.rope_scaling, gguf.rope_scaling);
  }
}

FakeModel small_gguf() {
  FakeModel model(FileFormat::Gguf);
  model.set("general.architecture", std::string("llama"));
  const std::pair<const char*, int64_t> sizes[] = {
      {"block_count", 2},          {"embedding_length", 64}, {"feed_forward_length", 128},
      {"attention.head_count", 4}, {"context_length", 2048}, {"vocab_size", 100}};
  for (const auto& [key, value] : sizes) model.set(std::string("llama.") + key, value);
  model.set("llama.attention.layer_norm_rms_epsilon", 1e-5);
  return model;
}

FakeModel small_config(const char* type) {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string(type));
  const std::pair<const char*, int64_t> sizes[] = {{"hidden_size", 64},
                                                   {"num_hidden_layers", 2},
                                                   {"num_attention_heads", 4},
                                                   {"intermediate_size", 128},
                                                   {"vocab_size", 100}};
  for (const auto& [key, value] : sizes) model.set(key, value);
  return model;
}

std::vector<std::string> problems_with(const std::string& key, MetadataValue value) {
  auto model = small_gguf();
  model.set(key, std::move(value));
  return read_hyperparameters(model.file).problems;
}

using Texts = std::vector<std::string>;

TEST(Hyperparameters, DefaultsOfGguf) {
  const auto h = read_hyperparameters(small_gguf().file);
  EXPECT_EQ(h.problems, Texts{});
  EXPECT_EQ(h.kv_heads, 4);
  EXPECT_EQ(h.head_dim, 16);
  EXPECT_EQ(h.value_dim, 16);
  EXPECT_EQ(h.rope_dimensions, 16);
  EXPECT_EQ(h.rope_base, 10000);
  EXPECT_EQ(h.rope_scaling, "none");
  EXPECT_EQ(h.experts, std::nullopt);
  EXPECT_FALSE(h.head_dim_given);
  EXPECT_TRUE(h.tied);
}

TEST(Hyperparameters, WrongValuesAreNamed) {
  EXPECT_EQ(problems_with("llama.block_count", std::string("1")),
            Texts{"llama.block_count must be a whole number, found a string ('1')"});
  EXPECT_EQ(problems_with("llama.embedding_length", 64.0).size(), 1U);
  EXPECT_EQ(problems_with("llama.attention.head_count", int64_t{0}),
            Texts{"llama.attention.head_count is 0, must be from 1 to 2147483647"});
  EXPECT_EQ(problems_with("llama.block_count", int64_t{-3}),
            Texts{"llama.block_count is -3, must be from 1 to 2147483647"});
  EXPECT_EQ(
      problems_with("llama.feed_forward_length", uint64_t{1} << 63),
      Texts{"llama.feed_forward_length is 9223372036854775808, must be from 1 to 2147483647"});
  EXPECT_EQ(problems_with("llama.attention.head_count", int64_t{3}),
            Texts{"llama.embedding_length 64 is not a multiple of llama.attention.head_count 3"});
  EXPECT_EQ(
      problems_with("llama.attention.head_count_kv", int64_t{3}),
      Texts{"llama.attention.head_count 4 is not a multiple of llama.attention.head_count_kv 3"});
  EXPECT_EQ(problems_with("llama.rope.freq_base", 0.0),
            Texts{"llama.rope.freq_base must be above zero, found 0"});
  EXPECT_EQ(problems_with("llama.rope.dimension_count", int64_t{17}),
            Texts{"RoPE turns 17 values of a head that has 16"});
}

TEST(Hyperparameters, MissingKeysAreNamed) {
  for (const auto* key : {"llama.block_count", "llama.embedding_length",
                          "llama.attention.head_count", "llama.feed_forward_length",
                          "llama.context_length", "llama.attention.layer_norm_rms_epsilon"}) {
    auto model = small_gguf();
    model.file.metadata.erase(key);
    EXPECT_EQ(read_hyperparameters(model.file).problems, Texts{std::string(key) + " is missing"});
  }
  auto config = small_config("llama");
  config.file.metadata.erase("num_hidden_layers");
  EXPECT_EQ(read_hyperparameters(config.file).problems, Texts{"num_hidden_layers is missing"});
  EXPECT_EQ(read_hyperparameters(FakeModel(FileFormat::Gguf).file).problems,
            Texts{"general.architecture is missing"});
}

TEST(Hyperparameters, UnknownArchitecturesClaimNothing) {
  auto model = small_gguf();
  model.set("general.architecture", std::string("mamba"));
  auto h = read_hyperparameters(model.file);
  EXPECT_EQ(h.architecture, "");
  EXPECT_EQ(h.declared, "mamba");
  EXPECT_EQ(h.problems, Texts{});
  // A safetensors file alone says nothing.
  h = read_hyperparameters(FakeModel(FileFormat::Safetensors).file);
  EXPECT_EQ(h.architecture, "");
  EXPECT_EQ(h.problems, Texts{});
}

TEST(Hyperparameters, OneValueForEachLayer) {
  auto model = small_gguf();
  model.set_list("llama.attention.head_count_kv", {int64_t{4}, int64_t{2}});
  model.set_list("llama.feed_forward_length", {int64_t{96}, int64_t{128}});
  auto h = read_hyperparameters(model.file);
  EXPECT_EQ(h.problems, Texts{});
  EXPECT_EQ(h.layer_kv_heads, (std::vector<size_t>{4, 2}));
  EXPECT_EQ(h.layer_ffn, (std::vector<size_t>{96, 128}));
  EXPECT_EQ(h.kv_heads, 4);
  EXPECT_EQ(h.ffn, 128);

  model.set_list("llama.feed_forward_length", {int64_t{96}, int64_t{128}, int64_t{1}});
  EXPECT_EQ(read_hyperparameters(model.file).problems,
            Texts{"llama.feed_forward_length has 3 values, for 2 layers"});
  model.set_list("llama.feed_forward_length", {int64_t{96}, std::string("128")});
  EXPECT_EQ(read_hyperparameters(model.file).problems.size(), 1U);
}

TEST(Hyperparameters, ConfigDefaultsOfClasses) {
  // transformers leaves out what is the default of the class.
  EXPECT_FALSE(read_hyperparameters(small_config("llama").file).tied);
  EXPECT_TRUE(read_hyperparameters(small_config("gemma").file).tied);
  EXPECT_EQ(read_hyperparameters(small_config("gemma").file).head_dim, 256);
  EXPECT_EQ(read_hyperparameters(small_config("gpt_neox").file).rope_dimensions, 4);
  EXPECT_EQ(read_hyperparameters(small_config("mistral").file).problems.size(), 1U)
      << "8 key heads by default, 4 heads";
  auto mistral = small_config("mistral");
  mistral.set("num_key_value_heads", std::monostate{});
  EXPECT_EQ(read_hyperparameters(mistral.file).kv_heads, 4) << "null: as many as heads";
  // Mixtral in GGUF's words is a llama with experts as wide as the dense layers would be.
  auto mixtral = small_config("mixtral");
  mixtral.set("num_key_value_heads", int64_t{4});
  mixtral.set("num_local_experts", int64_t{8}).set("num_experts_per_tok", int64_t{2});
  const auto h = read_hyperparameters(mixtral.file);
  EXPECT_EQ(h.architecture, "llama");
  EXPECT_EQ(h.expert_ffn, 128);
  EXPECT_EQ(h.rope_base, 1e6);
}

TEST(Hyperparameters, FalconSharesKeysByTwoRules) {
  auto falcon = small_config("falcon");
  falcon.set("num_kv_heads", int64_t{4}).set("multi_query", true);
  falcon.set("new_decoder_architecture", false);
  EXPECT_EQ(read_hyperparameters(falcon.file).kv_heads, 1);
  falcon.set("new_decoder_architecture", true);
  EXPECT_EQ(read_hyperparameters(falcon.file).kv_heads, 4);
  falcon.set("new_decoder_architecture", false).set("multi_query", false);
  EXPECT_EQ(read_hyperparameters(falcon.file).kv_heads, 4);
}

TEST(Hyperparameters, TextPartOfASeeingModel) {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string("gemma3"));
  model.set("text_config.model_type", std::string("gemma3_text"));
  model.set("text_config.hidden_size", int64_t{2560});
  model.set("text_config.num_hidden_layers", int64_t{34});
  model.set("vision_config.hidden_size", int64_t{1152});
  const auto h = read_hyperparameters(model.file);
  EXPECT_EQ(h.problems, Texts{});
  EXPECT_EQ(h.architecture, "gemma3");
  EXPECT_EQ(h.width, 2560);
  EXPECT_EQ(h.layers, 34);
  EXPECT_EQ(h.heads, 8);  // by default
  EXPECT_EQ(h.vocabulary, 262208);
}

TEST(Hyperparameters, AprNamesAndAliases) {
  FakeModel model(FileFormat::Apr);
  model.set("model_type", std::string("Auto")).set("architecture", std::string("qwen2"));
  model.set("hidden_size", int64_t{64}).set("n_layers", int64_t{3});
  model.set("model.num_heads", int64_t{4}).set("n_kv_heads", int64_t{2});
  model.set("ffn_dim", int64_t{40}).set("vocab_size", int64_t{288});
  model.set("norm_eps", 1e-5).set("num_experts", std::monostate{});
  model.set("tied_embeddings", true);
  model.add("lm_head.weight", {288, 64});
  const auto h = read_hyperparameters(model.file);
  EXPECT_EQ(h.problems, Texts{});
  EXPECT_EQ(h.architecture, "qwen2");
  EXPECT_EQ(h.width, 64);
  EXPECT_EQ(h.layers, 3);
  EXPECT_EQ(h.heads, 4);
  EXPECT_EQ(h.kv_heads, 2);
  EXPECT_EQ(h.ffn, 40);
  EXPECT_EQ(h.rope_dimensions, 16);
  EXPECT_EQ(h.epsilon, 1e-5);
  EXPECT_TRUE(h.tied);
}

TEST(Hyperparameters, NamesOfArchitectures) {
  EXPECT_EQ(architecture_of("mixtral"), "llama");
  EXPECT_EQ(architecture_of("MixtralForCausalLM"), "llama");
  EXPECT_EQ(architecture_of("cohere"), "command-r");
  EXPECT_EQ(architecture_of("gpt_oss"), "gpt-oss");
  EXPECT_EQ(architecture_of("deepseek_v3"), "deepseek2");
  EXPECT_EQ(architecture_of("mamba"), "");
  EXPECT_EQ(architecture_of(""), "");
}

}  // namespace
}  // namespace plumb
