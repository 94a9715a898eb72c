// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_table.h"

#include <gtest/gtest.h>

#include <set>

#include "model/architecture_fixture.h"

namespace plumb {
namespace {

using fixture::FakeModel;
using Kind = TensorIssue::Kind;

std::vector<TensorIssue> issues_of(const FakeModel& model) {
  return check_tensors(model.file, read_hyperparameters(model.file));
}

std::vector<std::string> texts(const std::vector<TensorIssue>& issues) {
  std::vector<std::string> result;
  for (const auto& issue : issues) result.push_back(issue.text);
  return result;
}

using Texts = std::vector<std::string>;

bool has_issue(const std::vector<TensorIssue>& issues, const std::string& tensor,
               std::set<Kind> kinds) {
  return std::ranges::any_of(issues, [&](const TensorIssue& issue) {
    return issue.tensor == tensor && kinds.contains(issue.kind) && issue.serious;
  });
}

// Calls `body` with a description and a maker of each model of the fixture in each format.
template <class Body>
void for_each_model(const Body& body) {
  ASSERT_EQ(fixture::zoo().size(), 24U);
  for (const auto& [name, model] : fixture::zoo().items()) {
    SCOPED_TRACE(name);
    body(name + " (GGUF)", [&model] { return fixture::gguf(model); });
    body(name + " (config.json)", [&model] { return fixture::hugging_face(model); });
  }
}

std::vector<std::string> names_of(const FakeModel& model) {
  std::vector<std::string> names;
  for (const auto& tensor : model.file.tensors) names.push_back(tensor.name);
  return names;
}

TEST(TensorTable, EveryModelIsAsItsTableSays) {
  for_each_model([](const std::string& name, auto make) {
    EXPECT_EQ(texts(issues_of(make())), Texts{}) << name;
  });
}

TEST(TensorTable, EveryTensorIsMissed) {
  size_t dropped = 0;
  for_each_model([&](const std::string& model_name, auto make) {
    const bool gguf = model_name.ends_with("(GGUF)");
    for (const auto& name : names_of(make())) {
      auto model = make();
      const bool own_head = model.find("output.weight") != nullptr;
      model.remove(name);
      // A GGUF without these is a model too: with a tied head, or other angles.
      static const std::set<std::string> kSilent = {"rope_freqs.weight"};
      if (kSilent.contains(name)) continue;
      if (gguf && own_head && name == "output.weight") {
        static const std::set<std::string> kNeverTied = {"gptneox", "phi2", "stablelm", "olmo2"};
        const auto h = read_hyperparameters(model.file);
        EXPECT_EQ(has_issue(issues_of(model), name, {Kind::Missing}),
                  kNeverTied.contains(h.architecture))
            << model_name;
        continue;
      }
      EXPECT_TRUE(has_issue(issues_of(model), name, {Kind::Missing, Kind::Inconsistent}))
          << model_name << ": " << name << " " << testing::PrintToString(texts(issues_of(model)));
      ++dropped;
    }
  });
  EXPECT_GT(dropped, 1500U);
}

TEST(TensorTable, EveryShapeIsChecked) {
  size_t swapped = 0, longer = 0;
  for_each_model([&](const std::string& model_name, auto make) {
    for (const auto& name : names_of(make())) {
      auto model = make();
      auto& shape = model.find(name)->view.shape;
      const auto right = shape;
      const bool square = shape.size() < 2 || shape[shape.size() - 1] == shape[shape.size() - 2];
      if (!square) {
        std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
        const auto issues = issues_of(model);
        EXPECT_TRUE(has_issue(issues, name, {Kind::WrongShape})) << model_name << ": " << name;
        ASSERT_EQ(issues.size(), 1U) << model_name << ": " << name;
        EXPECT_TRUE(issues[0].text.ends_with("its two dimensions are swapped")) << issues[0].text;
        ++swapped;
      }
      shape = right;
      shape.front() += 1;
      const auto issues = issues_of(model);
      EXPECT_TRUE(has_issue(issues, name, {Kind::WrongShape})) << model_name << ": " << name;
      ++longer;
    }
  });
  EXPECT_GT(swapped, 700U);
  EXPECT_GT(longer, 1500U);
}

TEST(TensorTable, MoreThanBelongsThere) {
  for_each_model([](const std::string& name, auto make) {
    auto model = make();
    const auto h = read_hyperparameters(model.file);
    // Every tensor of layer 0 again, in a layer behind the last.
    const auto tensors = model.file.tensors;
    std::string first;
    for (const auto& tensor : tensors) {
      if (layer_of(tensor.name) != 0) continue;
      auto more = tensor.name;
      more.replace(more.find("0"), 1, std::to_string(*h.layers));
      if (first.empty()) first = more;
      model.add(more, tensor.view.shape);
    }
    const auto issues = issues_of(model);
    ASSERT_EQ(issues.size(), 1U) << name << testing::PrintToString(texts(issues));
    EXPECT_TRUE(has_issue(issues, first, {Kind::Extra})) << name;

    auto other = make();
    other.add("adapter.weight", {4, 4});
    const auto extra = issues_of(other);
    ASSERT_EQ(extra.size(), 1U) << name;
    EXPECT_EQ(extra[0].kind, Kind::Extra);
    EXPECT_FALSE(extra[0].serious);
  });
}

TEST(TensorTable, AnAbsentLayerIsOneIssue) {
  for_each_model([](const std::string& name, auto make) {
    auto model = make();
    std::erase_if(model.file.tensors,
                  [](const auto& tensor) { return layer_of(tensor.name) == 1; });
    const auto issues = issues_of(model);
    ASSERT_EQ(issues.size(), 1U) << name;
    EXPECT_EQ(issues[0].kind, Kind::Missing);
    EXPECT_NE(issues[0].text.find("all tensors of layer 1 are missing"), std::string::npos);
  });
}

FakeModel zoo_gguf(const char* name) { return fixture::gguf(fixture::zoo().at(name)); }
FakeModel zoo_config(const char* name) { return fixture::hugging_face(fixture::zoo().at(name)); }

TEST(TensorTable, MessagesSayWhatIsFoundAndWanted) {
  auto model = zoo_gguf("llama3-tied");
  model.remove("blk.0.ffn_up.weight");
  model.find("blk.1.attn_k.weight")->view.shape = {16, 64};
  model.find("token_embd.weight")->view.shape = {287, 64};
  model.find("blk.2.attn_v.weight")->view.shape = {64, 32};
  EXPECT_EQ(texts(issues_of(model)),
            (Texts{"token_embd.weight is 287x64, the metadata asks for 288x64 (the vocabulary has "
                   "288 tokens)",
                   "blk.1.attn_k.weight is 16x64, the metadata asks for 32x64",
                   "blk.2.attn_v.weight is 64x32, the metadata asks for 32x64: its two dimensions "
                   "are swapped",
                   "blk.0.ffn_up.weight is missing"}));
}

TEST(TensorTable, TheTokensDecideTheVocabulary) {
  auto model = zoo_gguf("llama3-tied");
  model.set("llama.vocab_size", int64_t{300});
  const auto issues = issues_of(model);
  ASSERT_EQ(issues.size(), 1U);
  EXPECT_EQ(issues[0].text, "llama.vocab_size is 300, tokenizer.ggml.tokens has 288 tokens");
  EXPECT_FALSE(issues[0].serious);
}

TEST(TensorTable, BiasesInSomeLayersOnly) {
  auto model = zoo_gguf("llama-linear");
  model.remove("blk.1.attn_q.bias");
  EXPECT_EQ(texts(issues_of(model)), Texts{"blk.1.attn_q.bias is missing, layers 0, 2 have it"});
  model = zoo_gguf("llama-gqa");
  model.add("blk.1.attn_q.bias", {256});
  // One layer has it and one has not, and its fellows of k and v are nowhere.
  EXPECT_EQ(issues_of(model).size(), 3U);
}

TEST(TensorTable, BiasesOfOneGroupComeTogether) {
  auto model = zoo_gguf("llama-linear");
  for (const auto* name : {"blk.0.attn_k.bias", "blk.1.attn_k.bias", "blk.2.attn_k.bias"})
    model.remove(name);
  EXPECT_EQ(texts(issues_of(model)),
            Texts{"blk.0.attn_k.bias is missing, though blk.0.attn_q.bias is there: they come "
                  "together"});
}

TEST(TensorTable, BiasesThatTheConfigurationPromises) {
  auto model = zoo_config("llama-gqa");
  model.set("attention_bias", true);
  EXPECT_EQ(issues_of(model).size(), 8U);  // q, k, v, o of two layers
  EXPECT_TRUE(has_issue(issues_of(model), "model.layers.0.self_attn.q_proj.bias", {Kind::Missing}));
  model = zoo_config("llama-linear");
  model.set("attention_bias", false);
  const auto issues = issues_of(model);
  ASSERT_EQ(issues.size(), 12U);
  for (const auto& issue : issues) {
    EXPECT_EQ(issue.kind, Kind::Extra);
    EXPECT_FALSE(issue.serious);
  }
  // Qwen 2 has them by its architecture.
  model = zoo_gguf("qwen2-tied");
  std::erase_if(model.file.tensors,
                [](const auto& tensor) { return tensor.name.ends_with("_q.bias"); });
  EXPECT_EQ(issues_of(model).size(), 3U);
}

TEST(TensorTable, ABiasOfTheHead) {
  // llama.cpp adds output.bias to Qwen 2's logits if it is there, and to no llama's.
  auto model = zoo_gguf("qwen2-untied");
  EXPECT_EQ(texts(issues_of(model.add("output.bias", {112}))), Texts{});
  model.find("output.bias")->view.shape = {111};
  EXPECT_EQ(issues_of(model).size(), 1U);
  model = zoo_gguf("llama-gqa");
  EXPECT_EQ(texts(issues_of(model.add("output.bias", {112}))),
            Texts{"output.bias is not a tensor of llama"});
}

TEST(TensorTable, AnUntiedModelNeedsItsHead) {
  auto model = zoo_config("qwen2-tied");
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  model.set("tie_word_embeddings", false);
  EXPECT_EQ(texts(issues_of(model)),
            Texts{"lm_head.weight is missing, and the embedding is not said to be used in its "
                  "place"});
}

TEST(TensorTable, ExpertsApartAndTogether) {
  auto model = zoo_config("mixtral");
  model.remove("model.layers.1.block_sparse_moe.experts.2.w3.weight");
  EXPECT_EQ(texts(issues_of(model)),
            Texts{"model.layers.1.block_sparse_moe.experts.2.w3.weight is missing, others that "
                  "belong to model.layers.1.block_sparse_moe.experts.[].w3.weight are there"});
  // The form of transformers 5.
  model = zoo_config("mixtral");
  std::erase_if(model.file.tensors, [](const auto& tensor) {
    return tensor.name.find(".experts.") != std::string::npos;
  });
  for (const std::string layer : {"0", "1", "2"}) {
    model.add("model.layers." + layer + ".mlp.experts.gate_up_proj", {4, 48, 64});
    model.add("model.layers." + layer + ".mlp.experts.down_proj", {4, 64, 24});
  }
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  model.find("model.layers.1.mlp.experts.gate_up_proj")->view.shape = {4, 64, 48};
  EXPECT_EQ(issues_of(model).size(), 2U) << "it is the gate's and the up matrix's source";
}

TEST(TensorTable, HugeClaimsCostNothing) {
  auto model = zoo_gguf("qwen3-moe");
  model.set("qwen3moe.block_count", int64_t{2147483647});
  model.set("qwen3moe.expert_count", int64_t{2147483647});
  const auto issues = issues_of(model);
  EXPECT_LT(issues.size(), 100U);
  EXPECT_EQ(issues[0].text,
            "all tensors of layers 3 to 2147483646 are missing: the metadata says 2147483647 "
            "layers");
  auto config = zoo_config("mixtral");
  config.set("num_local_experts", int64_t{2147483647});
  EXPECT_LT(issues_of(config).size(), 200U);
}

TEST(TensorTable, ALongListEnds) {
  FakeModel model(FileFormat::Gguf);
  model.set("general.architecture", std::string("llama"));
  for (int i = 0; i < 3000; ++i) model.add("blk." + std::to_string(i) + ".ffn_up.weight", {1, 1});
  EXPECT_EQ(issues_of(model).size(), 1001U);
  // A folder of many layers that hold one tensor each is read in no time as well.
  FakeModel config(FileFormat::HuggingFace);
  config.set("model_type", std::string("llama"));
  for (int i = 0; i < 20000; ++i)
    config.add("model.layers." + std::to_string(i) + ".mlp.up_proj.weight", {1, 1});
  EXPECT_EQ(issues_of(config).size(), 1001U);
}

TEST(TensorTable, FusedQueriesKeysAndValues) {
  // llama.cpp reads one tensor for three, and three for one.
  auto model = zoo_gguf("llama-gqa");
  for (const std::string layer : {"0", "1"}) {
    for (const std::string part : {"q", "k", "v"})
      model.remove("blk." + layer + ".attn_" + part + ".weight");
    model.add("blk." + layer + ".attn_qkv.weight", {384, 256});
  }
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  model = zoo_gguf("phi3");
  for (const std::string layer : {"0", "1", "2"}) {
    model.remove("blk." + layer + ".attn_qkv.weight");
    model.add("blk." + layer + ".attn_q.weight", {64, 64});
    model.add("blk." + layer + ".attn_k.weight", {32, 64});
    model.add("blk." + layer + ".attn_v.weight", {32, 64});
  }
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  model.find("blk.0.attn_k.weight")->view.shape = {64, 64};
  EXPECT_EQ(issues_of(model).size(), 1U);
}

TEST(TensorTable, PrefixesOfNamesDiffer) {
  // Saved from the inner model, as part of a seeing model, by transformers 4 and 5.
  for (const std::string prefix : {"", "language_model.model.", "model.language_model."}) {
    auto model = zoo_config("qwen2-tied");
    for (auto& tensor : model.file.tensors)
      tensor.name = prefix + tensor.name.substr(std::string("model.").size());
    model.add("vision_tower.blocks.0.weight", {4, 4});
    EXPECT_EQ(texts(issues_of(model)), Texts{}) << prefix;
  }
  auto model = zoo_config("qwen2-tied");
  model.add("norm.weight", {64});
  EXPECT_EQ(texts(issues_of(model)), Texts{"norm.weight stands twice, under two spellings"});
}

TEST(TensorTable, BuffersAreNoIssue) {
  auto model = zoo_config("gpt2");
  model.add("transformer.h.0.attn.bias", {1, 1, 64, 64});
  model.add("transformer.h.0.attn.masked_bias", {});
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  model = zoo_config("llama-gqa");
  model.add("model.layers.0.self_attn.rotary_emb.inv_freq", {16});
  EXPECT_EQ(texts(issues_of(model)), Texts{});
}

FakeModel apr_of_qwen2() {
  auto config = zoo_config("qwen2-tied");
  FakeModel model(FileFormat::Apr);
  model.set("architecture", std::string("qwen2"));
  const std::pair<const char*, int64_t> sizes[] = {{"hidden_size", 64},       {"num_layers", 3},
                                                   {"num_heads", 4},          {"num_kv_heads", 2},
                                                   {"intermediate_size", 40}, {"vocab_size", 288}};
  for (const auto& [key, value] : sizes) model.set(key, value);
  model.file.tensors = config.file.tensors;
  model.set("tied_embeddings", true).add("lm_head.weight", {288, 64});
  return model;
}

TEST(TensorTable, SpellingsOfApr) {
  EXPECT_EQ(texts(issues_of(apr_of_qwen2())), Texts{});
  auto bare = apr_of_qwen2();
  for (auto& tensor : bare.file.tensors)
    if (tensor.name.starts_with("model.layers.")) tensor.name = tensor.name.substr(6);
  bare.find("model.embed_tokens.weight")->name = "tok_embeddings.weight";
  EXPECT_EQ(texts(issues_of(bare)), Texts{});

  // GGUF's names, kept by the importer for some architectures, and a head under the other name.
  auto gguf = apr_of_qwen2();
  gguf.file.tensors = zoo_gguf("qwen2-tied").file.tensors;
  gguf.add("lm_head.weight", {288, 64});
  EXPECT_EQ(texts(issues_of(gguf)), Texts{});
  gguf.remove("blk.1.attn_q.bias");
  EXPECT_EQ(texts(issues_of(gguf)), Texts{"blk.1.attn_q.bias is missing"});

  auto fused = apr_of_qwen2();
  for (const std::string layer : {"0", "1", "2"}) {
    const auto base = "model.layers." + layer + ".self_attn.";
    for (const std::string part : {"q", "k", "v"}) {
      fused.remove(base + part + "_proj.weight");
      fused.remove(base + part + "_proj.bias");
    }
    fused.add(base + "qkv_proj.weight", {128, 64}).add(base + "qkv_proj.bias", {128});
  }
  EXPECT_EQ(texts(issues_of(fused)), Texts{});
}

TEST(TensorTable, AHeadOfAnotherSizeIsExplained) {
  // The importer drops key_length: the tensors of a Qwen 3 then do not fit the metadata.
  auto model = apr_of_qwen2();
  model.find("model.layers.0.self_attn.q_proj.weight")->view.shape = {96, 64};
  EXPECT_EQ(texts(issues_of(model)),
            Texts{"model.layers.0.self_attn.q_proj.weight is 96x64, the metadata asks for 64x64 "
                  "(the size of a head is not given, width / heads is 16)"});
}

TEST(TensorTable, UnknownArchitecturesHaveNoTable) {
  auto model = zoo_gguf("llama-gqa");
  model.set("general.architecture", std::string("mamba"));
  EXPECT_EQ(texts(issues_of(model)), Texts{});
  EXPECT_FALSE(architecture_known(read_hyperparameters(model.file)));
  EXPECT_TRUE(architecture_known(read_hyperparameters(zoo_gguf("llama-gqa").file)));
}

TEST(TensorTable, EveryNamedArchitectureHasATable) {
  for (const auto* name :
       {"llama",   "mistral3", "qwen2",      "qwen3",    "qwen2moe", "qwen3moe",  "gemma",
        "gemma2",  "gemma3",   "phi2",       "phi3",     "smollm3",  "olmo2",     "gpt2",
        "gptneox", "falcon",   "starcoder2", "stablelm", "granite",  "command-r", "glm4",
        "exaone",  "exaone4",  "bloom",      "gpt-oss",  "deepseek2"})
    EXPECT_NE(tensor_rows(name), nullptr) << name;
  for (const auto* type : {"cohere", "exaone", "bloom", "qwen2_moe", "gpt_oss", "deepseek_v2"})
    EXPECT_NE(tensor_rows(architecture_of(type)), nullptr) << type;
}

TEST(TensorTable, NamesAreTakenApart) {
  EXPECT_EQ(bare_name("model.language_model.layers.0.x"), "layers.0.x");
  EXPECT_EQ(bare_name("transformer.h.3.ln_1.weight"), "h.3.ln_1.weight");
  EXPECT_EQ(layer_of("blk.12.attn_q.weight"), 12);
  EXPECT_EQ(layer_of("gpt_neox.layers.7.attention.dense.bias"), 7);
  EXPECT_EQ(layer_of("h.0.ln_1.weight"), 0);
  EXPECT_EQ(layer_of("blk.12"), std::nullopt);
  EXPECT_EQ(layer_of("blk.99999999999.x"), std::nullopt);
  EXPECT_EQ(layer_of("blk.-1.x"), std::nullopt);
  EXPECT_EQ(layer_of("token_embd.weight"), std::nullopt);
}

}  // namespace
}  // namespace plumb
