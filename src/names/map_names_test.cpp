// SPDX-License-Identifier: Apache-2.0
#include "names/map_names.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <span>

namespace plumb {
namespace {

// A model of the tests with 2 layers of width 64 and more: what the names are mapped for.
const Model& tiny() {
  static const Model model =
      load_model(std::string(PLUMB_SOURCE_DIR) + "/tests/models/tiny-stories-q4_k.gguf").value();
  return model;
}
const Plan& plan() {
  static const Plan made = make_plan(tiny());
  return made;
}
size_t width_of(const std::string& step) { return plan().steps[*plan().find(step)].width; }

struct DumpMaker {
  Dump dump;
  DumpMaker() {
    dump.label = "test";
    dump.tokens = std::vector<int64_t>{1, 2, 3};
  }
  // Values are 0, 1, 2, …
  DumpMaker& add(const std::string& name, std::vector<uint64_t> shape,
                 const std::string& operation = "", size_t pass = 0) {
    const size_t count = *element_count(shape);
    std::vector<std::byte> bytes(count * sizeof(float));
    for (size_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(i);
      std::memcpy(bytes.data() + i * sizeof(float), &value, sizeof(float));
    }
    DumpTensor tensor;
    tensor.name = name;
    tensor.operation = operation;
    tensor.pass = pass;
    for (const auto& other : dump.tensors)
      if (other.name == name && other.pass == pass) ++tensor.occurrence;
    tensor.view = {DType::F32, std::move(shape), dump.keep(std::move(bytes))};
    dump.tensors.push_back(std::move(tensor));
    return *this;
  }
  Imported import(const std::string& table) const {
    ImportOptions options;
    options.table = parse_name_table(table, "test.yaml").value();
    return import_dump(dump, &tiny(), &plan(), options).value();
  }
};

const char* kEngine = "engine: test\nrows:\n";

TEST(Names, MatchPatterns) {
  EXPECT_EQ(match_name("l_out-{layer}", "l_out-12")->layer, 12u);
  EXPECT_FALSE(match_name("l_out-{layer}", "l_out-012"));
  EXPECT_FALSE(match_name("l_out-{layer}", "l_out-"));
  EXPECT_FALSE(match_name("l_out-{layer}", "l_out-1 (view)"));
  EXPECT_TRUE(match_name("[model.]norm[.outputs]", "norm"));
  EXPECT_TRUE(match_name("[model.]norm[.outputs]", "model.norm.outputs"));
  EXPECT_FALSE(match_name("[model.]norm[.outputs]", "model.norm.outputs.0"));
  EXPECT_TRUE(match_name("a.{word}.b", "a.Class.b"));
  EXPECT_FALSE(match_name("a.{word}.b", "a.Class.more.b"));
  EXPECT_TRUE(match_name("* (view)*", "cache_k_l0 (view) (permuted)"));
  EXPECT_FALSE(match_name("layers.{layer}.x.{layer}", "layers.1.x.2"));
  // Many stars must end.
  EXPECT_FALSE(match_name("*a*a*a*a*a*a*a*a*a*a*b", std::string(200, 'a')));
}

TEST(Names, EveryTableIsReadAndItsStepsAreSteps) {
  ASSERT_GE(name_tables().size(), 6u);
  for (const auto& table : name_tables()) EXPECT_FALSE(table.rows.empty()) << table.name;
}

TEST(Names, TablesAreRefusedWithTheLine) {
  const auto error = [](const std::string& text) {
    return parse_name_table(text, "t.yaml").error().message;
  };
  EXPECT_EQ(error("rows:\n  - {name: x, step: nothing}\n"),
            "t.yaml: line 2: 'nothing' is not a step of docs/steps.md");
  EXPECT_EQ(error("rows:\n  - {name: x}\n"),
            "t.yaml: line 2: a row has one of 'step', 'split', 'split_by_head' and 'skip'");
  EXPECT_NE(
      error("rows:\n  - {name: x, step: logits, stp: 1}\n").find("'stp' is not a key of a row"),
      std::string::npos);
  EXPECT_NE(error("rows:\n  - {name: x, step: \"layer.{layer}.attn.q\"}\n").find("says no {layer}"),
            std::string::npos);
  EXPECT_NE(error("rows: [&a x, *a]\n").find("aliases"), std::string::npos);
  EXPECT_NE(error("rows:\n  - {name: x, name: y, step: logits}\n").find("comes twice"),
            std::string::npos);
  EXPECT_NE(error("").find("empty"), std::string::npos);
  EXPECT_NE(error("rows: [").find("line"), std::string::npos);
  EXPECT_NE(parse_name_table(std::string(5000, '['), "t").error().message.find("deeper"),
            std::string::npos);
}

TEST(Names, RowsBecomeSteps) {
  const size_t d = width_of("layer.0.attn.norm");
  const auto out = DumpMaker()
                       .add("norm-0", {1, 3, d})
                       .import(std::string(kEngine) +
                               "  - {name: \"norm-{layer}\", step: \"layer.{layer}.attn.norm\"}\n");
  const auto* step = out.trace.find("layer.0.attn.norm");
  ASSERT_NE(step, nullptr);
  EXPECT_EQ(step->positions, (std::vector<int32_t>{0, 1, 2}));
  std::vector<double> row(d);
  read_row(*step, 2, row);
  EXPECT_EQ(row[1], static_cast<double>(2 * d + 1));
  EXPECT_EQ(out.names[0].reason, "batch axis dropped");
  EXPECT_EQ(out.trace.prompt, 3u);
}

TEST(Names, HeadsFirstAndTransposed) {
  const size_t width = width_of("layer.0.attn.mix");
  const size_t heads = tiny().config.heads;
  const size_t d = width / heads;
  const auto out =
      DumpMaker()
          .add("z-0", {heads, 3, d})
          .add("zt-1", {width, 3})
          .import(
              std::string(kEngine) +
              "  - {name: \"z-{layer}\", layout: heads_first, step: \"layer.{layer}.attn.mix\"}\n"
              "  - {name: \"zt-{layer}\", layout: transposed, step: \"layer.{layer}.attn.mix\"}\n");
  std::vector<double> row(width);
  read_row(*out.trace.find("layer.0.attn.mix"), 1, row);
  EXPECT_EQ(row[0], static_cast<double>(d));            // head 0, position 1
  EXPECT_EQ(row[d], static_cast<double>((3 + 1) * d));  // head 1, position 1
  read_row(*out.trace.find("layer.1.attn.mix"), 2, row);
  EXPECT_EQ(row[5], 5.0 * 3 + 2);
}

TEST(Names, FusedProductsAreSplit) {
  const size_t q = width_of("layer.0.attn.q");
  const size_t kv = width_of("layer.0.attn.k");
  const std::string steps =
      "[\"layer.{layer}.attn.q\", \"layer.{layer}.attn.k\", \"layer.{layer}.attn.v\"]}\n";
  const auto whole =
      DumpMaker()
          .add("qkv-0", {3, q + 2 * kv})
          .import(std::string(kEngine) + "  - {name: \"qkv-{layer}\", split: " + steps);
  std::vector<double> row(kv);
  read_row(*whole.trace.find("layer.0.attn.v"), 1, row);
  EXPECT_EQ(row[0], static_cast<double>((q + 2 * kv) + q + kv));
  const auto grouped =
      DumpMaker()
          .add("qkv-0", {3, q + 2 * kv})
          .import(std::string(kEngine) + "  - {name: \"qkv-{layer}\", split_by_head: " + steps);
  read_row(*grouped.trace.find("layer.0.attn.k"), 0, row);
  const size_t groups = tiny().config.kv_heads;
  EXPECT_EQ(row[0], static_cast<double>(q / groups));
  EXPECT_TRUE(groups == 1 ||
              row[kv / groups] == static_cast<double>((q + 2 * kv) / groups + q / groups));
}

TEST(Names, HalvesBecomeNeighbours) {
  ASSERT_TRUE(reorders_rope_rows("llama"));
  ASSERT_FALSE(reorders_rope_rows("qwen2"));
  const size_t q = width_of("layer.0.attn.q");
  const auto out =
      DumpMaker()
          .add("q-0", {3, q})
          .import(
              std::string(kEngine) +
              "  - {name: \"q-{layer}\", rope_order: halves, step: \"layer.{layer}.attn.q\"}\n");
  std::vector<double> row(q);
  read_row(*out.trace.find("layer.0.attn.q"), 0, row);
  const size_t d = tiny().config.head_dim;
  EXPECT_EQ(row[1], static_cast<double>(d / 2));
  EXPECT_EQ(row[2], 1.0);
  EXPECT_EQ(row[d], static_cast<double>(d));
}

TEST(Names, WhatDoesNotFitIsNamed) {
  const size_t d = width_of("layer.0.attn.norm");
  const auto out =
      DumpMaker()
          .add("a-0", {3, d})
          .add("b-0", {3, d + 1})
          .add("c-0", {3, d})
          .add("d-99", {3, d})
          .add("e-0", {2, d})
          .import(std::string(kEngine) +
                  "  - {name: \"a-{layer}\", step: \"layer.{layer}.attn.norm\"}\n"
                  "  - {name: [\"b-{layer}\", \"e-{layer}\"], step: \"layer.{layer}.ffn.norm\"}\n"
                  "  - {name: \"c-{layer}\", step: \"layer.{layer}.residual\"}\n"
                  "  - {name: \"c-*\", step: final.norm}\n"
                  "  - {name: \"d-{layer}\", step: \"layer.{layer}.residual\"}\n");
  EXPECT_EQ(out.names[0].step, "layer.0.attn.norm");
  EXPECT_NE(out.names[1].reason.find("is not [positions"), std::string::npos);
  EXPECT_NE(out.names[2].reason.find("two rows of the table claim it"), std::string::npos);
  EXPECT_EQ(out.names[3].reason, "this model has no step layer.99.residual");
  EXPECT_EQ(out.names[4].reason, "2 rows where the pass has 3");
  EXPECT_EQ(out.trace.steps.size(), 1u);
}

TEST(Names, PassesAreJoinedInOrder) {
  const size_t d = width_of("final.norm");
  auto maker = DumpMaker();
  maker.dump.tokens = std::vector<int64_t>{1, 2, 3, 4};
  const auto out = maker.add("n", {3, d})
                       .add("n", {1, d}, "", 1)
                       .import(std::string(kEngine) + "  - {name: n, step: final.norm}\n");
  EXPECT_EQ(out.trace.find("final.norm")->positions, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(out.trace.prompt, 3u);
  EXPECT_EQ(out.trace.tokens.size(), 4u);
}

// A prompt of 5 in two passes, as llama.cpp feeds it in batches; then a token.
TEST(Names, SeveralPassesCanBeOnePrefill) {
  const size_t d = width_of("final.norm");
  auto maker = DumpMaker();
  maker.dump.tokens = std::vector<int64_t>{1, 2, 3, 4, 5, 6};
  const auto out = maker.add("n", {3, d})
                       .add("n", {2, d}, "", 1)
                       .add("n", {1, d}, "", 2)
                       .import(std::string(kEngine) + "  - {name: n, step: final.norm}\n");
  EXPECT_EQ(out.trace.find("final.norm")->positions.size(), 6u);
  EXPECT_EQ(out.trace.prompt, 5u);
}

// Only the last row was written down, and the dump says so: all tokens are the prefill.
TEST(Names, RowsWithPositionsDoNotSplitTheTokens) {
  const size_t d = width_of("final.norm");
  auto maker = DumpMaker();
  const int32_t last = 2;
  const auto bytes = std::as_bytes(std::span(&last, 1));
  DumpTensor positions;
  positions.name = "positions";
  positions.view = {DType::I32, {1}, maker.dump.keep({bytes.begin(), bytes.end()})};
  maker.dump.tensors.push_back(std::move(positions));
  const auto out =
      maker.add("n", {1, d}).import(std::string(kEngine) + "  - {name: n, step: final.norm}\n");
  EXPECT_EQ(out.trace.find("final.norm")->positions, std::vector<int32_t>{2});
  EXPECT_EQ(out.trace.prompt, 3u);
}

// The names of a checkpoint's modules are rows of two tables: that of the engine holds.
TEST(Names, TheEngineChoosesBetweenTables) {
  const size_t d = width_of("layer.0.attn.norm");
  auto maker = DumpMaker().add("model.layers.0.input_layernorm", {3, d});
  const auto table = [&](const std::string& engine) {
    maker.dump.engine["name"] = engine;
    return import_dump(maker.dump, &tiny(), &plan(), {}).value();
  };
  EXPECT_EQ(table("transformers").table, "huggingface");
  EXPECT_EQ(table("SGLang").table, "vllm");
  EXPECT_TRUE(table("SGLang").notes.empty());
  EXPECT_EQ(table("mine").notes.size(), 1u);
}

// A dump whose names are steps needs no table.
TEST(Names, StepsNeedNoTable) {
  const auto maker = DumpMaker().add("logits", {3, width_of("logits")});
  const auto out = import_dump(maker.dump, &tiny(), &plan(), {}).value();
  EXPECT_EQ(out.table, "");
  EXPECT_TRUE(out.notes.empty());
  EXPECT_EQ(out.names[0].step, "logits");
}

// llama.cpp shows a product before its bias and after it: only the second is the step of a model
// that has a bias.
TEST(Names, AProductWithoutItsBiasIsNoStep) {
  const Model biased =
      load_model(std::string(PLUMB_SOURCE_DIR) + "/tests/models/zoo/llama-mlp-bias").value();
  const Plan steps = make_plan(biased);
  const size_t d = steps.steps[*steps.find("layer.0.ffn.up")].width;
  const auto maker =
      DumpMaker().add("ffn_up-0", {3, d}, "MUL_MAT").add("ffn_up_b-0", {3, d}, "ADD");
  ImportOptions options;
  options.table = find_name_table("llama.cpp").value();
  const auto out = import_dump(maker.dump, &biased, &steps, options).value();
  EXPECT_EQ(out.names[0].reason, "layer.0.ffn.up is this and a bias");
  EXPECT_TRUE(out.names[0].skipped);
  EXPECT_EQ(out.names[1].step, "layer.0.ffn.up");
  // Without biases the product is the step.
  const auto plain = DumpMaker().add("ffn_up-0", {3, width_of("layer.0.ffn.up")}, "MUL_MAT");
  EXPECT_EQ(import_dump(plain.dump, &tiny(), &plan(), options).value().names[0].step,
            "layer.0.ffn.up");
}

TEST(Names, MoreRowsThanTokensAreNotComparable) {
  const size_t d = width_of("final.norm");
  ImportOptions options;
  options.table =
      parse_name_table(std::string(kEngine) + "  - {name: n, step: final.norm}\n", "t").value();
  const auto maker = DumpMaker().add("n", {5, d});
  const auto out = import_dump(maker.dump, &tiny(), &plan(), options);
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, ErrorCode::NotComparable);
  EXPECT_EQ(out.error().message,
            "test: it holds 5 positions, but only 3 tokens are known: was another BOS fed?");
}

TEST(Names, OtherTokensThanTheDumpSaysAreRefused) {
  ImportOptions options;
  options.tokens = std::vector<int32_t>{1, 2, 4};
  const auto maker = DumpMaker().add("n", {3, 4});
  const auto out = import_dump(maker.dump, &tiny(), &plan(), options);
  ASSERT_FALSE(out);
  EXPECT_NE(out.error().message.find("--tokens gives other ids"), std::string::npos);
}

}  // namespace
}  // namespace plumb
