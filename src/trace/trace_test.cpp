// SPDX-License-Identifier: Apache-2.0
#include "trace/trace.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/half.h"
#include "trace/trace_writer.h"

namespace plumb {
namespace {

using nlohmann::ordered_json;
using Ids = std::vector<int32_t>;

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// A trace by hand, as another engine's tool would write it: JSON, then data.
class File {
 public:
  File& add(const std::string& name, const std::string& dtype, std::vector<uint64_t> shape,
            const std::string& data) {
    header_[name] = {{"dtype", dtype},
                     {"shape", shape},
                     {"data_offsets", {data_.size(), data_.size() + data.size()}}};
    data_ += data;
    return *this;
  }
  File& add_floats(const std::string& name, std::vector<uint64_t> shape) {
    std::vector<float> values(element_count(shape).value());
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.5F;
    return add(name, "F32", std::move(shape), raw(values));
  }
  File& add_ids(const std::string& name, const Ids& ids) {
    return add(name, "I32", {ids.size()}, raw(ids));
  }
  File& head(const std::string& text) {
    header_["__metadata__"] = {{"plumb.trace", "1"}, {"plumb", text}};
    return *this;
  }
  ordered_json& header() { return header_; }
  std::string bytes() const {
    const std::string header = header_.dump();
    return raw(std::vector<uint64_t>{header.size()}) + header + data_;
  }

 private:
  ordered_json header_ = ordered_json::object();
  std::string data_;
};

// Three tokens; `plumb` is the metadata of that name.
File file(const std::string& plumb = R"({"tokens":[5,6,7]})") { return File().head(plumb); }

Result<Trace> parse(const std::string& bytes) {
  const auto owner = std::make_shared<const std::string>(bytes);
  return parse_trace(std::as_bytes(std::span(owner->data(), owner->size())), owner, "test");
}
Result<Trace> parse(const File& file) { return parse(file.bytes()); }

void expect_refusal(const std::string& bytes, const std::vector<std::string>& parts) {
  const auto trace = parse(bytes);
  ASSERT_FALSE(trace.has_value()) << "accepted, expected: " << parts.front();
  for (const auto& part : parts)
    EXPECT_NE(trace.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << trace.error().message;
}
void expect_refusal(const File& file, const std::vector<std::string>& parts) {
  expect_refusal(file.bytes(), parts);
}

std::vector<double> row_of(const Trace& trace, const std::string& step, size_t row) {
  const auto* found = trace.find(step);
  if (found == nullptr) {
    ADD_FAILURE() << step << " is missing";
    return {};
  }
  std::vector<double> values(found->width());
  read_row(*found, row, values);
  return values;
}

class TraceFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/plumb_trace_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  std::filesystem::path save(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }

  std::filesystem::path folder_;
};

TraceLayout layout_of_two_steps() {
  TraceLayout layout;
  layout.tokens = {1, 300, 2};
  layout.prompt = 2;
  layout.provenance.engine = {{"name", "test"}, {"threads", "2"}};
  layout.provenance.model = {{"sha256", "00"}};
  layout.provenance.arithmetic = {{"*", {}}, {"logits", {"q4_k", "int8/256", "int32", "f32"}}};
  layout.provenance.kv_cache = "f16";
  layout.provenance.created = "2026-01-01T00:00:00Z";
  layout.steps = {{"embedding", DType::F32, {3, 2}}, {"logits", DType::F64, {3, 3}}};
  return layout;
}

const std::vector<float> kFloats = {1.5F,
                                    -0.0F,
                                    std::numeric_limits<float>::denorm_min(),
                                    std::numeric_limits<float>::infinity(),
                                    0.1F,
                                    std::bit_cast<float>(0x7FC12345U)};
const std::vector<double> kDoubles = {0.1, -1e300, std::numeric_limits<double>::denorm_min(),  4, 5,
                                      6,   -0.0,   std::bit_cast<double>(0x7FF8000000000123U), 9};

void write_all(TraceWriter& writer) {
  const auto floats = std::span(kFloats);
  const auto doubles = std::span(kDoubles);
  writer.write(writer.find("embedding").value(), 0, floats.first(4));
  writer.write(writer.find("logits").value(), 0, doubles.first(6));
  writer.write(writer.find("embedding").value(), 2, floats.subspan(4));
  writer.write(writer.find("logits").value(), 2, doubles.subspan(6));
}

void expect_written(const Trace& trace) {
  EXPECT_EQ(trace.tokens, (Ids{1, 300, 2}));
  EXPECT_EQ(trace.prompt, 2U);
  EXPECT_EQ(trace.provenance.engine.at("threads"), "2");
  EXPECT_EQ(trace.provenance.model.at("sha256"), "00");
  EXPECT_EQ(trace.provenance.kv_cache, "f16");
  EXPECT_EQ(trace.provenance.created, "2026-01-01T00:00:00Z");
  EXPECT_EQ(trace.arithmetic_of("embedding"), Arithmetic{});
  EXPECT_EQ(trace.arithmetic_of("logits"), (Arithmetic{"q4_k", "int8/256", "int32", "f32"}));
  ASSERT_EQ(trace.steps.size(), 2U);
  const auto& embedding = *trace.find("embedding");
  const auto& logits = *trace.find("logits");
  ASSERT_EQ(embedding.view.bytes.size(), kFloats.size() * sizeof(float));
  ASSERT_EQ(logits.view.bytes.size(), kDoubles.size() * sizeof(double));
  EXPECT_EQ(std::memcmp(embedding.view.bytes.data(), kFloats.data(), 6 * sizeof(float)), 0);
  EXPECT_EQ(std::memcmp(logits.view.bytes.data(), kDoubles.data(), 9 * sizeof(double)), 0);
  EXPECT_EQ(logits.positions, (Ids{0, 1, 2}));
  EXPECT_EQ(row_of(trace, "logits", 0), (std::vector<double>{0.1, -1e300, kDoubles[2]}));
}

TEST_F(TraceFileTest, WhatIsWrittenIsReadBitForBit) {
  // Guards against a value that changes between a run and its trace: NaN payloads, -0, subnormals.
  const auto path = folder_ / "trace";
  auto writer = TraceWriter::to_file(path, layout_of_two_steps());
  ASSERT_TRUE(writer.has_value()) << writer.error().message;
  EXPECT_EQ((*writer)->find("layer.0.attn.q"), std::nullopt);
  write_all(**writer);
  EXPECT_TRUE(std::filesystem::exists(path.string() + ".partial"));
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto finished = (*writer)->finish();
  ASSERT_TRUE(finished.has_value()) << finished.error().message;
  EXPECT_EQ(std::filesystem::file_size(path), (*writer)->size_bytes());
  writer->reset();
  EXPECT_EQ(files(), 1U);  // No .partial, and the writer has not taken the file with it.
  EXPECT_TRUE(is_trace_file(path));
  const auto trace = open_trace(path);
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->label, "trace");
  expect_written(*trace);
}

TEST(TraceWriter, InMemoryIsTheSameAsAFile) {
  // Guards against views that outlive the memory of the writer.
  auto writer = TraceWriter::to_memory("label", layout_of_two_steps());
  ASSERT_TRUE(writer.has_value()) << writer.error().message;
  write_all(**writer);
  const auto trace = (*writer)->finish_in_memory();
  writer->reset();
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->label, "label");
  expect_written(*trace);
}

