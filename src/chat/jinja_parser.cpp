// SPDX-License-Identifier: Apache-2.0
// The grammar is that of jinja2.parser, quirks included: what it refuses is refused here.
#include "chat/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <set>

#include "chat/code_points.h"

namespace plumb::jinja {
namespace {

using Type = Expression::Type;
using Names = std::initializer_list<std::string_view>;

constexpr std::string_view kFilters[] = {
    "abs",    "attr",       "batch",       "capitalize", "center",   "count",
    "d",      "default",    "dictsort",    "e",          "escape",   "filesizeformat",
    "first",  "float",      "forceescape", "format",     "groupby",  "indent",
    "int",    "items",      "join",        "last",       "length",   "list",
    "lower",  "map",        "max",         "min",        "pprint",   "random",
    "reject", "rejectattr", "replace",     "reverse",    "round",    "safe",
    "select", "selectattr", "slice",       "sort",       "string",   "striptags",
    "sum",    "title",      "tojson",      "trim",       "truncate", "unique",
    "upper",  "urlencode",  "urlize",      "wordcount",  "wordwrap", "xmlattr"};
constexpr std::string_view kTests[] = {
    "boolean", "callable", "defined",  "divisibleby", "eq",       "equalto",     "escaped",
    "even",    "false",    "filter",   "float",       "ge",       "greaterthan", "gt",
    "in",      "integer",  "iterable", "le",          "lessthan", "lower",       "lt",
    "mapping", "ne",       "none",     "number",      "odd",      "sameas",      "sequence",
    "string",  "test",     "true",     "undefined",   "upper",    "==",          "!=",
    ">",       ">=",       "<",        "<="};

bool among(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<ParsedTemplate> run() {
    const InScope scope(*this);
    TRY_ASSIGN(auto body, parse_body({}, false));
    if (!now().is(Token::Type::End)) return unexpected_here();
    return ParsedTemplate{std::move(body), std::move(late_names_)};
  }

 private:
  // --- tokens ---

  const Token& now() const { return tokens_[at_]; }
  const Token& after(size_t steps = 1) const {
    return tokens_[std::min(at_ + steps, tokens_.size() - 1)];
  }
  const Token& take() {
    const Token& token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool skip_name(std::string_view name) { return now().is_name(name) && (take(), true); }
  bool skip_operator(std::string_view name) { return now().is_operator(name) && (take(), true); }

  std::unexpected<Error> error(Position at, std::string message) const {
    return at_position(at, {ErrorCode::Corrupt, std::move(message)});
  }
  std::unexpected<Error> refused(Position at, std::string what) const {
    return at_position(at, unsupported(std::move(what)).error());
  }
  std::unexpected<Error> unexpected_here() const {
    return error(now().at, fmt::format("unexpected {}", describe(now())));
  }
  Result<void> expect_operator(std::string_view name) {
    if (skip_operator(name)) return {};
    return error(now().at, fmt::format("expected '{}', found {}", name, describe(now())));
  }
  Result<std::string> expect_name() {
    if (!now().is(Token::Type::Name))
      return error(now().at, fmt::format("expected a name, found {}", describe(now())));
    return take().text;
  }
  Result<void> expect_block_end() {
    if (!now().is(Token::Type::BlockEnd))
      return error(now().at, fmt::format("expected '%}}', found {}", describe(now())));
    take();
    return {};
  }

  // Counts how deep brackets and blocks are nested while it lives.
  struct Nested {
    explicit Nested(Parser& parser) : parser(parser) { ++parser.nesting_; }
    ~Nested() { --parser.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    Parser& parser;
  };
  Result<void> check_nesting() const {
    if (nesting_ <= kMaxNesting) return {};
    return refused(now().at, fmt::format("nesting deeper than {} levels", kMaxNesting));
  }

  // --- names ---

  struct NameUses {
    std::set<std::string> own;    // read or set in the scope itself, so far
    std::set<std::string> inner;  // read in a scope within, and not yet known here
  };
  // A scope of names while it lives.
  struct InScope {
    explicit InScope(Parser& parser) : parser(parser) { parser.scopes_.emplace_back(); }
    ~InScope() { parser.scopes_.pop_back(); }
    InScope(const InScope&) = delete;
    InScope& operator=(const InScope&) = delete;
    Parser& parser;
  };
  void note_read(const std::string& name) {
    for (size_t i = scopes_.size(); i-- > 0;) {
      if (scopes_[i].own.contains(name)) return;
      (i + 1 == scopes_.size() ? scopes_[i].own : scopes_[i].inner).insert(name);
    }
  }
  void note_set(const std::string& name, Position at) {
    const auto knows = [&](const NameUses& scope) { return scope.own.contains(name); };
    if (scopes_.back().inner.contains(name) && std::none_of(scopes_.begin(), scopes_.end(), knows))
      late_names_.push_back({name, at});
    scopes_.back().own.insert(name);
  }
  void note_target(const Expression& target) {
    if (target.type == Type::Name) note_set(target.name, target.at);
    if (target.type == Type::Namespace) note_read(target.name);
    for (const auto& item : target.operands) note_target(*item);
  }

  // --- nodes ---

  static void raise_depth(Expression& node, const ExpressionPtr& operand) {
    if (operand != nullptr) node.depth = std::max(node.depth, operand->depth + 1);
  }
  Result<ExpressionPtr> made(ExpressionPtr node) const {
    for (const auto& operand : node->operands) raise_depth(*node, operand);
    for (const auto& operand : node->arguments.positional) raise_depth(*node, operand);
    for (const auto& operand : node->arguments.named) raise_depth(*node, operand.second);
    if (node->depth > kMaxTreeDepth)
      return refused(node->at, fmt::format("an expression deeper than {} levels", kMaxTreeDepth));
    return node;
  }
  static ExpressionPtr node(Type type, Position at, std::string name = {}) {
    auto made = std::make_unique<Expression>();
    made->type = type;
    made->at = at;
    made->name = std::move(name);
    return made;
  }
  template <class... Operands>
  Result<ExpressionPtr> node_of(Type type, Position at, std::string name, Operands... operands) {
    auto tree = node(type, at, std::move(name));
    (tree->operands.push_back(std::move(operands)), ...);
    return made(std::move(tree));
  }
  static ExpressionPtr constant(Position at, Value value) {
    auto made = node(Type::Constant, at);
    made->constant = std::move(value);
    return made;
  }

  // --- expressions, from the loosest binding to the tightest ---

  Result<ExpressionPtr> parse_expression(bool with_conditional = true) {
    const Nested nested(*this);
    TRY(check_nesting());
    return with_conditional ? parse_conditional() : parse_or();
  }

  Result<ExpressionPtr> parse_conditional() {
    const Position at = now().at;
    // A filter or test that nobody knows is an error when the template is read, but inside an if
    // only when it is reached.
    const size_t pending = unknown_.size();
    TRY_ASSIGN(auto value, parse_or());
    bool conditional = false;
    while (skip_name("if")) {
      conditional = true;
      TRY_ASSIGN(auto test, parse_or());
      ExpressionPtr otherwise;
      if (skip_name("else")) {
        TRY_ASSIGN(otherwise, parse_conditional_nested());
      }
      TRY_ASSIGN(value, node_of(Type::Conditional, at, {}, std::move(test), std::move(value),
                                std::move(otherwise)));
    }
    if (conditional) unknown_.resize(pending);
    return value;
  }
  Result<ExpressionPtr> parse_conditional_nested() {
    const Nested nested(*this);
    TRY(check_nesting());
    return parse_conditional();
  }

  Result<ExpressionPtr> parse_or() {
    const Position at = now().at;
    TRY_ASSIGN(auto left, parse_and());
    while (skip_name("or")) {
      TRY_ASSIGN(auto right, parse_and());
      TRY_ASSIGN(left, node_of(Type::Or, at, {}, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExpressionPtr> parse_and() {
    const Position at = now().at;
    TRY_ASSIGN(auto left, parse_not());
    while (skip_name("and")) {
      TRY_ASSIGN(auto right, parse_not());
      TRY_ASSIGN(left, node_of(Type::And, at, {}, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExpressionPtr> parse_not() {
    const Position at = now().at;
    size_t nots = 0;
    while (skip_name("not")) ++nots;
    TRY_ASSIGN(auto value, parse_compare());
    for (; nots > 0; --nots) {
      TRY_ASSIGN(value, node_of(Type::Not, at, {}, std::move(value)));
    }
    return value;
  }

  // The operator of a comparison here, or nothing.
  std::string comparison() {
    for (const std::string_view symbol : {"==", "!=", "<", "<=", ">", ">="})
      if (skip_operator(symbol)) return std::string(symbol);
    if (skip_name("in")) return "in";
    if (now().is_name("not") && after().is_name("in")) {
      take();
      take();
      return "not in";
    }
    return {};
  }

  Result<ExpressionPtr> parse_compare() {
    const Position at = now().at;
    TRY_ASSIGN(auto first, parse_sum());
    auto tree = node(Type::Compare, at);
    for (auto symbol = comparison(); !symbol.empty(); symbol = comparison()) {
      TRY_ASSIGN(auto right, parse_sum());
      if (tree->operands.empty()) tree->operands.push_back(std::move(first));
      tree->names.push_back(std::move(symbol));
      tree->operands.push_back(std::move(right));
    }
    if (tree->operands.empty()) return first;
    return made(std::move(tree));
  }

  Result<ExpressionPtr> parse_binary(Result<ExpressionPtr> (Parser::*operand)(), Names symbols) {
    TRY_ASSIGN(auto left, (this->*operand)());
    while (now().is(Token::Type::Operator) && among(now().text, symbols)) {
      const Position at = now().at;
      auto symbol = take().text;
      TRY_ASSIGN(auto right, (this->*operand)());
      TRY_ASSIGN(left,
                 node_of(Type::Binary, at, std::move(symbol), std::move(left), std::move(right)));
    }
    return left;
  }
  Result<ExpressionPtr> parse_sum() { return parse_binary(&Parser::parse_concat, {"+", "-"}); }

  Result<ExpressionPtr> parse_concat() {
    const Position at = now().at;
    TRY_ASSIGN(auto first, parse_product());
    if (!now().is_operator("~")) return first;
    auto tree = node(Type::Concat, at);
    tree->operands.push_back(std::move(first));
    while (skip_operator("~")) {
      TRY_ASSIGN(auto next, parse_product());
      tree->operands.push_back(std::move(next));
    }
    return made(std::move(tree));
  }
  Result<ExpressionPtr> parse_product() {
    return parse_binary(&Parser::parse_power, {"*", "/", "//", "%"});
  }
  Result<ExpressionPtr> parse_power() { return parse_binary(&Parser::parse_unary, {"**"}); }
  Result<ExpressionPtr> parse_unary() { return parse_signed(true); }

  Result<ExpressionPtr> parse_signed(bool with_filter) {
    const Nested nested(*this);
    TRY(check_nesting());
    const Position at = now().at;
    ExpressionPtr value;
    if (now().is_operator("-") || now().is_operator("+")) {
      const auto type = take().text == "-" ? Type::Negate : Type::Plus;
      TRY_ASSIGN(auto inner, parse_signed(false));
      TRY_ASSIGN(value, node_of(type, at, {}, std::move(inner)));
    } else {
      TRY_ASSIGN(value, parse_primary());
    }
    TRY_ASSIGN(value, parse_postfix(std::move(value)));
    if (!with_filter) return value;
    return parse_filters_and_tests(std::move(value));
  }

  Result<ExpressionPtr> parse_primary() {
    const Token& token = now();
    switch (token.type) {
      case Token::Type::Name: return parse_name();
      case Token::Type::String: {
        std::string text;
        while (now().is(Token::Type::String)) text += take().text;
        return constant(token.at, Value::string(std::move(text)));
      }
      case Token::Type::Integer: {
        int64_t number = 0;
        const auto& digits = token.text;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), number).ec != std::errc())
          return refused(token.at, "an integer of more than 64 bits");
        take();
        return constant(token.at, Value::integer(number));
      }
      case Token::Type::Float: {
        double number = 0;
        const auto& digits = token.text;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), number).ec != std::errc())
          return refused(token.at, "a number beyond the range of double");
        take();
        return constant(token.at, Value::real(number));
      }
      case Token::Type::Operator:
        if (token.text == "(") return parse_parentheses();
        if (token.text == "[") return parse_list();
        if (token.text == "{") return parse_dict();
        break;
      default: break;
    }
    return unexpected_here();
  }

  Result<ExpressionPtr> parse_name() {
    const Position at = now().at;
    const auto name = take().text;
    if (name == "true" || name == "True") return constant(at, Value::boolean(true));
    if (name == "false" || name == "False") return constant(at, Value::boolean(false));
    if (name == "none" || name == "None") return constant(at, Value::none());
    if (name == "self" || name == "super") return refused(at, fmt::format("the name '{}'", name));
    for (auto* macro : macros_) {
      if (name == "caller") macro->uses_caller = true;
      if (name == "varargs") macro->uses_varargs = true;
      if (name == "kwargs") macro->uses_kwargs = true;
    }
    if (!in_target_) note_read(name);
    return node(Type::Name, at, name);
  }

  Result<ExpressionPtr> parse_parentheses() {
    take();
    TRY_ASSIGN(auto value, parse_tuple({.explicit_parentheses = true}));
    TRY(expect_operator(")"));
    return value;
  }

  Result<ExpressionPtr> parse_list() {
    auto tree = node(Type::List, take().at);
    while (!now().is_operator("]")) {
      if (!tree->operands.empty()) TRY(expect_operator(","));
      if (now().is_operator("]")) break;
      TRY_ASSIGN(auto item, parse_expression());
      tree->operands.push_back(std::move(item));
    }
    TRY(expect_operator("]"));
    return made(std::move(tree));
  }

  Result<ExpressionPtr> parse_dict() {
    auto tree = node(Type::Dict, take().at);
    while (!now().is_operator("}")) {
      if (!tree->operands.empty()) TRY(expect_operator(","));
      if (now().is_operator("}")) break;
      TRY_ASSIGN(auto key, parse_expression());
      TRY(expect_operator(":"));
      TRY_ASSIGN(auto value, parse_expression());
      tree->operands.push_back(std::move(key));
      tree->operands.push_back(std::move(value));
    }
    TRY(expect_operator("}"));
    return made(std::move(tree));
  }

  struct TupleOptions {
    bool simple = false;  // targets: names and tuples only
    bool with_conditional = true;
    std::string_view end_name = {};  // a name that ends it too
    bool explicit_parentheses = false;
  };
  bool ends_tuple(const TupleOptions& options) const {
    return now().is(Token::Type::OutputEnd) || now().is(Token::Type::BlockEnd) ||
           now().is_operator(")") || (!options.end_name.empty() && now().is_name(options.end_name));
  }
  Result<ExpressionPtr> parse_tuple(TupleOptions options) {
    const Nested nested(*this);
    TRY(check_nesting());
    auto tree = node(Type::Tuple, now().at);
    bool is_tuple = false;
    while (true) {
      if (!tree->operands.empty()) TRY(expect_operator(","));
      if (ends_tuple(options)) break;
      TRY_ASSIGN(auto item, options.simple ? parse_simple_target()
                                           : parse_expression(options.with_conditional));
      tree->operands.push_back(std::move(item));
      if (!now().is_operator(",")) break;
      is_tuple = true;
    }
    if (is_tuple) return made(std::move(tree));
    if (!tree->operands.empty()) return std::move(tree->operands.front());
    if (!options.explicit_parentheses)
      return error(now().at, fmt::format("expected an expression, found {}", describe(now())));
    return made(std::move(tree));
  }

  // In a target, "a.b" is the attribute of a namespace.
  Result<ExpressionPtr> parse_simple_target() {
    if (now().is(Token::Type::Name) && after().is_operator(".")) {
      auto target = node(Type::Namespace, now().at, take().text);
      take();
      TRY_ASSIGN(auto attribute, expect_name());
      target->names.push_back(std::move(attribute));
      return target;
    }
    return parse_primary();
  }

  Result<ExpressionPtr> parse_postfix(ExpressionPtr value) {
    while (true) {
      if (now().is_operator(".")) {
        const Position at = take().at;
        if (now().is(Token::Type::Name)) {
          TRY_ASSIGN(value, node_of(Type::Attribute, at, take().text, std::move(value)));
        } else if (now().is(Token::Type::Integer)) {
          TRY_ASSIGN(auto index, parse_primary());
          TRY_ASSIGN(value, node_of(Type::Item, at, {}, std::move(value), std::move(index)));
        } else {
          return error(now().at, fmt::format("expected a name, found {}", describe(now())));
        }
      } else if (now().is_operator("[")) {
        TRY_ASSIGN(value, parse_item(std::move(value)));
      } else if (now().is_operator("(")) {
        TRY_ASSIGN(value, parse_call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  Result<ExpressionPtr> parse_item(ExpressionPtr value) {
    const Position at = take().at;
    if (now().is_operator("]")) return refused(now().at, "an empty index");
    ExpressionPtr parts[3];
    bool is_slice = false;
    size_t part = 0;
    while (!now().is_operator("]")) {
      if (now().is_operator(",")) return refused(now().at, "an index of several values");
      if (now().is_operator(":") && part < 2) {
        take();
        is_slice = true;
        ++part;
        continue;
      }
      if (parts[part] != nullptr) return unexpected_here();
      TRY_ASSIGN(parts[part], parse_expression());
    }
    take();
    if (!is_slice) return node_of(Type::Item, at, {}, std::move(value), std::move(parts[0]));
    return node_of(Type::Slice, at, {}, std::move(value), std::move(parts[0]), std::move(parts[1]),
                   std::move(parts[2]));
  }

  Result<CallArguments> parse_arguments() {
    CallArguments arguments;
    TRY(expect_operator("("));
    bool first = true;
    while (!now().is_operator(")")) {
      if (!first) TRY(expect_operator(","));
      if (now().is_operator(")")) break;
      first = false;
      if (now().is_operator("*") || now().is_operator("**"))
        return refused(now().at, fmt::format("'{}' before an argument", now().text));
      if (now().is(Token::Type::Name) && after().is_operator("=")) {
        auto name = take().text;
        take();
        TRY_ASSIGN(auto value, parse_expression());
        arguments.named.emplace_back(std::move(name), std::move(value));
      } else if (!arguments.named.empty()) {
        return error(now().at, "an argument without a name stands behind one with a name");
      } else {
        TRY_ASSIGN(auto value, parse_expression());
        arguments.positional.push_back(std::move(value));
      }
    }
    TRY(expect_operator(")"));
    return arguments;
  }

  Result<ExpressionPtr> parse_call(ExpressionPtr callee) {
    auto call = node(Type::Call, callee->at);
    TRY_ASSIGN(call->arguments, parse_arguments());
    call->operands.push_back(std::move(callee));
    return made(std::move(call));
  }

  Result<ExpressionPtr> parse_filters_and_tests(ExpressionPtr value) {
    while (true) {
      if (now().is_operator("|")) {
        take();
        TRY_ASSIGN(value, parse_filter(std::move(value)));
      } else if (now().is_name("is")) {
        TRY_ASSIGN(value, parse_test(std::move(value)));
      } else if (now().is_operator("(")) {
        TRY_ASSIGN(value, parse_call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  Result<std::string> dotted_name() {
    TRY_ASSIGN(auto name, expect_name());
    while (skip_operator(".")) {
      TRY_ASSIGN(const auto part, expect_name());
      name += '.';
      name += part;
    }
    return name;
  }

  Result<ExpressionPtr> parse_filter(ExpressionPtr value) {
    auto tree = node(Type::Filter, now().at);
    TRY_ASSIGN(tree->name, dotted_name());
    if (!is_jinja_filter(tree->name))
      unknown_.push_back({tree->at, fmt::format("no filter named '{}'", tree->name)});
    if (now().is_operator("(")) {
      TRY_ASSIGN(tree->arguments, parse_arguments());
    }
    tree->operands.push_back(std::move(value));
    return made(std::move(tree));
  }

  Result<ExpressionPtr> parse_test(ExpressionPtr value) {
    take();
    const Position at = now().at;
    const bool negated = skip_name("not");
    auto tree = node(Type::Test, at);
    TRY_ASSIGN(tree->name, dotted_name());
    if (!is_jinja_test(tree->name))
      unknown_.push_back({at, fmt::format("no test named '{}'", tree->name)});
    const Token& next = now();
    const bool word = next.is(Token::Type::Name) && !among(next.text, {"else", "or", "and"});
    if (next.is_operator("(")) {
      TRY_ASSIGN(tree->arguments, parse_arguments());
    } else if (word || next.is(Token::Type::String) || next.is(Token::Type::Integer) ||
               next.is(Token::Type::Float) || next.is_operator("[") || next.is_operator("{")) {
      if (next.is_name("is")) return error(next.at, "tests cannot be chained with 'is'");
      TRY_ASSIGN(auto argument, parse_primary());
      TRY_ASSIGN(argument, parse_postfix(std::move(argument)));
      tree->arguments.positional.push_back(std::move(argument));
    }
    tree->operands.push_back(std::move(value));
    TRY_ASSIGN(auto test, made(std::move(tree)));
    if (!negated) return test;
    return node_of(Type::Not, at, {}, std::move(test));
  }

  // --- statements ---

  Result<ExpressionPtr> parse_target(std::string_view end_name = {}) {
    in_target_ = true;
    auto target = parse_tuple({.simple = true, .end_name = end_name});
    in_target_ = false;
    if (target) TRY(check_target(**target));
    return target;
  }
  Result<void> check_target(const Expression& target) const {
    if (target.type == Type::Name) {
      if (target.name == "loop" && loops_ > 0)
        return error(target.at, "'loop' cannot be set inside a for");
      return {};
    }
    if (target.type == Type::Namespace) return {};
    if (target.type != Type::Tuple) return error(target.at, "this cannot be assigned to");
    for (const auto& item : target.operands) TRY(check_target(*item));
    return {};
  }

  // Unknown filters and tests are errors when a template is read, unless they stand in an if.
  Result<void> check_unknown(size_t pending, bool soft) {
    if (!soft && unknown_.size() > pending)
      return error(unknown_[pending].first, unknown_[pending].second);
    unknown_.resize(pending);
    return {};
  }

  // Statements up to one of `ends`, whose block is left open. `soft`: directly in an if.
  Result<Body> parse_body(Names ends, bool soft) {
    const Nested nested(*this);
    TRY(check_nesting());
    Body body;
    while (!now().is(Token::Type::End)) {
      const size_t pending = unknown_.size();
      if (now().is(Token::Type::BlockBegin)) {
        if (after().is(Token::Type::Name) && among(after().text, ends)) {
          take();
          return body;
        }
        take();
        TRY_ASSIGN(auto statement, parse_statement());
        TRY(expect_block_end());
        body.push_back(std::move(statement));
      } else {
        TRY_ASSIGN(auto statement, parse_output());
        body.push_back(std::move(statement));
      }
      TRY(check_unknown(pending, soft));
    }
    if (ends.size() == 0) return body;
    return error(now().at,
                 fmt::format("expected '{}', found the end of the template", *ends.begin()));
  }

  Result<Statement> parse_output() {
    Statement statement;
    statement.at = now().at;
    if (now().is(Token::Type::Text)) {
      statement.text = take().text;
      return statement;
    }
    if (!now().is(Token::Type::OutputBegin)) return unexpected_here();
    take();
    statement.type = Statement::Type::Output;
    TRY_ASSIGN(auto value, parse_tuple({}));
    statement.expressions.push_back(std::move(value));
    if (!now().is(Token::Type::OutputEnd))
      return error(now().at, fmt::format("expected '}}}}', found {}", describe(now())));
    take();
    return statement;
  }

  Result<Statement> parse_statement() {
    const Token& token = now();
    if (!token.is(Token::Type::Name))
      return error(token.at, fmt::format("expected the name of a tag, found {}", describe(token)));
    take();
    Statement statement;
    statement.at = token.at;
    const auto& tag = token.text;
    if (tag == "if") return parse_if(std::move(statement));
    if (tag == "for") return parse_for(std::move(statement));
    if (tag == "set") return parse_set(std::move(statement));
    if (tag == "macro") return parse_macro(std::move(statement));
    if (tag == "call") return parse_call_block(std::move(statement));
    if (tag == "filter") return parse_filter_block(std::move(statement));
    if (tag == "with") return parse_with(std::move(statement));
    if (tag == "generation") return parse_generation(std::move(statement));
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) return error(token.at, fmt::format("'{}' outside of a for", tag));
      statement.type = tag == "break" ? Statement::Type::Break : Statement::Type::Continue;
      return statement;
    }
    if (among(tag, {"block", "extends", "include", "import", "from", "autoescape", "print"}))
      return refused(token.at, fmt::format("the tag '{}'", tag));
    return error(token.at, fmt::format("unknown tag '{}'", tag));
  }

  Result<Statement> parse_if(Statement statement) {
    statement.type = Statement::Type::If;
    while (true) {
      const size_t pending = unknown_.size();
      TRY_ASSIGN(auto test, parse_tuple({.with_conditional = false}));
      unknown_.resize(pending);
      TRY(expect_block_end());
      TRY_ASSIGN(auto body, parse_body({"endif", "elif", "else"}, true));
      statement.expressions.push_back(std::move(test));
      statement.bodies.push_back(std::move(body));
      if (!skip_name("elif")) break;
    }
    if (skip_name("else")) {
      TRY(expect_block_end());
      TRY_ASSIGN(auto body, parse_body({"endif"}, true));
      statement.bodies.push_back(std::move(body));
    }
    if (!skip_name("endif")) return unexpected_here();
    return statement;
  }

  Result<Statement> parse_for(Statement statement) {
    statement.type = Statement::Type::For;
    TRY_ASSIGN(auto target, parse_target("in"));
    if (!skip_name("in"))
      return error(now().at, fmt::format("expected 'in', found {}", describe(now())));
    TRY_ASSIGN(auto over, parse_tuple({.with_conditional = false, .end_name = "recursive"}));
    const InScope scope(*this);
    note_target(*target);
    ExpressionPtr filter;
    if (skip_name("if")) {
      TRY_ASSIGN(filter, parse_expression());
    }
    if (now().is_name("recursive")) return refused(now().at, "a recursive for");
    TRY(expect_block_end());
    ++loops_;
    auto body = parse_body({"endfor", "else"}, false);
    --loops_;
    if (!body) return std::unexpected(std::move(body).error());
    statement.bodies.push_back(std::move(*body));
    if (skip_name("else")) {
      TRY(expect_block_end());
      const InScope otherwise_scope(*this);
      TRY_ASSIGN(auto otherwise, parse_body({"endfor"}, false));
      statement.bodies.push_back(std::move(otherwise));
    }
    if (!skip_name("endfor")) return unexpected_here();
    statement.expressions.push_back(std::move(target));
    statement.expressions.push_back(std::move(over));
    statement.expressions.push_back(std::move(filter));
    return statement;
  }

  Result<Statement> parse_set(Statement statement) {
    TRY_ASSIGN(auto target, parse_target());
    statement.expressions.push_back(std::move(target));
    if (skip_operator("=")) {
      statement.type = Statement::Type::Set;
      TRY_ASSIGN(auto value, parse_tuple({}));
      note_target(*statement.expressions[0]);
      statement.expressions.push_back(std::move(value));
      return statement;
    }
    note_target(*statement.expressions[0]);
    statement.type = Statement::Type::SetBlock;
    TRY_ASSIGN(auto filter, parse_filter_chain());
    statement.expressions.push_back(std::move(filter));
    TRY_ASSIGN(auto body, parse_block_body("endset"));
    statement.bodies.push_back(std::move(body));
    return statement;
  }

  // "| name(...) | name" of a block; null without one.
  Result<ExpressionPtr> parse_filter_chain() {
    ExpressionPtr chain;
    while (skip_operator("|")) {
      TRY_ASSIGN(chain, parse_filter(std::move(chain)));
    }
    return chain;
  }

  // The inside of a block that is a scope of its own, and its end tag.
  Result<Body> parse_block_body(std::string_view end) {
    TRY(expect_block_end());
    const InScope scope(*this);
    const size_t pending = unknown_.size();
    TRY_ASSIGN(auto body, parse_body({end}, false));
    TRY(check_unknown(pending, false));
    take();
    return body;
  }
  // The same where the inside is a function of its own, which break cannot leave.
  Result<Body> parse_function_body(std::string_view end) {
    const size_t loops = std::exchange(loops_, 0);
    auto body = parse_block_body(end);
    loops_ = loops;
    return body;
  }

  Result<void> parse_signature(MacroStatement& macro) {
    TRY(expect_operator("("));
    while (!now().is_operator(")")) {
      if (!macro.parameters.empty()) TRY(expect_operator(","));
      TRY_ASSIGN(auto name, expect_name());
      if (among(name, {"caller", "varargs", "kwargs", "loop"}))
        return refused(now().at, fmt::format("a parameter named '{}'", name));
      scopes_.back().own.insert(name);
      macro.parameters.push_back(std::move(name));
      if (skip_operator("=")) {
        TRY_ASSIGN(auto value, parse_expression());
        macro.defaults.push_back(std::move(value));
      } else if (!macro.defaults.empty()) {
        return error(now().at, "a parameter without a default stands behind one with a default");
      }
    }
    return expect_operator(")");
  }

  Result<void> parse_macro_body(MacroStatement& macro, std::string_view end) {
    macros_.push_back(&macro);
    auto body = parse_function_body(end);
    macros_.pop_back();
    if (!body) return std::unexpected(std::move(body).error());
    macro.body = std::move(*body);
    return {};
  }

  Result<Statement> parse_macro(Statement statement) {
    statement.type = Statement::Type::Macro;
    statement.macro = std::make_unique<MacroStatement>();
    auto& macro = *statement.macro;
    const Position at = now().at;
    TRY_ASSIGN(macro.name, expect_name());
    note_set(macro.name, at);
    const InScope scope(*this);
    TRY(parse_signature(macro));
    TRY(parse_macro_body(macro, "endmacro"));
    return statement;
  }

  Result<Statement> parse_call_block(Statement statement) {
    statement.type = Statement::Type::Call;
    statement.macro = std::make_unique<MacroStatement>();
    auto& macro = *statement.macro;
    macro.name = "caller";
    const InScope scope(*this);
    if (now().is_operator("(")) TRY(parse_signature(macro));
    const Position at = now().at;
    TRY_ASSIGN(auto call, parse_expression());
    if (call->type != Type::Call) return error(at, "expected a call");
    statement.expressions.push_back(std::move(call));
    TRY(parse_macro_body(macro, "endcall"));
    return statement;
  }

  Result<Statement> parse_filter_block(Statement statement) {
    statement.type = Statement::Type::FilterBlock;
    TRY_ASSIGN(auto chain, parse_filter(nullptr));
    while (skip_operator("|")) {
      TRY_ASSIGN(chain, parse_filter(std::move(chain)));
    }
    statement.expressions.push_back(std::move(chain));
    TRY_ASSIGN(auto body, parse_block_body("endfilter"));
    statement.bodies.push_back(std::move(body));
    return statement;
  }

  Result<Statement> parse_with(Statement statement) {
    statement.type = Statement::Type::With;
    const InScope scope(*this);
    while (!now().is(Token::Type::BlockEnd)) {
      if (!statement.expressions.empty()) TRY(expect_operator(","));
      const Position at = now().at;
      TRY_ASSIGN(auto name, expect_name());
      TRY(expect_operator("="));
      TRY_ASSIGN(auto value, parse_expression());
      scopes_.back().own.insert(name);
      statement.expressions.push_back(node(Type::Name, at, std::move(name)));
      statement.expressions.push_back(std::move(value));
    }
    TRY_ASSIGN(auto body, parse_block_body("endwith"));
    statement.bodies.push_back(std::move(body));
    return statement;
  }

  Result<Statement> parse_generation(Statement statement) {
    statement.type = Statement::Type::Generation;
    TRY_ASSIGN(auto body, parse_function_body("endgeneration"));
    statement.bodies.push_back(std::move(body));
    return statement;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  uint32_t nesting_ = 0;
  size_t loops_ = 0;                     // for blocks around, within this macro
  std::vector<MacroStatement*> macros_;  // around
  std::vector<std::pair<Position, std::string>> unknown_;
  std::vector<NameUses> scopes_;
  std::vector<LateName> late_names_;
  bool in_target_ = false;
};

}  // namespace

Result<ParsedTemplate> parse_template(std::string_view source) {
  if (source.size() > kMaxTemplateBytes)
    return unsupported(
        fmt::format("a template of {} bytes (at most {})", source.size(), kMaxTemplateBytes));
  if (!is_utf8(source)) return fail(ErrorCode::Corrupt, "the template is not UTF-8");
  TRY_ASSIGN(auto tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

bool is_jinja_filter(std::string_view name) {
  return std::find(std::begin(kFilters), std::end(kFilters), name) != std::end(kFilters);
}

bool is_jinja_test(std::string_view name) {
  return std::find(std::begin(kTests), std::end(kTests), name) != std::end(kTests);
}

}  // namespace plumb::jinja
