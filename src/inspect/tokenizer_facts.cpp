// SPDX-License-Identifier: Apache-2.0
#include "inspect/tokenizer_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using ArrayPtr = std::shared_ptr<const MetadataArray>;
using nlohmann::json;

template <class T>
const T* find(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : std::get_if<T>(&found->second);
}

std::string text_of(const Metadata& metadata, const std::string& key) {
  const auto* text = find<std::string>(metadata, key);
  return text == nullptr ? std::string() : *text;
}

std::optional<bool> flag_of(const Metadata& metadata, const std::string& key) {
  const auto* flag = find<bool>(metadata, key);
  return flag == nullptr ? std::nullopt : std::optional(*flag);
}

// By the markers that a family's template must contain. Only named; rendering is another matter.
std::string family_of(const std::string& text) {
  const std::pair<const char*, const char*> markers[] = {
      {"<|start_header_id|>", "llama-3"},
      {"<|im_start|>", "chatml"},
      {"<start_of_turn>", "gemma"},
      {"<|end|>", "phi-3"},
      {"[INST]", "mistral / llama-2"},
      {"<|START_OF_TURN_TOKEN|>", "command-r"},
      {"<\xEF\xBD\x9CUser\xEF\xBD\x9C>", "deepseek"},
      {"<|user|>", "zephyr"}};
  for (const auto& [marker, family] : markers)
    if (text.find(marker) != std::string::npos) return family;
  return {};
}

std::string kind_text(const std::string& model) {
  if (model == "gpt2") return "gpt2 (byte-level BPE)";
  if (model == "llama") return "llama (SentencePiece BPE)";
  if (model == "bert") return "bert (WordPiece)";
  if (model == "t5") return "t5 (unigram)";
  return model;
}

std::string token_text(const ArrayPtr& tokens, int64_t id) {
  std::string text;
  int64_t at = 0;
  if (tokens && id >= 0 && id < static_cast<int64_t>(tokens->size()))
    tokens->for_each([&](const MetadataValue& value) {
      if (at++ != id) return true;
      if (const auto* found = std::get_if<std::string>(&value)) text = *found;
      return false;
    });
  return text;
}

constexpr const char* kRoles[] = {"bos",     "eos",     "eot",       "eom",
                                  "unknown", "padding", "seperator", "mask"};

void add_special(const ModelFile& file, const std::string& prefix, const ArrayPtr& tokens,
                 TokenizerFacts& facts) {
  for (const std::string role : kRoles) {
    const auto key = fmt::format("{}{}_token_id", prefix, role);
    const auto* id = find<int64_t>(file.metadata, key);
    if (id == nullptr) continue;
    facts.special.push_back({role, *id, token_text(tokens, *id)});
    if (facts.tokens > 0 && (*id < 0 || *id >= static_cast<int64_t>(facts.tokens)))
      facts.problems.push_back(
          fmt::format("{} is {}, but there are {} tokens", key, *id, facts.tokens));
  }
}

void check_length(const ModelFile& file, const std::string& key, TokenizerFacts& facts) {
  const auto* array = find<ArrayPtr>(file.metadata, key);
  if (array != nullptr && (*array)->size() != facts.tokens)
    facts.problems.push_back(
        fmt::format("{} has {} values for {} tokens", key, (*array)->size(), facts.tokens));
}

void read_arrays(const ModelFile& file, const std::string& prefix, const std::string& tokens_key,
                 TokenizerFacts& facts) {
  const auto* tokens = find<ArrayPtr>(file.metadata, prefix + tokens_key);
  facts.tokens = tokens == nullptr ? 0 : (*tokens)->size();
  if (const auto* merges = find<ArrayPtr>(file.metadata, prefix + "merges"))
    facts.merges = (*merges)->size();
  if (const auto* types = find<ArrayPtr>(file.metadata, prefix + "token_type"))
    (*types)->for_each([&](const MetadataValue& value) {
      constexpr int64_t kControl = 3;
      if (value == MetadataValue(kControl)) ++facts.control_tokens;
      return true;
    });
  check_length(file, prefix + "scores", facts);
  check_length(file, prefix + "token_type", facts);
  add_special(file, prefix, tokens == nullptr ? nullptr : *tokens, facts);
}

TokenizerFacts of_gguf(const ModelFile& file) {
  TokenizerFacts facts;
  const std::string prefix = "tokenizer.ggml.";
  const auto model = text_of(file.metadata, prefix + "model");
  facts.present = !model.empty() && model != "none" && model != "no_vocab";
  if (!facts.present) return facts;
  const auto pre = text_of(file.metadata, prefix + "pre");
  facts.kind = kind_text(model) + (pre.empty() ? "" : ", pre-tokenizer " + pre);
  read_arrays(file, prefix, "tokens", facts);
  if (facts.tokens == 0)
    facts.problems.push_back(prefix + "tokens is missing: a tokenizer without tokens");
  if (model == "gpt2" && facts.merges == 0)
    facts.problems.push_back(prefix + "merges is missing: byte-level BPE cannot work without");
  facts.add_bos = flag_of(file.metadata, prefix + "add_bos_token");
  facts.add_eos = flag_of(file.metadata, prefix + "add_eos_token");
  facts.chat_template = text_of(file.metadata, "tokenizer.chat_template");
  return facts;
}

