// SPDX-License-Identifier: Apache-2.0
#include "quant/packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/half.h"
#include "core/mapped_file.h"
#include "formats/safetensors.h"
#include "quant/quantize_test_rows.h"
#include "quant/values.h"

namespace plumb {
namespace {

using Tensors = std::map<std::string, TensorView>;

const std::string kFolder = PLUMB_SOURCE_DIR "/tests/models/packed/";
const std::string kExpected = "expected.";
constexpr const char* kSamples[] = {
    "gptq-2bit",      "gptq-3bit",       "gptq-4bit",  "gptq-8bit",       "gptq_v2-act-order",
    "gptq-one-group", "awq-gemm",        "bnb-nf4",    "bnb-nf4-nested",  "bnb-fp4",
    "bnb-int8",       "compressed-8bit", "fp8-blocks", "compressed-int4", "compressed-int8"};

std::string text_or(const std::map<std::string, std::string>& map, const std::string& key,
                    const std::string& otherwise) {
  const auto found = map.find(key);
  return found == map.end() ? otherwise : found->second;
}

// A file of tools/make_packed_samples.py: tensors, configuration and the values to expect.
struct Sample {
  std::optional<MappedFile> file;
  Tensors tensors;
  Tensors expected;  // by the name of the matrix
  PackedConfig config;
};

Sample open_sample(const std::string& name) {
  Sample sample;
  auto file = MappedFile::open(kFolder + name + ".safetensors");
  const auto bytes = file ? file->bytes() : std::span<const std::byte>();
  const auto content = parse_safetensors(bytes);
  EXPECT_TRUE(content.has_value()) << name << ": " << content.error().message;
  if (!content) return sample;
  sample.file = std::move(*file);
  for (const auto& [tensor, view] : content->tensors) {
    if (tensor.starts_with(kExpected)) sample.expected[tensor.substr(kExpected.size())] = view;
    else sample.tensors[tensor] = view;
  }
  const auto& texts = content->metadata;
  PackedConfig& config = sample.config;
  config.method = text_or(texts, "method", "");
  config.checkpoint_format = text_or(texts, "checkpoint_format", "");
  config.version = text_or(texts, "version", "");
  config.format = text_or(texts, "format", "");
  config.bits = std::stoul(text_or(texts, "bits", "0"));
  config.group_size = std::stol(text_or(texts, "group_size", "0"));
  config.weight_block_size = {std::stoul(text_or(texts, "block_rows", "0")),
                              std::stoul(text_or(texts, "block_columns", "0"))};
  if (texts.contains("desc_act")) config.desc_act = texts.at("desc_act") == "true";
  return sample;
}

std::vector<float> read_all(const PackedWeight& weight) {
  std::vector<float> values(weight.out * weight.in);
  for (size_t row = 0; row < weight.out; ++row)
    read_packed_row(weight, row, values.data() + row * weight.in);
  return values;
}

void expect_same_bits(const std::vector<float>& values, const TensorView& expected,
                      const std::string& where) {
  ASSERT_EQ(values.size() * sizeof(float), expected.bytes.size()) << where;
  EXPECT_EQ(0, std::memcmp(values.data(), expected.bytes.data(), expected.bytes.size())) << where;
}

void expect_refusal(const Tensors& tensors, const PackedConfig& config,
                    const std::vector<std::string>& parts) {
  const auto found = find_packed(tensors, config);
  ASSERT_FALSE(found.has_value()) << "accepted, expected: " << parts.front();
  for (const std::string& part : parts)
    EXPECT_NE(found.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << found.error().message;
}

// Bytes of a test's own, as long as the shape says.
template <class T>
TensorView view_of(DType dtype, std::vector<uint64_t> shape, const std::vector<T>& values) {
  return {dtype, std::move(shape), std::as_bytes(std::span(values))};
}

TEST(Packed, EverySampleGivesItsValues) {
  for (const char* name : kSamples) {
    const Sample sample = open_sample(name);
    const auto found = find_packed(sample.tensors, sample.config);
    ASSERT_TRUE(found.has_value()) << name << ": " << found.error().message;
    EXPECT_EQ(found->size(), sample.expected.size()) << name;
    std::set<std::string> used;
    for (const PackedWeight& weight : *found) {
      const std::string where = std::string(name) + " " + weight.name;
      ASSERT_TRUE(sample.expected.contains(weight.name)) << where;
      const TensorView& expected = sample.expected.at(weight.name);
      EXPECT_EQ((std::vector<uint64_t>{weight.out, weight.in}), expected.shape) << where;
      EXPECT_TRUE(weight.warnings.empty()) << where << ": " << weight.warnings.front();
      expect_same_bits(read_all(weight), expected, where);
      used.insert(weight.sources.begin(), weight.sources.end());
    }
    for (const auto& [tensor, view] : sample.tensors)
      EXPECT_TRUE(used.contains(tensor)) << name << " " << tensor;
  }
}

TEST(Packed, KnowsEverySampleOnDisk) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder))
    files += entry.path().extension() == ".safetensors" ? 1 : 0;
  EXPECT_EQ(files, std::size(kSamples));
}

