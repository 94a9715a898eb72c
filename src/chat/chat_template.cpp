// SPDX-License-Identifier: Apache-2.0
#include "chat/chat_template.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "chat/code_points.h"
#include "chat/jinja_interpreter.h"
#include "chat/jinja_parser.h"
#include "core/mapped_file.h"

namespace plumb {

struct ChatTemplate::Tree {
  jinja::ParsedTemplate parsed;
};

namespace {

using jinja::Kind;
using jinja::Value;
using nlohmann::ordered_json;

constexpr std::string_view kHint =
    "already rendered text can be passed with -p or --prompt-file, another template with "
    "--chat-template NAME|FILE";
constexpr int kMaxJsonDepth = 50;

// What the template does that plumb does not, gets the way around it.
Error with_hint(Error error) {
  error = std::move(error).within("chat template");
  if (error.code == ErrorCode::Unsupported)
    error.message = fmt::format("{} ({})", error.message, kHint);
  return error;
}

Result<Value> text_value(const std::string& text, std::string_view what) {
  if (is_utf8(text)) return Value::string(text);
  return fail(ErrorCode::Usage, fmt::format("{} is not UTF-8", what));
}

Result<Value> value_of(const ordered_json& json, int depth) {
  if (depth > kMaxJsonDepth)
    return fail(
        ErrorCode::Usage,
        fmt::format("a value for the template is nested deeper than {} levels", kMaxJsonDepth));
  switch (json.type()) {
    case ordered_json::value_t::boolean: return Value::boolean(json.get<bool>());
    case ordered_json::value_t::number_integer: return Value::integer(json.get<int64_t>());
    case ordered_json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        return jinja::unsupported("an integer of more than 64 bits");
      return Value::integer(json.get<int64_t>());
    case ordered_json::value_t::number_float: return Value::real(json.get<double>());
    case ordered_json::value_t::string:
      return text_value(json.get_ref<const std::string&>(), "a value for the template");
    case ordered_json::value_t::array: {
      std::vector<Value> items;
      for (const auto& item : json) {
        TRY_ASSIGN(auto value, value_of(item, depth + 1));
        items.push_back(std::move(value));
      }
      return Value::list(std::move(items));
    }
    case ordered_json::value_t::object: {
      jinja::Dict dict;
      for (const auto& [key, item] : json.items()) {
        TRY_ASSIGN(const auto name, text_value(key, "a name for the template"));
        TRY_ASSIGN(auto value, value_of(item, depth + 1));
        dict.set(name, std::move(value));
      }
      return Value::dict(std::move(dict));
    }
    default: return Value::none();
  }
}

Result<Value> messages_value(std::span<const ChatMessage> messages) {
  std::vector<Value> items;
  for (const auto& message : messages) {
    jinja::Dict dict;
    TRY_ASSIGN(auto role, text_value(message.role, "the role of a message"));
    TRY_ASSIGN(auto content, text_value(message.content, "a message"));
    dict.set(Value::string("role"), std::move(role));
    dict.set(Value::string("content"), std::move(content));
    items.push_back(Value::dict(std::move(dict)));
  }
  return Value::list(std::move(items));
}

// The names that transformers gives to a template.
Result<std::vector<std::pair<std::string, Value>>> names_of(std::span<const ChatMessage> messages,
                                                            const RenderOptions& options) {
  std::vector<std::pair<std::string, Value>> names;
  TRY_ASSIGN(auto list, messages_value(messages));
  names.emplace_back("messages", std::move(list));
  names.emplace_back("tools", Value::none());
  names.emplace_back("documents", Value::none());
  names.emplace_back("add_generation_prompt", Value::boolean(options.add_generation_prompt));
  if (!options.bos_token.empty()) {
    TRY_ASSIGN(auto token, text_value(options.bos_token, "bos_token"));
    names.emplace_back("bos_token", std::move(token));
  }
  if (!options.eos_token.empty()) {
    TRY_ASSIGN(auto token, text_value(options.eos_token, "eos_token"));
    names.emplace_back("eos_token", std::move(token));
  }
  if (options.extra.is_null()) return names;
  if (!options.extra.is_object())
    return fail(ErrorCode::Usage, "the values for the template are no JSON object");
  for (const auto& [key, item] : options.extra.items()) {
    TRY_ASSIGN(auto value, value_of(item, 0));
    names.emplace_back(key, std::move(value));
  }
  return names;
}

Result<std::string> text_file(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  if (!file) return std::unexpected(std::move(file.error()).within(path.string()));
  const auto bytes = file->bytes();
  if (bytes.size() > jinja::kMaxTemplateBytes)
    return fail(ErrorCode::Unsupported,
                fmt::format("{}: {} bytes, expected a chat template of at most {}", path.string(),
                            bytes.size(), jinja::kMaxTemplateBytes));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// "default" of a list of {"name": …, "template": …}; empty: there is none. Objects in an array of
// the metadata are JSON texts.
std::string default_of(const MetadataArray& list) {
  std::string found;
  list.for_each([&](const MetadataValue& item) {
    const auto* text = std::get_if<std::string>(&item);
    if (text == nullptr) return true;
    const auto json = ordered_json::parse(*text, nullptr, false);
    if (!json.is_object() || !json.contains("name") || !json.contains("template")) return true;
    if (json["name"] != "default" || !json["template"].is_string()) return true;
    found = json["template"].get<std::string>();
    return false;
  });
  return found;
}

// The file chat_template.json: {"chat_template": "…"}.
Result<std::string> json_file(const std::filesystem::path& path) {
  TRY_ASSIGN(const auto text, text_file(path));
  const auto json = ordered_json::parse(text, nullptr, false);
  if (json.is_object() && json.contains("chat_template") && json["chat_template"].is_string())
    return json["chat_template"].get<std::string>();
  return fail(
      ErrorCode::Corrupt,
      fmt::format("{}: expected a JSON object with the string 'chat_template'", path.string()));
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, std::shared_ptr<const Tree> tree)
    : source_(std::move(source)), tree_(std::move(tree)) {}

Result<ChatTemplate> ChatTemplate::parse(std::string source) {
  auto parsed = jinja::parse_template(source);
  if (!parsed) return std::unexpected(with_hint(std::move(parsed).error()));
  auto tree = std::make_shared<Tree>();
  tree->parsed = std::move(*parsed);
  return ChatTemplate(std::move(source), std::move(tree));
}

Result<std::string> ChatTemplate::render(std::span<const ChatMessage> messages,
                                         const RenderOptions& options) const {
  TRY_ASSIGN(const auto names, names_of(messages, options));
  for (const auto& late : tree_->parsed.late_names)
    for (const auto& [name, value] : names)
      if (name == late.name)
        return std::unexpected(with_hint(
            jinja::at_position(
                late.at,
                jinja::unsupported(fmt::format("setting '{}' behind a block that reads it", name))
                    .error())
                .error()));
  auto text = jinja::Interpreter(options.now).render(tree_->parsed.body, names);
  if (!text) return std::unexpected(with_hint(std::move(text).error()));
  return text;
}

Result<std::string> find_chat_template(const ModelFile& file) {
  // As in transformers: the file wins over the configuration.
  if (const auto found = file.side_files.find("chat_template.jinja");
      found != file.side_files.end())
    return text_file(found->second);
  for (const auto* key : {"tokenizer.chat_template", "tokenizer.chat_template.default",
                          "tokenizer_config.chat_template", "chat_template"}) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) continue;
    if (const auto* text = std::get_if<std::string>(&found->second);
        text != nullptr && !text->empty())
      return *text;
    const auto* list = std::get_if<std::shared_ptr<const MetadataArray>>(&found->second);
    if (list == nullptr) continue;
    if (auto text = default_of(**list); !text.empty()) return text;
  }
  if (const auto found = file.side_files.find("chat_template.json"); found != file.side_files.end())
    return json_file(found->second);
  return fail(
      ErrorCode::NotFound,
      fmt::format("{}: the model has no chat template; choose one with --chat-template NAME|FILE "
                  "(names: {}), or pass rendered text with -p or --prompt-file",
                  file.path.string(), named_chat_template_list()));
}

}  // namespace plumb
