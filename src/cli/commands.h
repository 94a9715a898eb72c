// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "core/result.h"
#include "model/model.h"

namespace plumb::cli {

// What the shell sees. Nothing else in the program exits.
enum ExitCode { kPass = 0, kFail = 1, kUnmeasured = 2, kCouldNotRun = 3 };

// The options that mean the same in every command.
struct InputOptions {
  std::string prompt, prompt_file, tokens;
  size_t decode = 0;
  void add_to(CLI::App& app, size_t default_decode);
  bool given() const { return has_prompt || has_file || has_tokens; }
  bool has_prompt = false, has_file = false, has_tokens = false;
};
struct MachineOptions {
  std::string backend = "cpu", level = "best";
  size_t threads = 0;  // 0: all processors
  void add_to(CLI::App& app);
  Result<std::unique_ptr<Backend>> make_backend() const;
  size_t thread_count() const;
};

// The tokens of a prompt: ids as given, or text in the words of the model's tokenizer (BOS as the
// model asks, special tokens in the text become their ids).
Result<std::vector<Token>> read_tokens(const InputOptions& input, const Model& model);
// What a model is fed where the user says nothing: `text`, or, where the tokenizer is missing or
// has no tokens for it, `count` ids spread over a vocabulary.
Result<std::vector<Token>> default_tokens(const Model& model, const std::string& text, size_t count,
                                          size_t vocabulary);
// "1,2,3" as ids; `option` names the option in messages.
Result<std::vector<Token>> parse_token_ids(const std::string& text, const std::string& option);
// The text as given by -p or --prompt-file.
Result<std::string> read_prompt_text(const InputOptions& input);

// The text of a file; "-" is standard input, of which the newline at the end is left out.
Result<std::string> read_text_file(const std::string& path);
// --kv: what the cache of keys and values holds. --candidate-kv: that of the candidate, if another.
std::optional<KvType> find_kv_type(const std::string& name);
void add_kv_option(CLI::App& app, KvType& type);
void add_candidate_kv_option(CLI::App& app, std::optional<KvType>& type);

// Writes text to a file, whole or not at all.
Result<void> write_file(const std::string& path, const std::string& text);

// A line on stderr that is drawn again and again; silent unless stderr is a terminal.
void show_progress(const std::string& what, size_t done, size_t all);
void end_progress();

int report_error(const Error& error);

// Each command adds itself to the program; its result is the exit code.
using Command = std::function<int()>;
void add_inspect(CLI::App& program, Command& chosen);
void add_run(CLI::App& program, Command& chosen);
void add_score(CLI::App& program, Command& chosen);
void add_tokenize(CLI::App& program, Command& chosen);
void add_trace(CLI::App& program, Command& chosen);
void add_compare(CLI::App& program, Command& chosen);
void add_audit(CLI::App& program, Command& chosen);
void add_import(CLI::App& program, Command& chosen);
void add_self_test(CLI::App& program, Command& chosen);
void add_names(CLI::App& program, Command& chosen);

}  // namespace plumb::cli
