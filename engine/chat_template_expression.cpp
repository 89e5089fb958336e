#include "engine/chat_template_expression.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "engine/chat_template_parser.h"

namespace limpet::engine::jinja {

using Kind = Expression::Kind;

// ---- Tokens ------------------------------------------------------------------------------------

void TokenStream::fail(const std::string& what) const {
  throw TemplateError("line " + std::to_string(current().line) + ": " + what);
}
bool TokenStream::is_name(std::string_view name) const {
  return current().kind == TokenKind::name && current().value == name;
}
bool TokenStream::is_symbol(std::string_view symbol) const {
  return current().kind == TokenKind::symbol && current().value == symbol;
}
bool TokenStream::take_name_if(std::string_view name) {
  if (!is_name(name)) return false;
  next();
  return true;
}
bool TokenStream::take_symbol(std::string_view symbol) {
  if (!is_symbol(symbol)) return false;
  next();
  return true;
}
std::string TokenStream::take_name() {
  if (current().kind != TokenKind::name) fail("expected a name");
  std::string name = current().value;
  next();
  return name;
}
void TokenStream::expect(TokenKind kind, std::string_view shown) {
  if (current().kind != kind) {
    fail("expected " + std::string(shown) +
         (current().value.empty() ? "" : ", not " + current().value.substr(0, 40)));
  }
  next();
}
void TokenStream::expect_name(std::string_view name) {
  if (!take_name_if(name)) fail("expected " + std::string(name));
}
void TokenStream::expect_symbol(std::string_view symbol) {
  if (!take_symbol(symbol)) fail("expected " + std::string(symbol));
}
bool TokenStream::after_name(std::string_view first, std::string_view second) const {
  if (!is_name(first) || at_ + 1 >= tokens_.size()) return false;
  const TemplateToken& after = tokens_[at_ + 1];
  return after.kind == TokenKind::name && after.value == second;
}

Nesting::Nesting(TokenStream& tokens) : tokens_(tokens) {
  if (++tokens_.depth_ > kMaxParseDepth) {
    --tokens_.depth_;
    tokens_.fail("nested too deeply");
  }
}
Nesting::~Nesting() { --tokens_.depth_; }

// ---- Building ----------------------------------------------------------------------------------

ExpressionPointer ExpressionParser::make(Kind kind) {
  auto e = std::make_unique<Expression>();
  e->kind = kind;
  return e;
}

// A chain of operators makes a deep tree without any recursion here, so depth is counted.
void ExpressionParser::deepen(Expression& parent, const Expression& child) const {
  parent.depth = std::max(parent.depth, child.depth + 1);
  if (parent.depth > 2 * kMaxParseDepth) tokens_.fail("the expression is too long");
}

void ExpressionParser::adopt(Expression& parent, ExpressionPointer child) const {
  if (child != nullptr) deepen(parent, *child);
  parent.operands.push_back(std::move(child));
}

ExpressionPointer ExpressionParser::binary(std::string_view op, ExpressionPointer left,
                                           ExpressionPointer right) {
  ExpressionPointer e = make(Kind::binary);
  e->text = op;
  adopt(*e, std::move(left));
  adopt(*e, std::move(right));
  return e;
}

ExpressionPointer ExpressionParser::left_to_right(std::initializer_list<std::string_view> symbols,
                                                  Level operand) {
  ExpressionPointer left = (this->*operand)();
  for (;;) {
    const auto found = std::find_if(symbols.begin(), symbols.end(),
                                    [&](std::string_view s) { return tokens_.is_symbol(s); });
    if (found == symbols.end()) return left;
    tokens_.next();
    left = binary(*found, std::move(left), (this->*operand)());
  }
}

// ---- Levels, loosest first ---------------------------------------------------------------------

ExpressionPointer ExpressionParser::parse_tuple(bool conditional) {
  const auto ends = [this] {
    const TokenKind kind = tokens_.current().kind;
    return kind == TokenKind::block_end || kind == TokenKind::output_end ||
           tokens_.is_symbol(")") || tokens_.is_name("in") || tokens_.is_name("if") ||
           tokens_.is_name("recursive");
  };
  const auto item = [&] { return conditional ? parse() : parse_or(); };
  ExpressionPointer first = item();
  if (!tokens_.is_symbol(",")) return first;
  ExpressionPointer tuple = make(Kind::tuple);
  adopt(*tuple, std::move(first));
  while (tokens_.take_symbol(",") && !ends()) adopt(*tuple, item());
  return tuple;
}

ExpressionPointer ExpressionParser::parse() {
  const Nesting nesting(tokens_);
  ExpressionPointer value = parse_or();
  while (tokens_.take_name_if("if")) {
    ExpressionPointer e = make(Kind::conditional);
    adopt(*e, std::move(value));
    adopt(*e, parse_or());
    if (tokens_.take_name_if("else")) adopt(*e, parse());
    value = std::move(e);
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer left = parse_and();
  while (tokens_.take_name_if("or")) left = binary("or", std::move(left), parse_and());
  return left;
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer left = parse_not();
  while (tokens_.take_name_if("and")) left = binary("and", std::move(left), parse_not());
  return left;
}

ExpressionPointer ExpressionParser::parse_not() {
  if (!tokens_.is_name("not")) return parse_comparison();
  const Nesting nesting(tokens_);
  ExpressionPointer e = make(Kind::unary);
  tokens_.next();
  e->text = "not";
  adopt(*e, parse_not());
  return e;
}

ExpressionPointer ExpressionParser::parse_comparison() {
  static constexpr std::string_view kOperators[] = {"==", "!=", "<=", ">=", "<", ">"};
  ExpressionPointer left = parse_sum();
  ExpressionPointer chain;
  for (;;) {
    std::string op;
    for (std::string_view candidate : kOperators) {
      if (tokens_.is_symbol(candidate)) op = candidate;
    }
    if (tokens_.is_name("in")) op = "in";
    if (tokens_.after_name("not", "in")) {
      op = "not in";
      tokens_.next();
    }
    if (op.empty()) return chain != nullptr ? std::move(chain) : std::move(left);
    tokens_.next();
    if (chain == nullptr) {
      chain = make(Kind::chain);
      adopt(*chain, std::move(left));
    }
    chain->operators.push_back(op);
    adopt(*chain, parse_sum());
  }
}

ExpressionPointer ExpressionParser::parse_sum() {
  return left_to_right({"+", "-"}, &ExpressionParser::parse_concatenation);
}
ExpressionPointer ExpressionParser::parse_concatenation() {
  return left_to_right({"~"}, &ExpressionParser::parse_product);
}
ExpressionPointer ExpressionParser::parse_product() {
  return left_to_right({"*", "//", "/", "%"}, &ExpressionParser::parse_power);
}
ExpressionPointer ExpressionParser::parse_power() {
  ExpressionPointer left = parse_unary();
  while (tokens_.take_symbol("**")) left = binary("**", std::move(left), parse_unary());
  return left;
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filters) {
  const Nesting nesting(tokens_);
  ExpressionPointer e;
  if (tokens_.is_symbol("-") || tokens_.is_symbol("+")) {
    e = make(Kind::unary);
    e->text = tokens_.current().value;
    tokens_.next();
    adopt(*e, parse_unary(false));
  } else {
    e = parse_primary();
  }
  e = parse_postfix(std::move(e));
  return with_filters ? parse_filters(std::move(e), false) : std::move(e);
}

// ---- Primaries ---------------------------------------------------------------------------------

ExpressionPointer ExpressionParser::parse_primary() {
  const TemplateToken& token = tokens_.current();
  if (token.kind == TokenKind::name) return parse_name();
  if (token.kind == TokenKind::integer || token.kind == TokenKind::real) return parse_number();
  if (token.kind == TokenKind::string) {
    ExpressionPointer e = make(Kind::constant);
    std::string text;
    for (; tokens_.current().kind == TokenKind::string; tokens_.next()) {
      text += tokens_.current().value;  // neighbours are one
    }
    e->value = Value::text(std::move(text));
    return e;
  }
  if (tokens_.is_symbol("(")) return parse_bracketed();
  if (tokens_.is_symbol("[")) return parse_list();
  if (tokens_.is_symbol("{")) return parse_dict();
  tokens_.fail(token.value.empty() ? "an expression is missing" : "unexpected " + token.value);
}

ExpressionPointer ExpressionParser::parse_name() {
  ExpressionPointer e = make(Kind::constant);
  const std::string name = tokens_.take_name();
  if (name == "true" || name == "True") {
    e->value = Value(true);
  } else if (name == "false" || name == "False") {
    e->value = Value(false);
  } else if (name == "none" || name == "None") {
    e->value = Value(None{});
  } else {
    e->kind = Kind::name;
    e->text = name;
  }
  return e;
}

ExpressionPointer ExpressionParser::parse_number() {
  ExpressionPointer e = make(Kind::constant);
  const std::string& digits = tokens_.current().value;
  if (tokens_.current().kind == TokenKind::real) {
    e->value = Value(std::strtod(digits.c_str(), nullptr));
  } else {
    int64_t integer = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), integer);
    if (error != std::errc()) tokens_.fail("the number " + digits.substr(0, 40) + " is too large");
    e->value = Value(integer);
  }
  tokens_.next();
  return e;
}

