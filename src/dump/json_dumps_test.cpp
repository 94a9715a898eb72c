// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "dump/readers.h"
#include "formats/safetensors.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

Result<Dump> read(const std::string& text, const fs::path& path = "x.json") {
  return read_json_dump({path, std::as_bytes(std::span(text)), nullptr});
}

std::string error_of(const std::string& text) {
  const auto dump = read(text);
  EXPECT_FALSE(dump) << text;
  return dump ? std::string() : dump.error().message;
}

template <class T>
std::vector<T> values(const DumpTensor& tensor) {
  std::vector<T> out(tensor.view.bytes.size() / sizeof(T));
  std::memcpy(out.data(), tensor.view.bytes.data(), tensor.view.bytes.size());
  return out;
}

class Folder {
 public:
  Folder() : path_(fs::path(testing::TempDir()) / fmt::format("plumb_json_{}", getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_ / "dump_tensor_data");
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  fs::path path_;
};

// A .npy of F32, version 1.
std::string npy(const std::string& shape, std::vector<float> list) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize(117, ' ');
  header += '\n';
  std::string text("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>(header.size());
  text += '\0';
  text += header;
  text.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(float));
  return text;
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k)
      text += i + k > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * k) & 63];
  }
  return text;
}

// Each byte as the character of that number, in UTF-8: JSON of old versions.
std::string latin1(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
  return text;
}

std::string array(const std::string& text) {
  return R"({"values": {"array": ")" + text +
         R"(", "polygraphy_class": "ndarray"}, "polygraphy_class": "LazyArray"})";
}

std::string run(const std::string& runner, const std::string& outputs) {
  return "[\"" + runner + "\", [{\"outputs\": {" + outputs +
         R"(}, "runtime": 0.5, "polygraphy_class": "IterationResult"}]])";
}

std::string results(const std::string& runs) {
  return R"({"lst": [)" + runs + R"(], "polygraphy_class": "RunResults"})";
}

TEST(Polygraphy, ReadsRunnersAndIterations) {
  for (size_t extra = 0; extra < 3; ++extra) {  // each length of base64's end
    auto data = npy("(1, 2)", {1, 2});
    data.insert(data.size() - 9, extra, ' ');
    data[8] = static_cast<char>(data[8] + static_cast<char>(extra));
    const auto dump = read(results(run("r", "\"logits\": " + array(base64(data)))));
    ASSERT_TRUE(dump) << dump.error().message;
    ASSERT_EQ(dump->tensors.size(), 1u);
    EXPECT_EQ(dump->tensors[0].name, "logits");
    EXPECT_EQ(dump->tensors[0].view.shape, (std::vector<uint64_t>{1, 2}));
    EXPECT_EQ(values<float>(dump->tensors[0]), (std::vector<float>{1, 2}));
  }
  // Two runners: their names tell the outputs apart, which stay in the order of the file.
  const auto x = array(base64(npy("(1,)", {3})));
  const auto dump =
      read(results(run("ort", "\"b\": " + x + ", \"a\": " + x) + ", " + run("trt", "\"b\": " + x)));
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 3u);
  EXPECT_EQ(dump->tensors[0].name, "ort/b");
  EXPECT_EQ(dump->tensors[1].name, "ort/a");
  EXPECT_EQ(dump->tensors[2].name, "trt/b");
  EXPECT_EQ(dump->engine.at("runners"), "ort, trt");
}

TEST(Polygraphy, ReadsOldFilesAndInputs) {
  auto text = results(run("r", "\"x\": " + array(latin1(npy("(1,)", {3.5F})))));
  for (size_t at = 0; (at = text.find("polygraphy_class", at)) != std::string::npos;)
    text.replace(at, 16, "polygraphy_serialized_json_type");
  auto dump = read(text);
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values<float>(dump->tensors.at(0)), (std::vector<float>{3.5F}));
  const auto x = array(base64(npy("(1,)", {3})));
  dump = read("[{\"input_ids\": " + x + "}, {\"input_ids\": " + x + "}]");
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 2u);
  EXPECT_EQ(dump->tensors[1].pass, 1u);
}

