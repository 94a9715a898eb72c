// SPDX-License-Identifier: Apache-2.0
#include "cli/prompts.h"

#include <fmt/format.h>

#include <algorithm>

#include "chat/code_points.h"
#include "cli/commands.h"

namespace plumb::cli {
namespace {

struct Line {
  size_t number;
  std::string text;
};

std::vector<Line> lines_of(const std::string& text) {
  std::vector<Line> lines;
  size_t number = 0;
  for (size_t begin = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    while (line.ends_with('\r')) line.pop_back();
    ++number;
    if (!line.empty()) lines.push_back({number, std::move(line)});
    begin = end + 1;
  }
  return lines;
}

Result<std::vector<Token>> encode(const std::string& text, const Model& model) {
  TRY_ASSIGN(auto tokens, model.tokenizer->encode(text, true, true));
  if (tokens.empty()) return fail(ErrorCode::Usage, "the line gives no tokens");
  return tokens;
}

Result<void> check_fits(const std::vector<Token>& tokens, size_t decode, const Model& model) {
  if (tokens.size() + decode <= model.config.context) return {};
  return fail(ErrorCode::Usage,
              fmt::format("{} prompt and {} decoded tokens do not fit: the context of {} is {} "
                          "tokens",
                          tokens.size(), decode, model.path, model.config.context));
}

Result<void> check_same(const std::vector<Token>& a, const std::vector<Token>& b) {
  if (a == b) return {};
  const auto first = std::ranges::mismatch(a, b).in1 - a.begin();
  return fail(ErrorCode::NotComparable,
              fmt::format("not comparable: the two tokenizers cut this prompt differently, from "
                          "token {} on ({} against {} tokens)",
                          first, a.size(), b.size()));
}

Result<std::vector<Token>> tokens_of(const Line& line, const Model& baseline,
                                     const Model& candidate, size_t decode) {
  if (!is_utf8(line.text)) return fail(ErrorCode::Usage, "the line is not UTF-8");
  TRY_ASSIGN(auto tokens, encode(line.text, baseline));
  for (const auto* model : {&baseline, &candidate}) TRY(check_fits(tokens, decode, *model));
  if (candidate.tokenizer && candidate.sha256 != baseline.sha256) {
    TRY_ASSIGN(const auto others, encode(line.text, candidate));
    TRY(check_same(tokens, others));
  }
  return tokens;
}

}  // namespace

Result<std::vector<Prompt>> read_prompts(const std::string& path, const Model& baseline,
                                         const Model& candidate, size_t decode) {
  TRY_ASSIGN(const auto text, read_text_file(path));
  const auto lines = lines_of(text);
  if (lines.empty())
    return fail(ErrorCode::Usage, fmt::format("{}: no prompt: the file is empty, or has only empty "
                                              "lines; write one prompt per line",
                                              path));
  if (!baseline.tokenizer)
    return fail(ErrorCode::Unsupported, fmt::format("{}: cannot turn prompts into tokens: {}",
                                                    baseline.path, baseline.tokenizer_missing));
  std::vector<Prompt> prompts;
  for (const auto& line : lines) {
    auto tokens = tokens_of(line, baseline, candidate, decode);
    if (!tokens)
      return std::unexpected(
          std::move(tokens).error().within(fmt::format("{}: line {}", path, line.number)));
    prompts.push_back({line.number, std::move(*tokens)});
  }
  return prompts;
}

}  // namespace plumb::cli
