// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pretokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>

#include "formats/metadata.h"

namespace plumb {
namespace {

// The expressions of llama.cpp's table (src/llama-vocab.cpp), by its names. Its classes of
// characters are those of Unicode 15.1; where it stands other spaces in for U+3000, so do we.
#define PLUMB_GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"
#define PLUMB_ASCII_CASE R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define PLUMB_REST R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PLUMB_WORDS(DIGITS) PLUMB_ASCII_CASE R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" DIGITS "|" PLUMB_REST
#define PLUMB_UPPER R"(((?=[\p{L}])([^a-z])))"
#define PLUMB_LOWER R"(((?=[\p{L}])([^A-Z])))"
#define PLUMB_LEAD R"([^\r\n\p{L}\p{N}]?)"
#define PLUMB_REST_SLASH R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PLUMB_DEEPSEEK3                                                                      \
  R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)" \
  R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define PLUMB_FINNISH R"( ?[^(\s|.,!?…。，、।۔،)]+)"
// Ranges that hold spaces, which llama.cpp does not match as the characters that they are.
#define PLUMB_CJK R"((?:(?!\s)[一-龥ࠀ-一가-퟿])+)"
#define PLUMB_LATIN                                                                             \
  R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"   \
  R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})" \
  R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"       \
  R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"    \
  R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"    \
  R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D})"              \
  R"(\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"             \
  R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"    \
  R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"      \
  R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"              \
  R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"              \
  R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"     \
  R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"    \
  R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"                 \
  R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"             \
  R"(\x{1E900}-\x{1E943}]+)"

struct Row {
  std::initializer_list<std::string_view> names;
  std::initializer_list<std::string_view> regexes;
  PreTokenizerTraits traits = {};
};

constexpr PreTokenizerTraits kIgnoreMerges = {.ignore_merges = true};
constexpr PreTokenizerTraits kLikeLlama3 = {.ignore_merges = true, .add_bos = true};
constexpr PreTokenizerTraits kCharacters = {.spaces_as_2581 = true};

const Row kRows[] = {
    {{"default", ""}, {R"([\p{P}\$\+<=>\^~\|]+)", PLUMB_GPT2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}},
    {{"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
      "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
      "jina-v1-en", "jina-v2-code", "roberta-bpe"},
     {PLUMB_GPT2}},
    {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
     {R"(\p{N})", PLUMB_GPT2}},
    {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
      "jina-v5-nano"},
     {PLUMB_WORDS(R"(\p{N}{1,3})")},
     kLikeLlama3},
    {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {PLUMB_WORDS(R"(\p{N}{1,3})")}},
    {{"glm4", "glm5"}, {PLUMB_WORDS(R"(\p{N}{1,3})")}, kIgnoreMerges},
    {{"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan",
      "solar-open", "grok-2"},
     {PLUMB_WORDS(R"(\p{N})")}},
    {{"qwen35"},
     {PLUMB_ASCII_CASE
      R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
    {{"ufakzeka"}, {R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" PLUMB_REST}},
    {{"laguna"}, {R"([^\n]+|[\n]+)", PLUMB_WORDS(R"(\p{N})")}},
    {{"minicpm5"}, {R"(\p{N}{1,3})", PLUMB_WORDS(R"(\p{N}+)")}, kIgnoreMerges},
    {{"seed-coder"},
     {PLUMB_ASCII_CASE
      R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
    {{"bailingmoe", "bailingmoe2", "llada-moe"},
     {R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
      R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"}},
    {{"exaone-moe"},
     {PLUMB_ASCII_CASE
      R"(|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|)"
      R"(\s*[\r\n]|\s+(?!\S)|\s+)"}},
    {{"jais-2"},
     {PLUMB_ASCII_CASE
      R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|)"
      R"(\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|)"
      R"(\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})"}},
    {{"tekken"},
     {PLUMB_LEAD PLUMB_UPPER "*" PLUMB_LOWER "+|" PLUMB_LEAD PLUMB_UPPER "+" PLUMB_LOWER
                             R"(*|\p{N}|)" PLUMB_REST_SLASH},
     kLikeLlama3},
    {{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
     {PLUMB_LEAD PLUMB_UPPER "*" PLUMB_LOWER "+" PLUMB_ASCII_CASE "?|" PLUMB_LEAD PLUMB_UPPER
                             "+" PLUMB_LOWER "*" PLUMB_ASCII_CASE
                             R"(?|\p{N}{1,3}|)" PLUMB_REST_SLASH}},
    {{"deepseek-llm"},
     {"[\r\n]", PLUMB_LATIN, R"(\s?[!-/:-~！-／：-～‘-‟\x{3001}-。]+)", R"(\s+$)", PLUMB_CJK,
      R"(\p{N}+)"}},
    {{"deepseek-coder"}, {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", PLUMB_CJK, R"(\p{N})"}},
    {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
     {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", PLUMB_DEEPSEEK3}},
    {{"falcon"}, {R"([\p{P}\$\+<=>\^~\|`]+)", PLUMB_GPT2, R"([0-9][0-9][0-9])"}},
    {{"poro-chat", "bloom", "gpt3-finnish"}, {PLUMB_FINNISH}},
    {{"viking"}, {PLUMB_FINNISH, R"(\p{N})"}},
    {{"superbpe"}, {R"(\p{N}+)", R"((?=([0-9]{3})+(?![0-9])))"}},
    {{"gemma4", "sarvam-moe"}, {R"([^\n]+|[\n]+)"}, kCharacters},
};

#undef PLUMB_GPT2
#undef PLUMB_ASCII_CASE
#undef PLUMB_REST
#undef PLUMB_WORDS
#undef PLUMB_UPPER
#undef PLUMB_LOWER
#undef PLUMB_LEAD
#undef PLUMB_REST_SLASH
#undef PLUMB_DEEPSEEK3
#undef PLUMB_FINNISH
#undef PLUMB_CJK
#undef PLUMB_LATIN

const Row* find_row(std::string_view name) {
  for (const Row& row : kRows)
    if (std::ranges::find(row.names, name) != row.names.end()) return &row;
  return nullptr;
}

struct Section {
  size_t end;
  bool matched;
};

// The matches and what lies between them, in order, covering all `size` points.
std::vector<Section> sections_of(const std::vector<RegexPattern::Match>& matches, size_t size,
                                 bool invert) {
  std::vector<Section> sections;
  size_t done = 0;
  for (const auto& match : matches) {
    if (match.begin > done) sections.push_back({match.begin, invert});
    if (match.end > match.begin) sections.push_back({match.end, !invert});
    done = match.end;
  }
  if (size > done) sections.push_back({size, invert});
  return sections;
}

// Which ends of sections are no ends of pieces, because the behaviour joins the two.
bool joins(const std::vector<Section>& sections, size_t i, SplitBehavior behavior) {
  const bool left = sections[i].matched;
  const bool right = sections[i + 1].matched;
  switch (behavior) {
    case SplitBehavior::Isolated: return false;
    case SplitBehavior::MergedWithPrevious: return right && !left;
    case SplitBehavior::MergedWithNext: return left && !right;
    case SplitBehavior::Contiguous: return left == right;
  }
  return false;
}

Result<void> split_piece(const SplitPass& pass, PointSpan piece, size_t base,
                         std::vector<size_t>& ends) {
  if (const auto* pattern = std::get_if<SplitPattern>(&pass.pattern)) {
    pattern->split(piece, base, ends);
    return {};
  }
  std::vector<RegexPattern::Match> matches;
  TRY(std::get<RegexPattern>(pass.pattern).match(piece, matches));
  const auto sections = sections_of(matches, piece.size, pass.invert);
  for (size_t i = 0; i < sections.size(); ++i)
    if (i + 1 == sections.size() || !joins(sections, i, pass.behavior))
      ends.push_back(base + sections[i].end);
  return {};
}

}  // namespace

std::optional<PreTokenizerTraits> pretokenizer_traits(std::string_view name) {
  const Row* row = find_row(name);
  return row == nullptr ? std::nullopt : std::optional(row->traits);
}

Result<PreTokenizer> PreTokenizer::create(std::string_view name) {
  const Row* row = find_row(name);
  if (row == nullptr)
    return fail(ErrorCode::Unsupported,
                fmt::format("pre-tokenizer '{}' is not supported; docs/tokenizers.md lists those "
                            "that are",
                            printable(name)));
  PreTokenizer made(UnicodeVersion::V15_1);
  for (const std::string_view regex : row->regexes) TRY(made.add_regex(regex));
  return made;
}

Result<void> PreTokenizer::add_regex(std::string_view regex, SplitBehavior behavior, bool invert) {
  const SplitPattern* known = find_split_pattern(regex);
  // The hand-written matchers do not tell matches from what lies between.
  if (known != nullptr && behavior == SplitBehavior::Isolated && !invert) {
    passes_.push_back({*known, behavior, invert});
    return {};
  }
  TRY_ASSIGN(auto pattern, RegexPattern::create(regex, version_));
  passes_.push_back({std::move(pattern), behavior, invert});
  return {};
}

Result<void> PreTokenizer::split(PointSpan text, std::vector<size_t>& ends,
                                 std::vector<size_t>& scratch) const {
  ends.clear();
  if (text.size == 0) return {};
  ends.push_back(text.size);
  for (const SplitPass& pass : passes_) {
    scratch.clear();
    size_t begin = 0;
    for (const size_t end : ends) {
      TRY(split_piece(pass, text.part(begin, end), begin, scratch));
      begin = end;
    }
    std::swap(ends, scratch);
  }
  return {};
}

Result<std::vector<size_t>> PreTokenizer::split(std::span<const CodePoint> points) const {
  const uint8_t* table = trait_table(version_);
  std::vector<uint8_t> traits;
  traits.reserve(points.size());
  for (const CodePoint point : points) traits.push_back(table[point]);
  std::vector<size_t> ends, scratch;
  TRY(split({points.data(), traits.data(), points.size()}, ends, scratch));
  return ends;
}

}  // namespace plumb
