// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/sentencepiece_file.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <limits>
#include <string_view>

namespace plumb {
namespace {

// A field of a protocol buffer message: its number, and its value by wire type.
struct Field {
  uint32_t number = 0;
  uint64_t integer = 0;   // wire type 0, 1 or 5
  std::string_view text;  // wire type 2
  uint32_t wire = 0;
};

std::unexpected<Error> corrupt(std::string_view what) {
  return fail(ErrorCode::Corrupt,
              fmt::format("tokenizer.model is no SentencePiece model: {}", what));
}

// Reads one message, field by field.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }

  Result<Field> next() {
    TRY_ASSIGN(const uint64_t tag, varint());
    Field field;
    field.wire = static_cast<uint32_t>(tag & 7);
    if (tag >> 3 == 0 || tag >> 3 > kMostFields) return corrupt("a field has no valid number");
    field.number = static_cast<uint32_t>(tag >> 3);
    switch (field.wire) {
      case 0: {
        TRY_ASSIGN(field.integer, varint());
        return field;
      }
      case 1: return fixed(field, 8);
      case 2: {
        TRY_ASSIGN(const uint64_t size, varint());
        TRY_ASSIGN(field.text, take(size));
        return field;
      }
      case 5: return fixed(field, 4);
      default: return corrupt(fmt::format("a field has the wire type {}", field.wire));
    }
  }

 private:
  static constexpr uint64_t kMostFields = (1u << 29) - 1;

  Result<std::string_view> take(uint64_t size) {
    if (size > bytes_.size())
      return corrupt(fmt::format("a field of {} bytes where {} are left", size, bytes_.size()));
    const auto taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  Result<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) return corrupt("it ends within a number");
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return corrupt("a number has more than 64 bits");
  }

  Result<Field> fixed(Field field, size_t size) {
    TRY_ASSIGN(const auto raw, take(size));
    for (size_t i = size; i-- > 0;)
      field.integer = field.integer << 8 | static_cast<uint8_t>(raw[i]);
    return field;
  }

  std::string_view bytes_;
};

// ModelProto.SentencePiece: piece 1, score 2, type 3.
Result<void> read_piece(std::string_view bytes, Vocabulary& out) {
  std::string text;
  float score = 0;
  uint64_t type = 1;
  for (Message message(bytes); !message.done();) {
    TRY_ASSIGN(const Field field, message.next());
    if (field.number == 1 && field.wire == 2) text = field.text;
    if (field.number == 2 && field.wire == 5)
      score = std::bit_cast<float>(static_cast<uint32_t>(field.integer));
    if (field.number == 3 && field.wire == 0) type = field.integer;
  }
  if (type < 1 || type > 6)
    return corrupt(fmt::format("piece {} has the type {}", out.tokens.size(), type));
  // SentencePiece numbers its types as GGUF does.
  out.types.push_back(static_cast<int32_t>(type));
  out.scores.push_back(score);
  out.tokens.push_back(std::move(text));
  return {};
}

Result<std::optional<Token>> read_id(const Field& field) {
  const auto value = static_cast<int64_t>(field.integer);
  if (value < 0) return std::optional<Token>();  // -1: none
  if (value > std::numeric_limits<Token>::max())
    return corrupt(fmt::format("a token id is {}", value));
  return std::optional(static_cast<Token>(value));
}

// TrainerSpec: model_type 3, treat_whitespace_as_suffix 24, unk_id 40, bos_id 41, eos_id 42,
// pad_id 43.
Result<void> read_trainer(std::string_view bytes, Vocabulary& out) {
  uint64_t model = 1;
  for (Message message(bytes); !message.done();) {
    TRY_ASSIGN(const Field field, message.next());
    if (field.wire != 0) continue;
    if (field.number == 3) model = field.integer;
    if (field.number == 24 && field.integer != 0)
      return fail(ErrorCode::Unsupported,
                  "tokenizer.model treats spaces as suffixes, which is not supported");
    if (field.number == 40) {
      TRY_ASSIGN(out.unknown, read_id(field));
    } else if (field.number == 41) {
      TRY_ASSIGN(out.bos, read_id(field));
    } else if (field.number == 42) {
      TRY_ASSIGN(out.eos, read_id(field));
    } else if (field.number == 43) {
      TRY_ASSIGN(out.padding, read_id(field));
    }
  }
  if (model == 2) return {};
  return fail(ErrorCode::Unsupported,
              fmt::format("tokenizer.model is a SentencePiece model of the kind {}, which is not "
                          "supported (BPE is)",
                          model == 1   ? "unigram"
                          : model == 3 ? "word"
                          : model == 4 ? "char"
                                       : fmt::format("{}", model)));
}

// NormalizerSpec: name 1, precompiled_charsmap 2, add_dummy_prefix 3, remove_extra_whitespaces 4,
// escape_whitespaces 5.
Result<void> read_normalizer(std::string_view bytes, Vocabulary& out) {
  std::string_view name = "unnamed";
  std::string_view characters;
  bool remove_spaces = true;
  out.add_space_prefix = true;
  for (Message message(bytes); !message.done();) {
    TRY_ASSIGN(const Field field, message.next());
    if (field.number == 1 && field.wire == 2) name = field.text;
    if (field.number == 2 && field.wire == 2) characters = field.text;
    if (field.number == 3 && field.wire == 0) out.add_space_prefix = field.integer != 0;
    if (field.number == 4 && field.wire == 0) remove_spaces = field.integer != 0;
    if (field.number == 5 && field.wire == 0 && field.integer == 0)
      return fail(ErrorCode::Unsupported,
                  "tokenizer.model does not write spaces as U+2581, which is not supported");
  }
  if (!characters.empty() || remove_spaces)
    return fail(ErrorCode::Unsupported,
                fmt::format("tokenizer.model's normalizer '{}' {}, which is not supported", name,
                            characters.empty() ? "removes spaces" : "rewrites characters"));
  return {};
}

}  // namespace

Result<Vocabulary> parse_sentencepiece(std::span<const std::byte> bytes) {
  Vocabulary out;
  out.model = "llama";
  out.source = "tokenizer.model";
  // The defaults of TrainerSpec.
  out.unknown = 0;
  out.bos = 1;
  out.eos = 2;
  std::string_view trainer, normalizer;
  for (Message message({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
       !message.done();) {
    TRY_ASSIGN(const Field field, message.next());
    if (field.wire != 2) continue;
    if (field.number == 1) TRY(read_piece(field.text, out));
    if (field.number == 2) trainer = field.text;
    if (field.number == 3) normalizer = field.text;
  }
  if (out.tokens.empty()) return corrupt("it has no pieces");
  TRY(read_trainer(trainer, out));
  TRY(read_normalizer(normalizer, out));
  return out;
}

}  // namespace plumb