TEST_F(TraceFileTest, AnUnfinishedRunLeavesNothing) {
  // Guards against a part of a run that passes for a trace.
  {
    auto writer = TraceWriter::to_file(folder_ / "trace", layout_of_two_steps());
    ASSERT_TRUE(writer.has_value());
    write_all(**writer);
    EXPECT_EQ(files(), 1U);
  }
  EXPECT_EQ(files(), 0U);
}

TEST_F(TraceFileTest, AnIncompleteStepIsRefused) {
  // Guards against zeros in a trace that no run has computed.
  {
    auto writer = TraceWriter::to_file(folder_ / "trace", layout_of_two_steps());
    ASSERT_TRUE(writer.has_value());
    (*writer)->write(1, 0, std::span(kFloats));
    (*writer)->write(2, 0, std::span(kDoubles).first(6));
    const auto finished = (*writer)->finish();
    ASSERT_FALSE(finished.has_value());
    EXPECT_EQ(finished.error().message, "step 'logits' is incomplete: 6 of 9 values");
    EXPECT_FALSE((*writer)->finish_in_memory().has_value());
  }
  EXPECT_EQ(files(), 0U);
}

TEST(TraceWriterDeathTest, ARowTwiceOrPastTheEndIsABug) {
  // Guards against a row written twice that hides one never written, since only values are counted.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto writer = TraceWriter::to_memory("label", layout_of_two_steps());
  ASSERT_TRUE(writer.has_value());
  const auto row = std::span(kFloats).first(2);
  (*writer)->write(1, 0, row);
  EXPECT_DEATH((*writer)->write(1, 0, row), "plumb: bug");
  EXPECT_DEATH((*writer)->write(1, 2, row), "plumb: bug");
  EXPECT_DEATH((*writer)->write(1, 1, std::span(kFloats)), "plumb: bug");
  EXPECT_DEATH((*writer)->write(2, 0, row), "plumb: bug");  // F32 into F64
}

