// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "formats/metadata.h"

namespace plumb {
namespace {

// Model files often name one end token only, while chat models stop at others. These are the
// names that published vocabularies use.
constexpr std::string_view kEndTexts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
    // of filling in the middle
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>",
    "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"};

// Texts that llama.cpp takes for control tokens though generation goes on behind them.
constexpr std::string_view kControlTexts[] = {
    "<|fim_prefix|>", "<fim-prefix>",    "<fim_prefix>",    "<｜fim▁begin｜>", "<PRE>",
    "▁<PRE>",         "<|code_prefix|>", "<|prefix|>",      "<|fim_suffix|>",  "<fim-suffix>",
    "<fim_suffix>",   "<｜fim▁hole｜>",  "<SUF>",           "▁<SUF>",          "<|code_suffix|>",
    "<|suffix|>",     "<|fim_middle|>",  "<fim-middle>",    "<fim_middle>",    "<｜fim▁end｜>",
    "<MID>",          "▁<MID>",          "<|code_middle|>", "<|middle|>"};

constexpr std::string_view kHarmonyTexts[] = {"<|channel|>", "<|message|>", "<|start|>",
                                              "<|constrain|>"};

bool is_among(std::string_view text, std::span<const std::string_view> texts) {
  return std::ranges::find(texts, text) != texts.end();
}

Result<void> check_id(const Vocabulary& vocabulary, std::string_view what,
                      std::optional<Token> id) {
  if (!id || (*id >= 0 && static_cast<size_t>(*id) < vocabulary.tokens.size())) return {};
  return fail(ErrorCode::Corrupt, fmt::format("the {} token is {}, outside a vocabulary of {}",
                                              what, *id, vocabulary.tokens.size()));
}

Result<void> check_ids(const Vocabulary& vocabulary) {
  TRY(check_id(vocabulary, "BOS", vocabulary.bos));
  TRY(check_id(vocabulary, "EOS", vocabulary.eos));
  TRY(check_id(vocabulary, "EOT", vocabulary.eot));
  TRY(check_id(vocabulary, "EOM", vocabulary.eom));
  TRY(check_id(vocabulary, "unknown", vocabulary.unknown));
  TRY(check_id(vocabulary, "padding", vocabulary.padding));
  if (vocabulary.add_bos.value_or(false) && !vocabulary.bos)
    return fail(ErrorCode::Corrupt, "the model asks for a BOS token and names none");
  if (vocabulary.add_eos.value_or(false) && !vocabulary.eos)
    return fail(ErrorCode::Corrupt, "the model asks for an EOS token and names none");
  return {};
}

Result<void> check_lists(const Vocabulary& vocabulary) {
  const size_t count = vocabulary.tokens.size();
  // Merges may add up to three symbols each, and ids are 32 bits wide.
  constexpr size_t kMostEntries = std::numeric_limits<int32_t>::max() / 8;
  if (count > kMostEntries || vocabulary.merges.size() > kMostEntries)
    return fail(ErrorCode::Unsupported, fmt::format("{} tokens and {} merges are too many", count,
                                                    vocabulary.merges.size()));
  if (count == 0) return fail(ErrorCode::Corrupt, "the vocabulary has no tokens");
  if (!vocabulary.types.empty() && vocabulary.types.size() != count)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} token types for {} tokens", vocabulary.types.size(), count));
  for (size_t i = 0; i < vocabulary.types.size(); ++i) {
    const int32_t type = vocabulary.types[i];
    if (type < 0 || type > static_cast<int32_t>(TokenType::Byte))
      return fail(ErrorCode::Corrupt, fmt::format("token {} has the unknown type {}", i, type));
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != count)
    return fail(ErrorCode::Corrupt,
                fmt::format("{} scores for {} tokens", vocabulary.scores.size(), count));
  for (size_t i = 0; i < vocabulary.scores.size(); ++i)
    if (std::isnan(vocabulary.scores[i]))
      return fail(ErrorCode::Corrupt, fmt::format("the score of token {} is not a number", i));
  return {};
}

