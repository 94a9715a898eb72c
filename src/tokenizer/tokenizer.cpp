// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <deque>
#include <limits>

#include "core/check.h"
#include "formats/metadata.h"
#include "tokenizer/unicode_categories.h"

namespace plumb {
namespace {

using Units = TokenizerRules::Units;
using SpacePrefix = TokenizerRules::SpacePrefix;

// The character's bytes and how many they are, as one number; up to 4 bytes.
uint64_t character_key(std::string_view bytes) {
  uint32_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  return static_cast<uint64_t>(bytes.size()) << 32 | word;
}

// By the first byte alone, as llama.cpp cuts: odd bytes may take their neighbours along.
size_t character_size(std::string_view text, size_t at) {
  constexpr uint8_t kSizes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
  return std::min<size_t>(kSizes[static_cast<uint8_t>(text[at]) >> 4], text.size() - at);
}

const uint64_t kMarkKey = character_key(kSpaceMark);

// The value of "<0x41>", or -1.
int byte_value(std::string_view text) {
  unsigned value = 0;
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc() && end == text.data() + 5 ? static_cast<int>(value) : -1;
}

bool is_special(TokenType type) {
  return type == TokenType::Control || type == TokenType::Unknown || type == TokenType::UserDefined;
}

}  // namespace

// Texts to symbols. The keys are views: whatever they point to must stay.
class Tokenizer::Symbols {
 public:
  explicit Symbols(size_t tokens) : next_(static_cast<Symbol>(tokens)) { ids_.reserve(tokens * 2); }

  // The id that has the text already, or the given one.
  Symbol add(std::string_view text, Symbol id) { return ids_.emplace(text, id).first->second; }
  Symbol find(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? -1 : found->second;
  }
  Symbol intern(std::string_view text) {
    if (const Symbol known = find(text); known >= 0) return known;
    ids_.emplace(owned_.emplace_back(text), next_);
    return next_++;
  }
  const auto& all() const { return ids_; }

 private:
  std::unordered_map<std::string_view, Symbol> ids_;
  std::deque<std::string> owned_;
  Symbol next_;
};

// Buffers of one encode() call, reused from piece to piece.
struct Tokenizer::Workspace {
  std::vector<CodePoint> points;
  std::vector<uint8_t> traits;
  std::vector<size_t> ends, scratch;
  std::string normalized, encoded;
  std::vector<Run> runs;
  PairMerger merger;
  PieceCache cache;
};

Result<Tokenizer> Tokenizer::create(Vocabulary vocabulary) {
  TRY_ASSIGN(auto rules, make_rules(std::move(vocabulary)));
  return create(std::move(rules));
}

Result<Tokenizer> Tokenizer::create(TokenizerRules rules) {
  Tokenizer made(std::move(rules));
  TRY(made.check());
  TRY(made.fill());
  return made;
}

bool Tokenizer::reachable(size_t id) const {
  return rules_.unreachable.empty() || !rules_.unreachable[id];
}

Result<void> Tokenizer::check() const {
  const size_t count = rules_.tokens.size();
  CHECK(rules_.types.size() == count);
  CHECK(rules_.unreachable.empty() || rules_.unreachable.size() == count);
  CHECK(!rules_.by_score || rules_.scores.size() == count);
  const auto inside = [count](Token id) { return id >= 0 && static_cast<size_t>(id) < count; };
  const bool all_inside = std::ranges::all_of(rules_.prefix, inside) &&
                          std::ranges::all_of(rules_.suffix, inside) &&
                          std::ranges::all_of(rules_.end_tokens, inside);
  CHECK(all_inside && (!rules_.unknown || inside(*rules_.unknown)));
  return {};
}

Result<void> Tokenizer::fill() {
  const size_t count = rules_.tokens.size();
  Symbols symbols(count);
  ids_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& text = rules_.tokens[i];
    if (text.empty()) continue;
    const auto id = static_cast<Token>(i);
    ids_.emplace(text, id);
    if (!reachable(i)) continue;
    if (const Symbol other = symbols.add(text, id); other != id)
      return fail(ErrorCode::Corrupt,
                  fmt::format("tokens {} and {} are both \"{}\"", other, i, printable(text)));
  }
  fill_units(symbols);
  if (rules_.by_score) {
    add_scored_pairs(symbols);
  } else {
    TRY(add_merges(symbols));
  }
  if (rules_.units == Units::Characters) {
    for (const auto& [text, symbol] : symbols.all())
      if (!text.empty() && character_size(text, 0) == text.size())
        characters_.emplace(character_key(text), symbol);
  }
  rules_.merges.clear();
  rules_.merges.shrink_to_fit();
  TRY(fill_added());
  find_cuts();
  return {};
}

