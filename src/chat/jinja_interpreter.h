// SPDX-License-Identifier: Apache-2.0
// Runs a parsed template. One interpreter renders once.
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "chat/jinja_ast.h"
#include "core/result.h"

namespace plumb::jinja {

constexpr uint64_t kMaxSteps = 10'000'000;        // nodes visited and values compared
constexpr uint64_t kMaxTextBytes = 16 << 20;      // of the output and of any one string
constexpr uint64_t kMaxMadeBytes = 512ull << 20;  // of all values made, alive or not
constexpr uint64_t kMaxWeight = 64 << 20;         // of one value with all that it holds
constexpr uint32_t kMaxValueDepth = 100;          // of lists in lists
constexpr uint32_t kMaxEvaluationDepth = 1000;    // nodes above each other, macros included
constexpr int64_t kMaxRange = 100'000;            // as Jinja2's sandbox

// What rendering may cost. A template is data of a stranger: it may not hang or fill the memory.
class Budget {
 public:
  Result<void> work(uint64_t steps);
  Result<void> memory(uint64_t bytes);
  Result<void> text(uint64_t bytes);  // before a string of that size is made
  Result<Value> string(std::string text, bool markup = false);
  Result<Value> sequence(Kind kind, std::vector<Value> items);
  Result<Value> list(std::vector<Value> items) { return sequence(Kind::List, std::move(items)); }
  Result<Value> dict(Dict dict);
  // Before a value is printed, compared or hashed.
  Result<void> walk(const Value& value);
  Result<std::string> print(const Value& value);

 private:
  uint64_t steps_ = 0, made_ = 0;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The arguments in the order of `names`, each given at most once; Python's errors otherwise.
Result<std::vector<std::optional<Value>>> bind(const Arguments& arguments,
                                               std::initializer_list<std::string_view> names,
                                               size_t required = 0);
Result<int64_t> as_index(const Value& value);

struct Scope {
  Scope* parent = nullptr;
  std::unordered_map<std::string_view, Value> names;
  bool captured = false;  // a macro refers to it
};

class Interpreter {
 public:
  explicit Interpreter(std::optional<std::chrono::sys_seconds> now) : now_(now) {}
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // `names` is what the template sees.
  Result<std::string> render(const Body& body,
                             const std::vector<std::pair<std::string, Value>>& names);

  // For the filters, tests and methods, in files of their own.
  Budget& budget() { return budget_; }
  Result<std::vector<Value>> iterate(const Value& value);
  Result<Value> filter(std::string_view name, const Value& value, const Arguments& arguments);
  Result<bool> test(std::string_view name, const Value& value, const Arguments& arguments);
  Result<Value> attribute(const Value& value, const std::string& name);
  Result<Value> item(const Value& value, const Value& key);
  Result<Value> slice(const Value& value, const Value& start, const Value& stop, const Value& step);
  Result<Value> binary(std::string_view symbol, const Value& left, const Value& right);
  Result<bool> compare(std::string_view symbol, const Value& left, const Value& right);
  Result<bool> contains(const Value& container, const Value& value);
  Result<bool> equals(const Value& a, const Value& b);

 private:
  enum class Flow { Next, Break, Continue };

  Result<void> enter();
  Result<Value> evaluate(const Expression& node, Scope& scope);
  Result<Value> evaluate_node(const Expression& node, Scope& scope);
  Result<Value> evaluate_collection(const Expression& node, Scope& scope);
  Result<Value> evaluate_logic(const Expression& node, Scope& scope);
  Result<Value> evaluate_compare(const Expression& node, Scope& scope);
  Result<Value> evaluate_concat(const Expression& node, Scope& scope);
  Result<Value> evaluate_slice(const Expression& node, Scope& scope);
  Result<Value> evaluate_call(const Expression& node, Scope& scope, const Value* caller);
  Result<Value> evaluate_filter(const Expression& node, Scope& scope, const Value* body);
  Result<Arguments> evaluate_arguments(const CallArguments& arguments, Scope& scope);
  Result<Value> name(const std::string& name, const Scope& scope) const;

  Result<Flow> execute(const Body& body, Scope& scope);
  Result<Flow> execute_one(const Statement& statement, Scope& scope);
  Result<Flow> execute_if(const Statement& statement, Scope& scope);
  Result<Flow> execute_for(const Statement& statement, Scope& scope);
  Result<std::vector<Value>> loop_items(const Statement& statement, Scope& scope);
  Result<void> execute_with(const Statement& statement, Scope& scope);
  Result<void> execute_block(const Statement& statement, Scope& scope);
  Result<std::string> execute_captured(const Body& body, Scope& scope);
  Result<void> assign(const Expression& target, const Value& value, Scope& scope);
  Result<void> write(std::string_view text);

  Result<Value> call(const Value& callee, const Arguments& arguments);
  Result<Value> call_global(const std::string& name, const Arguments& arguments);
  Result<Value> call_macro(const Callable& callable, const Arguments& arguments);
  Result<void> bind_macro(const Callable& callable, const Arguments& arguments, Scope& scope);
  Value callable_of(const MacroStatement& macro, Scope& scope) const;
  std::unique_ptr<Scope> scope_in(Scope* parent) const;
  void release(std::unique_ptr<Scope> scope);

  std::optional<std::chrono::sys_seconds> now_;
  Budget budget_;
  uint32_t depth_ = 0;
  std::optional<Position> failed_at_;  // of the innermost node that gave an error
  std::string output_;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::vector<std::unique_ptr<Namespace>> spaces_;
};

// Methods of Python's types. `has_method`: Python has an attribute of that name, supported or not.
bool has_attribute(const Value& value, std::string_view name);
bool changes_its_object(const Value& value, std::string_view name);
Result<Value> call_method(Interpreter& run, const Value& self, const std::string& name,
                          const Arguments& arguments);
std::vector<std::string_view> split_lines(std::string_view text);

// json.dumps as the tojson of transformers calls it.
Result<Value> to_json(Interpreter& run, const Value& value, const Arguments& arguments);
// "%s and %d" % values
Result<Value> printf_format(Interpreter& run, const Value& format, const Value& values);
// "{} and {name}".format(…)
Result<Value> brace_format(Interpreter& run, const std::string& format, const Arguments& arguments);
Result<std::string> format_time(std::chrono::sys_seconds now, std::string_view format);
std::string escape_html(std::string_view text);

}  // namespace plumb::jinja
