// SPDX-License-Identifier: Apache-2.0
#include "dump/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "core/byte_reader.h"
#include "formats/metadata.h"

namespace plumb {
namespace {

// Each step makes at most one value. A dump with more than this many values outside of its tensors
// is no dump; the limit keeps a small file from taking gigabytes.
constexpr uint64_t kMostSteps = 8'000'000;
// Items that calls copy ("make an OrderedDict of this list"), which a loop of copies could abuse.
constexpr uint64_t kMostCopies = 16'000'000;
constexpr size_t kMostMarks = 10'000;
constexpr size_t kMostDigits = 1000;

// What torch.save writes for tensors and plain values. Nothing here is called: a name is a name.
constexpr std::string_view kAllowed[] = {
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.frozenset",
    "builtins.set",
    "__builtin__.bytearray",
    "__builtin__.frozenset",
    "__builtin__.set",
    "collections.Counter",
    "collections.OrderedDict",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "torch.Size",
    "torch.Tensor",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
};
// torch.float32, torch.float8_e4m3fn, …
constexpr std::string_view kTorchTypes[] = {"bfloat16",
                                            "bool",
                                            "bits8",
                                            "cdouble",
                                            "cfloat",
                                            "chalf",
                                            "complex128",
                                            "complex32",
                                            "complex64",
                                            "double",
                                            "float",
                                            "float16",
                                            "float32",
                                            "float64",
                                            "float8_e4m3fn",
                                            "float8_e4m3fnuz",
                                            "float8_e5m2",
                                            "float8_e5m2fnuz",
                                            "float8_e8m0fnu",
                                            "half",
                                            "int",
                                            "int16",
                                            "int32",
                                            "int64",
                                            "int8",
                                            "long",
                                            "qint32",
                                            "qint8",
                                            "quint8",
                                            "short",
                                            "uint16",
                                            "uint32",
                                            "uint64",
                                            "uint8",
                                            "float4_e2m1fn_x2"};

bool is_allowed(std::string_view module, std::string_view name) {
  if (module == "torch" && std::ranges::find(kTorchTypes, name) != std::end(kTorchTypes))
    return true;
  // torch.FloatStorage, torch.cuda.HalfStorage: the name says the type, and is all that is used.
  constexpr std::string_view kStorage = "Storage";
  if ((module == "torch" || module == "torch.cuda") && name.ends_with(kStorage) &&
      std::ranges::all_of(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)); }))
    return true;
  const std::string full = fmt::format("{}.{}", module, name);
  return std::ranges::find(kAllowed, full) != std::end(kAllowed);
}

std::unexpected<Error> refuse(std::string_view module, std::string_view name) {
  return fail(
      ErrorCode::Unsupported,
      fmt::format("the file asks to call {}.{}: refused, nothing was run. Only tensors, "
                  "numbers, text and their lists and dicts are read: save those",
                  module == "__builtin__" ? "builtins" : printable(module), printable(name)));
}

// Well-formed UTF-8, no surrogates: names go into reports.
bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80   ? 1
                          : lead < 0xC2 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                          : lead < 0xF5 ? 4
                                        : 0;
    if (length == 0 || length > text.size() - i) return false;
    uint32_t point = length == 1 ? lead : lead & (0x7FU >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0U) != 0x80U) return false;
      point = point << 6 | (next & 0x3FU);
    }
    if ((length == 3 && point < 0x800) || (length == 4 && (point < 0x10000 || point > 0x10FFFF)) ||
        (point >= 0xD800 && point < 0xE000))
      return false;
    i += length;
  }
  return true;
}

void append_utf8(std::string& out, uint32_t point) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xC0 | point >> 6);
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
  }
  put(0x80 | (point & 0x3F));
}

std::optional<uint32_t> read_hex(std::string_view digits) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value, 16);
  if (digits.empty() || error != std::errc() || end != digits.end()) return std::nullopt;
  return value;
}

// The text of opcode V: \uXXXX, \UXXXXXXXX, all else as it is (Latin-1).
std::optional<std::string> decode_raw_unicode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t digits = text.substr(i).starts_with("\\u")   ? 4
                          : text.substr(i).starts_with("\\U") ? 8
                                                              : 0;
    if (digits == 0) {
      append_utf8(out, static_cast<unsigned char>(text[i]));
      continue;
    }
    const auto hex = text.substr(i + 2, digits);
    const auto point = hex.size() == digits ? read_hex(hex) : std::nullopt;
    if (!point || *point > 0x10FFFF || (*point >= 0xD800 && *point < 0xE000)) return std::nullopt;
    append_utf8(out, *point);
    i += digits + 1;
  }
  return out;
}

