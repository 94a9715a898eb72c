// SPDX-License-Identifier: Apache-2.0
// A template as a tree. Each node knows how deep it is; the parser limits that, so that walking and
// destroying the tree cannot exhaust the stack.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja_lexer.h"
#include "chat/jinja_value.h"

namespace plumb::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Expression {
  enum class Type {
    Constant,
    Name,
    List,
    Tuple,
    Dict,         // operands: key, value, key, value …
    Attribute,    // operands[0] . name
    Item,         // operands[0] [ operands[1] ]
    Slice,        // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
    Call,         // operands[0] ( arguments )
    Filter,       // operands[0] | name ( arguments ); null operand in a filter block
    Test,         // operands[0] is name ( arguments )
    Conditional,  // operands: test, then, else (null where left out)
    Or,
    And,
    Not,
    Negate,
    Plus,
    Compare,  // operands[0] names[0] operands[1] names[1] operands[2] …
    Binary,   // name: + - * / // % **
    Concat,
    Namespace,  // a target of set: name . attribute, which is names[0]
  };
  Type type = Type::Constant;
  Position at;
  std::string name;
  std::vector<std::string> names;
  Value constant;
  std::vector<ExpressionPtr> operands;
  CallArguments arguments;
  uint32_t depth = 1;
};

struct Statement;
using Body = std::vector<Statement>;

struct MacroStatement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Statement {
  enum class Type {
    Text,
    Output,    // expressions[0]
    If,        // expressions and bodies in pairs; one more body for else
    For,       // expressions: target, over what, filter or null; bodies: loop, else
    Set,       // expressions: target, value
    SetBlock,  // expressions: target, filter or null; bodies[0]
    Macro,
    Call,         // expressions[0]: the call; macro: what caller() renders
    FilterBlock,  // expressions[0]; bodies[0]
    With,         // expressions: target, value, target, value …; bodies[0]
    Generation,   // bodies[0]
    Break,
    Continue,
  };
  Type type = Type::Text;
  Position at;
  std::string text;
  std::vector<ExpressionPtr> expressions;
  std::vector<Body> bodies;
  std::unique_ptr<MacroStatement> macro;
};

}  // namespace plumb::jinja