TEST(Packed, SaysWhatItFound) {
  const Sample sample = open_sample("gptq_v2-act-order");
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value());
  const PackedWeight& b = found->at(1);
  EXPECT_EQ(b.name, "b.weight");
  EXPECT_EQ(b.scheme, PackedScheme::Gptq);
  EXPECT_STREQ(packed_name(b.scheme), "GPTQ");
  EXPECT_EQ(b.bits, 4U);
  EXPECT_EQ(b.group_size, 16U);
  EXPECT_EQ(b.sources, (std::vector<std::string>{"b.qweight", "b.qzeros", "b.scales", "b.g_idx"}));
}

TEST(Packed, PlainTensorsStandForThemselves) {
  Sample sample = open_sample("awq-gemm");
  const std::vector<float> bias(24);
  sample.tensors["a.bias"] = view_of(DType::F32, {24}, bias);
  sample.tensors["lm_head.weight"] = view_of(DType::F32, {4, 6}, bias);
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value()) << found.error().message;
  ASSERT_EQ(found->size(), 1U);
  EXPECT_EQ(found->front().sources.size(), 3U);
  EXPECT_TRUE(find_packed({{"lm_head.weight", sample.tensors["lm_head.weight"]}}, {})->empty());
}

// The tables of order: one code of 1 at each place, all others 0.
TEST(Packed, AwqOrderOfNibbles) {
  const std::vector<int32_t> zeros = {0};
  const std::vector<uint16_t> scales(8, 0x3C00);
  const size_t column_of_nibble[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (size_t n = 0; n < 8; ++n) {
    const std::vector<uint32_t> codes = {1U << (4 * n)};
    const auto weight = make_packed(PackedScheme::Awq, "w",
                                    {{"qweight", view_of(DType::I32, {1, 1}, codes)},
                                     {"qzeros", view_of(DType::I32, {1, 1}, zeros)},
                                     {"scales", view_of(DType::F16, {1, 8}, scales)}},
                                    {});
    ASSERT_TRUE(weight.has_value()) << weight.error().message;
    const std::vector<float> values = read_all(*weight);
    for (size_t column = 0; column < 8; ++column)
      EXPECT_EQ(values[column], column == column_of_nibble[n] ? 1.0F : 0.0F) << n << " " << column;
  }
}

struct OneGptq {
  std::vector<uint32_t> codes = std::vector<uint32_t>(8, 0x76543210);
  std::vector<uint32_t> zeros = {0x0F76543F};
  std::vector<uint16_t> scales = std::vector<uint16_t>(8, 0x3C00);

  Tensors tensors() const {
    return {{"w.qweight", view_of(DType::I32, {1, 8}, codes)},
            {"w.qzeros", view_of(DType::I32, {1, 1}, zeros)},
            {"w.scales", view_of(DType::F16, {1, 8}, scales)}};
  }
};

// The first format stores a zero point less 1, the second as it is; 0 less 1 is 15.
TEST(Packed, GptqFormatsDifferByOne) {
  const OneGptq one;
  PackedConfig config = {.method = "gptq", .bits = 4};
  const auto first = find_packed(one.tensors(), config);
  config.checkpoint_format = "gptq_v2";
  const auto second = find_packed(one.tensors(), config);
  ASSERT_TRUE(first.has_value() && second.has_value());
  const std::vector<float> a = read_all(first->front());
  const std::vector<float> b = read_all(second->front());
  EXPECT_EQ(a[0], 0);  // code 0, zero 15 + 1, of which four bits stay
  EXPECT_EQ(b[0], -15);
  EXPECT_EQ(a[8], -4);  // row 1: stored 3
  EXPECT_EQ(b[8], -3);
  ASSERT_EQ(first->front().warnings.size(), 1U);
  EXPECT_NE(first->front().warnings[0].find("2 of 8 zero points are stored as 15"),
            std::string::npos)
      << first->front().warnings[0];
  EXPECT_TRUE(second->front().warnings.empty());
}

TEST(Packed, GptqBitsFromTheZeroPoints) {
  Sample sample = open_sample("gptq-2bit");
  sample.config.bits = 0;
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value()) << found.error().message;
  EXPECT_EQ(found->front().bits, 2U);
}