// What merging begins with, and what stands in for bytes that no token has.
void Tokenizer::fill_units(Symbols& symbols) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string text = rules_.units == Units::Bytes
                                 ? to_byte_alphabet(static_cast<uint8_t>(byte))
                                 : std::string(1, static_cast<char>(byte));
    const Symbol spelled = symbols.find(fmt::format("<0x{:02X}>", byte));
    const bool is_byte =
        spelled >= 0 && (rules_.units == Units::Characters ||
                         rules_.types[static_cast<size_t>(spelled)] == TokenType::Byte);
    const Symbol plain = symbols.find(text);
    if (rules_.units == Units::Bytes) {
      byte_tokens_[byte] = plain >= 0 ? plain : is_byte ? spelled : -1;
      byte_symbols_[byte] = symbols.intern(text);
    } else {
      byte_tokens_[byte] = !rules_.byte_fallback ? -1 : is_byte ? spelled : plain;
    }
  }
}

Result<void> Tokenizer::add_merges(Symbols& symbols) {
  pairs_.reserve(rules_.merges.size());
  std::string joined;
  for (size_t i = 0; i < rules_.merges.size(); ++i) {
    const auto& [left, right] = rules_.merges[i];
    joined.assign(left);
    joined += right;
    const auto rank = static_cast<int32_t>(i);
    if (!pairs_.add(symbols.intern(left), symbols.intern(right), {rank, symbols.intern(joined)}))
      return fail(ErrorCode::Corrupt, fmt::format("merge {} is \"{} {}\", as one before it", i,
                                                  printable(left), printable(right)));
  }
  return {};
}

// Each way to put a token together from two symbols: tokens or single characters.
void Tokenizer::add_scored_pairs(Symbols& symbols) {
  std::vector<Symbol> order;
  for (size_t i = 0; i < rules_.tokens.size(); ++i)
    if (reachable(i) && !rules_.tokens[i].empty()) order.push_back(static_cast<Symbol>(i));
  const auto score = [this](Symbol id) { return rules_.scores[static_cast<size_t>(id)]; };
  std::ranges::sort(order, [&](Symbol a, Symbol b) {
    return score(a) != score(b) ? score(a) > score(b) : a < b;
  });
  const auto symbol_of = [&symbols](std::string_view text) {
    const Symbol known = symbols.find(text);
    return known < 0 && character_size(text, 0) == text.size() ? symbols.intern(text) : known;
  };
  struct Pair {
    Symbol left, right;
    PairTable::Merge merge;
  };
  std::vector<Pair> found;
  int32_t rank = 0;  // equal scores have equal ranks
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && score(order[i]) != score(order[i - 1])) ++rank;
    const std::string_view text = rules_.tokens[static_cast<size_t>(order[i])];
    // Longer ones are no words; without the limit a hostile file would cost the square of its size.
    constexpr size_t kLongest = 1024;
    if (text.size() > kLongest) continue;
    for (size_t at = character_size(text, 0); at < text.size(); at += character_size(text, at)) {
      const Symbol left = symbol_of(text.substr(0, at));
      const Symbol right = left < 0 ? -1 : symbol_of(text.substr(at));
      if (right >= 0) found.push_back({left, right, {rank, order[i]}});
    }
  }
  pairs_.reserve(found.size());
  for (const Pair& pair : found) pairs_.add(pair.left, pair.right, pair.merge);
}

