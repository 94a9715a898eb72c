// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "formats/metadata.h"
#include "tokenizer/load_tokenizer.h"

namespace plumb::cli {
namespace {

using nlohmann::ordered_json;

struct TokenizeOptions {
  std::string model, text, file, decode, against;
  bool has_text = false, has_file = false, has_decode = false;
  bool ids = false, json = false, lines = false, no_special = false, parse_special = true;
};

// A file of a tokenizer stands for itself, without weights beside it.
Result<ModelFile> open_source(const std::string& path) {
  const auto name = std::filesystem::path(path).filename().string();
  std::error_code error;
  if ((name != "tokenizer.json" && name != "tokenizer.model") ||
      std::filesystem::is_directory(path, error))
    return open_model_file(path);
  if (!std::filesystem::exists(path, error))
    return fail(ErrorCode::NotFound, fmt::format("{}: no such file", path));
  ModelFile file;
  file.path = path;
  file.format = FileFormat::HuggingFace;
  file.side_files[name] = path;
  return file;
}

Result<Tokenizer> open_tokenizer(const std::string& path) {
  TRY_ASSIGN(const auto file, open_source(path));
  auto tokenizer = load_tokenizer(file);
  if (!tokenizer) return std::unexpected(std::move(tokenizer.error()).within(path));
  return tokenizer;
}

Result<std::vector<Token>> parse_decode_ids(const std::string& text) {
  std::vector<Token> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    if (*at == ',' || *at == ' ' || *at == '\n') {
      ++at;
      continue;
    }
    Token id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (stop < end && *stop != ',' && *stop != ' ' && *stop != '\n'))
      return fail(ErrorCode::Usage,
                  fmt::format("--decode: '{}' is not a token id; expected numbers with commas "
                              "between them, such as 1,2,3",
                              printable(std::string_view(at, end), 20)));
    ids.push_back(id);
    at = stop;
  }
  return ids;
}

Result<std::string> input_text(const TokenizeOptions& options) {
  if (options.has_text && options.has_file)
    return fail(ErrorCode::Usage, "give TEXT or --file, not both");
  if (options.has_file) return read_text_file(options.file);
  if (options.has_text) return options.text == "-" ? read_text_file("-") : options.text;
  return fail(ErrorCode::Usage,
              "no text: give TEXT (- is standard input), --file PATH or --decode 1,2,3");
}

std::string_view type_name(TokenType type) {
  switch (type) {
    case TokenType::Undefined: return "undefined";
    case TokenType::Normal: return "normal";
    case TokenType::Unknown: return "unknown";
    case TokenType::Control: return "control";
    case TokenType::UserDefined: return "user-defined";
    case TokenType::Unused: return "unused";
    case TokenType::Byte: return "byte";
  }
  return "undefined";
}

// A piece for a terminal: valid UTF-8 stays, control characters and odd bytes are escaped.
std::string quoted(const std::string& bytes) {
  const auto text =
      ordered_json(bytes).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  const bool valid = text.find("\xEF\xBF\xBD") == std::string::npos ||
                     bytes.find("\xEF\xBF\xBD") != std::string::npos;
  return valid ? text : fmt::format("\"{}\"", printable(bytes));
}

std::string joined(const std::vector<Token>& ids) { return fmt::format("{}", fmt::join(ids, ",")); }

void print_table(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  fmt::print("{}\n", tokenizer.description());
  fmt::print("{:>6}  {:>8}  {:<12}  {}\n", "index", "id", "type", "piece");
  for (size_t i = 0; i < ids.size(); ++i)
    fmt::print("{:>6}  {:>8}  {:<12}  {}\n", i, ids[i], type_name(tokenizer.type(ids[i])),
               quoted(tokenizer.piece(ids[i])));
  fmt::print("{} tokens\n", ids.size());
}

void print_json(const ordered_json& out) {
  fmt::print("{}\n", out.dump(2, ' ', false, ordered_json::error_handler_t::replace));
}

ordered_json tokens_json(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  auto list = ordered_json::array();
  for (const Token id : ids)
    list.push_back({{"id", id},
                    {"piece", tokenizer.piece(id)},
                    {"text", tokenizer.text(id)},
                    {"type", type_name(tokenizer.type(id))}});
  return list;
}

// --- --against ---

struct Parting {
  size_t index = 0;   // of the first id that differs
  size_t offset = 0;  // bytes of the text before it
};

