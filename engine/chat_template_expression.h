// Parsing of a chat template's expressions, by recursive descent.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat_template_ast.h"
#include "engine/chat_template_lexer.h"

namespace limpet::engine::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<TemplateToken> tokens) : tokens_(std::move(tokens)) {}

  const TemplateToken& current() const { return tokens_[at_]; }
  void next() { at_ += at_ + 1 < tokens_.size() ? 1 : 0; }
  [[noreturn]] void fail(const std::string& what) const;

  bool is_name(std::string_view name) const;
  bool is_symbol(std::string_view symbol) const;
  bool take_name_if(std::string_view name);
  bool take_symbol(std::string_view symbol);
  std::string take_name();
  void expect(TokenKind kind, std::string_view shown);
  void expect_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  bool after_name(std::string_view first, std::string_view second) const;

 private:
  friend class Nesting;
  std::vector<TemplateToken> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

// One more level of recursion while it lives.
class Nesting {
 public:
  explicit Nesting(TokenStream& tokens);
  ~Nesting();
  Nesting(const Nesting&) = delete;

 private:
  TokenStream& tokens_;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  ExpressionPointer parse();  // with `a if b else c`
  ExpressionPointer parse_tuple(bool conditional = true);
  // `| filter` and `is test`, any number; `bare`: a filter's name comes first, without the bar.
  ExpressionPointer parse_filters(ExpressionPointer operand, bool bare);
  static ExpressionPointer make(Expression::Kind kind);

 private:
  using Level = ExpressionPointer (ExpressionParser::*)();
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_comparison();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concatenation();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_unary(bool with_filters = true);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_name();
  ExpressionPointer parse_number();
  ExpressionPointer parse_bracketed();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dict();
  ExpressionPointer parse_postfix(ExpressionPointer operand);
  ExpressionPointer parse_subscript(ExpressionPointer operand);
  ExpressionPointer parse_filter(ExpressionPointer operand);
  ExpressionPointer parse_test(ExpressionPointer operand);
  void parse_arguments(Expression& parent);

  ExpressionPointer left_to_right(std::initializer_list<std::string_view> symbols, Level operand);
  ExpressionPointer binary(std::string_view op, ExpressionPointer left, ExpressionPointer right);
  void deepen(Expression& parent, const Expression& child) const;
  void adopt(Expression& parent, ExpressionPointer child) const;

  TokenStream& tokens_;
};

}  // namespace limpet::engine::jinja