TEST(Polygraphy, NamesWhatIsBroken) {
  const auto x = base64(npy("(1,)", {3}));
  const auto with = [](const std::string& text) {
    return results(run("r", "\"x\": " + array(text)));
  };
  EXPECT_NE(error_of(with(x.substr(1))).find("iteration 0, 'x'"), std::string::npos);
  error_of(with("*" + x.substr(1)));
  error_of(with("AAAA"));
  error_of(with(""));
  error_of(with(base64(npy("(2,)", {3}))));
  error_of(results(run("r", "\"x\": 3")));
  error_of(results(run("r", R"("x": {"tensor": ")" + x + "\"}")));
  error_of(results("[\"r\"]"));
  error_of(results("[\"r\", [3]]"));
  error_of(results("3"));
}

TEST(Msprobe, ReadsTheFilesThatItNames) {
  const Folder folder;
  folder.write("dump_tensor_data/Module.a.Linear.forward.1.output.0.npy", npy("(1, 2)", {1, 2}));
  const std::string text = R"({"task": "tensor", "level": "L0", "framework": "pytorch",
    "dump_data_dir": "/elsewhere", "data": {"Module.layers.3.a.Linear.forward.1": {
      "input_args": [null, {"type": "int", "value": 3}],
      "input_kwargs": {},
      "output": [{"type": "torch.Tensor", "dtype": "torch.float32", "shape": [1, 2], "Max": NaN,
        "Min": -Infinity, "data_name": "Module.a.Linear.forward.1.output.0.npy"}]}}})";
  const auto dump = read(text, folder.path() / "dump.json");
  ASSERT_TRUE(dump) << dump.error().message;
  ASSERT_EQ(dump->tensors.size(), 1u);
  EXPECT_EQ(dump->tensors[0].name, "Module.layers.3.a.Linear.forward.1.output.0");
  EXPECT_EQ(dump->tensors[0].occurrence, 1u);
  EXPECT_EQ(dump->tensors[0].source, "Module.a.Linear.forward.1.output.0.npy");
  EXPECT_EQ(dump->engine.at("framework"), "pytorch");
  auto other = text;
  other.replace(other.find("[1, 2]"), 6, "[2, 1]");
  EXPECT_FALSE(read(other, folder.path() / "dump.json"));
  for (const std::string name :
       {"../x.npy", "/x.npy", "..", "a/../../x.npy", "a\\\\x.npy", "nope"}) {
    other = text;
    const std::string file = "Module.a.Linear.forward.1.output.0.npy";
    other.replace(other.find(file), file.size(), name);
    EXPECT_FALSE(read(other, folder.path() / "dump.json")) << name;
  }
}

TEST(Msprobe, SaysWhatStatisticsCannotShow) {
  const auto dump = read(R"({"task": "statistics", "data": {"Functional.linear.5.forward": {
    "output": [{"type": "torch.Tensor", "shape": [2], "Max": 1.0, "Norm": 2.0}]}}})");
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_TRUE(dump->tensors.empty());
  ASSERT_EQ(dump->notes.size(), 1u);
  EXPECT_NE(dump->notes[0].find("statistics"), std::string::npos);
}

// A call tree with one tensor: lines of its text, or a file.
std::string tree(const std::string& size, const std::string& value,
                 const std::string& type = "float32") {
  return R"({"module_path": "M", "inputs": {"args": [], "kwargs": {"use_cache": "True"}}, )"
         R"("children": [{"module_path": "M.a", "inputs": {"args": ["None"]}, "outputs": )"
         "{\"shape\": \"torch.Size(" +
         size + ")\", \"dtype\": \"torch." + type + "\", \"value\": " + value + "}}]}";
}

// The printed text, as a list of lines.
std::string lines(std::initializer_list<std::string> list) {
  std::string text;
  for (const auto& line : list) text += (text.empty() ? "[\"" : ", \"") + line + "\"";
  return text + "]";
}

