// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "formats/json_metadata.h"

namespace plumb {
namespace {

using nlohmann::json;
using Units = TokenizerRules::Units;
using SpacePrefix = TokenizerRules::SpacePrefix;

constexpr int kMostDepth = 16;            // Sequence within Sequence
constexpr int64_t kMostTokens = 1 << 26;  // vocabularies in use have at most 2^18

const json kNull;

const json& member(const json& object, const char* key) {
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::string text_of(const json& object, const char* key) {
  const json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

bool flag_of(const json& object, const char* key, bool otherwise) {
  const json& value = member(object, key);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

std::unexpected<Error> corrupt(std::string what) {
  return fail(ErrorCode::Corrupt, fmt::format("tokenizer.json: {}", what));
}

std::unexpected<Error> unsupported(std::string what) {
  return fail(ErrorCode::Unsupported, fmt::format("tokenizer.json: {} is not supported", what));
}

std::string shown(std::string_view text) { return printable(text, 60); }

// An id of the file, below kMostTokens so that it can be an index.
Result<Token> read_id(const json& value, std::string_view what) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() >= kMostTokens)
    return corrupt(fmt::format("the id of {} is no number from 0 to {}", what, kMostTokens - 1));
  return static_cast<Token>(value.get<int64_t>());
}

Result<void> set_token(TokenizerRules& rules, Token id, const std::string& text, TokenType type) {
  const auto at = static_cast<size_t>(id);
  if (at >= rules.tokens.size()) {
    rules.tokens.resize(at + 1);
    rules.types.resize(at + 1, TokenType::Unused);
    rules.unreachable.resize(at + 1, true);
  }
  if (!rules.tokens[at].empty() && rules.tokens[at] != text)
    return corrupt(fmt::format("token {} is both \"{}\" and \"{}\"", id, shown(rules.tokens[at]),
                               shown(text)));
  rules.tokens[at] = text;
  rules.types[at] = type;
  return {};
}

bool spells_byte(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
         kDigits.find(text[3]) != std::string_view::npos &&
         kDigits.find(text[4]) != std::string_view::npos;
}

Result<void> read_vocabulary(const json& model, TokenizerRules& rules) {
  const json& vocabulary = member(model, "vocab");
  if (!vocabulary.is_object() || vocabulary.empty())
    return corrupt("model.vocab is no object with tokens");
  // Ids may have holes, but a file can not ask for more room than its tokens make plausible.
  const size_t most = vocabulary.size() * 4 + (1 << 20);
  for (const auto& [text, value] : vocabulary.items()) {
    TRY_ASSIGN(const Token id, read_id(value, fmt::format("\"{}\"", shown(text))));
    if (static_cast<size_t>(id) >= most)
      return corrupt(fmt::format("\"{}\" has the id {} in a vocabulary of {} tokens", shown(text),
                                 id, vocabulary.size()));
    const bool byte = rules.byte_fallback && spells_byte(text);
    TRY(set_token(rules, id, text, byte ? TokenType::Byte : TokenType::Normal));
    rules.unreachable[static_cast<size_t>(id)] = false;
  }
  return {};
}

Result<std::pair<std::string, std::string>> read_merge(const json& value, size_t index) {
  if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string())
    return std::pair(value[0].get<std::string>(), value[1].get<std::string>());
  if (value.is_string()) {
    const auto& merge = value.get_ref<const std::string&>();
    const size_t space = merge.find(' ');
    if (space != std::string::npos && merge.find(' ', space + 1) == std::string::npos)
      return std::pair(merge.substr(0, space), merge.substr(space + 1));
  }
  return corrupt(fmt::format("merge {} is not two texts", index));
}

Result<void> read_merges(const json& model, TokenizerRules& rules) {
  const json& merges = member(model, "merges");
  if (!merges.is_array()) return corrupt("model.merges is no array, and BPE needs it");
  const json& vocabulary = member(model, "vocab");
  rules.merges.reserve(merges.size());
  std::string joined;
  for (const json& value : merges) {
    TRY_ASSIGN(auto merge, read_merge(value, rules.merges.size()));
    joined.assign(merge.first);
    joined += merge.second;
    for (const std::string* part : {&merge.first, &merge.second, &joined})
      if (part->empty() || !vocabulary.contains(*part))
        return corrupt(fmt::format("merge {} has \"{}\", which is no token", rules.merges.size(),
                                   shown(*part)));
    rules.merges.push_back(std::move(merge));
  }
  return {};
}

Result<void> read_model(const json& model, TokenizerRules& rules) {
  if (!model.is_object()) return corrupt("it has no object 'model'");
  const std::string type = text_of(model, "type");
  if (type != "BPE" && !(type.empty() && member(model, "merges").is_array()))
    return unsupported(fmt::format("the model '{}' (BPE is supported)", shown(type)));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!text_of(model, key).empty()) return unsupported(fmt::format("model.{}", key));
  if (member(model, "dropout").is_number() && member(model, "dropout").get<double>() != 0)
    return unsupported("model.dropout");
  rules.ignore_merges = flag_of(model, "ignore_merges", false);
  rules.byte_fallback = flag_of(model, "byte_fallback", false);
  rules.bytes_before_merging = rules.byte_fallback;
  rules.fuse_unknown = flag_of(model, "fuse_unk", false);
  TRY(read_vocabulary(model, rules));
  TRY(read_merges(model, rules));
  if (const std::string unknown = text_of(model, "unk_token"); !unknown.empty()) {
    const json& id = member(member(model, "vocab"), unknown.c_str());
    if (id.is_null())
      return corrupt(fmt::format("model.unk_token \"{}\" is no token", shown(unknown)));
    TRY_ASSIGN(rules.unknown, read_id(id, "the unknown token"));
    rules.types[static_cast<size_t>(*rules.unknown)] = TokenType::Unknown;
  }
  return {};
}

Result<void> read_added_tokens(const json& tokens, TokenizerRules& rules) {
  if (tokens.is_null()) return {};
  if (!tokens.is_array()) return corrupt("added_tokens is no array");
  const size_t most = rules.tokens.size() + tokens.size() + (1 << 20);
  for (const json& value : tokens) {
    AddedToken token;
    token.content = text_of(value, "content");
    if (token.content.empty()) return corrupt("an added token has no content");
    TRY_ASSIGN(token.id, read_id(member(value, "id"), "an added token"));
    if (static_cast<size_t>(token.id) >= most)
      return corrupt(
          fmt::format("the added token \"{}\" has the id {}, far outside of the "
                      "vocabulary",
                      shown(token.content), token.id));
    token.special = flag_of(value, "special", false);
    token.lstrip = flag_of(value, "lstrip", false);
    token.rstrip = flag_of(value, "rstrip", false);
    token.single_word = flag_of(value, "single_word", false);
    token.normalized = flag_of(value, "normalized", !token.special);
    const bool unknown = rules.unknown == token.id;
    TRY(set_token(rules, token.id, token.content,
                  unknown         ? TokenType::Unknown
                  : token.special ? TokenType::Control
                                  : TokenType::UserDefined));
    rules.added.push_back(std::move(token));
  }
  return {};
}

// A pattern: {"String": …} or {"Regex": …}.
Result<void> read_replace(const json& step, Normalizer& normalizer) {
  const json& pattern = member(step, "pattern");
  NormalizerStep out;
  out.content = text_of(step, "content");
  out.kind = NormalizerStep::Kind::Replace;
  out.pattern = text_of(pattern, "String");
  if (const std::string regex = text_of(pattern, "Regex"); !regex.empty()) {
    out.kind = NormalizerStep::Kind::ReplaceRegex;
    TRY_ASSIGN(auto compiled, RegexPattern::create(regex, UnicodeVersion::V16_0));
    out.regex.push_back(std::move(compiled));
  } else if (out.pattern.empty()) {
    return corrupt("a normalizer 'Replace' has no pattern");
  }
  normalizer.add(std::move(out));
  return {};
}

Result<void> read_normalizer(const json& step, TokenizerRules& rules, int depth) {
  using Kind = NormalizerStep::Kind;
  if (step.is_null()) return {};
  const std::string type = text_of(step, "type");
  if (depth > kMostDepth) return corrupt("its normalizers are nested too deeply");
  if (type == "Sequence") {
    const json& list = member(step, "normalizers");
    if (!list.is_array()) return corrupt("a normalizer 'Sequence' has no list");
    for (const json& inner : list) TRY(read_normalizer(inner, rules, depth + 1));
    return {};
  }
  NormalizerStep out;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    out.kind = type == "NFC"    ? Kind::Nfc
               : type == "NFD"  ? Kind::Nfd
               : type == "NFKC" ? Kind::Nfkc
                                : Kind::Nfkd;
  } else if (type == "Prepend") {
    out.kind = Kind::Prepend;
    out.content = text_of(step, "prepend");
    if (out.content == kSpaceMark) rules.space_prefix = SpacePrefix::Always;
  } else if (type == "Strip") {
    out.kind = Kind::Strip;
    out.left = flag_of(step, "strip_left", true);
    out.right = flag_of(step, "strip_right", true);
  } else if (type == "Replace") {
    return read_replace(step, rules.normalizer);
  } else {
    return unsupported(fmt::format("the normalizer '{}'", shown(type)));
  }
  rules.normalizer.add(std::move(out));
  return {};
}