TEST_F(TraceFileTest, AFolderThatIsNotThereIsAnError) {
  // Guards against a crash where nothing can be written.
  const auto writer = TraceWriter::to_file(folder_ / "missing" / "trace", layout_of_two_steps());
  ASSERT_FALSE(writer.has_value());
  EXPECT_EQ(writer.error().code, ErrorCode::Io);
  EXPECT_NE(writer.error().message.find("missing/trace.partial: cannot write: No such file"),
            std::string::npos)
      << writer.error().message;
}

TEST_F(TraceFileTest, AFullDiskIsAnErrorBeforeTheRun) {
  // Guards against a SIGBUS in the middle of a run, when a mapped file finds no space.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  TraceLayout layout = layout_of_two_steps();
  layout.steps[0].shape = {3, 1000};
  const auto writer = TraceWriter::to_file(folder_ / "trace", std::move(layout));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(writer.has_value());
  EXPECT_EQ(writer.error().code, ErrorCode::Io);
  EXPECT_NE(writer.error().message.find("bytes for the trace: File too large"), std::string::npos)
      << writer.error().message;
  EXPECT_EQ(files(), 0U);
}

TEST(Trace, OpensWhatThePythonPackageWrites) {
  // Guards against a reader that only its own writer can please. The bytes are those of
  //   safetensors.numpy.save({"logits": np.float32([[1, 2, 3], [4, 5, 6]]),
  //                           "tokens": np.int32([7, 8])},
  //                          {"plumb.trace": "1", "plumb": json.dumps({"prompt": 2})})
  std::string header = R"({"__metadata__":{"plumb":"{\"prompt\": 2}","plumb.trace":"1"},)"
                       R"("logits":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                       R"("tokens":{"dtype":"I32","shape":[2],"data_offsets":[24,32]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const auto trace = parse(raw(std::vector<uint64_t>{header.size()}) + header +
                           raw(std::vector<float>{1, 2, 3, 4, 5, 6}) + raw(Ids{7, 8}));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->tokens, (Ids{7, 8}));
  EXPECT_EQ(trace->prompt, 2U);
  EXPECT_EQ(row_of(*trace, "logits", 1), (std::vector<double>{4, 5, 6}));
  EXPECT_EQ(trace->provenance.kv_cache, "f32");
  EXPECT_TRUE(trace->provenance.engine.empty());
  EXPECT_EQ(trace->arithmetic_of("logits"), std::nullopt);
}

TEST(Trace, TokensMayStandInTwoPlacesIfTheyAgree) {
  // Guards against a choice between two answers to "which tokens".
  const Ids ids = {5, 6, 7};
  EXPECT_EQ(parse(file()).value().tokens, ids);
  EXPECT_EQ(parse(file("{}").add_ids("tokens", ids)).value().tokens, ids);
  EXPECT_EQ(parse(file().add_ids("tokens", ids)).value().tokens, ids);
  EXPECT_EQ(parse(file()).value().prompt, 3U);
  expect_refusal(file().add_ids("tokens", {5, 6, 8}), {"the tensor 'tokens' differ"});
  expect_refusal(file().add_ids("tokens", {5, 6}), {"the tensor 'tokens' differ"});
}

TEST(Trace, RefusesWhatIsNoToken) {
  // Guards against an id that is used as an index without a look at its sign.
  expect_refusal(file(R"({"tokens":[5,-1]})"), {"'tokens' holds -1"});
  expect_refusal(file(R"({"tokens":[2147483648]})"), {"'tokens' holds 2147483648"});
  expect_refusal(file(R"({"tokens":[18446744073709551615]})"), {"'tokens' holds 1844"});
  expect_refusal(file(R"({"tokens":[1.5]})"), {"'tokens' holds 1.5"});
  expect_refusal(file(R"({"tokens":"5"})"), {"'tokens' is not an array"});
  expect_refusal(file("{}").add_ids("tokens", {5, -6}), {"'tokens' holds -6"});
  expect_refusal(file("{}").add("tokens", "I64", {1}, raw(std::vector<int64_t>{1})),
                 {"'tokens' must be I32 of one dimension, found I64 [1]"});
  expect_refusal(file("{}").add("tokens", "I32", {1, 1}, raw(Ids{1})), {"'tokens' must be I32"});
}

