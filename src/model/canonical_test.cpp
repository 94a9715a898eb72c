// SPDX-License-Identifier: Apache-2.0
#include "model/canonical.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "core/mapped_file.h"
#include "model/architecture_fixture.h"
#include "model/tensor_table.h"

namespace plumb {
namespace {

using fixture::FakeModel;
using Values = std::vector<float>;
using Words = std::vector<std::string>;

std::vector<CanonicalTensor> canonical(const ModelFile& file) {
  return canonical_tensors(file, read_hyperparameters(file));
}

std::map<std::string, CanonicalTensor> by_name(const ModelFile& file) {
  std::map<std::string, CanonicalTensor> result;
  for (auto& tensor : canonical(file)) {
    const auto name = tensor.name;
    EXPECT_TRUE(result.emplace(name, std::move(tensor)).second) << name;
  }
  return result;
}

std::string digest(const CanonicalTensor& tensor) {
  const auto values = read_canonical(tensor);
  return sha256_hex(std::as_bytes(std::span(values)));
}

Values count_up(size_t count, float first = 0) {
  Values values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

const char* const kWithWeights[] = {"gpt2",        "gpt-neox", "falcon",
                                    "gemma3-text", "mixtral",  "llama3-tied"};

ModelFile open_zoo(const std::string& name) {
  auto file = open_model_file(fixture::folder() + "/" + name);
  EXPECT_TRUE(file.has_value()) << (file ? "" : file.error().message);
  return std::move(*file);
}

// What llama.cpp's converter made of the same weights, bit for bit as float32.
TEST(Canonical, ValuesOfTheConverter) {
  for (const auto* name : kWithWeights) {
    SCOPED_TRACE(name);
    const auto file = open_zoo(name);
    EXPECT_TRUE(check_tensors(file, read_hyperparameters(file)).empty());
    const auto tensors = by_name(file);
    const auto& digests = fixture::zoo().at(name).at("sha256");
    EXPECT_EQ(tensors.size(), digests.size());
    for (const auto& [tensor, expected] : digests.items()) {
      ASSERT_TRUE(tensors.contains(tensor)) << tensor;
      EXPECT_EQ(digest(tensors.at(tensor)), expected.get<std::string>()) << tensor;
    }
  }
}

// The names and shapes of all models: the folder's come to those of the GGUF, and back to itself.
TEST(Canonical, NamesAndShapesOfEveryModel) {
  for (const auto& [name, model] : fixture::zoo().items()) {
    SCOPED_TRACE(name);
    const auto hf = fixture::hugging_face(model);
    const auto gguf = fixture::gguf(model);
    std::map<std::string, std::vector<uint64_t>> left, right, stored;
    for (const auto& tensor : canonical(hf.file)) left[tensor.name] = tensor.shape;
    for (const auto& tensor : canonical(gguf.file)) {
      right[tensor.name] = tensor.shape;
      EXPECT_TRUE(tensor.is_view && tensor.changes.empty()) << tensor.name;
    }
    for (const auto& tensor : gguf.file.tensors) stored[tensor.name] = tensor.view.shape;
    EXPECT_EQ(left, right);
    EXPECT_EQ(right, stored);
  }
}

// What has to be done to each model of the fixture, besides new names: all kinds of changes.
TEST(Canonical, ChangesOfEveryModel) {
  const std::string pairs = "rows of each head reordered for neighbouring RoPE pairs";
  const std::map<std::string, std::set<std::string>> expected = {
      {"falcon", {"q, k, v un-interleaved (group by group)"}},
      {"gemma2", {"1 added (norm)"}},
      {"gemma3-text", {"1 added (norm)"}},
      {"gpt-neox", {"q, k, v un-interleaved (head by head)"}},
      {"gpt2", {"transposed (Conv1D)"}},
      {"granite", {pairs}},
      {"llama-gqa", {pairs}},
      {"llama-linear", {pairs}},
      {"llama3-tied", {pairs, "computed from the llama3 scaling in config.json"}},
      {"mistral-swa", {pairs}},
      {"mixtral", {pairs, "stacked"}},
      {"qwen3-moe", {"stacked"}},
      {"smollm3", {pairs}}};
  for (const auto& [name, model] : fixture::zoo().items()) {
    std::set<std::string> found;
    const auto hf = fixture::hugging_face(model);
    for (const auto& tensor : canonical(hf.file))
      found.insert(tensor.changes.begin(), tensor.changes.end());
    const auto wanted = expected.find(name);
    EXPECT_EQ(found, wanted == expected.end() ? std::set<std::string>{} : wanted->second) << name;
  }
}

TEST(Canonical, SaysWhatWasChanged) {
  const auto changes = [](const char* model, const char* tensor) {
    const auto file = open_zoo(model);
    return by_name(file).at(tensor).changes;
  };
  EXPECT_EQ(changes("gpt2", "blk.0.ffn_up.weight"), Words{"transposed (Conv1D)"});
  EXPECT_EQ(changes("gpt2", "blk.0.ffn_up.bias"), Words{});
  EXPECT_EQ(changes("gpt-neox", "blk.0.attn_qkv.bias"),
            Words{"q, k, v un-interleaved (head by head)"});
  EXPECT_EQ(changes("falcon", "blk.0.attn_qkv.weight"),
            Words{"q, k, v un-interleaved (group by group)"});
  EXPECT_EQ(changes("gemma3-text", "blk.0.attn_q_norm.weight"), Words{"1 added (norm)"});
  EXPECT_EQ(changes("gemma3-text", "blk.0.attn_q.weight"), Words{});
  EXPECT_EQ(changes("mixtral", "blk.0.attn_k.weight"),
            Words{"rows of each head reordered for neighbouring RoPE pairs"});
  EXPECT_EQ(changes("mixtral", "blk.0.attn_v.weight"), Words{});
  EXPECT_EQ(changes("mixtral", "blk.0.ffn_up_exps.weight"), Words{"stacked"});
  EXPECT_EQ(changes("llama3-tied", "rope_freqs.weight"),
            Words{"computed from the llama3 scaling in config.json"});
  const auto file = open_zoo("mixtral");
  const auto tensors = by_name(file);
  EXPECT_EQ(tensors.at("blk.0.ffn_up_exps.weight").sources.size(), 4U);
  EXPECT_TRUE(tensors.at("blk.0.attn_v.weight").is_view);
  EXPECT_EQ(tensors.at("blk.0.attn_v.weight").view.bytes.data(),
            file.find("model.layers.0.self_attn.v_proj.weight")->view.bytes.data());
}

Values values_of(const ModelFile& file, const std::string& name) {
  const auto* entry = file.find(name);
  EXPECT_NE(entry, nullptr) << name;
  CanonicalTensor tensor;
  tensor.view = entry->view;
  return read_canonical(tensor);
}

// Copies a model of the fixture without the tensors for which `skip` is true.
template <class Skip>
FakeModel copy(const ModelFile& file, FileFormat format, const Skip& skip) {
  FakeModel model(format);
  model.file.metadata = file.metadata;
  for (const auto& tensor : file.tensors)
    if (!skip(tensor.name)) model.file.tensors.push_back(tensor);
  return model;
}

// transformers 5 keeps all experts in two tensors.
TEST(Canonical, FusedExpertsGiveTheSameValues) {
  const auto file = open_zoo("mixtral");
  auto model = copy(file, FileFormat::HuggingFace, [](const std::string& name) {
    return name.find(".experts.") != std::string::npos;
  });
  Values gate_up, down;
  for (const char expert : {'0', '1', '2', '3'}) {
    const auto base = std::string("model.layers.0.block_sparse_moe.experts.") + expert;
    for (const auto* part : {".w1.weight", ".w3.weight"}) {
      const auto more = values_of(file, base + part);
      gate_up.insert(gate_up.end(), more.begin(), more.end());
    }
    const auto more = values_of(file, base + ".w2.weight");
    down.insert(down.end(), more.begin(), more.end());
  }
  model.add("model.layers.0.mlp.experts.gate_up_proj", {4, 48, 64}, gate_up);
  model.add("model.layers.0.mlp.experts.down_proj", {4, 64, 24}, down);
  const auto tensors = by_name(model.file);
  const auto& digests = fixture::zoo().at("mixtral").at("sha256");
  EXPECT_EQ(tensors.size(), digests.size());
  for (const auto* name :
       {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"})
    EXPECT_EQ(digest(tensors.at(name)), digests.at(name).get<std::string>()) << name;
}

// Columns [first, first + count) of a matrix.
Values columns(const Values& matrix, size_t width, size_t first, size_t count) {
  Values result;
  for (size_t row = 0; row * width < matrix.size(); ++row)
    result.insert(result.end(), matrix.begin() + static_cast<ptrdiff_t>(row * width + first),
                  matrix.begin() + static_cast<ptrdiff_t>(row * width + first + count));
  return result;
}

// The APR importer splits GPT-2's c_attn and leaves the matrices as [in, out].
TEST(Canonical, SplitAttentionOfAprIsJoined) {
  const auto file = open_zoo("gpt2");
  FakeModel model(FileFormat::Apr);
  model.set("architecture", std::string("gpt2")).set("tied_embeddings", true);
  const std::pair<const char*, int64_t> sizes[] = {
      {"hidden_size", 64},        {"num_layers", 1},   {"num_heads", 4},
      {"intermediate_size", 256}, {"vocab_size", 120}, {"max_position_embeddings", 64}};
  for (const auto& [key, value] : sizes) model.set(key, value);
  const std::map<std::string, std::string> names = {
      {"transformer.wte", "model.embed_tokens"},
      {"transformer.wpe", "model.position_embedding"},
      {"transformer.ln_f", "model.norm"},
      {"transformer.h.0.ln_1", "model.layers.0.input_layernorm"},
      {"transformer.h.0.ln_2", "model.layers.0.post_attention_layernorm"},
      {"transformer.h.0.attn.c_proj", "model.layers.0.self_attn.o_proj"},
      {"transformer.h.0.mlp.c_fc", "model.layers.0.mlp.up_proj"},
      {"transformer.h.0.mlp.c_proj", "model.layers.0.mlp.down_proj"}};
  for (auto tensor : file.tensors) {
    const auto dot = tensor.name.rfind('.');
    const auto found = names.find(tensor.name.substr(0, dot));
    if (found == names.end()) continue;
    tensor.name = found->second + tensor.name.substr(dot);
    model.file.tensors.push_back(tensor);
  }
  const auto weight = values_of(file, "transformer.h.0.attn.c_attn.weight");
  const auto bias = values_of(file, "transformer.h.0.attn.c_attn.bias");
  size_t first = 0;
  for (const std::string part : {"q", "k", "v"}) {
    const auto base = "model.layers.0.self_attn." + part + "_proj";
    model.add(base + ".weight", {64, 64}, columns(weight, 192, first, 64));
    model.add(base + ".bias", {64}, columns(bias, 192, first, 64));
    first += 64;
  }
  model.file.tensors.push_back(*model.find("model.embed_tokens.weight"));
  model.file.tensors.back().name = "lm_head.weight";

  EXPECT_TRUE(check_tensors(model.file, read_hyperparameters(model.file)).empty());
  const auto tensors = by_name(model.file);
  const auto& digests = fixture::zoo().at("gpt2").at("sha256");
  EXPECT_EQ(tensors.size(), digests.size());
  for (const auto& [name, expected] : digests.items())
    EXPECT_EQ(digest(tensors.at(name)), expected.get<std::string>()) << name;
  EXPECT_EQ(tensors.at("blk.0.attn_qkv.weight").changes,
            (Words{"transposed (Conv1D)", "q, k, v joined"}));
  EXPECT_EQ(tensors.at("token_embd.weight").sources,
            (Words{"model.embed_tokens.weight", "lm_head.weight"}));
}

FakeModel tiny_llama(FileFormat format) {
  FakeModel model(format);
  model.set("model_type", std::string("llama")).set("tie_word_embeddings", true);
  model.set("hidden_size", int64_t{8}).set("num_hidden_layers", int64_t{1});
  model.set("num_attention_heads", int64_t{2}).set("num_key_value_heads", int64_t{1});
  model.set("intermediate_size", int64_t{4}).set("vocab_size", int64_t{3});
  return model;
}

TEST(Canonical, AHeadThatIsNotTheEmbeddingStays) {
  auto model = tiny_llama(FileFormat::HuggingFace);
  model.add("model.embed_tokens.weight", {3, 8}, count_up(24));
  model.add("lm_head.weight", {3, 8}, count_up(24));
  EXPECT_FALSE(by_name(model.file).contains("output.weight"));
  model.storage.back()[5] += 1;
  EXPECT_EQ(by_name(model.file).at("output.weight").changes,
            Words{"not the embedding, though the metadata says they are one"});
}

TEST(Canonical, RowsOfHeads) {
  auto model = tiny_llama(FileFormat::HuggingFace);
  model.add("model.layers.0.self_attn.q_proj.bias", {8}, count_up(8));
  model.add("model.layers.0.self_attn.k_proj.bias", {4}, count_up(4));
  const auto tensors = by_name(model.file);
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_q.bias")), (Values{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_k.bias")), (Values{0, 2, 1, 3}));
}

// A fused tensor has its rows as transformers has them, unless its name is GGUF's.
TEST(Canonical, PartsOfAFusedTensor) {
  auto model = tiny_llama(FileFormat::Apr);
  model.file.metadata["architecture"] = std::string("llama");
  model.add("model.layers.0.self_attn.qkv_proj.bias", {16}, count_up(16));
  auto tensors = by_name(model.file);
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_q.bias")), (Values{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_k.bias")), (Values{8, 10, 9, 11}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_v.bias")), (Values{12, 13, 14, 15}));
  model.file.tensors[0].name = "blk.0.attn_qkv.bias";
  tensors = by_name(model.file);
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_q.bias")), count_up(8));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_k.bias")), count_up(4, 8));
}