Result<SplitBehavior> read_behavior(const json& step, const char* otherwise) {
  std::string name = text_of(step, "behavior");
  if (name.empty()) name = otherwise;
  if (name == "Isolated") return SplitBehavior::Isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::MergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::MergedWithNext;
  if (name == "Contiguous") return SplitBehavior::Contiguous;
  return unsupported(fmt::format("splitting with the behaviour '{}'", shown(name)));
}

Result<void> read_split(const json& step, TokenizerRules& rules) {
  const json& pattern = member(step, "pattern");
  const std::string regex = text_of(pattern, "Regex");
  const std::string literal = text_of(pattern, "String");
  const bool invert = flag_of(step, "invert", false);
  if (regex.empty() && literal.empty()) return corrupt("a pre-tokenizer 'Split' has no pattern");
  // "Removed" of what does not match drops nothing where all text matches.
  if (text_of(step, "behavior") == "Removed" && invert && find_split_pattern(regex) != nullptr)
    return rules.pre_tokenizer.add_regex(regex);
  TRY_ASSIGN(const auto behavior, read_behavior(step, "Isolated"));
  if (!regex.empty()) return rules.pre_tokenizer.add_regex(regex, behavior, invert);
  TRY_ASSIGN(auto compiled, RegexPattern::literal(literal, UnicodeVersion::V16_0));
  rules.pre_tokenizer.add({std::move(compiled), behavior, invert});
  return {};
}