TEST(Trace, WithoutTokensItOpensAndHasNone) {
  // Guards against "corrupt" as the answer to a file that is only not comparable.
  const auto trace = parse(file("{}").add_floats("logits", {2, 3}));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_TRUE(trace->tokens.empty());
  EXPECT_EQ(trace->find("logits")->positions, (Ids{0, 1}));
  const auto placed =
      parse(file("{}").add_floats("logits", {2, 3}).add_ids("positions", {4, 1000}));
  ASSERT_TRUE(placed.has_value()) << placed.error().message;
  EXPECT_EQ(placed->find("logits")->positions, (Ids{4, 1000}));
  expect_refusal(file(R"({"tokens":[]})").add_floats("logits", {2, 3}), {"expected 0 rows"});
}

TEST(Trace, PromptIsAtMostAllTokens) {
  // Guards against a prefill that is longer than the run.
  EXPECT_EQ(parse(file(R"({"tokens":[5,6,7],"prompt":3})")).value().prompt, 3U);
  EXPECT_EQ(parse(file(R"({"tokens":[5,6,7],"prompt":0})")).value().prompt, 0U);
  for (const std::string prompt : {"4", "-1", "2.0", "\"2\"", "null", "18446744073709551615"})
    expect_refusal(file("{\"tokens\":[5,6,7],\"prompt\":" + prompt + "}"),
                   {"'prompt' is " + prompt, "3 tokens"});
}

TEST(Trace, RowsStandForTheirPositions) {
  // Guards against rows that are compared with those of other positions.
  const auto trace = parse(file()
                               .add_ids("positions", {0, 2})
                               .add_floats("embedding", {2, 4})
                               .add_ids("positions:logits", {2})
                               .add_floats("logits", {1, 8}));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->find("embedding")->positions, (Ids{0, 2}));
  EXPECT_EQ(trace->find("logits")->positions, (Ids{2}));
  EXPECT_EQ(trace->find("logits")->width(), 8U);
  EXPECT_TRUE(trace->unknown.empty());
  EXPECT_EQ(parse(file().add_floats("logits", {3, 1})).value().find("logits")->positions,
            (Ids{0, 1, 2}));
}

TEST(Trace, RefusesRowsThatDisagreeWithPositions) {
  // Guards against reads past the end of a step, or rows without a position.
  expect_refusal(file().add_floats("logits", {2, 4}),
                 {"step 'logits' has shape [2, 4]", "expected 3 rows"});
  expect_refusal(file().add_floats("logits", {4, 4}), {"step 'logits'", "expected 3 rows"});
  expect_refusal(file().add_floats("logits", {3}), {"step 'logits' has shape [3]"});
  expect_refusal(file().add_floats("logits", {}), {"step 'logits' has shape []"});
  expect_refusal(file().add_ids("positions", {1}).add_floats("logits", {3, 4}), {"expected 1 row"});
  expect_refusal(file().add_ids("positions:logits", {1, 2}).add_floats("logits", {3, 4}),
                 {"step 'logits'", "expected 2 rows"});
}

TEST(Trace, RefusesStepsWithoutValues) {
  // Guards against a claim about width that costs the file nothing: a row of 2^60 values.
  expect_refusal(file().add("logits", "F32", {3, 0}, ""), {"step 'logits' has shape [3, 0]"});
  expect_refusal(file("{}").add("logits", "F32", {uint64_t{1} << 60, 0}, ""), {"no values"});
  expect_refusal(file(R"({"tokens":[]})").add("logits", "F32", {0, uint64_t{1} << 60}, ""),
                 {"step 'logits'", "no values"});
}

TEST(Trace, RefusesPositionsThatCannotBe) {
  // Guards against a row that is looked up at a position outside the run, or found twice.
  for (const std::string name : {"positions", "positions:logits"}) {
    const auto with = [&](const Ids& ids) {
      return file().add_ids(name, ids).add_floats("logits", {ids.size(), 4});
    };
    EXPECT_TRUE(parse(with({0, 2})).has_value());
    expect_refusal(with({0, 3}), {"'" + name + "' has 3 at 1, outside the 3 tokens"});
    expect_refusal(with({-1, 0}), {"'" + name + "' has -1 at 0"});
    expect_refusal(with({1, 1}), {"'" + name + "' is not ascending at 1"});
    expect_refusal(with({2, 1}), {"'" + name + "' is not ascending at 1"});
    expect_refusal(file().add_floats(name, {1}).add_floats("logits", {1, 4}),
                   {"'" + name + "' must be I32"});
  }
}

