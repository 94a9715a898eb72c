// SPDX-License-Identifier: Apache-2.0
// Python's pickle format, protocols 0 to 5, as data: nothing is ever called. A pickle is a program
// that may ask for any function of Python; here it may only name what an allow-list has, and a call
// of one of those becomes a value that says so.
#pragma once
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace plumb {

enum class PickleKind : uint8_t {
  None,
  Bool,
  Int,
  BigInt,  // more than 64 bits: `text` has its little-endian bytes
  Float,
  Text,
  Bytes,
  List,
  Tuple,
  Set,
  Dict,        // items: key, value, key, value, …
  Global,      // text: "torch.FloatStorage"
  Call,        // text: what is called; items: its arguments, then its state if it was given one
  Persistent,  // items[0]: what stands for something outside of the pickle
};

using PickleId = uint32_t;

struct PickleValue {
  PickleKind kind = PickleKind::None;
  bool has_state = false;      // of a Call
  int64_t integer = 0;         // Bool, Int
  double number = 0;           // Float
  std::string_view text = {};  // points into the pickle or into PickleContent::texts
  std::vector<PickleId> items = {};
};

// Values refer to each other by their place in `values`, so that a list that holds itself is no
// trouble; whoever walks it must look out for that.
struct PickleContent {
  std::vector<PickleValue> values;
  std::deque<std::string> texts;
  PickleId root = 0;
  size_t size_bytes = 0;  // of the pickle; what comes after it is another's

  const PickleValue& at(PickleId id) const { return values[id]; }
};

// Reads one pickle from the start of the bytes, which must outlive the result.
Result<PickleContent> parse_pickle(std::span<const std::byte> bytes);

// "a list", "a tuple": for messages.
std::string_view kind_name(PickleKind kind);

}  // namespace plumb
