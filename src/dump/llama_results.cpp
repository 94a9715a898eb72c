// SPDX-License-Identifier: Apache-2.0
// What llama-results writes: a GGUF with the tokens and the logits of all of them.
#include <fmt/format.h>

#include <cstring>

#include "dump/readers.h"
#include "formats/gguf.h"

namespace plumb {
namespace {

const TensorEntry* find(const GgufContent& content, std::string_view name) {
  for (const auto& tensor : content.tensors)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

Result<std::vector<int64_t>> to_tokens(const TensorView& view) {
  if (view.dtype != DType::I32 || view.shape.size() != 1 || view.shape[0] == 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("tensor 'tokens' is {} {}, a list of I32 is expected",
                            info(view.dtype).name, to_text(view.shape)));
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < view.shape[0]; ++i) {
    int32_t token = 0;
    std::memcpy(&token, view.bytes.data() + i * sizeof(token), sizeof(token));
    if (token < 0) return fail(ErrorCode::Corrupt, fmt::format("token {} is {}", i, token));
    tokens.push_back(token);
  }
  return tokens;
}

// The file declares [vocabulary, tokens] in rows-first order, and stores one row of the vocabulary
// for each token. A version that declares what it stores is read as well.
Result<std::vector<uint64_t>> true_shape(const TensorView& view, uint64_t tokens) {
  if (view.dtype == DType::F32 && view.shape.size() == 2 && tokens > 0) {
    if (view.shape[1] == tokens) return std::vector{tokens, view.shape[0]};
    if (view.shape[0] == tokens) return view.shape;
  }
  return fail(ErrorCode::Corrupt,
              fmt::format("tensor 'logits' is {} {}, F32 with one row for each of {} tokens is "
                          "expected",
                          info(view.dtype).name, to_text(view.shape), tokens));
}

Result<Dump> read(const DumpSource& source) {
  TRY_ASSIGN(const GgufContent content, parse_gguf(source.bytes));
  const TensorEntry* tokens = find(content, "tokens");
  const TensorEntry* logits = find(content, "logits");
  if (!tokens || !logits)
    return fail(ErrorCode::Unsupported,
                "this GGUF has no tensors 'tokens' and 'logits', as llama-results writes them");
  Dump dump;
  dump.kind = "llama-results GGUF";
  dump.label = source.path.string();
  dump.engine["name"] = "llama.cpp";
  dump.owners.push_back(source.owner);
  TRY_ASSIGN(dump.tokens, to_tokens(tokens->view));
  DumpTensor tensor;
  tensor.name = "logits";
  TRY_ASSIGN(auto shape, true_shape(logits->view, dump.tokens->size()));
  tensor.view = {DType::F32, std::move(shape), logits->view.bytes};
  dump.tensors.push_back(std::move(tensor));
  const auto path = content.metadata.find("path_model");
  if (path != content.metadata.end())
    if (const auto* text = std::get_if<std::string>(&path->second)) dump.model["path"] = *text;
  return dump;
}

}  // namespace

bool looks_like_results(std::span<const std::byte> bytes) {
  constexpr std::string_view kMagic = "GGUF";
  if (bytes.size() < kMagic.size() || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    return false;
  const auto content = parse_gguf(bytes);
  return content && find(*content, "tokens") && find(*content, "logits");
}

Result<Dump> read_results(const DumpSource& source) {
  auto dump = read(source);
  if (!dump) return std::unexpected(std::move(dump.error()).within(source.path.string()));
  return dump;
}

}  // namespace plumb
