// A parsed chat template. Trees are bounded in depth by the parser.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/chat_template_value.h"

namespace limpet::engine::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct Arguments {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
};

struct Expression {
  enum class Kind : uint8_t {
    constant,     // value
    name,         // text
    list,         // operands
    tuple,        // operands
    dict,         // operands: key, value, key, value, ...
    unary,        // text: not, -, +
    binary,       // text: or, and, +, -, ~, *, /, //, %, **
    chain,        // operands[0] operators[0] operands[1] operators[1] ...: a < b < c
    conditional,  // operands: then, if, else (else may be absent)
    attribute,    // operands[0].text
    subscript,    // operands[0][operands[1]]
    slice,        // operands[0][[1]:[2]:[3]], each of these may be null
    call,         // operands[0](arguments)
    filter,       // operands[0] | text(arguments)
    test          // operands[0] is [not] text(arguments)
  };
  Kind kind = Kind::constant;
  int depth = 1;  // of the tree
  std::string text;
  std::vector<std::string> operators;
  Value value;
  bool negated = false;
  std::vector<ExpressionPointer> operands;
  Arguments arguments;
};

struct Statement;
using Block = std::vector<Statement>;

struct MacroCode {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPointer>> parameters;  // default or null
  Block body;
};

struct Statement {
  enum class Kind : uint8_t {
    text,          // text
    output,        // expression
    condition,     // branches: (expression or null, body), the first that is true
    loop,          // targets in expression if filter: body else otherwise
    set,           // targets = expression
    set_block,     // targets[0] = body, through expression's filters when there is one
    filter_block,  // body through expression's filters
    macro,         // macro
    block,         // body
    stop,          // break
    skip           // continue
  };
  struct Target {
    std::string name, attribute;  // attribute: of a namespace, or empty
  };
  Kind kind = Kind::text;
  int line = 1;
  std::string text;
  std::vector<Target> targets;
  ExpressionPointer expression, filter;
  std::vector<std::pair<ExpressionPointer, Block>> branches;
  Block body, otherwise;
  std::unique_ptr<MacroCode> macro;
};

// In the filters of set_block and filter_block this name is the block's text.
inline constexpr const char* kBlockText = "(block)";

}  // namespace limpet::engine::jinja
