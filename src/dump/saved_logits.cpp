// SPDX-License-Identifier: Apache-2.0
// What llama-debug --save-logits and its Hugging Face counterpart write: NAME.bin of bare F32
// values, which only the files beside it explain: NAME.txt, NAME-tokens.bin and NAME-prompt.txt.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/mapped_file.h"
#include "dump/readers.h"

namespace plumb {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEmbeddings = "-embeddings";

struct Files {
  fs::path values, text, tokens, prompt;
};

Files files_of(const fs::path& path) {
  const auto beside = [&](std::string_view ending) {
    fs::path other = path.parent_path() / path.stem();
    other += ending;
    return other;
  };
  return {path, beside(".txt"), beside("-tokens.bin"), beside("-prompt.txt")};
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Takes the first line away from `text`.
std::string_view next_line(std::string_view& text) {
  const auto end = std::min(text.find('\n'), text.size());
  const auto line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return trim(line);
}

template <class T>
std::optional<T> to_integer(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> to_number(std::string_view text) {
  const std::string copy(text);
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);
  if (copy.empty() || end != copy.c_str() + copy.size()) return std::nullopt;
  return value;
}

float value_at(std::span<const std::byte> bytes, size_t index) {
  float value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof(value), sizeof(value));
  return value;
}

// Whether a text can be this value, written with 6 significant digits (C++'s streams) or with 6
// decimals (the Hugging Face side). Half a unit of the last digit, and 1% for the text's rounding.
bool is_text_of(std::string_view text, double printed, float value) {
  if (!std::isfinite(value) || !std::isfinite(printed))
    return std::isnan(value) ? std::isnan(printed) : printed == static_cast<double>(value);
  const double difference = std::abs(printed - static_cast<double>(value));
  const double exponent = value == 0 ? 0 : std::floor(std::log10(std::abs(value)));
  if (difference <= 0.505 * std::pow(10.0, exponent - 5)) return true;
  const auto point = text.find('.');
  return point != std::string_view::npos && text.size() - point - 1 == 6 &&
         text.find('e') == std::string_view::npos && difference <= 0.505e-6;
}

// The lines "INDEX: VALUE" of NAME.txt. Gives their number.
Result<size_t> check_text(const fs::path& path, std::span<const std::byte> values) {
  TRY_ASSIGN(const auto file, MappedFile::open(path));
  auto text = text_of(file);
  const size_t count = values.size() / sizeof(float);
  size_t checked = 0;
  for (size_t line = 1; !text.empty(); ++line) {
    const auto content = next_line(text);
    if (content.empty()) continue;
    const auto colon = content.find(':');
    const auto index = to_integer<uint64_t>(content.substr(0, colon));
    const auto written =
        colon == std::string_view::npos ? std::string_view() : trim(content.substr(colon + 1));
    const auto number = to_number(written);
    if (!index || !number)
      return fail(ErrorCode::Corrupt, fmt::format("{}: line {}: 'INDEX: VALUE' is expected, found "
                                                  "'{}'",
                                                  path.string(), line, content.substr(0, 60)));
    if (*index >= count)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: line {}: value {}, the .bin beside it has {} values",
                              path.string(), line, *index, count));
    if (!is_text_of(written, *number, value_at(values, *index)))
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: line {}: value {} is {}, the .bin beside it has {}: the two are "
                              "not of one run",
                              path.string(), line, *index, written, value_at(values, *index)));
    ++checked;
  }
  return checked;
}

Result<std::vector<int64_t>> read_tokens(const fs::path& path) {
  TRY_ASSIGN(const auto file, MappedFile::open(path));
  const auto bytes = file.bytes();
  if (bytes.empty() || bytes.size() % sizeof(int32_t) != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("{}: {} bytes are no list of int32", path.string(), bytes.size()));
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < bytes.size(); i += sizeof(int32_t)) {
    int32_t token = 0;
    std::memcpy(&token, bytes.data() + i, sizeof(token));
    if (token < 0)
      return fail(ErrorCode::Corrupt,
                  fmt::format("{}: byte {}: the token {}", path.string(), i, token));
    tokens.push_back(token);
  }
  return tokens;
}

// "token ids: 504, 3575, …" of NAME-prompt.txt; a prompt may have such a line too, so the last one.
Result<std::vector<int64_t>> read_prompt_tokens(const fs::path& path) {
  constexpr std::string_view kIds = "token ids:";
  TRY_ASSIGN(const auto file, MappedFile::open(path));
  const auto text = text_of(file);
  const auto at = text.rfind(kIds);
  if (at == std::string_view::npos)
    return fail(ErrorCode::Corrupt, path.string() + ": the line 'token ids: …' is missing");
  auto rest = text.substr(at + kIds.size());
  auto list = next_line(rest);
  std::vector<int64_t> tokens;
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    const auto token = to_integer<int32_t>(trim(list.substr(0, comma)));
    if (!token || *token < 0)
      return fail(ErrorCode::Corrupt, fmt::format("{}: '{}' is no token id", path.string(),
                                                  list.substr(0, std::min<size_t>(comma, 40))));
    tokens.push_back(*token);
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return tokens;
}