TEST(Trace, RefusesANameTwice) {
  // Guards against a step, or metadata, of which one of two answers is taken.
  const std::string entry = R"("logits":{"dtype":"F32","shape":[3,1],"data_offsets":[0,12]})";
  const std::string metadata = R"({"plumb.trace":"1","plumb":"{\"tokens\":[1,2,3]}"})";
  const std::string header = "{\"__metadata__\":" + metadata + "," + entry + "," + entry + "}";
  expect_refusal(raw(std::vector<uint64_t>{header.size()}) + header + std::string(12, 'x'),
                 {"the name 'logits' stands twice"});
  expect_refusal(file(R"({"tokens":[1],"tokens":[2]})"),
                 {"the name 'tokens' stands twice in its metadata 'plumb'"});
}

TEST(Trace, RefusesOtherFiles) {
  // Guards against weights, or a trace of a later version, that are judged as a trace.
  expect_refusal(std::string("GGUF\3\0\0\0", 8), {"not a safetensors file"});
  expect_refusal(std::string(), {"too short"});
  File weights;
  weights.add_floats("logits", {3, 4});
  expect_refusal(weights, {"a safetensors file, but not a trace", "plumb.trace"});
  weights.header()["__metadata__"] = {{"plumb.trace", "2"}, {"plumb", "{}"}};
  const auto later = parse(weights);
  ASSERT_FALSE(later.has_value());
  EXPECT_EQ(later.error().code, ErrorCode::Unsupported);
  EXPECT_EQ(later.error().message, "trace version '2' is not known here (known: 1)");
  weights.header()["__metadata__"] = {{"plumb.trace", "1"}};
  expect_refusal(weights, {"has no 'plumb'"});
  expect_refusal(file("{\"tokens\":"), {"its metadata 'plumb' is not valid JSON"});
  expect_refusal(file("[]"), {"its metadata 'plumb' is not a JSON object"});
}

TEST(Trace, RefusesDeepMetadata) {
  // Guards against recursion that follows the file: the text of a value nested a million deep.
  const std::string brackets = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  expect_refusal(file("{\"engine\":{\"x\":" + brackets + "}}"), {"nested deeper than 64 levels"});
  expect_refusal(file("{\"tokens\":[" + brackets + "]}"), {"nested deeper than 64 levels"});
}

TEST(Trace, ReadsEveryTypeOfRow) {
  // Guards against values that are read with the width or the layout of another type.
  const std::vector<double> expected = {1.5, -2, 0.25};
  const std::vector<float> floats = {0, 0, 0, 1.5F, -2, 0.25F};
  std::vector<uint16_t> halves;
  std::vector<uint16_t> brains;
  for (const float value : floats) halves.push_back(f32_to_f16(value));
  for (const float value : floats) brains.push_back(f32_to_bf16(value));
  const std::string plumb = R"({"tokens":[1,2]})";
  const auto second_row = [&](const std::string& dtype, const std::string& data) {
    return row_of(parse(file(plumb).add("logits", dtype, {2, 3}, data)).value(), "logits", 1);
  };
  EXPECT_EQ(second_row("F32", raw(floats)), expected);
  EXPECT_EQ(second_row("F64", raw(std::vector<double>{0, 0, 0, 1.5, -2, 0.25})), expected);
  EXPECT_EQ(second_row("F16", raw(halves)), expected);
  EXPECT_EQ(second_row("BF16", raw(brains)), expected);
  const auto experts =
      parse(file(plumb).add("layer.0.ffn.experts", "I32", {2, 2}, raw(Ids{0, 1, 7, -3}))).value();
  EXPECT_EQ(row_of(experts, "layer.0.ffn.experts", 1), (std::vector<double>{7, -3}));
}

TEST(Trace, RefusesTypesThatAStepCannotHave) {
  // Guards against whole numbers that are compared as if they were values.
  for (const std::string dtype : {"I32", "I64", "U8", "BOOL"}) {
    const size_t each = dtype == "I32" ? 4 : dtype == "I64" ? 8 : 1;
    expect_refusal(file().add("logits", dtype, {3, 1}, std::string(3 * each, '\0')),
                   {"step 'logits' is " + dtype});
  }
}

TEST(Trace, ARowOfScoresHoldsAllHeads) {
  // Guards against a width that leaves out a dimension.
  const auto trace = parse(file().add_floats("layer.0.attn.scores", {3, 2, 3}));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->find("layer.0.attn.scores")->width(), 6U);
  EXPECT_EQ(row_of(*trace, "layer.0.attn.scores", 2),
            (std::vector<double>{12.5, 13.5, 14.5, 15.5, 16.5, 17.5}));
}