void Tokenizer::find_cuts() {
  if (rules_.units != Units::Characters) return;
  for (size_t i = 0; i < rules_.tokens.size(); ++i) {
    if (!reachable(i)) continue;
    const std::string_view text = rules_.tokens[i];
    uint64_t last = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t size = character_size(text, at);
      const uint64_t key = character_key(text.substr(at, size));
      if (key == kMarkKey && at > 0) before_mark_.insert(last);
      last = key;
      at += size;
    }
  }
}

Result<void> Tokenizer::fill_added() {
  const size_t count = rules_.tokens.size();
  added_.resize(count);
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : rules_.added) {
    CHECK(token.id >= 0 && static_cast<size_t>(token.id) < count);
    added_[static_cast<size_t>(token.id)] = true;
    if (token.normalized) {
      TRY(rules_.normalizer.apply(token.content, true));
    }
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_added_ = AddedTokens(std::move(raw), rules_.longest_first);
  normalized_added_ = AddedTokens(std::move(normalized), rules_.longest_first);
  rules_.added.clear();
  pieces_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& text = rules_.tokens[i];
    const TokenType type = rules_.types[i];
    std::string piece = text;
    if (type == TokenType::Byte && byte_value(text) >= 0) {
      piece.assign(1, static_cast<char>(byte_value(text)));
    } else if (!added_[i] && !is_special(type)) {
      if (rules_.units == Units::Bytes) piece = from_byte_alphabet(text);
      if (rules_.spaces_as_2581) replace_all(piece, kSpaceMark, " ");
    }
    if (rules_.ignore_merges && reachable(i) && !text.empty()) {
      const std::string bytes = rules_.units == Units::Bytes ? from_byte_alphabet(text) : text;
      // A text outside the byte alphabet is no piece's.
      if (rules_.units == Units::Characters || to_byte_alphabet(bytes) == text)
        whole_.emplace(bytes, static_cast<Token>(i));
    }
    pieces_.push_back(std::move(piece));
  }
  return {};
}

Result<std::vector<Token>> Tokenizer::encode(std::string_view text, bool add_special,
                                             bool parse_special) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return fail(ErrorCode::Unsupported,
                fmt::format("a text of {} bytes is too long to tokenize", text.size()));
  }
  std::vector<Token> ids;
  ids.reserve(text.size() / 3 + 2);
  if (add_special) ids = rules_.prefix;
  Workspace work;
  for (const Fragment& fragment : raw_added_.partition(text, parse_special)) {
    if (fragment.token) {
      ids.push_back(*fragment.token);
    } else {
      TRY(encode_fragment(text.substr(fragment.begin, fragment.end - fragment.begin),
                          fragment.begin, parse_special, work, ids));
    }
  }
  if (add_special) ids.insert(ids.end(), rules_.suffix.begin(), rules_.suffix.end());
  return ids;
}

Result<void> Tokenizer::encode_fragment(std::string_view text, size_t base, bool parse_special,
                                        Workspace& work, std::vector<Token>& out) const {
  std::string normalized;
  if (!rules_.normalizer.empty()) {
    normalized = text;
    TRY(rules_.normalizer.apply(normalized, base == 0));
    text = normalized;
  }
  if (normalized_added_.empty()) return encode_stretch(text, base, base == 0, work, out);
  for (const Fragment& fragment : normalized_added_.partition(text, parse_special)) {
    if (fragment.token) {
      out.push_back(*fragment.token);
    } else {
      TRY(encode_stretch(text.substr(fragment.begin, fragment.end - fragment.begin), base,
                         base == 0 && fragment.begin == 0, work, out));
    }
  }
  return {};
}

Result<void> Tokenizer::encode_stretch(std::string_view text, size_t base, bool at_start,
                                       Workspace& work, std::vector<Token>& out) const {
  if (rules_.word_normalizer.empty()) return encode_pieces(text, base, work, out);
  work.normalized = text;
  TRY(rules_.word_normalizer.apply(work.normalized, at_start));
  return encode_pieces(work.normalized, base, work, out);
}