// Where the library rewrites each piece, we rewrite the whole; the same before any cut.
Result<void> require_first(const TokenizerRules& rules, std::string_view what) {
  if (rules.pre_tokenizer.empty()) return {};
  return unsupported(fmt::format("{} behind another pre-tokenizer", what));
}

Result<void> read_byte_level(const json& step, TokenizerRules& rules) {
  if (flag_of(step, "add_prefix_space", true)) {
    TRY(require_first(rules, "a 'ByteLevel' that adds a space"));
    rules.word_normalizer.add(
        {.kind = NormalizerStep::Kind::Prepend, .content = " ", .unless_there = true});
  }
  if (flag_of(step, "use_regex", true)) {
    TRY(rules.pre_tokenizer.add_regex(
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"));
  }
  rules.units = Units::Bytes;
  return {};
}

Result<void> read_metaspace(const json& step, TokenizerRules& rules) {
  using Kind = NormalizerStep::Kind;
  TRY(require_first(rules, "a 'Metaspace'"));
  std::string mark = text_of(step, "replacement");
  if (mark.empty()) mark = kSpaceMark;
  if (mark != kSpaceMark) return unsupported("a 'Metaspace' with another mark than U+2581");
  std::string scheme = text_of(step, "prepend_scheme");
  if (scheme.empty()) scheme = flag_of(step, "add_prefix_space", true) ? "always" : "never";
  rules.word_normalizer.add({.kind = Kind::Replace, .pattern = " ", .content = mark});
  if (scheme != "never") {
    const bool first = scheme == "first";
    if (!first && scheme != "always")
      return unsupported(fmt::format("a 'Metaspace' with the scheme '{}'", shown(scheme)));
    rules.word_normalizer.add(
        {.kind = Kind::Prepend, .content = mark, .only_at_start = first, .unless_there = true});
    rules.space_prefix = first ? SpacePrefix::First : SpacePrefix::Always;
  }
  if (flag_of(step, "split", true)) {
    TRY_ASSIGN(auto pattern, RegexPattern::literal(mark, UnicodeVersion::V16_0));
    rules.pre_tokenizer.add({std::move(pattern), SplitBehavior::MergedWithNext, false});
  }
  return {};
}

Result<void> read_pre_tokenizer(const json& step, TokenizerRules& rules, int depth) {
  if (step.is_null()) return {};
  const std::string type = text_of(step, "type");
  if (depth > kMostDepth) return corrupt("its pre-tokenizers are nested too deeply");
  if (type == "Sequence") {
    const json& list = member(step, "pretokenizers");
    if (!list.is_array()) return corrupt("a pre-tokenizer 'Sequence' has no list");
    for (const json& inner : list) TRY(read_pre_tokenizer(inner, rules, depth + 1));
    return {};
  }
  // Behind 'ByteLevel' the library splits the characters that stand for bytes.
  if (rules.units == Units::Bytes)
    return unsupported(fmt::format("the pre-tokenizer '{}' behind 'ByteLevel'", shown(type)));
  if (type == "ByteLevel") return read_byte_level(step, rules);
  if (type == "Metaspace") return read_metaspace(step, rules);
  if (type == "Split") return read_split(step, rules);
  if (type == "Digits") {
    const bool each = flag_of(step, "individual_digits", false);
    return rules.pre_tokenizer.add_regex(each ? R"(\p{N})" : R"(\p{N}+)");
  }
  if (type == "Punctuation") {
    TRY_ASSIGN(const auto behavior, read_behavior(step, "Isolated"));
    return rules.pre_tokenizer.add_regex(R"([\p{P}\$\+<=>\^`\|~])", behavior);
  }
  return unsupported(fmt::format("the pre-tokenizer '{}'", shown(type)));
}

Result<void> read_template(const json& step, TokenizerRules& rules) {
  const json& single = member(step, "single");
  const json& specials = member(step, "special_tokens");
  if (!single.is_array()) return corrupt("the post-processor's template has no 'single'");
  bool behind = false;
  for (const json& part : single) {
    if (part.contains("Sequence")) {
      if (behind) return unsupported("a template that has the text twice");
      behind = true;
      continue;
    }
    const std::string name = text_of(member(part, "SpecialToken"), "id");
    const json& ids = member(member(specials, name.c_str()), "ids");
    if (name.empty() || !ids.is_array())
      return corrupt(fmt::format("the template's token \"{}\" has no ids", shown(name)));
    for (const json& value : ids) {
      TRY_ASSIGN(const Token id, read_id(value, "a token of the template"));
      (behind ? rules.suffix : rules.prefix).push_back(id);
    }
  }
  return behind ? Result<void>() : unsupported("a template without the text");
}

Result<void> read_post_processor(const json& step, TokenizerRules& rules, int depth) {
  const std::string type = text_of(step, "type");
  if (depth > kMostDepth) return corrupt("its post-processors are nested too deeply");
  if (step.is_null() || type == "ByteLevel") return {};  // that one changes offsets only
  if (type == "Sequence") {
    for (const json& inner : member(step, "processors"))
      TRY(read_post_processor(inner, rules, depth + 1));
    return {};
  }
  if (type == "TemplateProcessing") return read_template(step, rules);
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    for (const auto& [key, list] :
         {std::pair("cls", &rules.prefix), std::pair("sep", &rules.suffix)}) {
      const json& pair = member(step, key);
      if (!pair.is_array() || pair.size() != 2)
        return corrupt(fmt::format("the post-processor's '{}' is no pair", key));
      TRY_ASSIGN(const Token id, read_id(pair[1], key));
      list->push_back(id);
    }
    return {};
  }
  return unsupported(fmt::format("the post-processor '{}'", shown(type)));
}

Result<void> read_decoder(const json& step, TokenizerRules& rules, int depth) {
  if (depth > kMostDepth) return corrupt("its decoders are nested too deeply");
  const std::string type = text_of(step, "type");
  if (type == "Sequence") {
    for (const json& inner : member(step, "decoders")) TRY(read_decoder(inner, rules, depth + 1));
    return {};
  }
  if (type == "Metaspace") rules.spaces_as_2581 = true;
  if (type == "Replace") {
    const json& pattern = member(step, "pattern");
    if (text_of(pattern, "String") != kSpaceMark || text_of(step, "content") != " ")
      return unsupported("a decoder 'Replace' of anything but U+2581");
    rules.spaces_as_2581 = true;
  }
  constexpr std::string_view kKnown[] = {"Metaspace",    "Replace", "ByteLevel",
                                         "ByteFallback", "Fuse",    "Strip"};
  if (step.is_null() || std::ranges::find(kKnown, type) != std::end(kKnown)) return {};
  return unsupported(fmt::format("the decoder '{}'", shown(type)));
}

Result<void> check_template(const TokenizerRules& rules) {
  for (const auto* list : {&rules.prefix, &rules.suffix})
    for (const Token id : *list)
      if (static_cast<size_t>(id) >= rules.tokens.size())
        return corrupt(fmt::format("its template has the token {}, outside a vocabulary of {}", id,
                                   rules.tokens.size()));
  return {};
}

}  // namespace