Result<void> check_kind(const Vocabulary& vocabulary) {
  const auto& model = vocabulary.model;
  if (model != "gpt2" && model != "llama" && model != "gemma4") {
    const char* what = model == "bert"   ? " (WordPiece)"
                       : model == "t5"   ? " (unigram)"
                       : model == "rwkv" ? " (RWKV's trie)"
                                         : "";
    return fail(ErrorCode::Unsupported,
                fmt::format("tokenizer model '{}'{} is not supported ('gpt2', 'llama' and "
                            "'gemma4' are)",
                            printable(model), what));
  }
  if (model != "llama" && vocabulary.merges.empty())
    return fail(ErrorCode::Corrupt,
                fmt::format("a tokenizer of model '{}' needs merges, and there are none", model));
  if (model == "llama" && vocabulary.scores.empty())
    return fail(ErrorCode::Corrupt,
                "a tokenizer of model 'llama' needs a score for each token, and there are none");
  return {};
}

Result<std::pair<std::string, std::string>> split_merge(std::string_view merge, size_t index,
                                                        bool spaces_inside) {
  // The first half has one character at least, which may be a space in a vocabulary of characters.
  const size_t space = merge.find(' ', spaces_inside && !merge.empty() ? 1 : 0);
  if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
      (!spaces_inside && merge.find(' ', space + 1) != std::string_view::npos))
    return fail(ErrorCode::Corrupt, fmt::format("merge {} is \"{}\", not two texts with a space "
                                                "between",
                                                index, printable(merge)));
  return std::pair(std::string(merge.substr(0, space)), std::string(merge.substr(space + 1)));
}

// Files exist that mark end tokens as normal text; they are control tokens all the same.
void set_types(const Vocabulary& vocabulary, TokenizerRules& rules) {
  std::set<std::string_view> present;
  rules.types.assign(vocabulary.tokens.size(), TokenType::Normal);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& text = vocabulary.tokens[i];
    if (!vocabulary.types.empty()) rules.types[i] = static_cast<TokenType>(vocabulary.types[i]);
    const bool end = is_among(text, kEndTexts);
    if (end) present.insert(text);
    if (end || is_among(text, kControlTexts)) rules.types[i] = TokenType::Control;
    if (is_among(text, kHarmonyTexts)) rules.types[i] = TokenType::UserDefined;
  }
  // Where a message's end has other names, <|end|> ends a part of it only; where a turn's end has,
  // </s> is text.
  const bool parts = (present.contains("<|return|>") && present.contains("<|call|>")) ||
                     ((present.contains("<|call|>") || present.contains("<|calls|>")) &&
                      present.contains("<|flush|>"));
  const bool plain_s = present.contains("<|tool_response>");
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& text = vocabulary.tokens[i];
    const auto id = static_cast<Token>(i);
    if (parts && text == "<|end|>") rules.types[i] = TokenType::UserDefined;
    if (plain_s && text == "</s>") rules.types[i] = TokenType::Normal;
    const bool dropped = (parts && text == "<|end|>") || (plain_s && text == "</s>");
    if (!dropped && (present.contains(text) || vocabulary.eos == id || vocabulary.eot == id ||
                     vocabulary.eom == id))
      rules.end_tokens.push_back(id);
  }
}

bool has_any(const std::string& text, std::initializer_list<std::string_view> parts) {
  return std::ranges::any_of(
      parts, [&](std::string_view part) { return text.find(part) != std::string::npos; });
}

void set_added_tokens(const Vocabulary& vocabulary, TokenizerRules& rules) {
  std::string name = vocabulary.model_name;
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  const bool phi3 = has_any(name, {"phi-3", "phi3"});
  const bool mask = has_any(vocabulary.pre, {"jina-v2-de", "jina-v2-es", "jina-v2-code"});
  rules.longest_first = true;
  for (size_t i = 0; i < rules.types.size(); ++i) {
    const TokenType type = rules.types[i];
    if (type != TokenType::Control && type != TokenType::Unknown && type != TokenType::UserDefined)
      continue;
    const std::string& text = vocabulary.tokens[i];
    AddedToken token;
    token.id = static_cast<Token>(i);
    token.content = text;
    token.special = type != TokenType::UserDefined;
    token.rstrip = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
    token.lstrip = mask && text == "<mask>";
    rules.added.push_back(std::move(token));
  }
}