TEST(Trace, UnknownNamesAreKeptAndNeverCompared) {
  // Guards against a guess at what a name means, and a tensor that silently disappears.
  const auto trace = parse(file()
                               .add_floats("my.stats", {3, 8})
                               .add_floats("my.own", {17})
                               .add_ids("positions:nobody", {9}));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_TRUE(trace->steps.empty());
  EXPECT_EQ(trace->unknown, (std::vector<std::string>{"my.own", "my.stats", "positions:nobody"}));
}

TEST(Trace, ProvenanceIsText) {
  // Guards against a refusal of numbers, lists or null in the free fields.
  const auto trace = parse(file(R"({"tokens":[1,2,3],"engine":{"name":"e","threads":8,"x":[1]},
      "model":{"config":{"a":null}},"kv_cache":7,"more":{"is":"ignored"}})"));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->provenance.engine,
            (std::map<std::string, std::string>{{"name", "e"}, {"threads", "8"}, {"x", "[1]"}}));
  EXPECT_EQ(trace->provenance.model.at("config"), R"({"a":null})");
  EXPECT_EQ(trace->provenance.kv_cache, "f32");
}

TEST(Trace, TheMoreExactArithmeticHolds) {
  // Guards against '*' that hides an exact name, whatever the order of the file or the length.
  const auto trace = parse(file(R"({"tokens":[1,2,3],"arithmetic":{
      "logits":{"output":"exact"},
      "*l*o*g*i*t*s*":{"output":"stars"},
      "layer.0.attn.q":{"output":"exact"},
      "layer.*.attn.q*":{"output":"part"},
      "layer.*":{"output":"layer"},
      "*":{"weights":"bf16","activations":"f16","accumulate":"f64","output":"all"}}})"));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  const auto output = [&](const char* step) { return trace->arithmetic_of(step).value().output; };
  EXPECT_EQ(output("logits"), "exact");
  EXPECT_EQ(output("layer.0.attn.q"), "exact");
  EXPECT_EQ(output("layer.0.attn.q_rope"), "part");
  EXPECT_EQ(output("layer.1.attn.q"), "part");
  EXPECT_EQ(output("layer.1.ffn.up"), "layer");
  EXPECT_EQ(trace->arithmetic_of("embedding"), (Arithmetic{"bf16", "f16", "f64", "all"}));
  // A field that is not given is f32.
  EXPECT_EQ(trace->arithmetic_of("logits"), (Arithmetic{"f32", "f32", "f32", "exact"}));
}

TEST(Trace, RefusesArithmeticThatIsNone) {
  // Guards against a declaration that is ignored: the step would be judged by other rules.
  expect_refusal(file(R"({"arithmetic":[]})"), {"'arithmetic' is not an object"});
  expect_refusal(file(R"({"arithmetic":{"*":"f32"}})"), {"'arithmetic' of '*' is not an object"});
  expect_refusal(file(R"({"arithmetic":{"*":{"weights":1}}})"), {"'weights' is not a string"});
}

TEST(Fits, StarStandsForAnyText) {
  // Guards against patterns that match too little or too much.
  EXPECT_TRUE(fits("*", ""));
  EXPECT_TRUE(fits("", ""));
  EXPECT_TRUE(fits("a*b*c", "abbc"));
  EXPECT_TRUE(fits("*.attn.*", "layer.0.attn.q"));
  EXPECT_TRUE(fits("**q", "q"));
  EXPECT_TRUE(fits("*ab", "aab"));
  EXPECT_FALSE(fits("", "a"));
  EXPECT_FALSE(fits("a", "ab"));
  EXPECT_FALSE(fits("ab", "a"));
  EXPECT_FALSE(fits("a*b", "abc"));
  EXPECT_FALSE(fits("layer.1.*", "layer.10.attn.q"));
}

TEST(StepNames, OnlyThoseOfTheList) {
  // Guards against a name that is taken for a step it is not.
  for (const char* name : {"embedding",
                           "final.norm",
                           "logits",
                           "layer.0.attn.norm",
                           "layer.7.attn.q_matmul",
                           "layer.12.attn.q",
                           "layer.0.attn.q_rope",
                           "layer.0.attn.scores",
                           "layer.0.attn.weights",
                           "layer.0.attn.mix",
                           "layer.0.attn.out",
                           "layer.0.attn.residual",
                           "layer.0.ffn.norm",
                           "layer.0.ffn.gate",
                           "layer.0.ffn.up",
                           "layer.0.ffn.act",
                           "layer.0.ffn.glu",
                           "layer.0.ffn.experts",
                           "layer.0.ffn.expert_weights",
                           "layer.0.ffn.out",
                           "layer.999999.residual"})
    EXPECT_TRUE(is_step_name(name)) << name;
  for (const char* name :
       {"", "Logits", "logits.stats", "layer", "layer.", "layer.0", "layer.0.", "layer..residual",
        "layer.x.residual", "layer.-1.residual", "layer.1234567.residual", "layer.0.logits",
        "layer.0.attn", "layer.0.attn.q.sketch", "layer.0.attn.q_rope ", "layer.0x.residual",
        "blk.0.attn.q", "positions:logits", "tokens"})
    EXPECT_FALSE(is_step_name(name)) << name;
}

