// SPDX-License-Identifier: Apache-2.0
// Chat templates: a model's own Jinja2 template, rendered as transformers renders it, or refused by
// the construct that stands in the way. docs/chat.md has the subset.
#pragma once
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/result.h"
#include "formats/model_file.h"

namespace plumb {

struct ChatMessage {
  std::string role, content;
};

struct RenderOptions {
  bool add_generation_prompt = true;
  // Texts of the tokens; empty: the model has none, and the template sees an undefined name, as it
  // does in transformers.
  std::string bos_token, eos_token;
  // What strftime_now shows: local time, counted as if it were UTC. The caller reads the clock.
  std::optional<std::chrono::sys_seconds> now;
  // An object: more names that the template may look at, such as enable_thinking.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
};

class ChatTemplate {
 public:
  static Result<ChatTemplate> parse(std::string source);

  Result<std::string> render(std::span<const ChatMessage> messages,
                             const RenderOptions& options) const;
  const std::string& source() const { return source_; }

 private:
  struct Tree;
  ChatTemplate(std::string source, std::shared_ptr<const Tree> tree);
  std::string source_;
  std::shared_ptr<const Tree> tree_;
};

// The template's text as the model has it: in its metadata or in a file beside its weights.
Result<std::string> find_chat_template(const ModelFile& file);

// A template of plumb's own for models without one: chatml, llama-2, llama-3, gemma, phi-3,
// mistral, zephyr, deepseek, command-r, vicuna, alpaca. "llama2" is "llama-2".
Result<ChatTemplate> named_chat_template(std::string_view name);
std::string_view named_chat_template_source(std::string_view name);  // empty: no such name
std::string named_chat_template_list();                              // "chatml, llama-2, …"

// "chatml", "llama-3", …, "own": for display; rendering does not depend on it.
std::string chat_template_family(const std::string& source);

}  // namespace plumb