ExpressionPointer ExpressionParser::parse_bracketed() {
  tokens_.expect_symbol("(");
  if (tokens_.take_symbol(")")) return make(Kind::tuple);
  ExpressionPointer e = parse_tuple();
  tokens_.expect_symbol(")");
  return e;
}

ExpressionPointer ExpressionParser::parse_list() {
  ExpressionPointer e = make(Kind::list);
  tokens_.expect_symbol("[");
  while (!tokens_.take_symbol("]")) {
    adopt(*e, parse());
    if (!tokens_.is_symbol("]")) tokens_.expect_symbol(",");
  }
  return e;
}

ExpressionPointer ExpressionParser::parse_dict() {
  ExpressionPointer e = make(Kind::dict);
  tokens_.expect_symbol("{");
  while (!tokens_.take_symbol("}")) {
    adopt(*e, parse());
    tokens_.expect_symbol(":");
    adopt(*e, parse());
    if (!tokens_.is_symbol("}")) tokens_.expect_symbol(",");
  }
  return e;
}

// ---- What follows an operand -------------------------------------------------------------------

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer operand) {
  for (;;) {
    if (tokens_.take_symbol(".")) {
      ExpressionPointer e = make(Kind::attribute);
      if (tokens_.current().kind == TokenKind::integer) {  // items.0 is items[0]
        e->kind = Kind::subscript;
        adopt(*e, std::move(operand));
        adopt(*e, parse_number());
      } else {
        e->text = tokens_.take_name();
        adopt(*e, std::move(operand));
      }
      operand = std::move(e);
    } else if (tokens_.is_symbol("[")) {
      operand = parse_subscript(std::move(operand));
    } else if (tokens_.is_symbol("(")) {
      ExpressionPointer e = make(Kind::call);
      adopt(*e, std::move(operand));
      parse_arguments(*e);
      operand = std::move(e);
    } else {
      return operand;
    }
  }
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer operand) {
  ExpressionPointer e = make(Kind::subscript);
  tokens_.expect_symbol("[");
  adopt(*e, std::move(operand));
  const auto bound = [this]() -> ExpressionPointer {
    return tokens_.is_symbol(":") || tokens_.is_symbol("]") ? nullptr : parse();
  };
  adopt(*e, bound());
  while (tokens_.take_symbol(":")) {
    e->kind = Kind::slice;
    adopt(*e, bound());
  }
  tokens_.expect_symbol("]");
  if (e->kind == Kind::slice) {
    if (e->operands.size() > 4) tokens_.fail("a slice has at most three parts");
    e->operands.resize(4);
  } else if (e->operands[1] == nullptr) {
    tokens_.fail("an index is missing");
  }
  return e;
}