TEST(Packed, GptqWarnsOfAnOrderThatTheConfigurationDenies) {
  Sample sample = open_sample("gptq_v2-act-order");
  sample.config.desc_act = false;
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value());
  ASSERT_EQ(found->front().warnings.size(), 1U);
  EXPECT_NE(found->front().warnings[0].find("desc_act is false"), std::string::npos);
}

TEST(Packed, CompressedIndexOfMinusOneIsNone) {
  Sample sample = open_sample("compressed-int4");
  const std::vector<int32_t> unused(64, -1);
  sample.tensors["symmetric.weight_g_idx"] = view_of(DType::I32, {64}, unused);
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value()) << found.error().message;
  for (const PackedWeight& weight : *found)
    expect_same_bits(read_all(weight), sample.expected[weight.name], weight.name);
}

TEST(Packed, CompressedZeroPointsOfOneByteEach) {
  const std::vector<uint32_t> codes = {0xFEDCBA98, 0x76543210};
  const std::vector<float> scales = {1, 2};
  const std::vector<int8_t> zeros = {-3, 4};
  const std::vector<int64_t> shape = {2, 8};
  const auto found = find_packed({{"w.weight_packed", view_of(DType::I32, {2, 1}, codes)},
                                  {"w.weight_scale", view_of(DType::F32, {2, 1}, scales)},
                                  {"w.weight_zero_point", view_of(DType::I8, {2, 1}, zeros)},
                                  {"w.weight_shape", view_of(DType::I64, {2}, shape)}},
                                 {.method = "compressed-tensors"});
  ASSERT_TRUE(found.has_value()) << found.error().message;
  const std::vector<float> values = read_all(found->front());
  EXPECT_EQ(values[0], 8 - 8 + 3);
  EXPECT_EQ(values[7], 15 - 8 + 3);
  EXPECT_EQ(values[8], 2 * (0 - 8 - 4));
}

TEST(Packed, BitsandbytesParametersOfAnyName) {
  Sample sample = open_sample("bnb-nf4-nested");
  Tensors renamed;
  for (const auto& [name, view] : sample.tensors)
    renamed["experts.down_proj" + name.substr(std::string("a.weight").size())] = view;
  const auto found = find_packed(renamed, sample.config);
  ASSERT_TRUE(found.has_value()) << found.error().message;
  EXPECT_EQ(found->front().name, "experts.down_proj");
  expect_same_bits(read_all(found->front()), sample.expected["a.weight"], "renamed");
}