Result<void> add_tokens(const Files& files, Dump& dump) {
  if (is_there(files.tokens)) {
    TRY_ASSIGN(dump.tokens, read_tokens(files.tokens));
  }
  if (!is_there(files.prompt)) return {};
  TRY_ASSIGN(auto tokens, read_prompt_tokens(files.prompt));
  if (!dump.tokens) {
    dump.tokens = std::move(tokens);
  } else if (*dump.tokens != tokens) {
    return fail(ErrorCode::Corrupt,
                fmt::format("{} has other token ids than {}: the two are not of one run",
                            files.prompt.string(), files.tokens.string()));
  }
  if (dump.tokens->empty())
    return fail(ErrorCode::Corrupt, files.prompt.string() + ": there are no token ids");
  return {};
}

void add_logits(std::span<const std::byte> bytes, Dump& dump) {
  DumpTensor logits;
  logits.name = "logits";
  logits.view = {DType::F32, {1, bytes.size() / sizeof(float)}, bytes};
  dump.tensors.push_back(std::move(logits));
  if (!dump.tokens) return;
  const auto last = static_cast<int32_t>(dump.tokens->size() - 1);
  const auto position = std::as_bytes(std::span(&last, 1));
  DumpTensor positions;
  positions.name = "positions";
  positions.view = {DType::I32, {1}, dump.keep({position.begin(), position.end()})};
  dump.tensors.push_back(std::move(positions));
}

void add_embeddings(std::span<const std::byte> bytes, Dump& dump) {
  const uint64_t count = bytes.size() / sizeof(float);
  const uint64_t tokens = dump.tokens ? dump.tokens->size() : 0;
  DumpTensor embeddings;
  embeddings.name = "embeddings";
  embeddings.view = {DType::F32, {1, count}, bytes};
  if (tokens > 0 && count % tokens == 0) embeddings.view.shape = {tokens, count / tokens};
  if (tokens > 1)
    dump.notes.push_back(
        fmt::format("the file does not say whether its {} values are one row for each of the {} "
                    "tokens or one pooled row: read as {}",
                    count, tokens, to_text(embeddings.view.shape)));
  dump.tensors.push_back(std::move(embeddings));
}

std::string_view without_ending(std::string_view text, std::string_view ending) {
  return text.ends_with(ending) ? text.substr(0, text.size() - ending.size()) : text;
}

// "llamacpp-MODEL[-embeddings]" or "pytorch-MODEL[-embeddings]".
void add_names(std::string_view stem, Dump& dump) {
  for (const auto& [prefix, engine] :
       {std::pair<std::string_view, const char*>{"llamacpp-", "llama.cpp"},
        {"pytorch-", "transformers"}}) {
    if (!stem.starts_with(prefix)) continue;
    dump.engine["name"] = engine;
    dump.model["name"] = without_ending(stem.substr(prefix.size()), kEmbeddings);
  }
}

Result<Dump> read(const fs::path& path) {
  const Files files = files_of(path);
  Dump dump;
  dump.kind = "llama-debug saved logits";
  dump.label = path.string();
  TRY_ASSIGN(auto opened, MappedFile::open(path));
  const auto file = std::make_shared<MappedFile>(std::move(opened));
  const auto bytes = file->bytes();
  dump.owners.push_back(file);
  if (bytes.empty() || bytes.size() % sizeof(float) != 0)
    return fail(ErrorCode::Corrupt,
                fmt::format("{}: {} bytes are no list of F32 values", path.string(), bytes.size()));
  TRY(add_tokens(files, dump));
  if (is_there(files.text)) {
    TRY_ASSIGN(const size_t checked, check_text(files.text, bytes));
    if (checked != bytes.size() / sizeof(float))
      dump.notes.push_back(fmt::format("{} has {} lines for {} values",
                                       files.text.filename().string(), checked,
                                       bytes.size() / sizeof(float)));
  } else {
    dump.notes.push_back(fmt::format("{} is not there: nothing says that the values are complete",
                                     files.text.filename().string()));
  }
  const auto stem = path.stem().string();
  add_names(stem, dump);
  if (stem.ends_with(kEmbeddings)) add_embeddings(bytes, dump);
  else add_logits(bytes, dump);
  return dump;
}

}  // namespace

bool looks_like_saved_logits(const fs::path& path) {
  if (path.extension() != ".bin" || !is_there(path)) return false;
  const Files files = files_of(path);
  return is_there(files.tokens) || is_there(files.prompt);
}

Result<Dump> read_saved_logits(const fs::path& path) { return read(path); }

}  // namespace plumb