TokenizerFacts of_apr(const ModelFile& file) {
  TokenizerFacts facts;
  facts.present = file.metadata.contains("tokenizer.vocabulary");
  auto model = text_of(file.metadata, "tokenizer.model");
  if (model.empty()) model = text_of(file.metadata, "tokenizer.model_type");
  const auto pre = text_of(file.metadata, "tokenizer.pre_type");
  facts.kind = kind_text(model) + (pre.empty() ? "" : ", pre-tokenizer " + pre);
  read_arrays(file, "tokenizer.", "vocabulary", facts);
  facts.add_bos = flag_of(file.metadata, "tokenizer.add_bos_token");
  facts.chat_template = text_of(file.metadata, "chat_template");
  if (facts.chat_template.empty())
    facts.chat_template = text_of(file.metadata, "tokenizer.chat_template");
  return facts;
}

// tokenizer.json: the counts and the kind.
void read_tokenizer_json(const std::filesystem::path& path, TokenizerFacts& facts) {
  auto file = MappedFile::open(path);
  if (!file) {
    facts.problems.push_back(path.filename().string() + ": " + file.error().message);
    return;
  }
  const auto bytes = file->bytes();
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const auto parsed = json::parse(text, text + bytes.size(), nullptr, false);
  const auto model = parsed.is_object() ? parsed.value("model", json()) : json();
  if (!model.is_object()) {
    facts.problems.push_back("tokenizer.json is not valid JSON with an object 'model'");
    return;
  }
  if (const auto type = model.find("type"); type != model.end() && type->is_string())
    facts.kind = type->get<std::string>() + ", tokenizer.json";
  uint64_t highest = 0;
  if (const auto vocab = model.find("vocab"); vocab != model.end()) {
    facts.tokens = vocab->size();
    if (vocab->is_object())
      for (const auto& id : *vocab)
        if (id.is_number_unsigned()) highest = std::max(highest, id.get<uint64_t>() + 1);
  }
  if (const auto merges = model.find("merges"); merges != model.end())
    facts.merges = merges->size();
  const auto added = parsed.find("added_tokens");
  if (added != parsed.end() && added->is_array())
    for (const auto& token : *added) {
      if (token.is_object() && token.value("special", json()) == true) ++facts.control_tokens;
      if (token.is_object() && token.contains("id") && token["id"].is_number_unsigned())
        highest = std::max(highest, token["id"].get<uint64_t>() + 1);
    }
  facts.tokens = std::max(facts.tokens, highest);
}

TokenizerFacts of_folder(const ModelFile& file) {
  TokenizerFacts facts;
  const auto json_file = file.side_files.find("tokenizer.json");
  if (json_file != file.side_files.end()) {
    facts.present = true;
    facts.kind = "tokenizer.json";
    read_tokenizer_json(json_file->second, facts);
  } else if (file.side_files.contains("tokenizer.model")) {
    facts.present = true;
    facts.kind = "SentencePiece, tokenizer.model";
  } else if (file.side_files.contains("vocab.json")) {
    facts.present = true;
    facts.kind = "byte-level BPE, vocab.json with merges.txt";
  }
  const auto& m = file.metadata;
  for (const std::string role : {"bos", "eos", "unk", "pad"}) {
    const auto* id = find<int64_t>(m, role + "_token_id");
    auto text = text_of(m, fmt::format("tokenizer_config.{}_token", role));
    if (text.empty()) text = text_of(m, fmt::format("tokenizer_config.{}_token.content", role));
    if (id != nullptr || !text.empty())
      facts.special.push_back({role, id == nullptr ? -1 : *id, text});
  }
  facts.add_bos = flag_of(m, "tokenizer_config.add_bos_token");
  facts.add_eos = flag_of(m, "tokenizer_config.add_eos_token");
  facts.chat_template = text_of(m, "tokenizer_config.chat_template");
  return facts;
}

}  // namespace

TokenizerFacts tokenizer_facts(const ModelFile& file) {
  TokenizerFacts facts = file.format == FileFormat::Gguf  ? of_gguf(file)
                         : file.format == FileFormat::Apr ? of_apr(file)
                                                          : of_folder(file);
  facts.chat_family = family_of(facts.chat_template);
  return facts;
}

}  // namespace plumb