Result<void> Tokenizer::encode_pieces(std::string_view text, size_t base, Workspace& work,
                                      std::vector<Token>& out) const {
  const bool characters = rules_.units == Units::Characters;
  if (characters && rules_.pre_tokenizer.empty()) return encode_characters(text, work, out);
  TRY_ASSIGN(const bool exact, decode_utf8_loosely(text, base, work.points));
  const uint8_t* table = trait_table(rules_.pre_tokenizer.version());
  work.traits.resize(work.points.size());
  for (size_t i = 0; i < work.points.size(); ++i) work.traits[i] = table[work.points[i]];
  TRY(rules_.pre_tokenizer.split({work.points.data(), work.traits.data(), work.points.size()},
                                 work.ends, work.scratch));
  if (!exact) {
    work.encoded.clear();
    for (const CodePoint point : work.points) append_utf8(point, work.encoded);
    text = work.encoded;
  }
  size_t point = 0;
  size_t at = 0;
  for (const size_t end : work.ends) {
    size_t size = 0;
    for (; point < end; ++point) size += utf8_size(work.points[point]);
    const std::string_view piece = text.substr(at, size);
    TRY(characters ? encode_characters(piece, work, out) : encode_piece(piece, work, out));
    at += size;
  }
  return {};
}

// Cut further where no merge can cross, so that each part is found in the cache.
Result<void> Tokenizer::encode_characters(std::string_view piece, Workspace& work,
                                          std::vector<Token>& out) const {
  if (rules_.ignore_merges || rules_.line_ends_whole || rules_.fuse_unknown)
    return encode_piece(piece, work, out);
  size_t begin = 0;
  uint64_t last = kMarkKey;
  for (size_t at = 0; at < piece.size();) {
    const size_t size = character_size(piece, at);
    const uint64_t key = character_key(piece.substr(at, size));
    if (key == kMarkKey && at > begin && !before_mark_.contains(last)) {
      TRY(encode_piece(piece.substr(begin, at - begin), work, out));
      begin = at;
    }
    last = key;
    at += size;
  }
  return encode_piece(piece.substr(begin), work, out);
}

std::optional<Token> Tokenizer::whole_token(std::string_view piece) const {
  if (rules_.ignore_merges) {
    const auto found = whole_.find(std::string(piece));
    if (found != whole_.end()) return found->second;
  }
  if (rules_.line_ends_whole && piece.find_first_not_of('\n') == std::string_view::npos)
    return find(piece);
  return std::nullopt;
}

Result<void> Tokenizer::encode_piece(std::string_view piece, Workspace& work,
                                     std::vector<Token>& out) const {
  if (piece.empty()) return {};
  PieceCache::Hit hit{};
  if (work.cache.find(piece, hit)) {
    out.insert(out.end(), hit.tokens, hit.tokens + hit.count);
    return {};
  }
  const size_t before = out.size();
  if (const auto whole = whole_token(piece)) {
    out.push_back(*whole);
  } else {
    TRY(merge_and_emit(piece, work, out));
  }
  work.cache.put(piece, std::span(out).subspan(before));
  return {};
}

void Tokenizer::read_units(std::string_view piece, Workspace& work) const {
  work.runs.clear();
  for (uint32_t at = 0; at < piece.size();) {
    if (rules_.units == Units::Bytes) {
      work.runs.push_back({byte_symbols_[static_cast<uint8_t>(piece[at])], at});
      ++at;
      continue;
    }
    const auto size = static_cast<uint32_t>(character_size(piece, at));
    add_character(piece, at, size, work);
    at += size;
  }
}

void Tokenizer::add_character(std::string_view piece, uint32_t begin, uint32_t size,
                              Workspace& work) const {
  const std::string_view bytes = piece.substr(begin, size);
  const auto found = characters_.find(character_key(bytes));
  if (found != characters_.end()) {
    work.runs.push_back({found->second, begin});
    return;
  }
  const bool spelled = rules_.bytes_before_merging && std::ranges::all_of(bytes, [this](char c) {
                         return byte_tokens_[static_cast<uint8_t>(c)] >= 0;
                       });
  if (!spelled) {
    work.runs.push_back({-1, begin});
    return;
  }
  for (uint32_t i = 0; i < size; ++i)
    work.runs.push_back({byte_tokens_[static_cast<uint8_t>(bytes[i])], begin + i});
}