// The text of opcode S: a quoted Python string.
std::optional<std::string> decode_quoted(std::string_view text) {
  if (text.size() < 2 || text.front() != text.back() || (text[0] != '\'' && text[0] != '"'))
    return std::nullopt;
  text = text.substr(1, text.size() - 2);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    if (++i >= text.size()) return std::nullopt;
    constexpr std::string_view kFrom = "\\'\"nrtabfv0";
    constexpr std::string_view kTo("\\'\"\n\r\t\a\b\f\v\0", 11);
    if (text[i] == 'x') {
      const auto byte = read_hex(text.substr(i + 1, 2));
      if (!byte || i + 2 >= text.size()) return std::nullopt;
      out += static_cast<char>(*byte);
      i += 2;
    } else if (const size_t k = kFrom.find(text[i]); k != std::string_view::npos) {
      out += kTo[k];
    } else {
      out += '\\';
      out += text[i];
    }
  }
  return out;
}

class PickleMachine {
 public:
  explicit PickleMachine(std::span<const std::byte> bytes) : reader_(bytes) {}

  Result<PickleContent> run() {
    for (bool stopped = false; !stopped;) {
      const size_t at = reader_.offset();
      const auto done = step(stopped);
      if (!done)
        return std::unexpected(Error(done.error()).within(fmt::format("pickle, byte {}", at)));
    }
    content_.size_bytes = reader_.offset();
    return std::move(content_);
  }

 private:
  Result<void> step(bool& stopped) {
    if (++steps_ > kMostSteps)
      return fail(ErrorCode::Unsupported,
                  fmt::format("more than {} values and steps: this is not a dump", kMostSteps));
    TRY_ASSIGN(const auto code, reader_.read<uint8_t>());
    if (code == '.') {
      stopped = true;
      TRY_ASSIGN(content_.root, pop());
      return {};
    }
    if (const auto done = step_constant(code)) return *done;
    if (const auto done = step_bytes(code)) return *done;
    if (const auto done = step_line(code)) return *done;
    if (const auto done = step_container(code)) return *done;
    if (const auto done = step_memo(code)) return *done;
    if (const auto done = step_object(code)) return *done;
    return corrupt(fmt::format("0x{:02x} is not an instruction of a pickle", code));
  }

  // Each of these does what the code says, or gives nothing if the code is not one of its own.
  std::optional<Result<void>> step_constant(uint8_t code) {
    switch (code) {
      case 'N': return push({});
      case 0x88: return push({.kind = PickleKind::Bool, .integer = 1});
      case 0x89: return push({.kind = PickleKind::Bool, .integer = 0});
      case 'J': return push_number<int32_t>();
      case 'K': return push_number<uint8_t>();
      case 'M': return push_number<uint16_t>();
      case 'G': return push_float();
      case 0x8a: return push_long<uint8_t>();
      case 0x8b: return push_long<uint32_t>();
      case ']': return push({.kind = PickleKind::List});
      case ')': return push({.kind = PickleKind::Tuple});
      case '}': return push({.kind = PickleKind::Dict});
      case 0x8f: return push({.kind = PickleKind::Set});
      case 0x80: return read_protocol();
      case 0x95: return reader_.skip(8);  // a frame: how much comes, which we see ourselves
      default: return std::nullopt;
    }
  }

  std::optional<Result<void>> step_bytes(uint8_t code) {
    switch (code) {
      case 'X': return push_bytes<uint32_t>(PickleKind::Text);
      case 0x8c: return push_bytes<uint8_t>(PickleKind::Text);
      case 0x8d: return push_bytes<uint64_t>(PickleKind::Text);
      case 'B': return push_bytes<uint32_t>(PickleKind::Bytes);
      case 'C': return push_bytes<uint8_t>(PickleKind::Bytes);
      case 0x8e:
      case 0x96: return push_bytes<uint64_t>(PickleKind::Bytes);
      case 'T': return push_bytes<uint32_t>(PickleKind::Text, true);
      case 'U': return push_bytes<uint8_t>(PickleKind::Text, true);
      default: return std::nullopt;
    }
  }

