// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tokenizer/unicode_bytes.h"

namespace plumb {
namespace {

using std::string_literals::operator""s;
using Ids = std::vector<Token>;

// Ids 0 to 255 are the bytes, so that most expected ids can be read as characters.
constexpr Token kEnd = 256;
constexpr Token kStart = 257;
constexpr Token kStartLong = 258;  // begins as kStart does
constexpr Token kUser = 259;
constexpr Token kAb = 260;      // "ab"
constexpr Token kAbc = 261;     // "abc"
constexpr Token kBc = 262;      // "bc"
constexpr Token kSpaceA = 263;  // " a"
constexpr Token kTwoSpaces = 264;
constexpr Token kTwelve = 265;  // "12"
constexpr Token kApostropheS = 266;
constexpr Token kNewlines = 267;
constexpr Token kAa = 268;

Vocabulary small_vocabulary() {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "smollm";
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(to_byte_alphabet(static_cast<uint8_t>(byte)));
  }
  vocabulary.types.assign(256, 1);
  const auto add = [&vocabulary](std::string text, TokenType type) {
    vocabulary.tokens.push_back(std::move(text));
    vocabulary.types.push_back(static_cast<int32_t>(type));
  };
  add("<|im_end|>", TokenType::Control);
  add("<s>", TokenType::Control);
  add("<s><s>", TokenType::Control);
  add("[tool]", TokenType::UserDefined);
  for (const char* text : {"ab", "abc", "bc", "Ġa", "ĠĠ", "12", "'s", "ĊĊ", "aa"}) {
    add(text, TokenType::Normal);
  }
  vocabulary.merges = {"b c", "a b", "ab c", "Ġ a", "Ġ Ġ", "1 2", "' s", "Ċ Ċ", "a a"};
  vocabulary.bos = kStart;
  vocabulary.eos = kEnd;
  return vocabulary;
}

Tokenizer make(Vocabulary vocabulary = small_vocabulary()) {
  auto made = Tokenizer::create(std::move(vocabulary));
  EXPECT_TRUE(made.has_value()) << made.error().message;
  return std::move(*made);
}

Ids encode(std::string_view text, bool parse_special = false) {
  const auto ids = make().encode(text, false, parse_special);
  EXPECT_TRUE(ids.has_value()) << ids.error().message;
  return ids.value_or(Ids{});
}

Ids bytes(std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

TEST(Tokenizer, MergesLowestRankFirst) {
  // "b c" ranks above "a b", and no merge joins a with bc.
  EXPECT_EQ(encode("abc"), (Ids{'a', kBc}));
  EXPECT_EQ(encode("abx"), (Ids{kAb, 'x'}));
  EXPECT_EQ(encode(""), Ids{});
}

TEST(Tokenizer, MergesLeftmostOnTies) {
  EXPECT_EQ(encode("aaa"), (Ids{kAa, 'a'}));
  EXPECT_EQ(encode("aaaab"), (Ids{kAa, 'a', kAb}));
}

TEST(Tokenizer, MergesBuildOnMerges) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.merges = {"a b", "ab c"};
  EXPECT_EQ(make(vocabulary).encode("abcab", false, false), (Ids{kAbc, kAb}));
}

TEST(Tokenizer, LongPieceIsNotQuadratic) {
  // A quadratic merge would need some 10^11 steps: minutes.
  const std::string text(400'000, 'a');
  EXPECT_EQ(encode(text), Ids(200'000, kAa));
}

TEST(Tokenizer, SmollmSplitsEveryDigit) {
  EXPECT_EQ(encode("12"), (Ids{'1', '2'}));
  // The space before a digit is a piece of its own.
  EXPECT_EQ(encode("  12"), (Ids{kTwoSpaces, '1', '2'}));
  // Other scripts' digits and number forms are cut out too.
  EXPECT_EQ(encode("a\u0663a"), bytes("a\u0663a"));
}

TEST(Tokenizer, Gpt2KeepsDigitsTogether) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.pre = "gpt-2";
  EXPECT_EQ(make(vocabulary).encode("x12", false, false), (Ids{'x', kTwelve}));
}

TEST(Tokenizer, SplitsContractions) {
  EXPECT_EQ(encode("x's"), (Ids{'x', kApostropheS}));
  // In capitals, after a curly quote or with a long s it is no contraction.
  EXPECT_EQ(encode("x'S"), bytes("x'S"));
  EXPECT_EQ(encode("x\u2019s"), bytes("x\u2019s"));
  EXPECT_EQ(encode("x'\u017f"), bytes("x'\u017f"));
  // Without the piece border after 's, "s" and what follows would be one word.
  EXPECT_EQ(encode("'sab"), (Ids{kApostropheS, kAb}));
}

TEST(Tokenizer, LastSpaceGoesToTheWord) {
  EXPECT_EQ(encode("  a"), (Ids{' ', kSpaceA}));
  EXPECT_EQ(encode("   a"), (Ids{kTwoSpaces, kSpaceA}));
  EXPECT_EQ(encode("a  "), (Ids{'a', kTwoSpaces}));
  // A newline can not lead a word, yet stays apart from the run before it.
  EXPECT_EQ(encode("\n\na"), (Ids{'\n', '\n', 'a'}));
  EXPECT_EQ(encode("\n\n"), Ids{kNewlines});
}

TEST(Tokenizer, SpacesAreThoseOfUnicode) {
  const auto pieces = [](std::vector<CodePoint> points) {
    return PreTokenizer::create("gpt-2")->split(points).value();
  };
  using Ends = std::vector<size_t>;
  for (const CodePoint space : {0x85u, 0xA0u, 0x1680u, 0x2003u, 0x2028u, 0x3000u}) {
    EXPECT_EQ(pieces({'!', space, '!'}), (Ends{1, 2, 3})) << space;
  }
  // The Mongolian vowel separator and zero-width characters are not among them.
  for (const CodePoint other : {0x180Eu, 0x200Bu, 0xFEFFu, 0xD800u, 0x10FFFFu}) {
    EXPECT_EQ(pieces({'!', other, '!'}), Ends{3}) << other;
  }
}

TEST(Tokenizer, SpecialTokensLongestFirst) {
  EXPECT_EQ(encode("a<s><s>b<|im_end|>", true), (Ids{'a', kStartLong, 'b', kEnd}));
  EXPECT_EQ(encode("<s>", true), Ids{kStart});
  EXPECT_EQ(encode("<s><s><s>", true), (Ids{kStartLong, kStart}));
  EXPECT_EQ(encode("<s", true), bytes("<s"));
}

TEST(Tokenizer, OnlyUserDefinedTokensWithoutParseSpecial) {
  EXPECT_EQ(encode("<s>[tool]"), (Ids{'<', 's', '>', kUser}));
}

TEST(Tokenizer, TextAroundSpecialTokensIsSplitAlone) {
  // The space stays behind: no piece crosses a special token.
  EXPECT_EQ(encode(" <s>a", true), (Ids{' ', kStart, 'a'}));
}

TEST(Tokenizer, AddsBosAndEosWhenTheModelAsks) {
  EXPECT_EQ(make().encode("x", true, false), (Ids{'x'}));
  EXPECT_FALSE(make().adds_bos());
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  const Tokenizer tokenizer = make(vocabulary);
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), kStart);
  EXPECT_EQ(tokenizer.encode("x", true, false), (Ids{kStart, 'x', kEnd}));
  EXPECT_EQ(tokenizer.encode("", true, false), (Ids{kStart, kEnd}));
  EXPECT_EQ(tokenizer.encode("x", false, false), (Ids{'x'}));
}

TEST(Tokenizer, ReadsInvalidUtf8Loosely) {
  const Ids replacement = bytes("\uFFFD");
  const auto replacements = [&replacement](int count) {
    Ids ids;
    for (int i = 0; i < count; ++i) ids.insert(ids.end(), replacement.begin(), replacement.end());
    return ids;
  };
  EXPECT_EQ(encode("\x80"), replacements(1));
  EXPECT_EQ(encode("\xC3"), replacements(1));
  EXPECT_EQ(encode("\xF0\x9F\x98"), replacements(3));
  EXPECT_EQ(encode("\xFF\xFE"), replacements(2));
  EXPECT_EQ(encode("\xC0\xAF\xE0\x80\xAF"), bytes("//"));
  EXPECT_EQ(encode("\xED\xA0\x80"), bytes("\xED\xA0\x80"));
  EXPECT_EQ(encode("a\0b"s), bytes("a\0b"s));
}

TEST(Tokenizer, RefusesPointsAboveUnicode) {
  // The offset counts from the start of the text, not of the fragment after the special token.
  const auto ids = make().encode("<s>ab\xF4\x90\x80\x80", false, true);
  ASSERT_FALSE(ids.has_value());
  EXPECT_NE(ids.error().message.find("at byte 5"), std::string::npos) << ids.error().message;
}

TEST(Tokenizer, FallsBackToByteTokens) {
  Vocabulary vocabulary = small_vocabulary();
  // Merging gives a text that no token has.
  vocabulary.merges = {"x y"};
  EXPECT_EQ(make(vocabulary).encode("xy", false, false), (Ids{'x', 'y'}));
  vocabulary.tokens['x'] = "<0x78>";
  vocabulary.types['x'] = static_cast<int32_t>(TokenType::Byte);
  const Tokenizer tokenizer = make(vocabulary);
  EXPECT_EQ(tokenizer.encode("xy", false, false), (Ids{'x', 'y'}));
  EXPECT_EQ(tokenizer.piece('x'), "x");
}

TEST(Tokenizer, NamesThePieceThatHasNoToken) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.tokens['x'] = "unreachable";
  const auto ids = make(vocabulary).encode("a xq", false, false);
  ASSERT_FALSE(ids.has_value());
  EXPECT_NE(ids.error().message.find("0x78 of \" xq\""), std::string::npos) << ids.error().message;
}