TEST(PackedRefusals, WhatIsNotSupportedIsNamed) {
  const Sample awq = open_sample("awq-gemm");
  PackedConfig config = awq.config;
  config.version = "gemv";
  expect_refusal(awq.tensors, config, {"a.weight (AWQ)", "'gemv'", "expected gemm"});
  config = awq.config;
  config.method = "";
  expect_refusal(awq.tensors, config, {"'a.qweight'", "quant_method"});
  config.method = "hqq";
  expect_refusal(awq.tensors, config, {"quant_method 'hqq' is not supported", "gptq"});

  const Sample gptq = open_sample("gptq-4bit");
  config = gptq.config;
  config.checkpoint_format = "marlin";
  expect_refusal(gptq.tensors, config, {"checkpoint_format 'marlin'", "gptq_v2"});
  config = gptq.config;
  config.bits = 5;
  expect_refusal(gptq.tensors, config, {"5 bits, expected 2, 3, 4 or 8"});
  config.bits = 8;
  expect_refusal(gptq.tensors, config, {"qweight is I32 [8, 32], expected [16, 32]", "8 bits"});

  const Sample compressed = open_sample("compressed-int8");
  config = compressed.config;
  config.format = "marlin-24";
  expect_refusal(compressed.tensors, config, {"'marlin-24', expected pack-quantized"});
  config = compressed.config;
  config.bits = 3;
  expect_refusal(compressed.tensors, config, {"3 bits, expected 2, 4 or 8"});

  Sample int8 = open_sample("bnb-int8");
  const std::vector<uint8_t> format = {2};
  int8.tensors["a.weight_format"] = view_of(DType::U8, {}, format);
  expect_refusal(int8.tensors, int8.config, {"weight_format is not 0"});

  const std::vector<uint32_t> mlx(8);
  expect_refusal({{"a.weight", view_of(DType::U32, {2, 4}, mlx)},
                  {"a.scales", view_of(DType::F32, {2, 4}, mlx)}},
                 {}, {"'a.weight' is U32 [2, 4]", "MLX"});
  expect_refusal({{"a.weight", view_of(DType::U32, {2, 4}, mlx)},
                  {"a.weight_scale", view_of(DType::F32, {2, 4}, mlx)}},
                 {}, {"'a.weight' is U32 [2, 4] with scales"});
}

TEST(PackedRefusals, GroupIndexOutOfRange) {
  for (const auto& [name, part] :
       {std::pair{"gptq_v2-act-order", "a.g_idx"}, {"compressed-int4", "ordered.weight_g_idx"}}) {
    Sample sample = open_sample(name);
    for (const int32_t wrong : {4, -1, INT32_MAX, INT32_MIN}) {
      std::vector<int32_t> index(64);
      index[63] = wrong;
      sample.tensors[part] = view_of(DType::I32, {64}, index);
      expect_refusal(sample.tensors, sample.config,
                     {"has group " + std::to_string(wrong) + " for input 63, expected 0 to 3"});
    }
  }
}