void ExpressionParser::parse_arguments(Expression& parent) {
  Arguments& arguments = parent.arguments;
  const auto checked = [&](ExpressionPointer value) {
    deepen(parent, *value);
    return value;
  };
  tokens_.expect_symbol("(");
  while (!tokens_.take_symbol(")")) {
    if (tokens_.is_symbol("*") || tokens_.is_symbol("**")) {
      tokens_.fail("arguments by * and ** are not supported");
    }
    ExpressionPointer value = parse();
    if (value->kind == Kind::name && tokens_.take_symbol("=")) {
      arguments.named.emplace_back(value->text, checked(parse()));
    } else {
      if (!arguments.named.empty()) tokens_.fail("an unnamed argument after a named one");
      arguments.positional.push_back(checked(std::move(value)));
    }
    if (!tokens_.is_symbol(")")) tokens_.expect_symbol(",");
  }
}

ExpressionPointer ExpressionParser::parse_filters(ExpressionPointer operand, bool bare) {
  if (bare) operand = parse_filter(std::move(operand));
  for (;;) {
    if (tokens_.take_symbol("|")) {
      operand = parse_filter(std::move(operand));
    } else if (tokens_.take_name_if("is")) {
      operand = parse_test(std::move(operand));
    } else if (tokens_.is_symbol("(")) {
      ExpressionPointer e = make(Kind::call);
      adopt(*e, std::move(operand));
      parse_arguments(*e);
      operand = std::move(e);
    } else {
      return operand;
    }
  }
}

ExpressionPointer ExpressionParser::parse_filter(ExpressionPointer operand) {
  ExpressionPointer e = make(Kind::filter);
  e->text = tokens_.take_name();
  adopt(*e, std::move(operand));
  if (tokens_.is_symbol("(")) parse_arguments(*e);
  return e;
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer operand) {
  ExpressionPointer e = make(Kind::test);
  e->negated = tokens_.take_name_if("not");
  e->text = tokens_.take_name();
  adopt(*e, std::move(operand));
  if (tokens_.is_symbol("(")) {
    parse_arguments(*e);
    return e;
  }
  const TemplateToken& token = tokens_.current();
  const bool word = token.kind == TokenKind::name && !tokens_.is_name("else") &&
                    !tokens_.is_name("or") && !tokens_.is_name("and") && !tokens_.is_name("is") &&
                    !tokens_.is_name("if") && !tokens_.is_name("in") && !tokens_.is_name("not");
  const bool literal = token.kind == TokenKind::string || token.kind == TokenKind::integer ||
                       token.kind == TokenKind::real || tokens_.is_symbol("[") ||
                       tokens_.is_symbol("{");
  if (word || literal) {  // `is divisibleby 3`
    const Nesting nesting(tokens_);
    e->arguments.positional.push_back(parse_postfix(parse_primary()));
    deepen(*e, *e->arguments.positional.back());
  }
  return e;
}

}  // namespace limpet::engine::jinja