TEST(Tokenizer, PiecesAreExactBytes) {
  const Tokenizer tokenizer = make();
  EXPECT_EQ(tokenizer.size(), 269u);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer.piece(byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer.piece(kSpaceA), " a");
  EXPECT_EQ(tokenizer.piece(kEnd), "<|im_end|>");
  EXPECT_EQ(tokenizer.piece(-1), "");
  EXPECT_EQ(tokenizer.piece(269), "");
  EXPECT_EQ(tokenizer.decode(Ids{kStart, kAb, kTwoSpaces, 0xC3, 0xA9}), "<s>ab  \u00E9");
}

TEST(Tokenizer, KnowsEndTokens) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.eos = 'e';
  vocabulary.eot = 't';
  const Tokenizer tokenizer = make(vocabulary);
  for (const Token end : {Token{'e'}, Token{'t'}, kEnd}) EXPECT_TRUE(tokenizer.is_end(end));
  for (const Token other : {Token{'x'}, kStart, Token{-1}, Token{269}}) {
    EXPECT_FALSE(tokenizer.is_end(other));
  }
}

TEST(Tokenizer, EndNamesAreControlTokensWhateverTheirType) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.types.clear();
  const Tokenizer tokenizer = make(vocabulary);
  EXPECT_EQ(tokenizer.encode("<|im_end|>", false, true), Ids{kEnd});
  EXPECT_EQ(tokenizer.encode("<s>", false, true), bytes("<s>"));
}