Result<void> Tokenizer::merge_and_emit(std::string_view piece, Workspace& work,
                                       std::vector<Token>& out) const {
  read_units(piece, work);
  work.merger.merge(pairs_, work.runs);
  bool unknown_before = false;
  for (size_t i = 0; i < work.runs.size(); ++i) {
    const Run& run = work.runs[i];
    if (run.symbol >= 0 && static_cast<size_t>(run.symbol) < size()) {
      out.push_back(run.symbol);
      unknown_before = false;
      continue;
    }
    const size_t end = i + 1 < work.runs.size() ? work.runs[i + 1].begin : piece.size();
    TRY(emit_bytes(piece.substr(run.begin, end - run.begin), piece,
                   rules_.fuse_unknown && unknown_before, out));
    unknown_before = rules_.unknown.has_value();
  }
  return {};
}

Result<void> Tokenizer::emit_bytes(std::string_view bytes, std::string_view piece, bool fuse,
                                   std::vector<Token>& out) const {
  const auto missing = std::ranges::find_if(
      bytes, [this](char c) { return byte_tokens_[static_cast<uint8_t>(c)] < 0; });
  if (missing == bytes.end()) {
    for (const char c : bytes) out.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
    return {};
  }
  if (rules_.unknown) {
    if (!fuse) out.push_back(*rules_.unknown);
    return {};
  }
  return fail(ErrorCode::Unsupported,
              fmt::format("the vocabulary has no token for byte 0x{:02x} of \"{}\"",
                          static_cast<uint8_t>(*missing), printable(piece, 40)));
}

std::string Tokenizer::piece(Token id) const {
  if (id < 0 || static_cast<size_t>(id) >= pieces_.size()) return {};
  return pieces_[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const Token> ids) const {
  StreamDecoder decoder(*this, true);
  std::string bytes;
  for (const Token id : ids) bytes += decoder.feed(id);
  bytes += decoder.flush();
  return bytes;
}

bool Tokenizer::is_end(Token id) const {
  return std::ranges::find(rules_.end_tokens, id) != rules_.end_tokens.end();
}

bool Tokenizer::adds_bos() const {
  return bos() && !rules_.prefix.empty() && rules_.prefix.front() == *bos();
}

bool Tokenizer::adds_eos() const {
  return eos() && !rules_.suffix.empty() && rules_.suffix.back() == *eos();
}

std::string Tokenizer::text(Token id) const {
  if (id < 0 || static_cast<size_t>(id) >= size()) return {};
  return rules_.tokens[static_cast<size_t>(id)];
}

TokenType Tokenizer::type(Token id) const {
  if (id < 0 || static_cast<size_t>(id) >= size()) return TokenType::Undefined;
  return rules_.types[static_cast<size_t>(id)];
}

std::optional<Token> Tokenizer::find(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::is_added(Token id) const {
  return id >= 0 && static_cast<size_t>(id) < added_.size() && added_[static_cast<size_t>(id)];
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool at_start)
    : tokenizer_(&tokenizer),
      drop_space_(at_start && tokenizer.space_prefix() != SpacePrefix::None) {}

std::string StreamDecoder::feed(Token id) {
  std::string piece = tokenizer_->piece(id);
  if (tokenizer_->is_added(id)) {
    // Encoding put a space in front of what stands behind it, too.
    drop_space_ = tokenizer_->space_prefix() == SpacePrefix::Always ||
                  (drop_space_ && tokenizer_->type(id) == TokenType::Control);
  } else if (drop_space_ && !piece.empty()) {
    if (piece.front() == ' ') piece.erase(0, 1);
    drop_space_ = false;
  }
  held_ += piece;
  const size_t complete = held_.size() - unfinished_utf8_tail(held_);
  std::string ready = held_.substr(0, complete);
  held_.erase(0, complete);
  return ready;
}

std::string StreamDecoder::flush() { return std::exchange(held_, {}); }

}  // namespace plumb