Result<void> set_text_rules(const Vocabulary& vocabulary, TokenizerRules& rules) {
  const bool by_score = vocabulary.model == "llama";
  const std::string pre = vocabulary.model == "gemma4" ? "gemma4" : vocabulary.pre;
  PreTokenizerTraits traits;
  rules.pre_tokenizer = PreTokenizer(UnicodeVersion::V15_1);
  if (by_score) {
    traits = {.add_bos = true, .spaces_as_2581 = true};
  } else {
    TRY_ASSIGN(rules.pre_tokenizer, PreTokenizer::create(pre));
    traits = pretokenizer_traits(pre).value();
  }
  rules.ignore_merges = traits.ignore_merges;
  rules.spaces_as_2581 = traits.spaces_as_2581;
  rules.units =
      traits.spaces_as_2581 ? TokenizerRules::Units::Characters : TokenizerRules::Units::Bytes;
  rules.line_ends_whole = pre == "gemma4";
  rules.by_score = by_score;
  if (by_score && vocabulary.add_space_prefix.value_or(true)) {
    rules.space_prefix = TokenizerRules::SpacePrefix::Always;
    rules.normalizer.add({.kind = NormalizerStep::Kind::Prepend, .content = " "});
  }
  if (rules.spaces_as_2581)
    rules.normalizer.add({.kind = NormalizerStep::Kind::Replace,
                          .pattern = " ",
                          .content = std::string(kSpaceMark)});
  const bool add_bos = vocabulary.add_bos.value_or(traits.add_bos) || pre == "gemma4";
  if (add_bos && vocabulary.bos) rules.prefix = {*vocabulary.bos};
  if (vocabulary.add_eos.value_or(false)) rules.suffix = {*vocabulary.eos};
  rules.description = fmt::format(
      "{}, {} tokens, from {}",
      by_score ? "SentencePiece BPE"
      : rules.units == TokenizerRules::Units::Bytes
          ? fmt::format("byte-level BPE, pre-tokenizer {}", pre.empty() ? "default" : pre)
          : fmt::format("BPE of characters, pre-tokenizer {}", pre),
      vocabulary.tokens.size(), vocabulary.source);
  return {};
}

}  // namespace

bool is_end_text(std::string_view text) { return is_among(text, kEndTexts); }

Result<TokenizerRules> make_rules(Vocabulary vocabulary) {
  TRY(check_kind(vocabulary));
  TRY(check_lists(vocabulary));
  if (vocabulary.model == "llama") {
    // llama.cpp's defaults, where the vocabulary has such ids.
    const auto or_default = [&](std::optional<Token>& id, Token value) {
      if (!id && static_cast<size_t>(value) < vocabulary.tokens.size()) id = value;
    };
    or_default(vocabulary.bos, 1);
    or_default(vocabulary.eos, 2);
    or_default(vocabulary.unknown, 0);
  }
  TRY(check_ids(vocabulary));
  TokenizerRules rules;
  set_types(vocabulary, rules);
  TRY(set_text_rules(vocabulary, rules));
  set_added_tokens(vocabulary, rules);
  if (!rules.by_score) {
    rules.merges.reserve(vocabulary.merges.size());
    const bool characters = rules.units == TokenizerRules::Units::Characters;
    for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
      TRY_ASSIGN(auto halves, split_merge(vocabulary.merges[i], i, characters));
      rules.merges.push_back(std::move(halves));
    }
  }
  rules.bos = vocabulary.bos;
  rules.eos = vocabulary.eos;
  rules.scores = std::move(vocabulary.scores);
  rules.tokens = std::move(vocabulary.tokens);
  return rules;
}

}  // namespace plumb
