// SPDX-License-Identifier: Apache-2.0
// What llama-eval-callback and llama-debug print: a header for each tensor of the graph, then its
// values with 4 decimals, the middle of long dimensions left out.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "dump/readers.h"

namespace plumb {
namespace {

// __func__ of the callback, as older and newer versions print it before each tensor.
constexpr std::array<std::string_view, 2> kMarks = {"ggml_debug:", "common_debug_cb_eval:"};
constexpr double kPrecision = 5e-5;  // half a unit of the fourth decimal
// Values that are left out take no text, so the text does not bound what the shapes ask for. This
// does: some million for any text, and more the longer it is.
constexpr uint64_t kBaseElements = uint64_t{1} << 24;
constexpr uint64_t kElementsPerByte = 1024;
constexpr uint64_t kMaxElements = uint64_t{1} << 30;
constexpr size_t kComparedHeaders = 4;  // that show a restart of the graph
constexpr size_t kWarmUpRows = 2;       // llama-debug evaluates BOS and EOS before the prompt

// The elements of one dimension that are printed: the first ones and, after "...", the last ones.
template <class T>
struct Listing {
  std::vector<T> head, tail;
  bool elided = false;

  size_t size() const { return head.size() + tail.size(); }
  T& add(T value) { return (elided ? tail : head).emplace_back(std::move(value)); }
};
using Row = Listing<float>;
using Matrix = Listing<Row>;
using Cube = Listing<Matrix>;

struct Header {
  size_t line = 0;
  std::string name, type, operation;
  std::string signature;         // what recurs when the graph is evaluated again
  std::array<uint64_t, 4> ne{};  // ne[0] is contiguous