  std::optional<Result<void>> step_line(uint8_t code) {
    switch (code) {
      case 'I':
      case 'L': return push_integer_line();
      case 'F': return push_float_line();
      case 'S':
      case 'V': return push_text_line(code == 'S');
      case 'P': return push_persistent_line();
      default: return std::nullopt;
    }
  }

  std::optional<Result<void>> step_container(uint8_t code) {
    switch (code) {
      case '(': return mark();
      case '0': return drop();
      case '1': return drop_to_mark();
      case '2': return duplicate();
      case 't': return collect(PickleKind::Tuple);
      case 'l': return collect(PickleKind::List);
      case 'd': return collect(PickleKind::Dict);
      case 0x91: return collect(PickleKind::Set);
      case 0x85:
      case 0x86:
      case 0x87: return collect_last(code - 0x84U);
      case 'a': return add_last(1, PickleKind::List);
      case 's': return add_last(2, PickleKind::Dict);
      case 'e': return add_marked(PickleKind::List);
      case 'u': return add_marked(PickleKind::Dict);
      case 0x90: return add_marked(PickleKind::Set);
      default: return std::nullopt;
    }
  }

  std::optional<Result<void>> step_memo(uint8_t code) {
    switch (code) {
      case 'p': return memo_line(true);
      case 'g': return memo_line(false);
      case 'q': return memo<uint8_t>(true);
      case 'r': return memo<uint32_t>(true);
      case 'h': return memo<uint8_t>(false);
      case 'j': return memo<uint32_t>(false);
      case 0x94: return put(static_cast<uint32_t>(memo_.size()));
      default: return std::nullopt;
    }
  }

  std::optional<Result<void>> step_object(uint8_t code) {
    switch (code) {
      case 'Q': return push_persistent();
      case 'c': return push_global_lines();
      case 0x93: return push_global_stack();
      case 'R':
      case 0x81: return call();
      case 'b': return set_state();
      case 'i': return refuse_instance();
      case 'o': return refuse_object();
      case 0x92: return refuse_keyword_object();
      case 0x82:
      case 0x83:
      case 0x84: return refuse_extension();
      case 0x97:
      case 0x98:
        return fail(ErrorCode::Unsupported,
                    "the pickle refers to buffers outside of the file: save without them");
      default: return std::nullopt;
    }
  }

  static std::unexpected<Error> corrupt(std::string message) {
    return fail(ErrorCode::Corrupt, std::move(message));
  }

  // --- The stack ---