TEST(CallTree, ReadsPrintedTensorsWithTheirPrecision) {
  auto dump = read(tree("[2, 2]",
                        lines({"tensor([[ 1.2345e-02, -2.0000e+00],", "        [nan, inf]],",
                               "       dtype=torch.bfloat16)"}),
                        "bfloat16"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->model.at("class"), "M");
  const auto& x = dump->tensors.at(0);
  EXPECT_EQ(x.name, "a.outputs");
  EXPECT_EQ(x.view.shape, (std::vector<uint64_t>{2, 2}));
  EXPECT_EQ(x.view.dtype, DType::F32);
  EXPECT_NEAR(x.precision, 5e-5, 1e-12);
  EXPECT_FALSE(x.elided);
  EXPECT_EQ(values<float>(x)[0], 1.2345e-02F);
  EXPECT_TRUE(std::isnan(values<float>(x)[2]));
  EXPECT_EQ(values<float>(x)[3], HUGE_VALF);
  dump = read(tree("[2]", lines({"tensor([1.5000e-02, 0.0000e+00])"})));
  ASSERT_TRUE(dump);
  EXPECT_NEAR(dump->tensors.at(0).precision, 5e-5, 1e-12);
  dump = read(tree("[3]", lines({"tensor([1., 2., 16777217.], device='cuda:0')"})));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors.at(0).precision, 0);  // whole numbers are printed in full
  dump = read(tree("[]", lines({"tensor(7)"}), "int64"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values<int64_t>(dump->tensors.at(0)), (std::vector<int64_t>{7}));
  dump = read(tree("[2]", lines({"tensor([True, False])"}), "bool"));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(values<uint8_t>(dump->tensors.at(0)), (std::vector<uint8_t>{1, 0}));
  dump = read(tree("[0, 64]", lines({"tensor([], size=(0, 64))"})));
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_TRUE(dump->tensors.at(0).view.bytes.empty());
}

TEST(CallTree, PutsWhatIsLeftOutInItsPlace) {
  const auto dump =
      read(tree("[2, 9, 8]", lines({"tensor([[[1.,  ..., 8.],", " [9.,  ..., 16.],", " ...,",
                                    " [65.,  ..., 72.]],", "", " [[73.,  ..., 80.],",
                                    " [81.,  ..., 88.],", " ...,", " [137.,  ..., 144.]]])"})));
  ASSERT_TRUE(dump) << dump.error().message;
  const auto& x = dump->tensors.at(0);
  EXPECT_TRUE(x.elided);
  const auto list = values<float>(x);
  ASSERT_EQ(list.size(), 144u);
  for (size_t i = 0; i < list.size(); ++i) {
    const size_t row = i / 8 % 9;
    const bool printed = (row < 2 || row == 8) && (i % 8 == 0 || i % 8 == 7);
    if (printed) EXPECT_EQ(list[i], static_cast<float>(i + 1));
    else EXPECT_TRUE(std::isnan(list[i])) << i;
  }
  // Whole numbers have no NaN, so they become doubles.
  const auto whole = read(tree("[9]", lines({"tensor([1, ..., 9])"}), "int64"));
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(whole->tensors.at(0).view.dtype, DType::F64);
}

TEST(CallTree, RefusesTextThatIsNotOfItsShape) {
  for (const char* text :
       {"tensor([[1., 2.], [3., 4.]", "tensor([[1., 2.], [3.]])", "tensor([[1., 2.]])",
        "tensor([[1., 2.], [3., 4.], [5., 6.]])", "tensor([1., 2.])", "tensor([[1. 2.], [3., 4.]])",
        "tensor([[1., x], [3., 4.]])", "tensor([[1., ..., 2.], [3., 4.]])",
        "tensor([[[1.], [2.]], [[3.], [4.]]])", "tensor(", "tensor()", "tensor([])", "tensor(]",
        "tensor([[1., 2.], [3., 4.]])x", "tensor([[1.,, 2.], [3., 4.]])", "tensor(...)",
        "tensor([[1., 1e99], [3., 4.]])"}) {
    const auto message = error_of(tree("[2, 2]", "[\"" + std::string(text) + "\"]"));
    EXPECT_NE(message.find("x.json: tensor 'a.outputs'"), std::string::npos) << message;
  }
  for (const char* size : {"[18446744073709551615, 2]", "[4294967296, 4294967296, 4294967296]",
                           "[1099511627776]", "2", "[-1]", "[1, a]", "[99999999999999999999]"})
    error_of(tree(size, lines({"tensor([1.,  ..., 2.])"})));
  EXPECT_NE(error_of(tree("[2]", "null")).find("FULL_TENSORS"), std::string::npos);
  error_of(tree("[2]", "3"));
  error_of(tree("[2]", R"x(["tensor([1., 2.])", 3])x"));
}

TEST(CallTree, ReadsTheSafetensorsBesideIt) {
  const Folder folder;
  const std::vector<float> list = {1, 2, 3};
  const SafetensorsTensor data{"data", {DType::F32, {3}, std::as_bytes(std::span(list))}};
  ASSERT_TRUE(write_safetensors(folder.path() / "M.a_outputs.safetensors", {}, {&data, 1}));
  auto dump = read(tree("[3]", "\"./M.a_outputs.safetensors\""), folder.path() / "tree.json");
  ASSERT_TRUE(dump) << dump.error().message;
  EXPECT_EQ(dump->tensors.at(0).name, "a.outputs");
  EXPECT_EQ(dump->tensors[0].source, "M.a_outputs.safetensors");
  EXPECT_EQ(values<float>(dump->tensors[0]), list);
  for (const char* value : {"\"./../x.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\"\"",
                            "\"./nope.safetensors\"", "\"./a/b\""})
    EXPECT_FALSE(read(tree("[3]", value), folder.path() / "tree.json")) << value;
  EXPECT_FALSE(read(tree("[4]", "\"./M.a_outputs.safetensors\""), folder.path() / "tree.json"));
}

TEST(JsonDumps, RefusesWhatIsDeepBrokenOrSomethingElse) {
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += R"({"module_path":"M","children":[)";
  EXPECT_NE(error_of(deep).find("nested deeper"), std::string::npos);
  EXPECT_NE(error_of(R"({"a": 1, "b": 2})").find("'a', 'b'"), std::string::npos);
  error_of("{}");
  error_of("[]");
  error_of("");
  error_of(R"({"module_path": "M", "module_path": "N"})");
  error_of(R"({"module_path": "M", "children": 3})");
  error_of(R"({"module_path": "M", "children": [{}]})");
}

TEST(JsonDumps, CutAndChangedFilesNeverCrash) {
  const auto x = array(base64(npy("(2,)", {3, 4})));
  for (const auto& text : {results(run("r", "\"x\": " + x)),
                           tree("[2, 9]", lines({"tensor([[1.,  ..., 9.], [2., ..., 8.]])"}))}) {
    ASSERT_TRUE(read(text));
    for (size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(read(text.substr(0, size)));
    for (size_t i = 0; i < text.size(); ++i)
      for (const char c : {'[', ']', ',', '.', '9', '{', '"', '\0', '\\', 'A'}) {
        auto changed = text;
        changed[i] = c;
        const auto dump = read(changed);
        EXPECT_TRUE(dump || !dump.error().message.empty());
      }
  }
}

TEST(JsonDumps, AreRecognizedByTheirFirstCharacters) {
  const auto looks = [](const std::string& text) {
    return looks_like_json(std::as_bytes(std::span(text)));
  };
  EXPECT_TRUE(looks("\xEF\xBB\xBF {\n \"a\""));
  EXPECT_TRUE(looks("[ {"));
  EXPECT_FALSE(looks("[1"));
  EXPECT_FALSE(looks("{x"));
  EXPECT_FALSE(looks(""));
}

}  // namespace
}  // namespace plumb