  uint64_t rows() const { return ne[1]; }
};

// One tensor of the text, before it is known which pass it belongs to.
struct Printed {
  Header header;
  std::optional<DumpTensor> tensor;  // none: its type has no printed values
};

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Colours that a terminal would have shown: ESC [ … letter.
std::string without_colours(std::string_view line) {
  std::string plain;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\x1b' && i + 1 < line.size() && line[i + 1] == '[') {
      for (i += 2; i < line.size() && !std::isalpha(static_cast<unsigned char>(line[i]));) ++i;
    } else {
      plain += line[i];
    }
  }
  return plain;
}

// "0.00.368.859 I text" is "text": the time and the level that --log-timestamps puts in front.
std::string_view without_log_prefix(std::string_view line) {
  size_t dots = 0, i = 0;
  for (; i < line.size() && (is_digit(line[i]) || line[i] == '.'); ++i) dots += line[i] == '.';
  if (dots != 3 || i + 2 > line.size() || line[i] != ' ') return line;
  if (!std::isupper(static_cast<unsigned char>(line[i + 1]))) return line;
  if (i + 2 < line.size() && line[i + 2] != ' ') return line;
  return line.substr(std::min(i + 3, line.size()));
}

std::optional<uint64_t> to_count(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// A number as printf("%f") writes it: so many decimals, no more and no fewer; or nan, or inf.
std::optional<double> to_number(std::string_view text, size_t decimals) {
  const bool negative = text.starts_with('-');
  const auto digits = text.substr(negative);
  const double sign = negative ? -1.0 : 1.0;
  if (digits == "nan" || digits == "nan(ind)" || digits == "nan(snan)")
    return std::numeric_limits<double>::quiet_NaN();
  if (digits == "inf" || digits == "infinity") return sign * HUGE_VAL;
  const auto point = digits.find('.');
  if (point == std::string_view::npos || point == 0 || digits.size() - point - 1 != decimals)
    return std::nullopt;
  for (size_t i = 0; i < digits.size(); ++i)
    if (i != point && !is_digit(digits[i])) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return sign * value;
}

// A value of F32; one that F32 does not hold is none that the engine had.
std::optional<float> to_value(std::string_view text) {
  const auto value = to_number(text, 4);
  if (!value) return std::nullopt;
  const auto narrow = static_cast<float>(*value);
  if (std::isinf(narrow) && !std::isinf(*value)) return std::nullopt;
  return narrow;
}

bool prints_values(std::string_view type) {
  return type == "f32" || type == "f16" || type == "bf16" || type == "f64" || type == "i8" ||
         type == "i16" || type == "i32" || type == "i64";
}

// The list of dimensions "576, 5, 1, 1".
std::optional<std::array<uint64_t, 4>> to_dimensions(std::string_view text) {
  std::array<uint64_t, 4> ne{};
  for (size_t i = 0; i < ne.size(); ++i) {
    const auto comma = text.find(',');
    if ((comma == std::string_view::npos) != (i + 1 == ne.size())) return std::nullopt;
    const auto value = to_count(trim(text.substr(0, comma)));
    if (!value) return std::nullopt;
    ne[i] = *value;
    text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
  }
  return ne;
}

// The sources without their shapes: "norm-0{576, 5, 1, 1}, }" is "norm-0, }".
std::string without_shapes(std::string_view sources) {
  std::string names;
  bool inside = false;
  for (const char c : sources) {
    if (c == '{') inside = true;
    if (!inside) names += c;
    if (c == '}') inside = false;
  }
  return names;
}

// "NAME = (TYPE) OP(SOURCE{…}, SOURCE{…}}) = {ne0, ne1, ne2, ne3}"
Result<Header> parse_header(std::string_view text, size_t line) {
  const auto broken = [&](std::string_view what) {
    return fail(ErrorCode::Corrupt, fmt::format("line {}: {} in the header of a tensor: '{}'", line,
                                                what, text.substr(0, 160)));
  };
  const auto equals = text.find(" = (");
  if (equals == std::string_view::npos) return broken("' = (type)' is missing");
  const auto type_end = text.find(')', equals);
  if (type_end == std::string_view::npos) return broken("the type does not end");
  const auto shape = text.rfind(" = {");
  if (shape == std::string_view::npos || shape < type_end || !text.ends_with('}'))
    return broken("' = {ne0, ne1, ne2, ne3}' is missing");
  Header header;
  header.line = line;
  header.name = trim(text.substr(0, equals));
  header.type = text.substr(equals + 4, type_end - equals - 4);
  const auto call = trim(text.substr(type_end + 1, shape - type_end - 1));
  const auto open = call.find('(');
  if (open == std::string_view::npos) return broken("the operation has no sources");
  header.operation = trim(call.substr(0, open));
  if (header.name.empty() || header.operation.empty()) return broken("a name is missing");
  const auto ne = to_dimensions(text.substr(shape + 4, text.size() - shape - 5));
  if (!ne) return broken("4 dimensions are expected");
  header.ne = *ne;
  header.signature = header.name + " = " + header.operation + without_shapes(call.substr(open));
  return header;
}

std::vector<uint64_t> row_major(const std::array<uint64_t, 4>& ne) {
  size_t dims = 4;
  while (dims > 2 && ne[dims - 1] == 1) --dims;
  return {ne.rend() - static_cast<std::ptrdiff_t>(dims), ne.rend()};
}

// Reads the values of one tensor, line by line, into nested listings.
class Body {
 public:
  explicit Body(const Header& header) : header_(header) {}

  bool started() const { return depth_ > 0 || !cubes_.empty(); }
  bool complete() const { return depth_ == 0 && cubes_.size() == header_.ne[3]; }
  bool sums_each() const { return sums_ == cubes_.size(); }

  Result<void> read(std::string_view text, size_t line);
  Result<void> read_sum(std::string_view text, size_t line);
  Result<void> check_counts() const;
  Result<void> check_sum(const DumpTensor& tensor) const;
  bool elided() const;
  bool printed_nan() const { return printed_nan_; }
  void place(std::span<float> values) const;

 private:
  Result<void> error(size_t line, std::string_view what) const {
    return fail(ErrorCode::Corrupt, fmt::format("line {}: tensor '{}' (line {}): {}", line,
                                                header_.name, header_.line, what));
  }
  Result<void> open(size_t line);
  Result<void> close(size_t line);
  Result<void> elide(size_t line);
  Result<void> add_value(std::string_view text, size_t line);
  Result<void> check_count(size_t dimension, size_t printed, bool elided, size_t line) const;
  Matrix& matrix() { return last(cubes_.back()); }
  template <class T>
  static T& last(Listing<T>& listing) {
    return listing.elided ? listing.tail.back() : listing.head.back();
  }

  const Header& header_;
  std::vector<Cube> cubes_;  // one for each ne[3], which is never elided
  size_t depth_ = 0;         // of open brackets; 3: in a row
  bool separated_ = true;    // in a row: a comma or the bracket stands before
  bool printed_nan_ = false;
  std::optional<double> sum_;
  size_t sums_ = 0;
};

Result<void> Body::read(std::string_view text, size_t line) {
  while (!(text = trim(text)).empty()) {
    const char c = text.front();
    size_t used = 1;
    if (c == '[') {
      TRY(open(line));
    } else if (c == ']') {
      TRY(close(line));
    } else if (c == ',') {
      separated_ = true;
    } else if (text.starts_with("...")) {
      TRY(elide(line));
      used = 3;
    } else {
      used = std::min(text.find_first_of(" \t,[]"), text.size());
      TRY(add_value(text.substr(0, used), line));
    }
    text.remove_prefix(used);
  }
  return {};
}

Result<void> Body::open(size_t line) {
  if (depth_ == 0) {
    if (cubes_.size() == header_.ne[3])
      return error(line, fmt::format("more values than its shape of {} × {} × {} × {}",
                                     header_.ne[0], header_.ne[1], header_.ne[2], header_.ne[3]));
    cubes_.emplace_back();
  } else if (depth_ == 1) {
    if (cubes_.back().size() >= header_.ne[2])
      return error(line, fmt::format("more than {} matrices", header_.ne[2]));
    cubes_.back().add({});
  } else if (depth_ == 2) {
    if (matrix().size() >= header_.ne[1])
      return error(line, fmt::format("more than {} rows", header_.ne[1]));
    matrix().add({});
  } else {
    return error(line, "more than 3 brackets inside each other");
  }
  ++depth_;
  separated_ = true;
  return {};
}

Result<void> Body::close(size_t line) {
  if (depth_ == 0) return error(line, "a bracket closes that was not open");
  if (depth_ == 3) {
    const Row& row = last(matrix());
    TRY(check_count(0, row.size(), row.elided, line));
  } else if (depth_ == 2) {
    TRY(check_count(1, matrix().size(), matrix().elided, line));
  } else {
    TRY(check_count(2, cubes_.back().size(), cubes_.back().elided, line));
  }
  --depth_;
  return {};
}

Result<void> Body::check_count(size_t dimension, size_t printed, bool elided, size_t line) const {
  const uint64_t expected = header_.ne[dimension];
  if (elided ? printed > 0 && printed < expected : printed == expected) return {};
  return error(line, fmt::format("{} values of ne{} are printed{}, its shape says {}", printed,
                                 dimension, elided ? " around '...'" : "", expected));
}

Result<void> Body::elide(size_t line) {
  if (depth_ == 0) return error(line, "'...' outside of the brackets");
  if (depth_ == 3 && !separated_) return error(line, "a comma is missing before '...'");
  // False if it stands first, or a second time.
  const auto mark = [](auto& listing) {
    if (listing.elided || listing.head.empty()) return false;
    return listing.elided = true;
  };
  separated_ = false;
  if (depth_ == 1 ? mark(cubes_.back()) : depth_ == 2 ? mark(matrix()) : mark(last(matrix())))
    return {};
  return error(line, "'...' stands first in a list, or twice");
}

Result<void> Body::add_value(std::string_view text, size_t line) {
  const auto value = to_value(text);
  if (!value)
    return error(line, fmt::format("'{}' is no number of 4 decimals", text.substr(0, 40)));
  if (depth_ != 3) return error(line, fmt::format("the value {} stands outside of a row", text));
  if (!separated_) return error(line, fmt::format("a comma is missing before {}", text));
  Row& row = last(matrix());
  if (row.size() >= header_.ne[0])
    return error(line, fmt::format("a row has more than {} values", header_.ne[0]));
  row.add(*value);
  printed_nan_ |= std::isnan(*value);
  separated_ = false;
  return {};
}

// "sum = -7.908967", after each ne[3]; the last one is the sum of all. sum_sq is not needed.
Result<void> Body::read_sum(std::string_view text, size_t line) {
  if (depth_ != 0) return error(line, "a sum stands inside of the brackets");
  const auto equals = text.find('=');
  const auto name = trim(text.substr(0, equals));
  if (equals == std::string_view::npos || (name != "sum" && name != "sum_sq"))
    return error(line, fmt::format("'{}' is no sum", text.substr(0, 40)));
  const auto value = trim(text.substr(equals + 1));
  const auto number = to_number(value.substr(0, value.find_first_of(" ,")), 6);
  if (!number)
    return error(line, fmt::format("'{}' is no number of 6 decimals", value.substr(0, 40)));
  if (name != "sum") return {};
  sum_ = *number;
  ++sums_;
  return {};
}

bool Body::elided() const {
  for (const Cube& cube : cubes_) {
    if (cube.elided) return true;
    for (const Matrix& matrix : cube.head) {
      if (matrix.elided) return true;
      for (const Row& row : matrix.head)
        if (row.elided) return true;
    }
  }
  return false;
}

// Calls with each printed element and its index in a dimension of `size`.
template <class T, class F>
void for_each_at(const Listing<T>& listing, uint64_t size, F&& f) {
  for (size_t i = 0; i < listing.head.size(); ++i) f(i, listing.head[i]);
  for (size_t i = 0; i < listing.tail.size(); ++i)
    f(size - listing.tail.size() + i, listing.tail[i]);
}

void Body::place(std::span<float> values) const {
  const auto& ne = header_.ne;
  CHECK(values.size() == ne[0] * ne[1] * ne[2] * ne[3]);
  for (size_t i3 = 0; i3 < cubes_.size(); ++i3)
    for_each_at(cubes_[i3], ne[2], [&](uint64_t i2, const Matrix& matrix) {
      for_each_at(matrix, ne[1], [&](uint64_t i1, const Row& row) {
        for_each_at(row, ne[0], [&](uint64_t i0, float value) {
          values[((i3 * ne[2] + i2) * ne[1] + i1) * ne[0] + i0] = value;
        });
      });
    });
}

// The engine adds in F32, one after the other: n roundings of partial sums, none larger than the
// sum of the magnitudes; and each value is known to half a unit of its last decimal.
Result<void> Body::check_sum(const DumpTensor& tensor) const {
  if (!sum_ || tensor.elided || !std::isfinite(*sum_)) return {};
  const size_t count = tensor.view.bytes.size() / sizeof(float);
  double sum = 0, magnitude = 0;
  for (size_t i = 0; i < count; ++i) {
    float value = 0;
    std::memcpy(&value, tensor.view.bytes.data() + i * sizeof(float), sizeof(float));
    sum += value;
    magnitude += std::abs(value) + kPrecision;
  }
  const auto n = static_cast<double>(count);
  const double bound =
      n * kPrecision + n * std::numeric_limits<float>::epsilon() * magnitude + 1e-6;
  if (std::abs(sum - *sum_) <= bound) return {};
  return error(header_.line, fmt::format("its values sum to {:.6f}, the text says {:.6f}; all are "
                                         "printed, so one of them was changed",
                                         sum, *sum_));
}

// Token ids: "number of input tokens = N" and one a line, or "Token ids (N):" and "piece(id) …".
class TokenIds {
 public:
  Result<void> begin(std::string_view count, size_t line, bool pieces, size_t text_bytes);
  // Looks at a line that belongs to no tensor.
  void read(std::string_view line);
  Result<std::optional<std::vector<int64_t>>> finish() const;
  bool of_llama_debug() const { return pieces_; }

 private:
  bool missing() const { return line_ != 0 && ids_.size() < expected_; }

  size_t line_ = 0;  // where the list begins; 0: there is none
  size_t expected_ = 0;
  bool pieces_ = false;
  std::vector<int64_t> ids_;
};

Result<void> TokenIds::begin(std::string_view count, size_t line, bool pieces, size_t text_bytes) {
  const auto number = to_count(trim(count));
  if (!number || *number > text_bytes)
    return fail(ErrorCode::Corrupt, fmt::format("line {}: '{}' is no number of token ids", line,
                                                trim(count).substr(0, 40)));
  if (line_ != 0)
    return fail(ErrorCode::Unsupported,
                fmt::format("lines {} and {} both begin a list of token ids: the text holds two "
                            "runs; cut it in two",
                            line_, line));
  line_ = line;
  expected_ = *number;
  pieces_ = pieces;
  return {};
}

void TokenIds::read(std::string_view line) {
  if (!missing()) return;
  if (!pieces_) {
    const auto id = to_count(trim(line));
    if (id && *id <= std::numeric_limits<int32_t>::max()) ids_.push_back(static_cast<int64_t>(*id));
    return;
  }
  // A piece is any text, also one with brackets: its id is in the last ones before a space.
  for (size_t at = 0; missing() && (at = line.find('(', at)) != std::string_view::npos; ++at) {
    const auto end = line.find(')', at);
    if (end == std::string_view::npos) return;
    const auto id = to_count(line.substr(at + 1, end - at - 1));
    if (!id || *id > std::numeric_limits<int32_t>::max()) continue;
    if (end + 1 < line.size() && line[end + 1] != ' ') continue;
    ids_.push_back(static_cast<int64_t>(*id));
  }
}

Result<std::optional<std::vector<int64_t>>> TokenIds::finish() const {
  if (line_ == 0) return std::nullopt;
  if (missing())
    return fail(ErrorCode::Corrupt, fmt::format("line {}: {} token ids are announced, {} follow",
                                                line_, expected_, ids_.size()));
  return ids_;
}

// Goes through the lines: headers, values, sums, token ids, and what does not matter.
class TextReader {
 public:
  TextReader(std::string_view text, Dump& dump) : text_(text), dump_(dump) {}

  Result<void> read();
  std::vector<Printed> tensors;
  TokenIds tokens;
  std::string mark;  // that the headers carry

 private:
  Result<void> read_line(std::string_view line);
  Result<void> begin_tensor(std::string_view text, std::string_view found);
  Result<void> end_tensor(bool at_end);
  Result<void> read_other(std::string_view line);
  Result<void> check_size(const Header& header);
  void note_what_is_odd();

  std::string_view text_;
  Dump& dump_;
  size_t line_ = 0;
  std::optional<Header> header_;
  std::optional<Body> body_;
  bool any_sum_ = false;
  uint64_t elements_ = 0;
  std::vector<std::string> without_values_, nan_and_elided_;
};

Result<void> TextReader::read() {
  size_t begin = 0;
  while (begin < text_.size()) {
    const auto end = std::min(text_.find('\n', begin), text_.size());
    ++line_;
    TRY(read_line(text_.substr(begin, end - begin)));
    begin = end + 1;
  }
  TRY(end_tensor(true));
  const auto last = text_.substr(text_.rfind('\n') + 1);  // npos + 1 is 0
  for (const auto known : kMarks)
    if (!last.empty() && known.starts_with(last))
      return fail(ErrorCode::Corrupt,
                  fmt::format("line {}: the text ends in the header of a tensor", line_));
  note_what_is_odd();
  return {};
}

Result<void> TextReader::read_line(std::string_view line) {
  std::string plain;
  if (line.find('\x1b') != std::string_view::npos) line = plain = without_colours(line);
  for (const auto known : kMarks) {
    const auto at = line.find(known);
    if (at == std::string_view::npos) continue;
    TRY(end_tensor(false));
    return begin_tensor(trim(line.substr(at + known.size())), known);
  }
  line = without_log_prefix(line);
  const auto text = trim(line);
  if (!body_) return read_other(line);
  // After its last sum nothing is of this tensor but sum_sq: a log or a token's piece may begin
  // with a bracket or with "sum" too.
  const bool finished = body_->started() && body_->complete() && body_->sums_each();
  const bool values = text.starts_with('[') || text.starts_with(']') || text.starts_with("...");
  if (values && !finished) return body_->read(text, line_);
  if (body_->started() && text.starts_with(finished ? "sum_sq =" : "sum")) {
    any_sum_ = true;
    return body_->read_sum(text, line_);
  }
  return read_other(line);
}

Result<void> TextReader::begin_tensor(std::string_view text, std::string_view found) {
  TRY_ASSIGN(header_, parse_header(text, line_));
  mark = found.substr(0, found.size() - 1);
  body_.emplace(*header_);
  return {};
}

// Before anything is allocated for it.
Result<void> TextReader::check_size(const Header& header) {
  const auto count = element_count(header.ne);
  const uint64_t allowed =
      std::min(kMaxElements, kBaseElements + kElementsPerByte * uint64_t{text_.size()});
  if (count && *count <= allowed - elements_) {
    elements_ += *count;
    return {};
  }
  return fail(ErrorCode::Unsupported,
              fmt::format("line {}: tensor '{}' of {} × {} × {} × {} values, most of them left "
                          "out: all tensors of a text of {} bytes may have {} values; use a "
                          "shorter prompt, or --tensor-filter",
                          header.line, header.name, header.ne[0], header.ne[1], header.ne[2],
                          header.ne[3], text_.size(), allowed));
}

Result<void> TextReader::end_tensor(bool at_end) {
  if (!body_) return {};
  const Header& header = *header_;
  Printed printed{header, {}};
  if (!body_->started() && !prints_values(header.type)) {
    without_values_.push_back(header.name);
  } else {
    if (!body_->complete() || (at_end && any_sum_ && !body_->sums_each()))
      return fail(
          ErrorCode::Corrupt,
          fmt::format("line {}: {} before tensor '{}' (line {}) of {} × {} × {} × {} "
                      "values is complete{}",
                      line_, at_end ? "the text ends" : "another tensor begins", header.name,
                      header.line, header.ne[0], header.ne[1], header.ne[2], header.ne[3],
                      at_end
                          ? ": it was cut, or the tool ended before it had written all (then run "
                            "it again)"
                          : ""));
    TRY(check_size(header));
    std::vector<std::byte> bytes(*element_count(header.ne) * sizeof(float));
    const std::span values(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
    std::ranges::fill(values, std::numeric_limits<float>::quiet_NaN());
    body_->place(values);
    DumpTensor tensor;
    tensor.name = header.name;
    tensor.operation = header.operation;
    tensor.precision = kPrecision;
    tensor.elided = body_->elided();
    tensor.view = {DType::F32, row_major(header.ne), dump_.keep(std::move(bytes))};
    TRY(body_->check_sum(tensor));
    if (tensor.elided && body_->printed_nan()) nan_and_elided_.push_back(header.name);
    printed.tensor = std::move(tensor);
  }
  tensors.push_back(std::move(printed));
  body_.reset();
  header_.reset();
  return {};
}

Result<void> TextReader::read_other(std::string_view line) {
  constexpr std::string_view kOnePerLine = "number of input tokens = ";
  constexpr std::string_view kPieces = "Token ids (";
  const auto text = trim(line);
  if (text.starts_with(kOnePerLine))
    return tokens.begin(text.substr(kOnePerLine.size()), line_, false, text_.size());
  if (text.starts_with(kPieces) && text.ends_with("):"))
    return tokens.begin(text.substr(kPieces.size(), text.size() - kPieces.size() - 2), line_, true,
                        text_.size());
  tokens.read(line);
  return {};
}

void TextReader::note_what_is_odd() {
  if (!without_values_.empty())
    dump_.notes.push_back(
        fmt::format("{} tensors of quantized types have no printed values and are left out, the "
                    "first is '{}'",
                    without_values_.size(), without_values_.front()));
  if (!nan_and_elided_.empty())
    dump_.notes.push_back(
        fmt::format("the engine printed nan in {} tensors whose text also leaves values out, the "
                    "first is '{}': not every NaN there is a value that was left out",
                    nan_and_elided_.size(), nan_and_elided_.front()));
}

// Where passes begin. The graph starts again where its first tensor comes again (the same
// operation on the same sources, of any size) and is followed by what followed it at first. A name
// that only recurs in a pass, such as norm-0, has other sources or other successors.
std::vector<size_t> find_passes(const std::vector<Printed>& tensors) {
  std::vector<size_t> starts = {0};
  const auto same = [&](size_t a, size_t b) {
    return tensors[a].header.signature == tensors[b].header.signature;
  };
  for (size_t i = 1; i < tensors.size(); ++i) {
    size_t k = 0;
    while (k < kComparedHeaders && i + k < tensors.size() && same(k, i + k)) ++k;
    if (k == kComparedHeaders || (k > 0 && i + k == tensors.size()) || (k > 0 && k >= i))
      starts.push_back(i);
  }
  return starts;
}

bool only_moves_data(std::string_view operation) {
  return operation == "VIEW" || operation == "RESHAPE" || operation == "PERMUTE" ||
         operation == "TRANSPOSE" || operation == "CONT" || operation == "CPY" ||
         operation == "SET_ROWS";
}

// How many tokens a pass was fed, by its first matrix with several rows; 1 if all have one, as
// after the choice of the last token; 0 if nothing tells.
uint64_t rows_of(std::span<const Printed> pass) {
  uint64_t rows = 0;
  for (const auto& [header, tensor] : pass) {
    if (header.ne[2] != 1 || header.ne[3] != 1 || only_moves_data(header.operation)) continue;
    if (header.rows() > 1) return header.rows();
    rows = std::max(rows, header.rows());
  }
  return rows;
}

// Whether the first pass is the warm-up of llama-debug: then the others hold all tokens, or (of
// tensors after the choice of the last token) two passes have one row each.
bool begins_with_warm_up(const std::vector<uint64_t>& rows, size_t tokens, bool llama_debug) {
  if (rows.size() < 2) return false;
  uint64_t sum = 0;
  for (const uint64_t n : rows) sum += n;
  if (sum == tokens) return false;
  if (rows.front() == kWarmUpRows)
    return sum - rows.front() == tokens || (tokens != kWarmUpRows && rows.size() == 2);
  return llama_debug && rows.size() == 2 && rows[0] == 1 && rows[1] == 1;
}

// Gives passes and occurrences, and leaves the warm-up out.
void add_tensors(std::vector<Printed> tensors, bool llama_debug, Dump& dump) {
  auto starts = find_passes(tensors);
  starts.push_back(tensors.size());
  std::vector<uint64_t> rows;
  for (size_t pass = 0; pass + 1 < starts.size(); ++pass)
    rows.push_back(
        rows_of(std::span(tensors).subspan(starts[pass], starts[pass + 1] - starts[pass])));
  const size_t known = dump.tokens ? dump.tokens->size() : 0;
  const bool warm_up = dump.tokens && begins_with_warm_up(rows, known, llama_debug);
  uint64_t sum = 0;
  for (size_t pass = warm_up; pass < rows.size(); ++pass) sum += rows[pass];
  if (warm_up)
    dump.notes.push_back(
        fmt::format("the first {} tensors are of a warm-up pass, not of the prompt of {} tokens, "
                    "and are left out",
                    starts[1], known));
  else if (!dump.tokens && rows.size() > 1 && rows[0] == kWarmUpRows && rows[1] != kWarmUpRows)
    dump.notes.push_back(
        "the first pass has 2 rows, as the warm-up of llama-debug: the text does not have the "
        "token ids that would tell");
  if (dump.tokens && sum != known && sum > rows.size() - warm_up)
    dump.notes.push_back(
        fmt::format("{} token ids are printed, the passes have {} rows", known, sum));
  for (size_t pass = warm_up; pass + 1 < starts.size(); ++pass) {
    std::map<std::string, size_t> occurrences;
    for (size_t i = starts[pass]; i < starts[pass + 1]; ++i) {
      const size_t occurrence = occurrences[tensors[i].header.name]++;
      if (!tensors[i].tensor) continue;
      tensors[i].tensor->pass = pass - warm_up;
      tensors[i].tensor->occurrence = occurrence;
      dump.tensors.push_back(std::move(*tensors[i].tensor));
    }
  }
}

}  // namespace

bool looks_like_callback_text(std::span<const std::byte> bytes) {
  constexpr size_t kSearched = size_t{4} << 20;  // a log of loading the model may come first
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                              std::min(bytes.size(), kSearched));
  for (const auto mark : kMarks)
    for (size_t at = 0; (at = text.find(mark, at)) != std::string_view::npos; at += mark.size()) {
      const auto line = text.substr(at, text.find('\n', at) - at);
      if (line.find(" = (") != std::string_view::npos) return true;
    }
  return false;
}

Result<Dump> read_callback_text(const DumpSource& source) {
  Dump dump;
  dump.kind = "llama.cpp callback text";
  dump.label = source.path.string();
  dump.engine["name"] = "llama.cpp";
  TextReader reader(source.text(), dump);
  auto read = reader.read();
  if (!read) return std::unexpected(std::move(read.error()).within(dump.label));
  auto tokens = reader.tokens.finish();
  if (!tokens) return std::unexpected(std::move(tokens.error()).within(dump.label));
  if (reader.tensors.empty())
    return fail(ErrorCode::Corrupt, dump.label + ": the text has no tensor");
  dump.tokens = std::move(*tokens);
  dump.engine["callback"] = reader.mark;
  add_tensors(std::move(reader.tensors), reader.tokens.of_llama_debug(), dump);
  return dump;
}

}  // namespace plumb
