// SPDX-License-Identifier: Apache-2.0
// Values of a template: Python's types as far as templates see them. Nothing can be changed after
// it is made (as in the immutable sandbox of transformers), except the attributes of a namespace.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/result.h"

namespace plumb::jinja {

enum class Kind : uint8_t {
  Undefined,
  None,
  Bool,
  Int,
  Float,
  String,
  List,
  Tuple,
  Dict,
  Range,
  View,       // what dict.items(), keys() and values() give: it has a length, but no index
  Generator,  // what filters such as map give: it can be gone through once
  Namespace,
  Loop,
  Callable,
};

class Value;
struct Dict;
struct Namespace;
struct Loop;
struct Callable;

// Of a list, a tuple, a range, a view or a generator.
struct Sequence {
  std::vector<Value> items;
  uint32_t depth = 1;
  uint64_t weight = 0;
  mutable bool consumed = false;  // of a generator
};

class Value {
 public:
  Value() = default;  // undefined, without a name
  static Value undefined(std::string why);
  static Value none();
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value real(double value);
  static Value string(std::string text, bool markup = false);
  // `kind` says which of the sequences.
  static Value sequence(Kind kind, std::vector<Value> items);
  static Value list(std::vector<Value> items) { return sequence(Kind::List, std::move(items)); }
  static Value dict(Dict dict);
  static Value of(Namespace* space);
  static Value of(std::shared_ptr<const Loop> loop);
  static Value of(Callable callable);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return is(Kind::Bool) || is(Kind::Int) || is(Kind::Float); }
  bool is_integral() const { return is(Kind::Bool) || is(Kind::Int); }
  bool is_sequence() const;                   // any that `items` may be asked of
  bool is_markup() const { return markup_; }  // a string that the filter safe or escape made
  bool as_bool() const { return integer_ != 0; }
  int64_t as_integer() const { return integer_; }
  double as_real() const { return is(Kind::Float) ? real_ : static_cast<double>(integer_); }
  const std::string& text() const { return *get<std::string>(); }
  // Why the value is undefined, for the message of whoever needs it.
  std::string why_undefined() const;
  const Sequence& sequence() const { return *get<Sequence>(); }
  const std::vector<Value>& items() const { return sequence().items; }
  const Dict& dict() const { return *get<Dict>(); }
  Namespace* space() const { return space_; }
  const Loop& loop() const { return *get<Loop>(); }
  const Callable& callable() const { return *get<Callable>(); }
  const void* identity() const { return is(Kind::Namespace) ? space_ : object_.get(); }
  uint32_t depth() const;  // 0 of a value that holds no others
  // Bytes, about, with all that it holds, each as often as it is held: what it costs to walk.
  uint64_t weight() const;

 private:
  template <class T>
  const T* get() const {
    return static_cast<const T*>(object_.get());
  }
  Kind kind_ = Kind::Undefined;
  bool markup_ = false;
  union {
    int64_t integer_ = 0;
    double real_;
    Namespace* space_;
  };
  std::shared_ptr<const void> object_;
};

// Keeps the order in which keys came in, as Python does.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_map<std::string, size_t> index;  // by key_of
  uint32_t depth = 1;
  uint64_t weight = 32;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  // False if the key is of a type that cannot be one.
  bool set(const Value& key, Value value);
};

// Owned by the interpreter, so that one that holds itself is no leak.
struct Namespace {
  std::map<std::string, Value, std::less<>> attributes;
};

// What `loop` is in one turn of a for.
struct Loop {
  Value items;  // a list
  size_t index0 = 0, depth0 = 0;
};

struct MacroStatement;
struct Scope;

struct Callable {
  enum class Type { Global, Method, Macro, Cycle };
  Type type = Type::Global;
  std::string name;
  Value self;  // of a method
  const MacroStatement* macro = nullptr;
  Scope* scope = nullptr;  // where the macro was defined; the interpreter keeps it
  size_t index0 = 0;       // of loop.cycle
};

// The name of Python's type.
std::string_view type_name(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
// -1, 0, 1; an error for values that Python does not order.
Result<int> order(const Value& a, const Value& b);
// The same for keys that are equal; nullopt for what Python cannot hash.
std::optional<std::string> key_of(const Value& value);

// str() and repr(). Refused for what prints an address, or a type that nobody prints on purpose.
Result<std::string> to_str(const Value& value);
Result<std::string> to_repr(const Value& value);
std::string repr_of_text(std::string_view text);
std::string repr_of_float(double value);

// Errors that Jinja2 has too ("TypeError: …"), and what this interpreter does not do.
std::unexpected<Error> template_error(std::string message);
std::unexpected<Error> unsupported(std::string what);

}  // namespace plumb::jinja