TEST_F(TraceFileTest, AGgufOf123TensorsIsNoTrace) {
  // Guards against a model that is opened as a trace: its tensor count is the letter '{'.
  EXPECT_TRUE(is_trace_file(save("trace", file().bytes())));
  EXPECT_FALSE(is_trace_file(save("gguf", std::string("GGUF\3\0\0\0{\0\0\0\0\0\0\0", 16))));
  EXPECT_FALSE(is_trace_file(save("short", "12345678")));
  EXPECT_FALSE(is_trace_file(folder_ / "missing"));
}

TEST_F(TraceFileTest, ErrorsNameTheFile) {
  // Guards against a message that does not say which of two traces is wrong.
  const auto path = save("wrong", "other bytes");
  EXPECT_TRUE(open_trace(path).error().message.starts_with(path.string() + ": "));
  EXPECT_TRUE(open_trace(folder_ / "missing").error().message.starts_with(folder_.string()));
}

TEST_F(TraceFileTest, AnOpenTraceKeepsItsBytes) {
  // Guards against views into a file that is no longer mapped.
  const auto path = save("trace", file().add_floats("logits", {3, 4}).bytes());
  Trace kept;
  {
    auto trace = open_trace(path);
    ASSERT_TRUE(trace.has_value()) << trace.error().message;
    kept = std::move(*trace);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(row_of(kept, "logits", 2), (std::vector<double>{8.5, 9.5, 10.5, 11.5}));
}

TEST(Trace, SurvivesEveryChangedByte) {
  // Guards against a crash, or a step that is longer than its bytes, whatever one byte says.
  const std::string whole = file(R"({"tokens":[5,6,7],"prompt":2,"arithmetic":{"*":{}}})")
                                .add_floats("layer.0.attn.q", {3, 2})
                                .add_ids("positions:logits", {2})
                                .add_floats("logits", {1, 2})
                                .bytes();
  ASSERT_TRUE(parse(whole).has_value());
  const size_t data = 3 * 2 * 4 + 4 + 2 * 4;
  size_t accepted = 0;
  for (size_t at = 0; at < whole.size() - data; ++at) {
    for (unsigned change = 1; change < 256; ++change) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
      const auto trace = parse(bytes);
      if (!trace) continue;
      ++accepted;
      for (const auto& [name, step] : trace->steps) {
        const size_t values = step.positions.size() * step.width();
        ASSERT_EQ(step.view.bytes.size(), bytes_of(step.view.dtype, values));
        std::vector<double> row(step.width());
        for (size_t i = 0; i < step.positions.size(); ++i) read_row(step, i, row);
      }
    }
  }
  EXPECT_GT(accepted, 100U);  // Names may change: the test has seen both outcomes.
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse(whole.substr(0, size)).has_value()) << size;
}

// Statistics in place of values.

std::vector<double> figures(double count = 4, double non_finite = 0) {
  return {count, non_finite, 0.5, 1, -1, 2, 3, 1};
}
std::string three(const std::vector<double>& row) {
  std::vector<double> rows;
  for (int i = 0; i < 3; ++i) rows.insert(rows.end(), row.begin(), row.end());
  return raw(rows);
}
std::string sketches(size_t rows) { return raw(std::vector<float>(rows * 64, 0.25F)); }
const char* const kStats = "layer.0.attn.q.stats";
const char* const kSketch = "layer.0.attn.q.sketch";

TEST(TraceStatistics, AreReadWithTheirStep) {
  const auto trace = parse(file()
                               .add(kStats, "F64", {3, 8}, three(figures()))
                               .add(kSketch, "F32", {3, 64}, sketches(3)));
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_TRUE(trace->has_only_statistics());
  EXPECT_TRUE(trace->unknown.empty());
  const auto& entry = trace->statistics.at("layer.0.attn.q");
  EXPECT_EQ(entry.positions, (Ids{0, 1, 2}));
  EXPECT_EQ(entry.row(2).norm, 3);
  EXPECT_EQ(entry.row(2).largest, 1);
  EXPECT_EQ(entry.sketch_row(1)[63], 0.25F);
}

