// SPDX-License-Identifier: Apache-2.0
// Every tiny model of tests/models/zoo against what transformers computed in float64, and our fast
// path against the bounds of its own arithmetic.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "test_support.h"

namespace plumb {
namespace {

using testing::backend_of;

std::filesystem::path zoo() {
  return std::filesystem::path(PLUMB_SOURCE_DIR) / "tests" / "models" / "zoo";
}

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(zoo()))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

// What is not run here, and the word by which it is refused.
const std::map<std::string, std::string>& refused() {
  static const std::map<std::string, std::string> names = {{"deepseek2", "deepseek_v2"},
                                                           {"deepseek2-lite", "deepseek_v2"},
                                                           {"deepseek3", "deepseek_v3"},
                                                           {"gpt-oss", "gpt_oss"},
                                                           {"falcon-alibi", "alibi"}};
  return names;
}

std::vector<std::vector<Token>> token_lists(const std::string& name) {
  std::ifstream file(zoo() / name / "tokens.json");
  return nlohmann::json::parse(file).get<std::vector<std::vector<Token>>>();
}

struct Golden {
  ModelFile file;
  template <class T>
  std::vector<T> read(const std::string& name) const {
    const auto* tensor = file.find(name);
    if (tensor == nullptr) return {};
    std::vector<T> values(tensor->view.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor->view.bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

double relative_l2(std::span<const double> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  if (a.size() != b.size()) return INFINITY;
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto y = static_cast<double>(b[i]);
    error += (a[i] - y) * (a[i] - y);
    size += y * y;
  }
  return std::sqrt(error / size);
}

// Every recorded value of a run, in double.
class Collector : public Observer {
 public:
  bool wants(const Step& step) const override { return !is_on_request(step.op); }
  void on_value(const Step& step, size_t, size_t, Values values) override {
    auto& to = values_[step.name];
    std::visit([&](auto span) { to.insert(to.end(), span.begin(), span.end()); }, values);
  }
  const std::vector<double>& operator[](const std::string& step) const { return values_.at(step); }

 private:
  std::map<std::string, std::vector<double>> values_;
};

class Zoo : public ::testing::TestWithParam<std::string> {};

// The figure of the issue: relative L2 of at most 1e-6, with every golden value stored as float.
constexpr double kClose = 1e-6;

TEST_P(Zoo, TheRefereeGivesTheGoldenValues) {
  const auto model = load_model(zoo() / GetParam());
  if (const auto why = refused().find(GetParam()); why != refused().end()) {
    ASSERT_FALSE(model);
    EXPECT_NE(model.error().message.find(why->second), std::string::npos) << model.error().message;
    return;
  }
  ASSERT_TRUE(model) << model.error().message;
  auto opened = open_model_file(zoo() / GetParam() / "golden.safetensors");
  ASSERT_TRUE(opened) << opened.error().message;
  const Golden golden{std::move(*opened)};
  Threads threads(1);
  const auto lists = token_lists(GetParam());
  for (size_t i = 0; i < lists.size(); ++i) {
    const Plan plan = make_plan(*model, lists[i].size());
    auto session =
        backend_of("referee")->open(*model, plan, {.capacity = lists[i].size()}, threads);
    ASSERT_TRUE(session) << session.error().message;
    Collector seen;
    ASSERT_TRUE((*session)->forward(lists[i], Outputs::AllPositions, &seen));
    const auto logits = golden.read<float>(fmt::format("logits.{}", i));
    EXPECT_LE(relative_l2(seen["logits"], logits), kClose) << "list " << i;
    if (golden.file.find(fmt::format("embedding.{}", i)) == nullptr) continue;
    EXPECT_LE(relative_l2(seen["embedding"], golden.read<float>(fmt::format("embedding.{}", i))),
              kClose);
    EXPECT_LE(relative_l2(seen["final.norm"], golden.read<float>(fmt::format("final_norm.{}", i))),
              kClose);
    for (size_t layer = 0; layer < model->config.layers; ++layer)
      EXPECT_LE(relative_l2(seen[fmt::format("layer.{}.residual", layer)],
                            golden.read<float>(fmt::format("layer.{}.output.{}", layer, i))),
                kClose)
          << "layer " << layer;
  }
}

// The golden ids come from whole sequences, each with the frequencies of its own length.
TEST_P(Zoo, GreedyIdsAreTheGoldenOnes) {
  if (refused().contains(GetParam())) return;
  const auto model = load_model(zoo() / GetParam());
  ASSERT_TRUE(model) << model.error().message;
  const Golden golden{open_model_file(zoo() / GetParam() / "golden.safetensors").value()};
  Threads threads(1);
  auto tokens = token_lists(GetParam()).back();
  for (const int64_t wanted : golden.read<int64_t>("greedy.2")) {
    const Plan plan = make_plan(*model, tokens.size());
    auto session = backend_of("best")->open(*model, plan, {.capacity = tokens.size()}, threads);
    ASSERT_TRUE(session) << session.error().message;
    const auto logits = (*session)->forward(tokens, Outputs::LastPosition, nullptr);
    ASSERT_TRUE(logits) << logits.error().message;
    EXPECT_EQ(argmax(*logits), wanted) << "at " << tokens.size();
    tokens.push_back(static_cast<Token>(wanted));
  }
}

// Each step of each level, prefill and decode, lies within the bound of its arithmetic.
TEST_P(Zoo, TheFastPathIsRightStepByStep) {
  if (refused().contains(GetParam())) return;
  auto loaded = load_model(zoo() / GetParam());
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto model = std::make_shared<const Model>(std::move(*loaded));
  Threads threads(2);
  const auto tokens = token_lists(GetParam()).back();
  for (const auto& level : cpu_levels()) {
    const Plan plan = make_plan(*model, tokens.size());
    const auto backend = backend_of(level);
    const RunSetup setup{*model, plan, *backend, threads};
    const size_t prompt = tokens.size() - 4;
    auto writer = TraceWriter::to_memory(
                      "t", plan_trace(setup, tokens, prompt, {.patterns = {"*"}}, {}).value())
                      .value();
    ASSERT_TRUE(record(setup, tokens, prompt, *writer));
    const auto result = audit({"baseline", level, model, plan, writer->finish_in_memory().value()},
                              threads, [](size_t, size_t) {});
    EXPECT_EQ(result.verdict, Verdict::Same) << level << ": " << result.why;
    EXPECT_EQ(result.measured, plan.steps.size());
  }
}

// Both formats hold the same values: the referee computes the same bits.
TEST_P(Zoo, BothFormatsGiveTheSameBits) {
  const auto gguf = zoo() / GetParam() / "model-f32.gguf";
  if (!std::filesystem::exists(gguf)) return;
  const auto a = load_model(zoo() / GetParam());
  const auto b = load_model(gguf);
  ASSERT_TRUE(a) << a.error().message;
  ASSERT_TRUE(b) << b.error().message;
  Threads threads(1);
  const auto tokens = token_lists(GetParam()).back();
  std::vector<std::vector<float>> logits;
  for (const auto* model : {&*a, &*b}) {
    const Plan plan = make_plan(*model, tokens.size());
    auto session = backend_of("referee")->open(*model, plan, {.capacity = tokens.size()}, threads);
    logits.push_back((*session)->forward(tokens, Outputs::AllPositions, nullptr).value());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

INSTANTIATE_TEST_SUITE_P(Models, Zoo, ::testing::ValuesIn(variants()), [](const auto& info) {
  auto name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

}  // namespace
}  // namespace plumb