Result<TokenizerRules> read_tokenizer_json(const json& tokenizer) {
  TokenizerRules rules;
  rules.units = Units::Characters;
  TRY(read_model(member(tokenizer, "model"), rules));
  TRY(read_added_tokens(member(tokenizer, "added_tokens"), rules));
  TRY(read_normalizer(member(tokenizer, "normalizer"), rules, 0));
  TRY(read_pre_tokenizer(member(tokenizer, "pre_tokenizer"), rules, 0));
  TRY(read_post_processor(member(tokenizer, "post_processor"), rules, 0));
  TRY(read_decoder(member(tokenizer, "decoder"), rules, 0));
  TRY(check_template(rules));
  rules.description = fmt::format("{}, {} tokens, from tokenizer.json",
                                  rules.units == Units::Bytes ? "byte-level BPE"
                                  : rules.byte_fallback ? "BPE of characters with byte fallback"
                                                        : "BPE of characters",
                                  rules.tokens.size());
  return rules;
}

Result<TokenizerRules> parse_tokenizer_json(std::string_view text) {
  std::vector<std::string> warnings;
  TRY_ASSIGN(const json tokenizer, parse_json_metadata(text, "tokenizer.json", 32, warnings));
  return read_tokenizer_json(tokenizer);
}

}  // namespace plumb
