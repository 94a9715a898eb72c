// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/load_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/json_metadata.h"
#include "tokenizer/sentencepiece_file.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/tokenizer_metadata.h"

namespace plumb {
namespace {

using nlohmann::json;
namespace values = tokenizer_metadata;

Result<void> read_ids(const Metadata& metadata, const std::string& prefix, Vocabulary& out) {
  const std::pair<const char*, std::optional<Token>*> keys[] = {
      {"bos_token_id", &out.bos},         {"eos_token_id", &out.eos},
      {"eot_token_id", &out.eot},         {"eom_token_id", &out.eom},
      {"unknown_token_id", &out.unknown}, {"padding_token_id", &out.padding}};
  for (const auto& [key, target] : keys) {
    TRY_ASSIGN(*target, values::id(metadata, prefix + key));
  }
  TRY_ASSIGN(out.add_bos, values::flag(metadata, prefix + "add_bos_token"));
  TRY_ASSIGN(out.add_eos, values::flag(metadata, prefix + "add_eos_token"));
  TRY_ASSIGN(out.add_space_prefix, values::flag(metadata, prefix + "add_space_prefix"));
  return {};
}

// GGUF: the keys below "tokenizer.ggml."; APR: below "tokenizer.".
Result<Vocabulary> read_metadata(const Metadata& metadata, const std::string& prefix,
                                 const char* tokens) {
  Vocabulary out;
  TRY_ASSIGN(out.tokens, values::texts(metadata, prefix + tokens));
  TRY_ASSIGN(out.types, values::integers(metadata, prefix + "token_type"));
  TRY_ASSIGN(out.scores, values::numbers(metadata, prefix + "scores"));
  TRY_ASSIGN(out.merges, values::texts(metadata, prefix + "merges"));
  TRY(read_ids(metadata, prefix, out));
  return out;
}

Result<Tokenizer> load_gguf(const ModelFile& file) {
  const std::string prefix = "tokenizer.ggml.";
  TRY_ASSIGN(const auto model, values::text(file.metadata, prefix + "model"));
  if (!model || *model == "none" || *model == "no_vocab")
    return fail(ErrorCode::NotFound, "the file has no tokenizer");
  if (!file.metadata.contains(prefix + "tokens"))
    return fail(ErrorCode::NotFound, "the file has no tokens in tokenizer.ggml.tokens");
  TRY_ASSIGN(auto vocabulary, read_metadata(file.metadata, prefix, "tokens"));
  vocabulary.model = *model;
  TRY_ASSIGN(const auto pre, values::text(file.metadata, prefix + "pre"));
  vocabulary.pre = pre.value_or("default");
  TRY_ASSIGN(const auto name, values::text(file.metadata, "general.name"));
  vocabulary.model_name = name.value_or("");
  return Tokenizer::create(std::move(vocabulary));
}

// An APR that was made from safetensors says "BPE" and no more; the architecture tells the rest.
Result<std::string> guess_pre(const ModelFile& file, const Vocabulary& vocabulary) {
  TRY_ASSIGN(const auto architecture, values::text(file.metadata, "architecture"));
  const std::string name = architecture.value_or("");
  const auto has = [&](std::string_view text) {
    return std::ranges::find(vocabulary.tokens, text) != vocabulary.tokens.end();
  };
  if (name.starts_with("qwen")) return std::string("qwen2");
  if (name == "gpt2") return std::string("gpt-2");
  if (name == "llama" && has("<|begin_of_text|>")) return std::string("llama-bpe");
  return fail(ErrorCode::Unsupported,
              fmt::format("the file does not say how its tokenizer splits text "
                          "(tokenizer.pre_type), and '{}' does not tell",
                          printable(name)));
}

// Without token types, special tokens are told by their texts, as aprender does.
void guess_types(Vocabulary& vocabulary) {
  for (const std::string& text : vocabulary.tokens) {
    const bool special = (text.size() > 4 && text.starts_with("<|") && text.ends_with("|>")) ||
                         text == "<s>" || text == "<unk>" || text == "<pad>";
    vocabulary.types.push_back(
        static_cast<int32_t>(special ? TokenType::Control : TokenType::Normal));
  }
}

Result<Tokenizer> load_apr(const ModelFile& file) {
  if (!file.metadata.contains("tokenizer.vocabulary"))
    return fail(ErrorCode::NotFound, "the file has no tokenizer (tokenizer.vocabulary)");
  TRY_ASSIGN(auto vocabulary, read_metadata(file.metadata, "tokenizer.", "vocabulary"));
  vocabulary.source = "APR metadata";
  TRY_ASSIGN(auto model, values::text(file.metadata, "tokenizer.model"));
  if (!model) {
    TRY_ASSIGN(model, values::text(file.metadata, "tokenizer.model_type"));
  }
  TRY_ASSIGN(const auto pre, values::text(file.metadata, "tokenizer.pre_type"));
  vocabulary.model = model.value_or("BPE");
  if (vocabulary.types.empty()) guess_types(vocabulary);
  if (vocabulary.model == "BPE")
    vocabulary.model = vocabulary.merges.empty() && !vocabulary.scores.empty() ? "llama" : "gpt2";
  if (pre) {
    vocabulary.pre = *pre;
  } else if (vocabulary.model == "gpt2") {
    TRY_ASSIGN(vocabulary.pre, guess_pre(file, vocabulary));
  }
  TRY_ASSIGN(const auto name, values::text(file.metadata, "name"));
  vocabulary.model_name = name.value_or("");
  return Tokenizer::create(std::move(vocabulary));
}

// --- Hugging Face folders ---

constexpr const char* kConfig = "tokenizer_config.";

// A special token by its role: a string, or an object with "content".
std::optional<std::string> config_text(const Metadata& metadata, const std::string& role) {
  for (const char* end : {"", ".content"}) {
    const auto found = metadata.find(fmt::format("{}{}_token{}", kConfig, role, end));
    if (found == metadata.end()) continue;
    if (const auto* text = std::get_if<std::string>(&found->second)) return *text;
  }
  return std::nullopt;
}

// One id or a list of them; ids outside the vocabulary belong to other parts of the model.
std::vector<Token> config_ids(const Metadata& metadata, const std::string& key, size_t count) {
  std::vector<Token> ids;
  const auto found = metadata.find(key);
  if (found == metadata.end()) return ids;
  const auto add = [&](const MetadataValue& value) {
    const auto* id = std::get_if<int64_t>(&value);
    if (id != nullptr && *id >= 0 && static_cast<size_t>(*id) < count)
      ids.push_back(static_cast<Token>(*id));
    return true;
  };
  if (const auto* array = std::get_if<std::shared_ptr<const MetadataArray>>(&found->second)) {
    (*array)->for_each(add);
  } else {
    add(found->second);
  }
  return ids;
}

std::optional<Token> id_of(const TokenizerRules& rules, const std::optional<std::string>& text) {
  if (!text || text->empty()) return std::nullopt;
  const auto found = std::ranges::find(rules.tokens, *text);
  if (found == rules.tokens.end()) return std::nullopt;
  return static_cast<Token>(found - rules.tokens.begin());
}

void add_once(std::vector<Token>& list, Token id) {
  if (std::ranges::find(list, id) == list.end()) list.push_back(id);
}

// BOS, EOS and end tokens: by tokenizer_config.json, else by the ids of the other configs.
Result<void> apply_config(const Metadata& metadata, TokenizerRules& rules) {
  const size_t count = rules.tokens.size();
  rules.bos = id_of(rules, config_text(metadata, "bos"));
  rules.eos = id_of(rules, config_text(metadata, "eos"));
  for (const std::string prefix : {"generation_config.", ""}) {
    const auto bos = config_ids(metadata, prefix + "bos_token_id", count);
    const auto eos = config_ids(metadata, prefix + "eos_token_id", count);
    if (!rules.bos && !bos.empty()) rules.bos = bos.front();
    if (!rules.eos && !eos.empty()) rules.eos = eos.front();
    for (const Token id : eos) add_once(rules.end_tokens, id);
  }
  if (rules.eos) add_once(rules.end_tokens, *rules.eos);
  for (const AddedToken& token : rules.added)
    if (token.special && is_end_text(token.content)) add_once(rules.end_tokens, token.id);
  std::ranges::sort(rules.end_tokens);
  // A post-processor decides; where there is none, the config may ask for BOS and EOS.
  if (!rules.prefix.empty() || !rules.suffix.empty()) return {};
  TRY_ASSIGN(const auto add_bos, values::flag(metadata, fmt::format("{}add_bos_token", kConfig)));
  TRY_ASSIGN(const auto add_eos, values::flag(metadata, fmt::format("{}add_eos_token", kConfig)));
  if (add_bos.value_or(false) && rules.bos) rules.prefix = {*rules.bos};
  if (add_eos.value_or(false) && rules.eos) rules.suffix = {*rules.eos};
  return {};
}

Result<std::string> read_side_file(const ModelFile& file, const std::string& name) {
  const auto& path = file.side_files.at(name);
  auto mapped = MappedFile::open(path);
  if (!mapped) return std::unexpected(std::move(mapped.error()).within(path.string()));
  const auto bytes = mapped->bytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<json> read_side_json(const ModelFile& file, const std::string& name) {
  TRY_ASSIGN(const auto text, read_side_file(file, name));
  std::vector<std::string> warnings;
  return parse_json_metadata(text, name, 32, warnings);
}

Result<Tokenizer> finish(const ModelFile& file, TokenizerRules rules) {
  TRY(apply_config(file.metadata, rules));
  return Tokenizer::create(std::move(rules));
}

Result<Tokenizer> load_json(const ModelFile& file) {
  TRY_ASSIGN(const auto text, read_side_file(file, "tokenizer.json"));
  TRY_ASSIGN(auto rules, parse_tokenizer_json(text));
  return finish(file, std::move(rules));
}

// added_tokens.json: texts and ids behind the vocabulary.
Result<void> append_added(const ModelFile& file, Vocabulary& vocabulary) {
  if (!file.side_files.contains("added_tokens.json")) return {};
  TRY_ASSIGN(const json added, read_side_json(file, "added_tokens.json"));
  std::map<int64_t, std::string> by_id;
  for (const auto& [text, id] : added.items())
    if (id.is_number_integer()) by_id[id.get<int64_t>()] = text;
  for (const auto& [id, text] : by_id) {
    const auto size = static_cast<int64_t>(vocabulary.tokens.size());
    if (id < size) continue;  // a piece of the model
    if (id != size)
      return fail(ErrorCode::Corrupt,
                  fmt::format("added_tokens.json: \"{}\" has the id {}, the next one is {}",
                              printable(text), id, size));
    const auto key = fmt::format("{}added_tokens_decoder.{}.special", kConfig, id);
    TRY_ASSIGN(const auto special, values::flag(file.metadata, key));
    vocabulary.tokens.push_back(text);
    vocabulary.scores.push_back(-1e6F);
    vocabulary.types.push_back(
        static_cast<int32_t>(special.value_or(true) ? TokenType::Control : TokenType::UserDefined));
  }
  return {};
}

Result<Tokenizer> load_sentencepiece(const ModelFile& file) {
  TRY_ASSIGN(const auto bytes, read_side_file(file, "tokenizer.model"));
  TRY_ASSIGN(auto vocabulary, parse_sentencepiece(std::as_bytes(std::span(bytes))));
  TRY(append_added(file, vocabulary));
  TRY_ASSIGN(vocabulary.add_bos,
             values::flag(file.metadata, fmt::format("{}add_bos_token", kConfig)));
  TRY_ASSIGN(vocabulary.add_eos,
             values::flag(file.metadata, fmt::format("{}add_eos_token", kConfig)));
  const auto unknown = vocabulary.unknown;
  TRY_ASSIGN(auto rules, make_rules(std::move(vocabulary)));
  // SentencePiece has one unknown token for a run of what its pieces do not cover.
  rules.unknown = unknown;
  rules.fuse_unknown = true;
  const auto prefix = rules.prefix;
  const auto suffix = rules.suffix;
  const auto ends = rules.end_tokens;
  const auto bos = rules.bos;
  const auto eos = rules.eos;
  TRY(apply_config(file.metadata, rules));
  // The model's own BOS and EOS count unless a config names others.
  if (!rules.bos) rules.bos = bos;
  if (!rules.eos) rules.eos = eos;
  rules.prefix = prefix.empty() || !rules.bos ? prefix : std::vector<Token>{*rules.bos};
  rules.suffix = suffix.empty() || !rules.eos ? suffix : std::vector<Token>{*rules.eos};
  for (const Token id : ends) add_once(rules.end_tokens, id);
  std::ranges::sort(rules.end_tokens);
  return Tokenizer::create(std::move(rules));
}

// vocab.json and merges.txt of a slow byte-level tokenizer, as its fast form would be written.
Result<json> assemble_json(const ModelFile& file) {
  TRY_ASSIGN(const auto name,
             values::text(file.metadata, fmt::format("{}tokenizer_class", kConfig)));
  const std::string kind = name.value_or("GPT2Tokenizer");
  const bool qwen = kind.starts_with("Qwen2Tokenizer");
  if (!qwen && !kind.starts_with("GPT2Tokenizer"))
    return fail(ErrorCode::Unsupported,
                fmt::format("vocab.json with merges.txt of the class '{}' is not supported; "
                            "save it as tokenizer.json",
                            printable(kind)));
  TRY_ASSIGN(json vocabulary, read_side_json(file, "vocab.json"));
  TRY_ASSIGN(const auto lines, read_side_file(file, "merges.txt"));
  json merges = json::array();
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    std::string line = lines.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(std::move(line));
  }
  json out;
  out["model"] = {{"type", "BPE"}, {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)}};
  json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", !qwen}};
  if (qwen) {
    const json split = {
        {"type", "Split"},
        {"pattern",
         {{"Regex",
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
        {"behavior", "Isolated"}};
    out["normalizer"] = {{"type", "NFC"}};
    out["pre_tokenizer"] = {{"type", "Sequence"},
                            {"pretokenizers", json::array({split, byte_level})}};
  } else {
    out["pre_tokenizer"] = byte_level;
  }
  return out;
}

// tokenizer_config.json's added_tokens_decoder, flattened: "….151643.content" and its flags.
Result<json> added_tokens_of(const Metadata& metadata) {
  json added = json::array();
  const std::string prefix = fmt::format("{}added_tokens_decoder.", kConfig);
  for (auto at = metadata.lower_bound(prefix);
       at != metadata.end() && at->first.starts_with(prefix); ++at) {
    if (!at->first.ends_with(".content")) continue;
    const auto* text = std::get_if<std::string>(&at->second);
    const std::string id = at->first.substr(prefix.size(), at->first.size() - prefix.size() - 8);
    if (text == nullptr || id.empty() || id.size() > 8 ||
        !std::ranges::all_of(id, [](char c) { return c >= '0' && c <= '9'; }))
      return fail(ErrorCode::Corrupt, fmt::format("'{}' names no token", at->first));
    json token = {{"id", std::stoi(id)}, {"content", *text}};
    for (const char* name : {"special", "lstrip", "rstrip", "single_word", "normalized"}) {
      TRY_ASSIGN(const auto flag, values::flag(metadata, fmt::format("{}{}.{}", prefix, id, name)));
      if (flag) token[name] = *flag;
    }
    added.push_back(std::move(token));
  }
  return added;
}

Result<Tokenizer> load_vocab_json(const ModelFile& file) {
  TRY_ASSIGN(json assembled, assemble_json(file));
  TRY_ASSIGN(assembled["added_tokens"], added_tokens_of(file.metadata));
  TRY_ASSIGN(auto rules, read_tokenizer_json(assembled));
  rules.description =
      fmt::format("byte-level BPE, {} tokens, from vocab.json and merges.txt", rules.tokens.size());
  return finish(file, std::move(rules));
}

Result<Tokenizer> load_folder(const ModelFile& file) {
  const auto& side = file.side_files;
  if (side.contains("tokenizer.json")) return load_json(file);
  if (side.contains("tokenizer.model")) return load_sentencepiece(file);
  if (side.contains("vocab.json") && side.contains("merges.txt")) return load_vocab_json(file);
  if (side.contains("vocab.txt"))
    return fail(ErrorCode::Unsupported, "WordPiece (vocab.txt) is not supported");
  return fail(ErrorCode::NotFound,
              "there is no tokenizer.json, no tokenizer.model and no vocab.json with merges.txt "
              "beside the weights");
}

}  // namespace

Result<Tokenizer> load_tokenizer(const ModelFile& file) {
  switch (file.format) {
    case FileFormat::Gguf: return load_gguf(file);
    case FileFormat::Apr: return load_apr(file);
    default: return load_folder(file);
  }
}

}  // namespace plumb