TEST(PackedRefusals, StateOfBitsandbytes) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {R"({"quant_type":"fp4"})", "quant_type is not 'nf4'"},
      {R"({"quant_type":"nf4"})", "shape is not"},
      {R"({"quant_type":"nf4","shape":[12]})", "shape is not"},
      {R"({"quant_type":"nf4","shape":[12,-48]})", "shape is not"},
      {R"({"quant_type":"nf4","shape":[12,48]})", "blocksize is missing"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":0})", "blocksize is number"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":1.5})", "blocksize is number"},
      {R"({"quant_type":"nf4","shape":[12,47],"blocksize":32})", "half a byte"},
      {R"({"quant_type":"nf4","shape":[0,48],"blocksize":32})", "half a byte"},
      {R"({"quant_type":"nf4","shape":[4294967296,4294967296],"blocksize":32})", "half a byte"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":64})",
       "weight.absmax is U8 [18], "
       "expected [9]"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":32})", "nested_blocksize is missing"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":32,"nested_blocksize":4})",
       "nested_offset is not"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":32,"nested_blocksize":4,)"
       R"("nested_offset":1e300})",
       "nested_offset is not"},
      {R"({"quant_type":"nf4","shape":[12,48],"blocksize":32,"nested_blocksize":8,)"
       R"("nested_offset":0})",
       "weight.nested_absmax is F32 [5], expected [3]"}};
  const std::string part = "a.weight.quant_state.bitsandbytes__nf4";
  Sample sample = open_sample("bnb-nf4-nested");
  for (const auto& [text, message] : cases) {
    const std::vector<char> bytes(text.begin(), text.end());
    sample.tensors[part] = view_of(DType::U8, {bytes.size()}, bytes);
    if (bytes.empty()) expect_refusal(sample.tensors, sample.config, {"is empty"});
    else expect_refusal(sample.tensors, sample.config, {"a.weight (bitsandbytes NF4)", message});
  }
  const std::vector<char> deep(65536, '[');
  sample.tensors[part] = view_of(DType::U8, {deep.size()}, deep);
  expect_refusal(sample.tensors, sample.config, {"not a JSON object"});
  const std::vector<char> longer(65537, ' ');
  sample.tensors[part] = view_of(DType::U8, {longer.size()}, longer);
  expect_refusal(sample.tensors, sample.config, {"65537 bytes"});
}

// Libraries ignore the stored table and use their own: another table would be another model.
TEST(PackedRefusals, ATableThatIsNotTheSchemes) {
  Sample sample = open_sample("bnb-nf4");
  std::vector<float> map(16);
  std::memcpy(map.data(), sample.tensors["a.weight.quant_map"].bytes.data(), 64);
  sample.tensors["a.weight.quant_map"] = view_of(DType::F32, {16}, map);
  ASSERT_TRUE(find_packed(sample.tensors, sample.config).has_value());
  map[3] += 0.001F;
  expect_refusal(sample.tensors, sample.config, {"weight.quant_map", "for code 3"});
  map[3] = std::nanf("");
  expect_refusal(sample.tensors, sample.config, {"weight.quant_map", "for code 3"});
}

TEST(PackedRefusals, PackedAndPlainAtOnce) {
  Sample sample = open_sample("gptq-4bit");
  const std::vector<float> plain(4);
  sample.tensors["a.weight"] = view_of(DType::F32, {2, 2}, plain);
  expect_refusal(sample.tensors, sample.config,
                 {"'a.weight' is there both packed (GPTQ) and plain"});
}

TEST(PackedRefusals, BlocksWithoutTheirSize) {
  Sample sample = open_sample("fp8-blocks");
  sample.config.weight_block_size = {0, 0};
  expect_refusal(sample.tensors, sample.config,
                 {"weight_scale_inv is F32 [3, 3]", "weight_block_size"});
  sample.config.weight_block_size = {5, 16};
  expect_refusal(sample.tensors, sample.config, {"block of 5 x 16 of 10 x 36"});
}

// Without scales the codes are no weights. Where nothing says that the file is quantized, they may
// be plain floats of 8 bits.
TEST(PackedRefusals, CodesWithoutScales) {
  Sample sample = open_sample("fp8-blocks");
  sample.tensors.erase("a.weight_scale_inv");
  expect_refusal(sample.tensors, sample.config, {"'a.weight' is F8_E4M3 [10, 36]", "no scales"});
  sample.config.method = "";
  EXPECT_TRUE(find_packed(sample.tensors, sample.config)->empty());
}

TEST(PackedRefusals, GroupSizes) {
  Sample sample = open_sample("gptq-one-group");
  for (const int64_t size : {int64_t{16}, int64_t{-2}, INT64_MIN}) {
    sample.config.group_size = size;
    expect_refusal(sample.tensors, sample.config, {"group"});
  }
  sample.config.group_size = INT64_MAX;  // One group that is longer than the row is one group.
  EXPECT_TRUE(find_packed(sample.tensors, sample.config).has_value());
}

bool is_optional(const std::string& tensor, const PackedConfig& config) {
  if (tensor.ends_with(".g_idx")) return !config.desc_act.value_or(false);
  for (const char* part : {"weight_g_idx", "weight_format", "weight_zero_point"})
    if (tensor.ends_with(part)) return true;
  return false;
}