TEST(TraceStatistics, MayStandBesideValuesAndAtPositionsOfTheirStep) {
  const auto both = parse(
      file().add_floats("layer.0.attn.q", {3, 4}).add(kStats, "F64", {3, 8}, three(figures())));
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_FALSE(both->has_only_statistics());
  EXPECT_FALSE(both->statistics.at("layer.0.attn.q").sketch.has_value());
  const auto last = parse(
      file().add(kStats, "F64", {1, 8}, raw(figures())).add_ids("positions:layer.0.attn.q", {2}));
  ASSERT_TRUE(last) << last.error().message;
  EXPECT_EQ(last->statistics.at("layer.0.attn.q").positions, Ids{2});
  EXPECT_TRUE(last->unknown.empty());
}

TEST(TraceStatistics, OfNamesThatAreNoStepAreKeptAsUnknown) {
  const auto trace = parse(file().add("mine.stats", "F64", {3, 8}, three(figures())));
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_EQ(trace->unknown, std::vector<std::string>{"mine.stats"});
}

TEST(TraceStatistics, WrongShapesAndTypesAreRefused) {
  const std::string seven = raw(std::vector<double>(21));
  expect_refusal(file().add(kStats, "F64", {3, 7}, seven), {kStats, "[3, 7]", "F64 [3, 8]"});
  expect_refusal(file().add(kStats, "F32", {3, 8}, raw(std::vector<float>(24))),
                 {kStats, "F32", "F64 [3, 8]"});
  expect_refusal(file().add(kStats, "F64", {2, 8}, raw(std::vector<double>(16, 1))),
                 {kStats, "F64 [3, 8]", "one row for each position"});
  expect_refusal(file().add(kStats, "F64", {0, 8}, ""), {kStats, "no values"});
  const auto with = [&] { return file().add(kStats, "F64", {3, 8}, three(figures())); };
  expect_refusal(with().add(kSketch, "F32", {2, 64}, sketches(2)), {kSketch, "F32 [3, 64]"});
  expect_refusal(with().add(kSketch, "F64", {3, 64}, raw(std::vector<double>(192))),
                 {kSketch, "F32 [3, 64]"});
  expect_refusal(file().add(kSketch, "F32", {3, 64}, sketches(3)), {kSketch, "stands without"});
}

TEST(TraceStatistics, FiguresThatNobodyCanHaveCountedAreRefused) {
  const auto refuse = [](std::vector<double> row, const std::vector<std::string>& parts) {
    expect_refusal(file().add(kStats, "F64", {3, 8}, three(row)), parts);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double count : {nan, -4.0, 0.0, 2.5, 1e300})
    refuse(figures(count), {"row 0", "the count is"});
  for (const double bad : {nan, -1.0, 5.0, 0.5}) refuse(figures(4, bad), {"row 0", "not finite"});
  auto row = figures();
  row[2] = nan;
  refuse(row, {"the mean"});
  row = figures();
  row[3] = -1;
  refuse(row, {"standard deviation"});
  row = figures();
  row[4] = 3;
  refuse(row, {"minimum", "maximum"});
  row = figures();
  row[6] = -3;
  refuse(row, {"norm"});
  row = figures();
  row[7] = 4;
  refuse(row, {"largest"});
  auto rows = figures();
  for (int i = 0; i < 2; ++i) {
    const auto more = figures(5);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  expect_refusal(file().add(kStats, "F64", {3, 8}, raw(rows)), {"row 1", "as in the rows before"});
}

TEST(TraceStatistics, OtherPositionsThanTheValuesAreRefused) {
  expect_refusal(file()
                     .add_floats("layer.0.attn.q", {2, 4})
                     .add_ids("positions:layer.0.attn.q", {1, 2})
                     .add(kStats, "F64", {3, 8}, three(figures())),
                 {kStats, "F64 [2, 8]"});
  expect_refusal(file()
                     .add(kStats, "F64", {3, 8}, three(figures()))
                     .add_ids("positions:layer.0.attn.q.stats", {0, 1, 2}),
                 {"positions:layer.0.attn.q.stats", "positions of their step"});
  expect_refusal(
      file().add_floats("layer.0.attn.q", {3, 5}).add(kStats, "F64", {3, 8}, three(figures())),
      {"rows of 4 values", "has 5"});
}

}  // namespace
}  // namespace plumb