TEST(Canonical, AnUnfitTensorComesAsItIsStored) {
  auto model = tiny_llama(FileFormat::HuggingFace);
  model.add("model.layers.0.self_attn.q_proj.weight", {6, 8}, count_up(48));
  model.add("model.layers.0.self_attn.k_proj.weight", {4, 8}, count_up(32));
  model.add("something.else", {2}, {1, 2});
  const auto tensors = by_name(model.file);
  const auto& q = tensors.at("blk.0.attn_q.weight");
  EXPECT_TRUE(q.is_view);
  EXPECT_EQ(q.shape, (std::vector<uint64_t>{6, 8}));
  EXPECT_EQ(q.changes, Words{"as stored: its shape is not the one that the metadata asks for"});
  EXPECT_FALSE(tensors.at("blk.0.attn_k.weight").is_view);
  EXPECT_EQ(read_canonical(tensors.at("something.else")), (Values{1, 2}));
  EXPECT_EQ(tensors.size(), 3U);
}

TEST(Canonical, WithoutAnArchitectureNamesStay) {
  FakeModel model(FileFormat::Safetensors);
  model.add("model.layers.0.self_attn.q_proj.weight", {2, 2}, count_up(4));
  const auto tensors = canonical(model.file);
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors[0].name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(read_canonical(tensors[0]), count_up(4));
}