// No part may be left out, be shorter than it says, or have another type or shape.
TEST(PackedRefusals, EveryPartIsChecked) {
  for (const char* name : kSamples) {
    const Sample sample = open_sample(name);
    for (const auto& [tensor, view] : sample.tensors) {
      const std::string where = std::string(name) + " " + tensor;
      Tensors changed = sample.tensors;
      changed.erase(tensor);
      const auto without = find_packed(changed, sample.config);
      EXPECT_EQ(without.has_value(), is_optional(tensor, sample.config)) << where;
      changed[tensor] = {view.dtype, view.shape, view.bytes.first(view.bytes.size() - 1)};
      EXPECT_FALSE(find_packed(changed, sample.config).has_value()) << where;
      changed[tensor] = {DType::F64, view.shape, view.bytes};
      EXPECT_FALSE(find_packed(changed, sample.config).has_value()) << where;
      changed[tensor] = {view.dtype, {UINT64_MAX, 2}, view.bytes};
      EXPECT_FALSE(find_packed(changed, sample.config).has_value()) << where;
      changed[tensor] = {view.dtype, {0, 3}, {}};
      EXPECT_FALSE(find_packed(changed, sample.config).has_value()) << where;
      changed[tensor] = {view.dtype, {1, view.shape.empty() ? 1 : view.shape[0], 1}, view.bytes};
      const auto reshaped = find_packed(changed, sample.config);
      if (reshaped && view.bytes.size() > 4 && !tensor.ends_with("__nf4") &&
          !tensor.ends_with("__fp4"))
        ADD_FAILURE() << where << " with shape " << to_text(changed[tensor].shape);
    }
  }
}

// Any bytes and any small shape give an error or values, and no read leaves the bytes (a sanitizer
// sees it: each part is copied to a block of its own).
TEST(PackedRefusals, HostilePartsNeverReadOutside) {
  SplitMix64 random(7);
  size_t accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    const Sample sample = open_sample(kSamples[random.next() % std::size(kSamples)]);
    Tensors tensors = sample.tensors;
    std::vector<std::vector<std::byte>> copies;
    for (auto& [name, view] : tensors) {
      copies.emplace_back(view.bytes.begin(), view.bytes.end());
      std::vector<std::byte>& bytes = copies.back();
      if (random.next() % 4 == 0)
        for (int i = 0; i < 3; ++i)
          bytes[random.next() % bytes.size()] = static_cast<std::byte>(random.next());
      if (random.next() % 8 == 0 && !view.shape.empty()) {
        uint64_t& size = view.shape[random.next() % view.shape.size()];
        size = random.next() % 2 == 0 ? size + 1 : size - (size > 1 ? 1 : 0);
        bytes.resize(tensor_bytes(view.dtype, *element_count(view.shape)).value());
      }
      view.bytes = bytes;
    }
    PackedConfig config = sample.config;
    if (random.next() % 8 == 0) config.bits = random.next() % 10;
    if (random.next() % 8 == 0) config.group_size = static_cast<int64_t>(random.next() % 70) - 2;
    if (random.next() % 8 == 0) config.weight_block_size = {random.next() % 20, random.next() % 20};
    const auto found = find_packed(tensors, config);
    if (!found) continue;
    ++accepted;
    for (const PackedWeight& weight : *found) EXPECT_FALSE(read_all(weight).empty());
  }
  EXPECT_GT(accepted, 300U);
  EXPECT_LT(accepted, 2700U);
}

TEST(PackedDeathTest, NoRowBeyondTheLast) {
  const Sample sample = open_sample("awq-gemm");
  const auto found = find_packed(sample.tensors, sample.config);
  ASSERT_TRUE(found.has_value());
  std::vector<float> row(64);
  EXPECT_DEATH(read_packed_row(found->front(), 24, row.data()), "bug at");
}

}  // namespace
}  // namespace plumb
