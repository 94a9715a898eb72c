// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace plumb {

// A metadata value. Integers of every width become int64 or, above its range, uint64; both float
// widths become double, exactly. Strings may hold any bytes. monostate is JSON's null.
class MetadataArray;
using MetadataValue = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string,
                                   std::shared_ptr<const MetadataArray>>;
using Metadata = std::map<std::string, MetadataValue>;

// An array: either values of its own (from JSON), or checked bytes of a mapped GGUF that are
// decoded when they are asked for; a vocabulary of 262,144 tokens then costs no memory.
enum class GgufType : uint32_t {
  U8,
  I8,
  U16,
  I16,
  U32,
  I32,
  F32,
  Bool,
  String,
  Array,
  U64,
  I64,
  F64
};
// Bytes that one value of the type takes at least: what a claimed count is checked against. 0: no
// such type.
uint64_t smallest_size(GgufType type);

class MetadataArray {
 public:
  explicit MetadataArray(std::vector<MetadataValue> values);
  // `bytes` hold `count` values of `type`, already checked; the caller keeps them alive.
  MetadataArray(GgufType type, uint64_t count, std::span<const std::byte> bytes);

  size_t size() const { return count_; }
  // The element type of an array from a GGUF, which a writer keeps.
  std::optional<GgufType> raw_type() const { return type_; }
  // Calls `visit` with each value in order until it returns false.
  void for_each(const std::function<bool(const MetadataValue&)>& visit) const;
  std::vector<MetadataValue> values() const;

 private:
  std::vector<MetadataValue> values_;
  std::optional<GgufType> type_;
  size_t count_ = 0;
  std::span<const std::byte> bytes_;
};

// A value as text for messages; long arrays and strings are cut, odd bytes are escaped.
std::string to_text(const MetadataValue& value);
// The kind of a value in words: "a string", "an array of 3 values".
std::string kind_of(const MetadataValue& value);
// Text with every byte outside printable ASCII escaped, cut after `longest` bytes.
std::string printable(std::string_view text, size_t longest = 80);

bool same_value(const MetadataValue& a, const MetadataValue& b);

}  // namespace plumb
