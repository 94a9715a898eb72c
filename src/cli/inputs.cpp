// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>

#include "backends/cpu/cpu_backend.h"
#include "backends/referee/referee_backend.h"
#include "cli/commands.h"

namespace plumb::cli {
namespace {

const std::map<std::string, KvType> kKvTypes = {
    {"f32", KvType::F32}, {"f16", KvType::F16}, {"q8_0", KvType::Q8_0}};

}  // namespace

Result<std::vector<Token>> default_tokens(const Model& model, const std::string& text, size_t count,
                                          size_t vocabulary) {
  if (model.tokenizer)
    if (auto tokens = model.tokenizer->encode(text, true, true)) return tokens;
  std::vector<Token> ids;
  for (size_t i = 0; i < count; ++i)
    ids.push_back(static_cast<Token>((i * 2654435761ULL + (i > 0 ? 1 : 0)) % vocabulary));
  return ids;
}

Result<std::vector<Token>> parse_token_ids(const std::string& text, const std::string& option) {
  std::vector<Token> ids;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(',', begin), text.size());
    Token id = 0;
    const auto* first = text.data() + begin;
    const auto* last = text.data() + end;
    while (first < last && *first == ' ') ++first;
    const auto [stop, error] = std::from_chars(first, last, id);
    if (error != std::errc() || stop != last)
      return fail(ErrorCode::Usage, fmt::format("{}: '{}' is not a token id; expected "
                                                "numbers with commas between them, such as 1,2,3",
                                                option, std::string(first, last)));
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

Result<std::string> read_text_file(const std::string& path) {
  std::stringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    auto piped = text.str();
    if (piped.ends_with('\n')) piped.pop_back();  // echo's, not the author's
    return piped;
  }
  if (std::filesystem::is_directory(path))
    return fail(ErrorCode::Io, fmt::format("{}: it is a folder, not a text file", path));
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return fail(ErrorCode::NotFound,
                fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  text << file.rdbuf();
  return text.str();
}

void InputOptions::add_to(CLI::App& app, size_t default_decode) {
  decode = default_decode;
  auto* group = app.add_option_group("Input");
  group->add_option_function<std::string>(
      "-p,--prompt",
      [this](const std::string& v) {
        prompt = v;
        has_prompt = true;
      },
      "Prompt text");
  group->add_option_function<std::string>(
      "--prompt-file",
      [this](const std::string& v) {
        prompt_file = v;
        has_file = true;
      },
      "Prompt text from a file; - is standard input");
  group->add_option_function<std::string>(
      "--tokens",
      [this](const std::string& v) {
        tokens = v;
        has_tokens = true;
      },
      "Token ids as given, nothing added: 1,2,3");
  group->require_option(0, 1);
  app.add_option("-n,--decode", decode, "Tokens to decode after the prompt")->capture_default_str();
}

void MachineOptions::add_to(CLI::App& app) {
  app.add_option("--backend", backend, "cpu (the production path) or referee (double precision)")
      ->check(CLI::IsMember({"cpu", "referee"}))
      ->capture_default_str();
  app.add_option("--cpu", level, "CPU level: scalar, avx2 or best")->capture_default_str();
  app.add_option("--threads", threads, "Threads; 0: all processors")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

std::optional<KvType> find_kv_type(const std::string& name) {
  const auto found = kKvTypes.find(name);
  return found == kKvTypes.end() ? std::nullopt : std::optional(found->second);
}

void add_kv_option(CLI::App& app, KvType& type) {
  app.add_option_function<std::string>(
         "--kv", [&type](const std::string& name) { type = kKvTypes.at(name); },
         "What the cache of keys and values holds: f32, f16 or q8_0")
      ->check(CLI::IsMember(kKvTypes))
      ->default_str(to_text(type));
}

void add_candidate_kv_option(CLI::App& app, std::optional<KvType>& type) {
  app.add_option_function<std::string>(
         "--candidate-kv", [&type](const std::string& name) { type = kKvTypes.at(name); },
         "Another cache type for B")
      ->check(CLI::IsMember(kKvTypes));
}

size_t MachineOptions::thread_count() const {
  return threads == 0 ? available_processors() : threads;
}

Result<std::unique_ptr<Backend>> MachineOptions::make_backend() const {
  if (backend == "referee") return make_referee_backend();
  return make_cpu_backend(level);
}

Result<std::string> read_prompt_text(const InputOptions& input) {
  if (!input.has_file) return input.prompt;
  return read_text_file(input.prompt_file);
}

Result<std::vector<Token>> read_tokens(const InputOptions& input, const Model& model) {
  if (input.has_tokens) return parse_token_ids(input.tokens, "--tokens");
  if (!input.given())
    return fail(ErrorCode::Usage, "no input: give -p TEXT, --prompt-file FILE or --tokens 1,2,3");
  TRY_ASSIGN(const auto text, read_prompt_text(input));
  if (!model.tokenizer)
    return fail(ErrorCode::Unsupported,
                fmt::format("{}: cannot turn text into tokens: {}; give token ids with --tokens",
                            model.path, model.tokenizer_missing));
  return model.tokenizer->encode(text, true, true);
}

Result<void> write_file(const std::string& path, const std::string& text) {
  const auto partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) {
    const std::string why = std::strerror(errno);
    std::filesystem::remove(partial);
    return fail(ErrorCode::Io, fmt::format("{}: cannot write: {}", path, why));
  }
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error) return fail(ErrorCode::Io, fmt::format("{}: cannot write: {}", path, error.message()));
  return {};
}

void show_progress(const std::string& what, size_t done, size_t all) {
  if (isatty(STDERR_FILENO) == 0) return;
  fmt::print(stderr, "\r\x1b[K{} {}/{}", what, done, all);
  std::fflush(stderr);
}

void end_progress() {
  if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\x1b[K");
}

int report_error(const Error& error) {
  end_progress();
  fmt::print(stderr, "plumb: {}\n", error.message);
  return error.code == ErrorCode::NotComparable ? kUnmeasured : kCouldNotRun;
}

}  // namespace plumb::cli