// Where two lists of ids part; nothing where they are the same.
std::optional<Parting> parting(const Tokenizer& tokenizer, const std::vector<Token>& a,
                               const std::vector<Token>& b) {
  if (a == b) return std::nullopt;
  Parting at;
  while (at.index < a.size() && at.index < b.size() && a[at.index] == b[at.index]) ++at.index;
  std::vector<Token> before(a.begin(), a.begin() + static_cast<ptrdiff_t>(at.index));
  if (!before.empty() && tokenizer.bos() == before.front() && tokenizer.adds_bos())
    before.erase(before.begin());  // no bytes of the text
  at.offset = tokenizer.decode(before).size();
  return at;
}

struct VocabularyDifference {
  std::vector<Token> ids;  // whose texts differ, up to the smaller size
  std::vector<std::string> lines;
};

std::string named(const Tokenizer& tokenizer, std::optional<Token> id) {
  return id ? fmt::format("{} {}", *id, quoted(tokenizer.text(*id))) : std::string("none");
}

VocabularyDifference compare_vocabularies(const Tokenizer& a, const Tokenizer& b) {
  VocabularyDifference out;
  const auto yes = [](bool value) { return value ? "yes" : "no"; };
  const auto row = [&](std::string_view what, const std::string& left, const std::string& right) {
    if (left != right) out.lines.push_back(fmt::format("{}: {} / {}", what, left, right));
  };
  row("size", fmt::format("{}", a.size()), fmt::format("{}", b.size()));
  row("BOS", named(a, a.bos()), named(b, b.bos()));
  row("EOS", named(a, a.eos()), named(b, b.eos()));
  row("adds BOS", yes(a.adds_bos()), yes(b.adds_bos()));
  row("adds EOS", yes(a.adds_eos()), yes(b.adds_eos()));
  row("end tokens", joined(a.end_tokens()), joined(b.end_tokens()));
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const auto id = static_cast<Token>(i);
    if (a.text(id) != b.text(id)) out.ids.push_back(id);
  }
  if (!out.ids.empty()) {
    constexpr size_t kMostShown = 5;
    std::string shown;
    for (size_t i = 0; i < std::min(out.ids.size(), kMostShown); ++i)
      shown += fmt::format("{}{} {} / {}", i == 0 ? "" : ", ", out.ids[i],
                           quoted(a.text(out.ids[i])), quoted(b.text(out.ids[i])));
    out.lines.push_back(fmt::format("texts of {} ids differ: {}{}", out.ids.size(), shown,
                                    out.ids.size() > kMostShown ? ", …" : ""));
  }
  return out;
}

std::string token_at(const Tokenizer& tokenizer, const std::vector<Token>& ids, size_t index) {
  if (index >= ids.size()) return "the end";
  return fmt::format("{} {}", ids[index], quoted(tokenizer.piece(ids[index])));
}

Result<int> compare(const TokenizeOptions& options, const Tokenizer& a, const Tokenizer& b) {
  const auto vocabulary = compare_vocabularies(a, b);
  std::vector<Token> left, right;
  std::optional<Parting> at;
  const bool has_text = options.has_text || options.has_file;
  if (has_text) {
    TRY_ASSIGN(const auto text, input_text(options));
    TRY_ASSIGN(left, a.encode(text, !options.no_special, options.parse_special));
    TRY_ASSIGN(right, b.encode(text, !options.no_special, options.parse_special));
    at = parting(a, left, right);
  }
  const bool same = vocabulary.lines.empty() && !at;
  if (options.json) {
    ordered_json out = {{"plumb", "tokenize"}, {"version", 1}, {"same", same}};
    out["vocabulary"] = vocabulary.lines;
    if (has_text) out["counts"] = {left.size(), right.size()};
    if (at)
      out["parting"] = {{"index", at->index},
                        {"byte", at->offset},
                        {"left", token_at(a, left, at->index)},
                        {"right", token_at(b, right, at->index)}};
    print_json(out);
    return same ? kPass : kFail;
  }
  fmt::print("A  {}: {}\nB  {}: {}\n", options.model, a.description(), options.against,
             b.description());
  for (const auto& line : vocabulary.lines) fmt::print("{}\n", line);
  if (vocabulary.lines.empty()) fmt::print("the vocabularies are the same\n");
  if (at) {
    fmt::print("the ids part at index {}, byte {} of the text: {} / {}; {} ids / {} ids\n",
               at->index, at->offset, token_at(a, left, at->index), token_at(b, right, at->index),
               left.size(), right.size());
  } else if (has_text) {
    fmt::print("the ids are the same, {} of them\n", left.size());
  }
  return same ? kPass : kFail;
}