  Result<void> push(PickleValue value) {
    content_.values.push_back(std::move(value));
    stack_.push_back(static_cast<PickleId>(content_.values.size() - 1));
    return {};
  }
  Result<void> push_text(PickleKind kind, std::string text) {
    content_.texts.push_back(std::move(text));
    return push({.kind = kind, .text = content_.texts.back()});
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Result<PickleId> pop() {
    TRY(require(1));
    const PickleId id = stack_.back();
    stack_.pop_back();
    return id;
  }
  Result<void> require(size_t count) const {
    if (stack_.size() - floor() >= count) return {};
    return corrupt(
        fmt::format("it takes {} values from a stack of {}", count, stack_.size() - floor()));
  }
  Result<void> mark() {
    if (marks_.size() >= kMostMarks)
      return corrupt(fmt::format("more than {} lists are open inside of each other", kMostMarks));
    marks_.push_back(stack_.size());
    return {};
  }
  // The values above the last mark, which goes away.
  Result<std::vector<PickleId>> take_marked() {
    if (marks_.empty()) return corrupt("it goes back to a mark that nobody set");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleId> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }
  Result<void> drop() {
    if (!marks_.empty() && marks_.back() == stack_.size()) {
      marks_.pop_back();
      return {};
    }
    TRY(pop());
    return {};
  }
  Result<void> drop_to_mark() {
    TRY(take_marked());
    return {};
  }
  Result<void> duplicate() {
    TRY(require(1));
    stack_.push_back(stack_.back());
    return {};
  }

  // --- Containers ---

  Result<void> collect(PickleKind kind) {
    TRY_ASSIGN(auto items, take_marked());
    if (kind == PickleKind::Dict && items.size() % 2 != 0)
      return corrupt("a dict has a key without a value");
    return push({.kind = kind, .items = std::move(items)});
  }
  Result<void> collect_last(size_t count) {
    TRY(require(count));
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    PickleValue tuple{.kind = PickleKind::Tuple, .items = {first, stack_.end()}};
    stack_.erase(first, stack_.end());
    return push(std::move(tuple));
  }
  Result<void> add(const std::vector<PickleId>& items, PickleKind kind) {
    TRY(require(1));
    auto& target = content_.values[stack_.back()];
    if (target.kind != kind)
      return corrupt(
          fmt::format("it adds to {} as if it were {}", kind_name(target.kind), kind_name(kind)));
    if (kind == PickleKind::Dict && items.size() % 2 != 0)
      return corrupt("a dict has a key without a value");
    target.items.insert(target.items.end(), items.begin(), items.end());
    return {};
  }
  Result<void> add_last(size_t count, PickleKind kind) {
    TRY(require(count + 1));
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    const std::vector<PickleId> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    return add(items, kind);
  }
  Result<void> add_marked(PickleKind kind) {
    TRY_ASSIGN(const auto items, take_marked());
    return add(items, kind);
  }

  // --- Plain values ---

  template <class T>
  Result<void> push_number() {
    TRY_ASSIGN(const auto value, reader_.read<T>());
    return push({.kind = PickleKind::Int, .integer = value});
  }
  Result<void> push_float() {
    TRY_ASSIGN(const auto bits, reader_.read<uint64_t>());
    return push(
        {.kind = PickleKind::Float, .number = std::bit_cast<double>(__builtin_bswap64(bits))});
  }
  template <class T>
  Result<void> push_long() {
    TRY_ASSIGN(const auto size, reader_.read<T>());
    TRY_ASSIGN(const auto digits, reader_.read_text(size));
    if (digits.size() > 8) return push({.kind = PickleKind::BigInt, .text = digits});
    uint64_t value = !digits.empty() && (digits.back() & 0x80) ? ~uint64_t{0} : 0;
    std::memcpy(&value, digits.data(), digits.size());
    return push({.kind = PickleKind::Int, .integer = static_cast<int64_t>(value)});
  }
  template <class T>
  Result<void> push_bytes(PickleKind kind, bool python2 = false) {
    TRY_ASSIGN(const auto size, reader_.read<T>());
    TRY_ASSIGN(const auto text, reader_.read_text(size));
    // What Python 2 calls a string is text if it can be.
    if (kind == PickleKind::Text && !is_utf8(text)) {
      if (!python2) return corrupt("a text is not valid UTF-8");
      kind = PickleKind::Bytes;
    }
    return push({.kind = kind, .text = text});
  }

  Result<std::string_view> line() {
    const size_t start = reader_.offset();
    std::string_view rest;
    {
      ByteReader ahead = reader_;
      TRY_ASSIGN(rest, ahead.read_text(ahead.remaining()));
    }
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos)
      return corrupt(fmt::format("the line from byte {} on does not end", start));
    TRY(reader_.skip(end + 1));
    return rest.substr(0, end);
  }
  Result<void> push_integer_line() {
    TRY_ASSIGN(auto text, line());
    if (text == "00" || text == "01")
      return push({.kind = PickleKind::Bool, .integer = text == "01"});
    if (text.ends_with('L')) text.remove_suffix(1);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), value);
    if (error != std::errc() || end != text.end())
      return corrupt(fmt::format("'{}' is not a whole number of 64 bits", printable(text)));
    return push({.kind = PickleKind::Int, .integer = value});
  }
  Result<void> push_float_line() {
    TRY_ASSIGN(const auto text, line());
    double value = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), value);
    if (text.size() > kMostDigits || error != std::errc() || end != text.end())
      return corrupt(fmt::format("'{}' is not a number", printable(text)));
    return push({.kind = PickleKind::Float, .number = value});
  }
  Result<void> push_text_line(bool quoted) {
    TRY_ASSIGN(const auto text, line());
    auto decoded = quoted ? decode_quoted(text) : decode_raw_unicode(text);
    if (!decoded) return corrupt(fmt::format("'{}' is not a text", printable(text)));
    const bool is_text = is_utf8(*decoded);
    return push_text(is_text ? PickleKind::Text : PickleKind::Bytes, std::move(*decoded));
  }
  Result<void> read_protocol() {
    TRY_ASSIGN(const auto version, reader_.read<uint8_t>());
    if (version <= 5) return {};
    return fail(ErrorCode::Unsupported,
                fmt::format("its protocol is {}; 0 to 5 are read", version));
  }

  // --- The memo ---

  Result<void> put(uint32_t place) {
    TRY(require(1));
    memo_[place] = stack_.back();
    return {};
  }
  Result<void> get(uint32_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end())
      return corrupt(fmt::format("it asks for value {}, not yet kept", place));
    stack_.push_back(found->second);
    return {};
  }
  template <class T>
  Result<void> memo(bool keep) {
    TRY_ASSIGN(const auto place, reader_.read<T>());
    return keep ? put(place) : get(place);
  }
  Result<void> memo_line(bool keep) {
    TRY_ASSIGN(const auto text, line());
    uint32_t place = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), place);
    if (error != std::errc() || end != text.end())
      return corrupt(fmt::format("'{}' is not the number of a kept value", printable(text)));
    return keep ? put(place) : get(place);
  }

  // --- Names and calls ---

  Result<void> push_persistent() {
    TRY_ASSIGN(const auto id, pop());
    return push({.kind = PickleKind::Persistent, .items = {id}});
  }
  Result<void> push_persistent_line() {
    TRY_ASSIGN(const auto text, line());
    TRY(push_text(is_utf8(text) ? PickleKind::Text : PickleKind::Bytes, std::string(text)));
    return push_persistent();
  }
  Result<void> push_global(std::string_view module, std::string_view name) {
    if (!is_allowed(module, name)) return refuse(module, name);
    return push_text(PickleKind::Global, fmt::format("{}.{}", module, name));
  }
  Result<void> push_global_lines() {
    TRY_ASSIGN(const auto module, line());
    TRY_ASSIGN(const auto name, line());
    return push_global(module, name);
  }
  Result<void> push_global_stack() {
    TRY_ASSIGN(const auto name, pop());
    TRY_ASSIGN(const auto module, pop());
    if (content_.at(name).kind != PickleKind::Text || content_.at(module).kind != PickleKind::Text)
      return corrupt("it asks for something whose name is not a text");
    return push_global(content_.at(module).text, content_.at(name).text);
  }

  Result<void> call() {
    TRY_ASSIGN(const auto arguments, pop());
    TRY_ASSIGN(const auto callee, pop());
    const auto& function = content_.at(callee);
    if (function.kind != PickleKind::Global)
      return corrupt(fmt::format("it asks to call {}: refused", kind_name(function.kind)));
    if (content_.at(arguments).kind != PickleKind::Tuple)
      return corrupt(fmt::format("it calls {} with {}, not a tuple of arguments", function.text,
                                 kind_name(content_.at(arguments).kind)));
    const std::string_view name = function.text;
    const auto given = content_.at(arguments).items;
    copies_ += given.size();
    if (name == "collections.OrderedDict" || name == "collections.Counter")
      return make_dict(given, name);
    if (name.ends_with(".set") || name.ends_with(".frozenset"))
      return make_copy(given, PickleKind::Set, name);
    if (name == "torch.Size") return make_copy(given, PickleKind::Tuple, name);
    if (name == "_codecs.encode" || name.ends_with(".bytearray")) return make_bytes(given, name);
    TRY(check_copies());
    return push({.kind = PickleKind::Call, .text = name, .items = given});
  }

  Result<void> check_copies() const {
    if (copies_ <= kMostCopies) return {};
    return fail(ErrorCode::Unsupported,
                fmt::format("it copies more than {} values: this is not a dump", kMostCopies));
  }

  static bool is_sequence(const PickleValue& value) {
    return value.kind == PickleKind::List || value.kind == PickleKind::Tuple ||
           value.kind == PickleKind::Set;
  }

  // OrderedDict(), OrderedDict([[key, value], …]), Counter({key: value, …})
  Result<void> make_dict(const std::vector<PickleId>& given, std::string_view name) {
    PickleValue dict{.kind = PickleKind::Dict};
    if (given.size() > 1) return corrupt(fmt::format("{} with {} arguments", name, given.size()));
    if (!given.empty()) {
      const auto& from = content_.at(given[0]);
      copies_ += 2 * from.items.size();
      TRY(check_copies());
      if (from.kind == PickleKind::Dict) {
        dict.items = from.items;
      } else if (is_sequence(from)) {
        for (const PickleId pair : from.items) {
          const auto& both = content_.at(pair);
          if (!is_sequence(both) || both.items.size() != 2)
            return corrupt(fmt::format("{} of something else than pairs", name));
          dict.items.insert(dict.items.end(), both.items.begin(), both.items.end());
        }
      } else {
        return corrupt(fmt::format("{} of {}", name, kind_name(from.kind)));
      }
    }
    return push(std::move(dict));
  }
  Result<void> make_copy(const std::vector<PickleId>& given, PickleKind kind,
                         std::string_view name) {
    PickleValue value{.kind = kind};
    if (given.size() > 1 || (given.size() == 1 && !is_sequence(content_.at(given[0]))))
      return corrupt(fmt::format("{} of something else than one list", name));
    if (!given.empty()) {
      copies_ += content_.at(given[0]).items.size();
      TRY(check_copies());
      value.items = content_.at(given[0]).items;
    }
    return push(std::move(value));
  }
  // Bytes, as protocols below 3 write them: encode(text, 'latin1').
  Result<void> make_bytes(const std::vector<PickleId>& given, std::string_view name) {
    if (given.empty()) return push({.kind = PickleKind::Bytes});
    const auto& from = content_.at(given[0]);
    if (from.kind == PickleKind::Bytes) return push({.kind = PickleKind::Bytes, .text = from.text});
    const bool latin1 = given.size() == 2 && content_.at(given[1]).kind == PickleKind::Text &&
                        content_.at(given[1]).text == "latin1";
    if (from.kind != PickleKind::Text || !latin1)
      return fail(ErrorCode::Unsupported,
                  fmt::format("{} is read only for a text and 'latin1'", name));
    copies_ += from.text.size() / 8;
    TRY(check_copies());
    std::string bytes;
    for (size_t i = 0; i < from.text.size(); ++i) {
      const auto lead = static_cast<unsigned char>(from.text[i]);
      if (lead > 0xC3) return corrupt("a text that stands for bytes has a letter above 255");
      bytes += static_cast<char>(
          lead < 0x80 ? lead
                      : (lead & 3U) << 6 | (static_cast<unsigned char>(from.text[++i]) & 0x3FU));
    }
    return push_text(PickleKind::Bytes, std::move(bytes));
  }

  Result<void> set_state() {
    TRY_ASSIGN(const auto state, pop());
    TRY(require(1));
    auto& target = content_.values[stack_.back()];
    // The attributes of a dict ("_metadata" of a model's state) are no part of what it holds.
    if (target.kind == PickleKind::Dict) return {};
    if (target.kind == PickleKind::Call && target.text == "numpy.dtype" && !target.has_state) {
      target.items.push_back(state);
      target.has_state = true;
      return {};
    }
    const auto what = target.kind == PickleKind::Call ? std::string(target.text)
                                                      : std::string(kind_name(target.kind));
    return fail(
        ErrorCode::Unsupported,
        fmt::format("the file asks to set the state of {}: refused, nothing was run", what));
  }
  Result<void> refuse_instance() {
    TRY_ASSIGN(const auto module, line());
    TRY_ASSIGN(const auto name, line());
    return refuse(module, name);
  }
  Result<void> refuse_object() {
    TRY_ASSIGN(const auto items, take_marked());
    if (items.empty() || content_.at(items[0]).kind != PickleKind::Global)
      return corrupt("it makes an object of something that is no class: refused");
    return fail(ErrorCode::Unsupported,
                fmt::format("the file asks to make an object of {}: refused, nothing was run",
                            content_.at(items[0]).text));
  }
  Result<void> refuse_keyword_object() {
    return fail(ErrorCode::Unsupported,
                "the file asks to make an object with named arguments: refused, nothing was run");
  }
  Result<void> refuse_extension() {
    return fail(ErrorCode::Unsupported,
                "the file asks for a registered extension: refused, nothing was run");
  }

  ByteReader reader_;
  PickleContent content_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, PickleId> memo_;
  uint64_t steps_ = 0;
  uint64_t copies_ = 0;
};

}  // namespace

Result<PickleContent> parse_pickle(std::span<const std::byte> bytes) {
  return PickleMachine(bytes).run();
}

std::string_view kind_name(PickleKind kind) {
  switch (kind) {
    case PickleKind::None: return "None";
    case PickleKind::Bool: return "a bool";
    case PickleKind::Int:
    case PickleKind::BigInt: return "a whole number";
    case PickleKind::Float: return "a number";
    case PickleKind::Text: return "a text";
    case PickleKind::Bytes: return "bytes";
    case PickleKind::List: return "a list";
    case PickleKind::Tuple: return "a tuple";
    case PickleKind::Set: return "a set";
    case PickleKind::Dict: return "a dict";
    case PickleKind::Global: return "a function or type";
    case PickleKind::Call: return "an object";
    case PickleKind::Persistent: return "a storage";
  }
  return "something unknown";
}

}  // namespace plumb