// Two experts, width 32, inner width 2: gate and up in turn, [experts, in, out].
FakeModel tiny_gpt_oss() {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string("gpt_oss"));
  const std::pair<const char*, int64_t> sizes[] = {
      {"hidden_size", 32},        {"num_hidden_layers", 1},   {"num_attention_heads", 2},
      {"num_key_value_heads", 1}, {"head_dim", 16},           {"intermediate_size", 2},
      {"num_local_experts", 2},   {"num_experts_per_tok", 1}, {"vocab_size", 3}};
  for (const auto& [key, value] : sizes) model.set(key, value);
  return model;
}

TEST(Canonical, ExpertsOfGptOss) {
  auto model = tiny_gpt_oss();
  const std::string e = "model.layers.0.mlp.experts.";
  // Column c of row r of expert x is 1000 x + 10 r + c.
  Values gate_up, down;
  for (int x = 0; x < 2; ++x)
    for (int r = 0; r < 32; ++r)
      for (int c = 0; c < 4; ++c) gate_up.push_back(static_cast<float>(1000 * x + 10 * r + c));
  for (int x = 0; x < 2; ++x)
    for (int r = 0; r < 2; ++r)
      for (int c = 0; c < 32; ++c) down.push_back(static_cast<float>(1000 * x + 100 * r + c));
  model.add(e + "gate_up_proj", {2, 32, 4}, gate_up);
  model.add(e + "gate_up_proj_bias", {2, 4}, count_up(8));
  model.add(e + "down_proj", {2, 2, 32}, down);
  const auto tensors = by_name(model.file);
  const auto gate = read_canonical(tensors.at("blk.0.ffn_gate_exps.weight"));
  const auto up = read_canonical(tensors.at("blk.0.ffn_up_exps.weight"));
  const auto turned = read_canonical(tensors.at("blk.0.ffn_down_exps.weight"));
  for (size_t x = 0; x < 2; ++x)
    for (size_t i = 0; i < 2; ++i)
      for (size_t r = 0; r < 32; ++r) {
        const auto base = static_cast<float>(1000 * x + 10 * r + 2 * i);
        ASSERT_EQ(gate[(x * 2 + i) * 32 + r], base);
        ASSERT_EQ(up[(x * 2 + i) * 32 + r], base + 1);
        ASSERT_EQ(turned[(x * 32 + r) * 2 + i], static_cast<float>(1000 * x + 100 * i + r));
      }
  EXPECT_EQ(read_canonical(tensors.at("blk.0.ffn_gate_exps.bias")), (Values{0, 2, 4, 6}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.ffn_up_exps.bias")), (Values{1, 3, 5, 7}));
}

TEST(Canonical, Mxfp4OfGptOss) {
  auto model = tiny_gpt_oss();
  const std::string e = "model.layers.0.mlp.experts.gate_up_proj_";
  // Row r of the 2 x 4: one block, exponent 2^(r - 1); byte j has 1.0 (code 2) low, -6 high.
  std::vector<std::byte> blocks(2 * 4 * 16, std::byte{0xF2}), scales;
  for (int r = 0; r < 8; ++r) scales.push_back(static_cast<std::byte>(126 + r));
  model.file.tensors.push_back({e + "blocks", {DType::U8, {2, 4, 1, 16}, blocks}, 0, 0});
  model.file.tensors.push_back({e + "scales", {DType::U8, {2, 4, 1}, scales}, 0, 0});
  const auto tensors = by_name(model.file);
  const auto up = read_canonical(tensors.at("blk.0.ffn_up_exps.weight"));
  ASSERT_EQ(up.size(), 2U * 2 * 32);
  for (size_t row = 0; row < 4; ++row) {  // stored rows 1, 3 of expert 0, then 5, 7 of all
    const float scale = std::ldexp(1.0F, static_cast<int>(2 * row + 1) - 1);
    for (size_t j = 0; j < 32; ++j)
      ASSERT_EQ(up[row * 32 + j], (j % 2 == 0 ? 1.0F : -6.0F) * scale) << row;
  }
}

// Two heads; of each head's four rows of kv_b two are for keys (transposed) and two for values.
TEST(Canonical, AbsorbedAttentionOfDeepSeek) {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string("deepseek_v2"));
  const std::pair<const char*, int64_t> sizes[] = {
      {"hidden_size", 8},        {"num_hidden_layers", 1}, {"num_attention_heads", 2},
      {"intermediate_size", 4},  {"vocab_size", 3},        {"kv_lora_rank", 3},
      {"qk_nope_head_dim", 2},   {"qk_rope_head_dim", 2},  {"v_head_dim", 2},
      {"num_key_value_heads", 2}};
  for (const auto& [key, value] : sizes) model.set(key, value);
  model.add("model.layers.0.self_attn.kv_b_proj.weight", {8, 3}, count_up(24));
  const auto tensors = by_name(model.file);
  EXPECT_EQ(tensors.at("blk.0.attn_k_b.weight").shape, (std::vector<uint64_t>{2, 3, 2}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_k_b.weight")),
            (Values{0, 3, 1, 4, 2, 5, 12, 15, 13, 16, 14, 17}));
  EXPECT_EQ(tensors.at("blk.0.attn_v_b.weight").shape, (std::vector<uint64_t>{2, 2, 3}));
  EXPECT_EQ(read_canonical(tensors.at("blk.0.attn_v_b.weight")),
            (Values{6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23}));
}

TEST(Canonical, FactorsOfPhi3ComeFromTheConfiguration) {
  auto model = fixture::hugging_face(fixture::zoo().at("phi3"));
  std::vector<MetadataValue> factors;
  for (int i = 0; i < 8; ++i) factors.emplace_back(1.25 * i);
  model.set_list("rope_scaling.long_factor", factors);
  factors[3] = int64_t{1};
  model.set_list("rope_scaling.short_factor", factors);
  const auto tensors = by_name(model.file);
  EXPECT_EQ(read_canonical(tensors.at("rope_factors_long.weight")),
            (Values{0, 1.25, 2.5, 3.75, 5, 6.25, 7.5, 8.75}));
  EXPECT_EQ(read_canonical(tensors.at("rope_factors_short.weight"))[3], 1);
}

// Norms that StableLM keeps head by head, and a gate that is one row in transformers.
TEST(Canonical, HeadsAreStackedAndRowsBecomeVectors) {
  auto model = fixture::hugging_face(fixture::zoo().at("stablelm"));
  model.storage.clear();
  for (int layer = 0; layer < 3; ++layer)
    for (const auto& [part, heads] : {std::pair{"q", 4}, std::pair{"k", 2}})
      for (int head = 0; head < heads; ++head)
        model.add("model.layers." + std::to_string(layer) + ".self_attn." + part +
                      "_layernorm.norms." + std::to_string(head) + ".weight",
                  {16}, count_up(16, static_cast<float>(100 * head)));
  EXPECT_TRUE(check_tensors(model.file, read_hyperparameters(model.file)).empty());
  const auto tensors = by_name(model.file);
  const auto& norm = tensors.at("blk.1.attn_q_norm.weight");
  EXPECT_EQ(norm.shape, (std::vector<uint64_t>{4, 16}));
  EXPECT_EQ(read_canonical(norm)[3 * 16 + 5], 305);

  FakeModel qwen(FileFormat::HuggingFace);
  qwen.set("model_type", std::string("qwen2_moe")).set("hidden_size", int64_t{8});
  qwen.set("num_experts", int64_t{2}).set("num_hidden_layers", int64_t{1});
  qwen.add("model.layers.0.mlp.shared_expert_gate.weight", {1, 8}, count_up(8));
  const auto gate = by_name(qwen.file).at("blk.0.ffn_gate_inp_shexp.weight");
  EXPECT_EQ(gate.shape, (std::vector<uint64_t>{8}));
  EXPECT_EQ(read_canonical(gate), count_up(8));
}

// BLOOM's fused tensor lies as GPT-NeoX's does: head by head.
TEST(Canonical, BloomHeadByHead) {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string("bloom")).set("hidden_size", int64_t{4});
  model.set("n_head", int64_t{2}).set("n_layer", int64_t{1}).set("vocab_size", int64_t{3});
  model.add("h.0.self_attention.query_key_value.bias", {12}, count_up(12));
  EXPECT_EQ(read_canonical(by_name(model.file).at("blk.0.attn_qkv.bias")),
            (Values{0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11}));
}

// Falcon 40B: two groups of two queries, a key and a value.
TEST(Canonical, FalconGroupByGroup) {
  FakeModel model(FileFormat::HuggingFace);
  model.set("model_type", std::string("falcon")).set("hidden_size", int64_t{4});
  model.set("num_attention_heads", int64_t{4}).set("num_kv_heads", int64_t{2});
  model.set("num_hidden_layers", int64_t{1}).set("new_decoder_architecture", true);
  model.add("transformer.h.0.self_attention.query_key_value.bias", {8}, count_up(8));
  EXPECT_EQ(read_canonical(by_name(model.file).at("blk.0.attn_qkv.bias")),
            (Values{0, 1, 4, 5, 2, 6, 3, 7}));
}

}  // namespace
}  // namespace plumb
