// SPDX-License-Identifier: Apache-2.0
#include "chat/jinja_interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "chat/code_points.h"

namespace plumb::jinja {
namespace {

using Type = Expression::Type;

constexpr std::string_view kGlobals[] = {"range",  "dict",   "namespace", "raise_exception",
                                         "lipsum", "cycler", "joiner",    "strftime_now"};

constexpr uint64_t kStepsOfATurn = 5;  // a turn of a loop makes a scope and 'loop'

std::unexpected<Error> over(std::string_view what, uint64_t most) {
  return fail(ErrorCode::Unsupported, fmt::format("the template {} {}: stopped", what, most));
}

}  // namespace

Result<void> Budget::work(uint64_t steps) {
  steps_ += steps;
  if (steps_ > kMaxSteps) return over("takes more steps than", kMaxSteps);
  return {};
}

Result<void> Budget::memory(uint64_t bytes) {
  made_ += bytes;
  if (made_ > kMaxMadeBytes) return over("makes more bytes of values than", kMaxMadeBytes);
  return {};
}

Result<void> Budget::text(uint64_t bytes) {
  if (bytes > kMaxTextBytes) return over("makes a text of more bytes than", kMaxTextBytes);
  return memory(bytes);
}

Result<Value> Budget::string(std::string text, bool markup) {
  TRY(this->text(text.size()));
  return Value::string(std::move(text), markup);
}

Result<Value> Budget::sequence(Kind kind, std::vector<Value> items) {
  TRY(memory(items.size() * sizeof(Value) + sizeof(Sequence)));
  auto made = Value::sequence(kind, std::move(items));
  if (made.depth() > kMaxValueDepth) return over("nests values deeper than", kMaxValueDepth);
  if (made.weight() > kMaxWeight) return over("makes a value of more bytes than", kMaxWeight);
  return made;
}

Result<Value> Budget::dict(Dict dict) {
  TRY(memory(dict.entries.size() * 4 * sizeof(Value) + sizeof(Dict)));
  auto made = Value::dict(std::move(dict));
  if (made.depth() > kMaxValueDepth) return over("nests values deeper than", kMaxValueDepth);
  if (made.weight() > kMaxWeight) return over("makes a value of more bytes than", kMaxWeight);
  return made;
}

Result<void> Budget::walk(const Value& value) { return work(value.weight() / 64); }

Result<std::string> Budget::print(const Value& value) {
  TRY(walk(value));
  TRY_ASSIGN(auto text, to_str(value));
  TRY(this->text(text.size()));
  return text;
}

Result<std::vector<std::optional<Value>>> bind(const Arguments& arguments,
                                               std::initializer_list<std::string_view> names,
                                               size_t required) {
  std::vector<std::optional<Value>> values(names.size());
  if (arguments.positional.size() > names.size())
    return template_error(fmt::format("TypeError: {} arguments given, at most {} expected",
                                      arguments.positional.size(), names.size()));
  std::copy(arguments.positional.begin(), arguments.positional.end(), values.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      return template_error(fmt::format("TypeError: unexpected argument '{}'", name));
    auto& slot = values[static_cast<size_t>(found - names.begin())];
    if (slot) return template_error(fmt::format("TypeError: argument '{}' given twice", name));
    slot = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!values[i])
      return template_error(fmt::format("TypeError: argument '{}' is missing", names.begin()[i]));
  return values;
}

Result<int64_t> as_index(const Value& value) {
  if (value.is_integral()) return value.as_integer();
  if (value.is(Kind::Undefined)) return template_error(value.why_undefined());
  return template_error(
      fmt::format("TypeError: expected an integer, found '{}'", type_name(value)));
}

Result<std::string> Interpreter::render(const Body& body,
                                        const std::vector<std::pair<std::string, Value>>& names) {
  Scope scope;
  for (const auto& [name, value] : names) scope.names[name] = value;
  auto flow = execute(body, scope);
  if (flow) return std::move(output_);
  return at_position(failed_at_.value_or(Position{}), std::move(flow).error());
}

// One more node below the others.
Result<void> Interpreter::enter() {
  if (depth_ > kMaxEvaluationDepth) return over("nests calls deeper than", kMaxEvaluationDepth);
  return budget_.work(1);
}

std::unique_ptr<Scope> Interpreter::scope_in(Scope* parent) const {
  auto scope = std::make_unique<Scope>();
  scope->parent = parent;
  return scope;
}

// A scope that a macro refers to lives until the end.
void Interpreter::release(std::unique_ptr<Scope> scope) {
  if (scope->captured) kept_.push_back(std::move(scope));
}

// --- expressions ---

Result<Value> Interpreter::evaluate(const Expression& node, Scope& scope) {
  ++depth_;
  auto entered = enter();
  Result<Value> value = entered ? evaluate_node(node, scope) : std::unexpected(entered.error());
  --depth_;
  if (!value && !failed_at_) failed_at_ = node.at;
  return value;
}

Result<Value> Interpreter::evaluate_node(const Expression& node, Scope& scope) {
  switch (node.type) {
    case Type::Constant: return node.constant;
    case Type::Name: return name(node.name, scope);
    case Type::List:
    case Type::Tuple:
    case Type::Dict: return evaluate_collection(node, scope);
    case Type::Attribute: {
      TRY_ASSIGN(const auto value, evaluate(*node.operands[0], scope));
      return attribute(value, node.name);
    }
    case Type::Item: {
      TRY_ASSIGN(const auto value, evaluate(*node.operands[0], scope));
      TRY_ASSIGN(const auto key, evaluate(*node.operands[1], scope));
      return item(value, key);
    }
    case Type::Slice: return evaluate_slice(node, scope);
    case Type::Call: return evaluate_call(node, scope, nullptr);
    case Type::Filter: return evaluate_filter(node, scope, nullptr);
    case Type::Test: {
      TRY_ASSIGN(const auto value, evaluate(*node.operands[0], scope));
      TRY_ASSIGN(const auto arguments, evaluate_arguments(node.arguments, scope));
      TRY_ASSIGN(const bool result, test(node.name, value, arguments));
      return Value::boolean(result);
    }
    case Type::Compare: return evaluate_compare(node, scope);
    case Type::Binary: {
      TRY_ASSIGN(const auto left, evaluate(*node.operands[0], scope));
      TRY_ASSIGN(const auto right, evaluate(*node.operands[1], scope));
      return binary(node.name, left, right);
    }
    case Type::Concat: return evaluate_concat(node, scope);
    case Type::Namespace: return unsupported("the attribute of a namespace here");
    default: return evaluate_logic(node, scope);
  }
}

Result<Value> Interpreter::evaluate_collection(const Expression& node, Scope& scope) {
  std::vector<Value> items;
  for (const auto& operand : node.operands) {
    TRY_ASSIGN(auto value, evaluate(*operand, scope));
    items.push_back(std::move(value));
  }
  if (node.type != Type::Dict)
    return budget_.sequence(node.type == Type::List ? Kind::List : Kind::Tuple, std::move(items));
  Dict dict;
  for (size_t i = 0; i < items.size(); i += 2) {
    TRY(budget_.walk(items[i]));
    if (!dict.set(items[i], std::move(items[i + 1])))
      return template_error(fmt::format("TypeError: unhashable type: '{}'", type_name(items[i])));
  }
  return budget_.dict(std::move(dict));
}

Result<Value> Interpreter::evaluate_logic(const Expression& node, Scope& scope) {
  TRY_ASSIGN(auto first, evaluate(*node.operands[0], scope));
  switch (node.type) {
    case Type::Or: return truth(first) ? Result<Value>(first) : evaluate(*node.operands[1], scope);
    case Type::And: return truth(first) ? evaluate(*node.operands[1], scope) : Result<Value>(first);
    case Type::Not: return Value::boolean(!truth(first));
    case Type::Conditional:
      if (truth(first)) return evaluate(*node.operands[1], scope);
      if (node.operands[2] != nullptr) return evaluate(*node.operands[2], scope);
      return Value::undefined("UndefinedError: the if expression has no else");
    default: break;
  }
  if (first.is(Kind::Undefined)) return template_error(first.why_undefined());
  if (!first.is_number())
    return template_error(fmt::format("TypeError: no sign for '{}'", type_name(first)));
  const bool negate = node.type == Type::Negate;
  if (first.is(Kind::Float)) return Value::real(negate ? -first.as_real() : first.as_real());
  if (negate && first.as_integer() == INT64_MIN)
    return unsupported("an integer of more than 64 bits");
  return Value::integer(negate ? -first.as_integer() : first.as_integer());
}

Result<Value> Interpreter::evaluate_compare(const Expression& node, Scope& scope) {
  TRY_ASSIGN(auto left, evaluate(*node.operands[0], scope));
  for (size_t i = 0; i < node.names.size(); ++i) {
    TRY_ASSIGN(auto right, evaluate(*node.operands[i + 1], scope));
    TRY_ASSIGN(const bool holds, compare(node.names[i], left, right));
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Result<Value> Interpreter::evaluate_concat(const Expression& node, Scope& scope) {
  std::string text;
  for (const auto& operand : node.operands) {
    TRY_ASSIGN(const auto value, evaluate(*operand, scope));
    TRY_ASSIGN(const auto part, budget_.print(value));
    text += part;
  }
  return budget_.string(std::move(text));
}

Result<Value> Interpreter::evaluate_slice(const Expression& node, Scope& scope) {
  TRY_ASSIGN(const auto value, evaluate(*node.operands[0], scope));
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = Value::none();
    if (node.operands[i + 1] == nullptr) continue;
    TRY_ASSIGN(bounds[i], evaluate(*node.operands[i + 1], scope));
  }
  return slice(value, bounds[0], bounds[1], bounds[2]);
}

Result<Arguments> Interpreter::evaluate_arguments(const CallArguments& arguments, Scope& scope) {
  Arguments values;
  for (const auto& argument : arguments.positional) {
    TRY_ASSIGN(auto value, evaluate(*argument, scope));
    values.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : arguments.named) {
    TRY_ASSIGN(auto value, evaluate(*argument, scope));
    values.named.emplace_back(name, std::move(value));
  }
  return values;
}

// `caller`: what a call block hands on.
Result<Value> Interpreter::evaluate_call(const Expression& node, Scope& scope,
                                         const Value* caller) {
  TRY_ASSIGN(const auto callee, evaluate(*node.operands[0], scope));
  TRY_ASSIGN(auto arguments, evaluate_arguments(node.arguments, scope));
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  return call(callee, arguments);
}

// `body`: the text of a filter block, which stands in for the innermost operand.
Result<Value> Interpreter::evaluate_filter(const Expression& node, Scope& scope,
                                           const Value* body) {
  Value value;
  if (node.operands[0] == nullptr) {
    value = *body;
  } else if (body != nullptr && node.operands[0]->type == Type::Filter) {
    TRY_ASSIGN(value, evaluate_filter(*node.operands[0], scope, body));
  } else {
    TRY_ASSIGN(value, evaluate(*node.operands[0], scope));
  }
  TRY_ASSIGN(const auto arguments, evaluate_arguments(node.arguments, scope));
  return filter(node.name, value, arguments);
}

Result<Value> Interpreter::name(const std::string& name, const Scope& scope) const {
  for (const Scope* at = &scope; at != nullptr; at = at->parent) {
    const auto found = at->names.find(name);
    if (found != at->names.end()) return found->second;
  }
  if (std::find(std::begin(kGlobals), std::end(kGlobals), name) != std::end(kGlobals))
    return Value::of(Callable{.type = Callable::Type::Global, .name = name, .self = {}});
  return Value::undefined(fmt::format("UndefinedError: '{}' is undefined", name));
}

// --- statements ---

Result<void> Interpreter::write(std::string_view text) {
  if (output_.size() + text.size() > kMaxTextBytes)
    return over("makes a text of more bytes than", kMaxTextBytes);
  TRY(budget_.memory(text.size()));
  output_ += text;
  return {};
}

Result<Interpreter::Flow> Interpreter::execute(const Body& body, Scope& scope) {
  for (const auto& statement : body) {
    ++depth_;
    auto entered = enter();
    Result<Flow> flow = entered ? execute_one(statement, scope) : std::unexpected(entered.error());
    --depth_;
    if (!flow && !failed_at_) failed_at_ = statement.at;
    if (!flow || *flow != Flow::Next) return flow;
  }
  return Flow::Next;
}

Result<Interpreter::Flow> Interpreter::execute_one(const Statement& statement, Scope& scope) {
  switch (statement.type) {
    case Statement::Type::Text: TRY(write(statement.text)); break;
    case Statement::Type::Output: {
      TRY_ASSIGN(const auto value, evaluate(*statement.expressions[0], scope));
      TRY_ASSIGN(const auto text, budget_.print(value));
      TRY(write(text));
      break;
    }
    case Statement::Type::If: return execute_if(statement, scope);
    case Statement::Type::For: return execute_for(statement, scope);
    case Statement::Type::Set: {
      TRY_ASSIGN(const auto value, evaluate(*statement.expressions[1], scope));
      TRY(assign(*statement.expressions[0], value, scope));
      break;
    }
    case Statement::Type::Macro:
      scope.names[statement.macro->name] = callable_of(*statement.macro, scope);
      break;
    case Statement::Type::With: TRY(execute_with(statement, scope)); break;
    case Statement::Type::Break: return Flow::Break;
    case Statement::Type::Continue: return Flow::Continue;
    default: TRY(execute_block(statement, scope)); break;
  }
  return Flow::Next;
}

Result<Interpreter::Flow> Interpreter::execute_if(const Statement& statement, Scope& scope) {
  for (size_t i = 0; i < statement.expressions.size(); ++i) {
    TRY_ASSIGN(const auto test, evaluate(*statement.expressions[i], scope));
    if (truth(test)) return execute(statement.bodies[i], scope);
  }
  if (statement.bodies.size() > statement.expressions.size())
    return execute(statement.bodies.back(), scope);
  return Flow::Next;
}

// What a for goes over, after its own filter.
Result<std::vector<Value>> Interpreter::loop_items(const Statement& statement, Scope& scope) {
  TRY_ASSIGN(const auto over, evaluate(*statement.expressions[1], scope));
  TRY_ASSIGN(auto items, iterate(over));
  if (statement.expressions[2] == nullptr) return items;
  std::vector<Value> kept;
  for (auto& item : items) {
    auto inner = scope_in(&scope);
    TRY(assign(*statement.expressions[0], item, *inner));
    TRY_ASSIGN(const auto test, evaluate(*statement.expressions[2], *inner));
    if (truth(test)) kept.push_back(std::move(item));
  }
  return kept;
}

Result<Interpreter::Flow> Interpreter::execute_for(const Statement& statement, Scope& scope) {
  TRY_ASSIGN(auto found, loop_items(statement, scope));
  TRY_ASSIGN(const auto items, budget_.list(std::move(found)));
  for (size_t i = 0; i < items.items().size(); ++i) {
    auto inner = scope_in(&scope);
    auto loop = std::make_shared<Loop>();
    loop->items = items;
    loop->index0 = i;
    inner->names["loop"] = Value::of(std::move(loop));
    TRY(budget_.work(kStepsOfATurn));
    TRY(assign(*statement.expressions[0], items.items()[i], *inner));
    auto flow = execute(statement.bodies[0], *inner);
    release(std::move(inner));
    if (!flow) return flow;
    if (*flow == Flow::Break) break;
  }
  if (!items.items().empty() || statement.bodies.size() < 2) return Flow::Next;
  auto inner = scope_in(&scope);
  auto flow = execute(statement.bodies[1], *inner);
  release(std::move(inner));
  return flow;
}

Result<void> Interpreter::execute_with(const Statement& statement, Scope& scope) {
  auto inner = scope_in(&scope);
  // The values are computed outside: with a = 1, b = a does not see the new a.
  for (size_t i = 0; i < statement.expressions.size(); i += 2) {
    TRY_ASSIGN(const auto value, evaluate(*statement.expressions[i + 1], scope));
    TRY(assign(*statement.expressions[i], value, *inner));
  }
  auto flow = execute(statement.bodies[0], *inner);
  release(std::move(inner));
  TRY(flow);
  return {};
}

// The text that `body` writes, in a scope of its own.
Result<std::string> Interpreter::execute_captured(const Body& body, Scope& scope) {
  auto inner = scope_in(&scope);
  std::string outside = std::exchange(output_, {});
  auto flow = execute(body, *inner);
  std::string text = std::exchange(output_, std::move(outside));
  release(std::move(inner));
  TRY(flow);
  return text;
}

Result<void> Interpreter::execute_block(const Statement& statement, Scope& scope) {
  if (statement.type == Statement::Type::Call) {
    const auto caller = callable_of(*statement.macro, scope);
    TRY_ASSIGN(const auto value, evaluate_call(*statement.expressions[0], scope, &caller));
    TRY_ASSIGN(const auto text, budget_.print(value));
    return write(text);
  }
  TRY_ASSIGN(auto text, execute_captured(statement.bodies[0], scope));
  if (statement.type == Statement::Type::Generation) return write(text);
  TRY_ASSIGN(auto value, budget_.string(std::move(text)));
  if (statement.type == Statement::Type::FilterBlock) {
    TRY_ASSIGN(value, evaluate_filter(*statement.expressions[0], scope, &value));
    TRY_ASSIGN(const auto filtered, budget_.print(value));
    return write(filtered);
  }
  if (statement.expressions[1] != nullptr) {
    TRY_ASSIGN(value, evaluate_filter(*statement.expressions[1], scope, &value));
  }
  return assign(*statement.expressions[0], value, scope);
}

Result<void> Interpreter::assign(const Expression& target, const Value& value, Scope& scope) {
  if (target.type == Type::Name) {
    scope.names[target.name] = value;
    return {};
  }
  if (target.type == Type::Namespace) {
    TRY_ASSIGN(const auto space, name(target.name, scope));
    if (!space.is(Kind::Namespace))
      return template_error(
          "TemplateRuntimeError: cannot assign attribute on non-namespace object");
    if (target.names[0].starts_with('_'))
      return template_error("SecurityError: an attribute of a namespace begins with '_'");
    space.space()->attributes[target.names[0]] = value;
    return {};
  }
  TRY_ASSIGN(const auto items, iterate(value));
  if (items.size() != target.operands.size())
    return template_error(fmt::format("ValueError: {} values to unpack, {} names", items.size(),
                                      target.operands.size()));
  for (size_t i = 0; i < items.size(); ++i) TRY(assign(*target.operands[i], items[i], scope));
  return {};
}

// --- calls ---

Value Interpreter::callable_of(const MacroStatement& macro, Scope& scope) const {
  for (Scope* at = &scope; at != nullptr && !at->captured; at = at->parent) at->captured = true;
  Callable callable{.type = Callable::Type::Macro, .name = macro.name, .self = {}};
  callable.macro = &macro;
  callable.scope = &scope;
  return Value::of(std::move(callable));
}

Result<Value> Interpreter::call(const Value& callee, const Arguments& arguments) {
  if (callee.is(Kind::Undefined)) return template_error(callee.why_undefined());
  if (!callee.is(Kind::Callable))
    return template_error(fmt::format("TypeError: '{}' object is not callable", type_name(callee)));
  const Callable& callable = callee.callable();
  switch (callable.type) {
    case Callable::Type::Global: return call_global(callable.name, arguments);
    case Callable::Type::Method: return call_method(*this, callable.self, callable.name, arguments);
    case Callable::Type::Macro: return call_macro(callable, arguments);
    case Callable::Type::Cycle:
      if (arguments.positional.empty())
        return template_error("TypeError: no items for cycling given");
      return arguments.positional[callable.index0 % arguments.positional.size()];
  }
  return unsupported("this call");
}

Result<Value> Interpreter::call_global(const std::string& name, const Arguments& arguments) {
  if (name == "raise_exception") {
    TRY_ASSIGN(const auto values, bind(arguments, {"message"}, 1));
    TRY_ASSIGN(const auto text, budget_.print(*values[0]));
    return fail(ErrorCode::Usage, fmt::format("the template does not take this chat: {}", text));
  }
  if (name == "strftime_now") {
    TRY_ASSIGN(const auto values, bind(arguments, {"format"}, 1));
    if (!values[0]->is(Kind::String))
      return template_error("TypeError: strftime_now needs a string");
    if (!now_)
      return fail(ErrorCode::Usage, "the template asks for today's date and none was given");
    TRY_ASSIGN(auto text, format_time(*now_, values[0]->text()));
    return budget_.string(std::move(text));
  }
  if (name == "range") {
    TRY_ASSIGN(const auto values, bind(arguments, {"start", "stop", "step"}, 1));
    int64_t bounds[3] = {0, 0, 1};
    for (size_t i = 0; i < 3; ++i) {
      if (!values[i]) continue;
      TRY_ASSIGN(bounds[i], as_index(*values[i]));
    }
    if (!values[1]) bounds[1] = std::exchange(bounds[0], 0);
    if (bounds[2] == 0) return template_error("ValueError: the step of a range is 0");
    std::vector<Value> items;
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
      if (static_cast<int64_t>(items.size()) >= kMaxRange)
        return template_error(fmt::format("OverflowError: a range of more than {}", kMaxRange));
      items.push_back(Value::integer(i));
      if (__builtin_add_overflow(i, bounds[2], &i)) break;
    }
    return budget_.sequence(Kind::Range, std::move(items));
  }
  if (name != "namespace" && name != "dict")
    return unsupported(fmt::format("the function '{}'", name));
  Dict dict;
  if (arguments.positional.size() > 1)
    return template_error("TypeError: at most one argument expected");
  if (!arguments.positional.empty()) {
    if (!arguments.positional[0].is(Kind::Dict))
      return unsupported(fmt::format("{}() of something that is no dict", name));
    dict = arguments.positional[0].dict();
  }
  for (const auto& [key, value] : arguments.named) dict.set(Value::string(key), value);
  if (name == "dict") return budget_.dict(std::move(dict));
  TRY(budget_.memory(sizeof(Namespace) + dict.entries.size() * 4 * sizeof(Value)));
  auto space = std::make_unique<Namespace>();
  for (auto& [key, value] : dict.entries) {
    if (!key.is(Kind::String)) return unsupported("a namespace with a key that is no string");
    if (key.text().starts_with('_'))
      return template_error("SecurityError: an attribute of a namespace begins with '_'");
    space->attributes[key.text()] = std::move(value);
  }
  spaces_.push_back(std::move(space));
  return Value::of(spaces_.back().get());
}

// Parameters in order: given by place, by name, by default (which sees those before it), undefined.
Result<void> Interpreter::bind_macro(const Callable& callable, const Arguments& arguments,
                                     Scope& scope) {
  const MacroStatement& macro = *callable.macro;
  const auto& parameters = macro.parameters;
  const auto& given = arguments.positional;
  std::vector<Value> more;
  if (given.size() > parameters.size()) {
    if (!macro.uses_varargs)
      return template_error(fmt::format("TypeError: macro '{}' takes not more than {} arguments",
                                        macro.name, parameters.size()));
    more.assign(given.begin() + static_cast<ptrdiff_t>(parameters.size()), given.end());
  }
  Dict others;
  std::unordered_map<std::string_view, const Value*> by_name;
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found != parameters.end() &&
        static_cast<size_t>(found - parameters.begin()) >= given.size())
      by_name[name] = &value;
    else if (name == "caller" && macro.uses_caller) scope.names["caller"] = value;
    else if (found == parameters.end() && macro.uses_kwargs) others.set(Value::string(name), value);
    else
      return template_error(
          fmt::format("TypeError: macro '{}' takes no argument '{}'", macro.name, name));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const size_t left = parameters.size() - i;
    Value value = Value::undefined(
        fmt::format("UndefinedError: parameter '{}' was not provided", parameters[i]));
    if (i < given.size()) {
      value = given[i];
    } else if (const auto found = by_name.find(parameters[i]); found != by_name.end()) {
      value = *found->second;
    } else if (left <= macro.defaults.size()) {
      TRY_ASSIGN(value, evaluate(*macro.defaults[macro.defaults.size() - left], scope));
    }
    scope.names[parameters[i]] = std::move(value);
  }
  if (macro.uses_varargs) {
    TRY_ASSIGN(scope.names["varargs"], budget_.sequence(Kind::Tuple, std::move(more)));
  }
  if (macro.uses_kwargs) {
    TRY_ASSIGN(scope.names["kwargs"], budget_.dict(std::move(others)));
  }
  if (macro.uses_caller)
    scope.names.try_emplace("caller", Value::undefined("UndefinedError: no caller defined"));
  return {};
}

Result<Value> Interpreter::call_macro(const Callable& callable, const Arguments& arguments) {
  auto scope = scope_in(callable.scope);
  auto bound = bind_macro(callable, arguments, *scope);
  std::string outside = std::exchange(output_, {});
  Result<Flow> flow =
      bound ? execute(callable.macro->body, *scope) : std::unexpected(bound.error());
  std::string text = std::exchange(output_, std::move(outside));
  release(std::move(scope));
  if (!flow) return std::unexpected(std::move(flow).error());
  return budget_.string(std::move(text));
}

}  // namespace plumb::jinja
