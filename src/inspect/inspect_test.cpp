// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <list>

#include "formats/gguf_writer.h"
#include "inspect/statistics.h"
#include "inspect/summary.h"
#include "inspect/verify.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

TensorView view_of(const std::vector<float>& values, std::vector<uint64_t> shape = {}) {
  if (shape.empty()) shape = {values.size()};
  return {DType::F32, std::move(shape), std::as_bytes(std::span(values))};
}

// Numbers without zeros, in (-1, 1).
std::vector<float> noise(size_t count, uint64_t seed = 1) {
  std::vector<float> values(count);
  for (auto& value : values) {
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    value = (static_cast<float>(seed >> 40) + 0.5F) / 8388608.0F - 1.0F;
  }
  return values;
}

TEST(Statistics, AreThoseOfTheValues) {
  auto values = noise(100'003);  // not a multiple of anything
  values[70'000] = 5;
  values[99'999] = -7;
  values[5] = 0;
  double sum = 0;
  double squares = 0;
  for (const float v : values) {
    sum += static_cast<double>(v);
    squares += static_cast<double>(v) * static_cast<double>(v);
  }
  const auto s = measure(view_of(values), {.sha256 = true});
  EXPECT_EQ(s.count, values.size());
  EXPECT_EQ(s.min, -7);
  EXPECT_EQ(s.max, 5);
  EXPECT_EQ(s.zeros, 1U);
  EXPECT_NEAR(s.mean, sum / 100'003, 1e-7);
  EXPECT_NEAR(s.rms, std::sqrt(squares / 100'003), 1e-6);
  EXPECT_EQ(s.sha256, sha256_hex(std::as_bytes(std::span(values))));
  EXPECT_FALSE(s.constant);
}

TEST(Statistics, HugeValuesDoNotOverflow) {
  const std::vector<float> values(100, 3e38F);
  const auto s = measure(view_of(values));
  EXPECT_NEAR(s.rms / 3e38, 1, 1e-6);
  EXPECT_NEAR(s.mean / 3e38, 1, 1e-6);
  EXPECT_TRUE(s.constant);
  EXPECT_EQ(s.infinities, 0U);
}

TEST(Statistics, CountNanAndInfinityAndSayWhere) {
  for (const size_t at : {size_t{0}, size_t{15}, size_t{4095}, size_t{4096}, size_t{9999}}) {
    auto values = noise(10'000);
    values[at] = std::numeric_limits<float>::quiet_NaN();
    auto s = measure(view_of(values));
    EXPECT_EQ(s.nans, 1U);
    EXPECT_EQ(s.first_nan, at);
    EXPECT_TRUE(std::isfinite(s.rms));
    values[at] = -std::numeric_limits<float>::infinity();
    s = measure(view_of(values));
    EXPECT_EQ(s.infinities, 1U);
    EXPECT_EQ(s.first_infinity, at);
    EXPECT_GT(s.min, -2);
  }
}

TEST(Statistics, FindTheLongestRunOfZerosWhereverItLies) {
  for (const size_t begin : {size_t{0}, size_t{1}, size_t{4080}, size_t{4090}, size_t{4096},
                             size_t{8191}, size_t{10'000 - 40}}) {
    auto values = noise(10'000);
    for (size_t i = begin; i < begin + 40; ++i) values[i] = 0;
    const auto s = measure(view_of(values));
    EXPECT_EQ(s.zero_run, 40U) << begin;
    EXPECT_EQ(s.zero_run_begin, begin);
  }
  auto values = noise(10'000);
  for (size_t i = 100; i < 120; ++i) values[i] = 0;
  EXPECT_EQ(measure(view_of(values)).zero_run, 0U);
  const std::vector<float> none(10'000);
  EXPECT_EQ(measure(view_of(none)).zero_run, 10'000U);
}

TEST(Statistics, OfNothingAreNothing) {
  const auto s = measure(view_of({}, {0, 4}));
  EXPECT_EQ(s.count, 0U);
  EXPECT_FALSE(s.constant);
}

TEST(Statistics, AHistogramCountsEveryFiniteValue) {
  auto values = noise(5000);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  const auto s = measure(view_of(values));
  const auto h = histogram(view_of(values), s);
  uint64_t all = 0;
  for (const auto bin : h.bins) all += bin;
  EXPECT_EQ(all, 4999U);
  EXPECT_EQ(h.low, static_cast<double>(s.min));
  EXPECT_EQ(h.high, static_cast<double>(s.max));
}

// A model of the repository, with one thing changed.
class Verify : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  struct Edited {
    Metadata metadata;
    std::vector<std::pair<std::string, TensorView>> tensors;
    std::list<std::vector<std::byte>> storage;
    TensorView& find(const std::string& name) {
      for (auto& [other, view] : tensors)
        if (other == name) return view;
      throw std::runtime_error("no tensor " + name);
    }
    // A tensor of its own bytes, as float.
    std::vector<float> floats(const std::string& name) {
      const auto& view = find(name);
      std::vector<float> values(view.bytes.size() / sizeof(float));
      std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
      return values;
    }
    void set(const std::string& name, std::span<const std::byte> bytes) {
      storage.emplace_back(bytes.begin(), bytes.end());
      find(name).bytes = storage.back();
    }
  };

  Verification verified(const std::string& model, const std::function<void(Edited&)>& edit) {
    const auto file = open_model_file(fs::path(PLUMB_SOURCE_DIR) / "tests/models" / model);
    EXPECT_TRUE(file) << file.error().message;
    Edited edited;
    edited.metadata = file->metadata;
    for (const auto& t : file->tensors) edited.tensors.emplace_back(t.name, t.view);
    edit(edited);
    std::vector<GgufTensor> tensors;
    for (const auto& [name, view] : edited.tensors) tensors.push_back({name, view});
    const auto written = write_gguf(folder_ / "m.gguf", edited.metadata, tensors);
    EXPECT_TRUE(written) << written.error().message;
    const auto again = open_model_file(folder_ / "m.gguf");
    EXPECT_TRUE(again) << again.error().message;
    Threads threads(2);
    return verify(*again, read_hyperparameters(*again), threads, {});
  }
  static bool has(const Verification& v, const std::string& code, const std::string& tensor) {
    for (const auto& issue : v.issues)
      if (issue.code == code && issue.tensor == tensor && issue.severity != Severity::Note)
        return true;
    return false;
  }
  static std::string all(const Verification& v) {
    std::string text;
    for (const auto& issue : v.issues)
      text += issue.code + " " + issue.tensor + ": " + issue.text + "\n";
    return text;
  }
  fs::path folder_ = fs::temp_directory_path() / ("plumb-verify-" + std::to_string(getpid()));
  static constexpr const char* kModel = "tiny-stories-q4_k.gguf";
  static constexpr const char* kQ = "blk.1.attn_q.weight";
};

TEST_F(Verify, ASoundModelIsSound) {
  const auto v = verified(kModel, [](Edited&) {});
  EXPECT_EQ(v.worst(), Severity::Note) << all(v);
  for (const auto& s : v.statistics) EXPECT_EQ(s.sha256.size(), 64U);
}

TEST_F(Verify, OneNanInABlockScale) {
  const auto v = verified(kModel, [](Edited& m) {
    auto bytes = std::vector(m.find(kQ).bytes.begin(), m.find(kQ).bytes.end());
    bytes[144] = std::byte{0xFF};
    bytes[145] = std::byte{0x7F};
    m.set(kQ, bytes);
  });
  EXPECT_EQ(v.worst(), Severity::Unsound);
  EXPECT_TRUE(has(v, "values.nan", kQ)) << all(v);
}

TEST_F(Verify, AZeroedBlockAndZeroedRows) {
  for (const size_t blocks : {1, 4}) {
    const auto v = verified(kModel, [&](Edited& m) {
      auto bytes = std::vector(m.find(kQ).bytes.begin(), m.find(kQ).bytes.end());
      std::fill_n(bytes.begin() + 288, 144 * blocks, std::byte{0});
      m.set(kQ, bytes);
    });
    EXPECT_GE(v.worst(), Severity::Suspect);
    EXPECT_TRUE(has(v, "values.zero_run", kQ)) << all(v);
  }
}

TEST_F(Verify, ATensorOfZeros) {
  const auto v = verified(
      kModel, [](Edited& m) { m.set(kQ, std::vector<std::byte>(m.find(kQ).bytes.size())); });
  EXPECT_TRUE(has(v, "values.zero", kQ)) << all(v);
}

TEST_F(Verify, OneLayersNormScaledOutOfItsRole) {
  const auto v = verified(kModel, [](Edited& m) {
    auto values = m.floats("blk.1.attn_norm.weight");
    for (auto& value : values) value *= 1000;
    m.set("blk.1.attn_norm.weight", std::as_bytes(std::span(values)));
  });
  EXPECT_TRUE(has(v, "values.scale", "blk.1.attn_norm.weight")) << all(v);
}

TEST_F(Verify, AMissingTensorAndAnExtraLayer) {
  auto v = verified(kModel, [](Edited& m) {
    std::erase_if(m.tensors, [](const auto& t) { return t.first == kQ; });
  });
  EXPECT_EQ(v.worst(), Severity::Unsound);
  EXPECT_TRUE(has(v, "tensors.missing", kQ)) << all(v);
  v = verified(kModel,
               [](Edited& m) { m.tensors.emplace_back("blk.77.attn_q.weight", m.find(kQ)); });
  EXPECT_EQ(v.worst(), Severity::Unsound) << all(v);
}

TEST_F(Verify, SwappedDimensions) {
  const auto v = verified(kModel, [](Edited& m) {
    auto& shape = m.find("blk.0.ffn_up.weight").shape;
    std::swap(shape[0], shape[1]);
  });
  EXPECT_EQ(v.worst(), Severity::Unsound);
  EXPECT_TRUE(has(v, "tensors.shape", "blk.0.ffn_up.weight")) << all(v);
}

TEST_F(Verify, AKeyThatIsMissingOrWrong) {
  auto v = verified(kModel, [](Edited& m) { m.metadata.erase("llama.block_count"); });
  EXPECT_EQ(v.worst(), Severity::Unsound);
  v = verified(kModel, [](Edited& m) { m.metadata["llama.block_count"] = std::string("1"); });
  EXPECT_NE(all(v).find("string"), std::string::npos) << all(v);
}

TEST_F(Verify, ATokenizerThatContradictsItself) {
  auto v = verified(kModel,
                    [](Edited& m) { m.metadata["tokenizer.ggml.bos_token_id"] = int64_t{99'999}; });
  EXPECT_NE(all(v).find("bos_token_id is 99999"), std::string::npos) << all(v);
  v = verified(kModel, [](Edited& m) { m.metadata.erase("tokenizer.ggml.merges"); });
  EXPECT_EQ(v.worst(), Severity::Unsound) << all(v);
}

TEST(Summary, SaysWhatTheModelIs) {
  const auto file =
      open_model_file(fs::path(PLUMB_SOURCE_DIR) / "tests/models/tiny-stories-q4_k.gguf");
  ASSERT_TRUE(file);
  const auto summary = summarize(*file, 100);
  EXPECT_EQ(summary.sizes.architecture, "llama");
  EXPECT_EQ(summary.file_bytes, fs::file_size(file->path));
  ASSERT_TRUE(summary.memory);
  const auto& h = summary.sizes;
  EXPECT_EQ(summary.memory->kv_f32, *h.layers * *h.kv_heads * *h.head_dim * 2 * 4 * 100);
  EXPECT_EQ(summary.tokenizer.tokens, 512U);
  uint64_t elements = 0;
  for (const auto& type : summary.types) elements += type.elements;
  EXPECT_EQ(elements, summary.parameters);
}

}  // namespace
}  // namespace plumb