// Each line a JSON string, each answer a line: ids, and what they decode to.
Result<int> tokenize_lines(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  TRY_ASSIGN(const auto text, input_text(options));
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const auto line = ordered_json::parse(text.substr(at, end - at), nullptr, false);
    ++number;
    if (!line.is_string())
      return fail(ErrorCode::Usage, fmt::format("--lines: line {} is not a JSON string", number));
    TRY_ASSIGN(const auto ids, tokenizer.encode(line.get<std::string>(), !options.no_special,
                                                options.parse_special));
    if (options.ids) {
      fmt::print("{}\n", joined(ids));
    } else {
      const ordered_json out = {{"ids", ids}, {"text", tokenizer.decode(ids)}};
      fmt::print("{}\n", out.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
    }
    at = end + 1;
  }
  return kPass;
}

Result<int> decode_ids(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  TRY_ASSIGN(const auto ids, parse_decode_ids(options.decode));
  for (const Token id : ids)
    if (id < 0 || static_cast<size_t>(id) >= tokenizer.size())
      return fail(ErrorCode::Usage,
                  fmt::format("--decode: there is no token {}, the vocabulary has "
                              "{} (0 to {})",
                              id, tokenizer.size(), tokenizer.size() - 1));
  const auto text = tokenizer.decode(ids);
  if (options.json) {
    print_json({{"plumb", "tokenize"},
                {"version", 1},
                {"text", text},
                {"tokens", tokens_json(tokenizer, ids)}});
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
    fmt::print("\n");
  }
  return kPass;
}

Result<int> tokenize(const TokenizeOptions& options) {
  TRY_ASSIGN(const auto tokenizer, open_tokenizer(options.model));
  if (!options.against.empty()) {
    TRY_ASSIGN(const auto other, open_tokenizer(options.against));
    return compare(options, tokenizer, other);
  }
  if (options.has_decode) return decode_ids(options, tokenizer);
  if (options.lines) return tokenize_lines(options, tokenizer);
  TRY_ASSIGN(const auto text, input_text(options));
  TRY_ASSIGN(const auto ids, tokenizer.encode(text, !options.no_special, options.parse_special));
  if (options.json) {
    print_json({{"plumb", "tokenize"},
                {"version", 1},
                {"tokenizer", tokenizer.description()},
                {"ids", ids},
                {"tokens", tokens_json(tokenizer, ids)}});
  } else if (options.ids) {
    fmt::print("{}\n", joined(ids));
  } else {
    print_table(tokenizer, ids);
  }
  return kPass;
}

}  // namespace

void add_tokenize(CLI::App& program, Command& chosen) {
  auto options = std::make_shared<TokenizeOptions>();
  auto* app = program.add_subcommand("tokenize", "Turn text into tokens, or compare tokenizers");
  app->add_option("MODEL", options->model, "Model file, folder, tokenizer.json or tokenizer.model")
      ->required();
  app->add_option("TEXT", options->text, "The text; - is standard input");
  app->add_option("--file", options->file, "The text from a file; - is standard input");
  app->add_option("--decode", options->decode, "Turn ids into text: 1,2,3");
  app->add_option("--against", options->against,
                  "Another tokenizer: where the two part, and how their vocabularies differ; exit "
                  "code 1 if they do");
  app->add_flag("--ids", options->ids, "Print the ids only: 1,2,3");
  app->add_flag("--json", options->json, "Print JSON");
  app->add_flag("--lines", options->lines,
                "Each line of the text is a JSON string, tokenized by itself");
  app->add_flag("--no-special", options->no_special, "Add no BOS and no EOS");
  app->add_flag("--parse-special,!--no-parse-special", options->parse_special,
                "Special tokens in the text become their ids (the default)");
  app->callback([options, app, &chosen] {
    options->has_text = app->count("TEXT") > 0;
    options->has_file = app->count("--file") > 0;
    options->has_decode = app->count("--decode") > 0;
    chosen = [options] {
      const auto code = tokenize(*options);
      return code ? *code : report_error(code.error());
    };
  });
}

}  // namespace plumb::cli