void expect_error(const Vocabulary& vocabulary, ErrorCode code, std::string_view part) {
  const auto made = Tokenizer::create(vocabulary);
  ASSERT_FALSE(made.has_value()) << part;
  EXPECT_EQ(made.error().code, code);
  EXPECT_NE(made.error().message.find(part), std::string::npos) << made.error().message;
}

TEST(TokenizerCreate, NamesWhatIsNotSupported) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.model = "bert";
  expect_error(vocabulary, ErrorCode::Unsupported, "bert");
  vocabulary = small_vocabulary();
  vocabulary.pre = "unheard-of";
  expect_error(vocabulary, ErrorCode::Unsupported, "unheard-of");
}

TEST(TokenizerCreate, RefusesBadMerges) {
  for (const char* merge : {"ab", " ab", "ab ", "a b c", ""}) {
    Vocabulary vocabulary = small_vocabulary();
    vocabulary.merges[2] = merge;
    expect_error(vocabulary, ErrorCode::Corrupt, "merge 2 ");
  }
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.merges.push_back("a b");
  expect_error(vocabulary, ErrorCode::Corrupt, "merge 9 is \"a b\"");
}

TEST(TokenizerCreate, RefusesContradictions) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.tokens[kBc] = "ab";
  expect_error(vocabulary, ErrorCode::Corrupt, "tokens 260 and 262 are both \"ab\"");
  vocabulary = small_vocabulary();
  vocabulary.types.pop_back();
  expect_error(vocabulary, ErrorCode::Corrupt, "268 token types for 269 tokens");
  vocabulary = small_vocabulary();
  vocabulary.types[7] = 7;
  expect_error(vocabulary, ErrorCode::Corrupt, "token 7 has the unknown type 7");
  vocabulary = small_vocabulary();
  vocabulary.tokens.clear();
  expect_error(vocabulary, ErrorCode::Corrupt, "no tokens");
  vocabulary = small_vocabulary();
  vocabulary.eos = 269;
  expect_error(vocabulary, ErrorCode::Corrupt, "EOS token is 269");
  vocabulary = small_vocabulary();
  vocabulary.bos = -1;
  expect_error(vocabulary, ErrorCode::Corrupt, "BOS token is -1");
  vocabulary = small_vocabulary();
  vocabulary.bos.reset();
  vocabulary.add_bos = true;
  expect_error(vocabulary, ErrorCode::Corrupt, "asks for a BOS");
}

TEST(TokenizerCreate, AllowsEmptyTokensToRepeat) {
  Vocabulary vocabulary = small_vocabulary();
  vocabulary.tokens[kAa] = vocabulary.tokens[kBc] = "";
  vocabulary.merges = {"a b"};
  EXPECT_EQ(make(vocabulary).encode("ab", false, true), Ids{kAb});
}

TEST(StreamDecoder, HoldsUnfinishedSequencesBack) {
  const Tokenizer tokenizer = make();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.feed('a'), "a");
  EXPECT_EQ(decoder.feed(0xF0), "");
  EXPECT_EQ(decoder.feed(0x9F), "");
  EXPECT_EQ(decoder.feed(0x98), "");
  EXPECT_EQ(decoder.feed(0x80), "\U0001F600");
  EXPECT_EQ(decoder.feed(0xC3), "");
  EXPECT_EQ(decoder.feed(kAb),
            "\xC3"
            "ab");
  EXPECT_EQ(decoder.feed(0x80), "\x80");
  EXPECT_EQ(decoder.feed(0xFF), "\xFF");
  EXPECT_EQ(decoder.feed(0xE2), "");
  EXPECT_EQ(decoder.feed(0x82), "");
  EXPECT_EQ(decoder.flush(), "\xE2\x82");
  EXPECT_EQ(decoder.flush(), "");
}

}  // namespace
}  // namespace plumb
