#include "engine/chat_template_parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "engine/chat_template_expression.h"
#include "engine/chat_template_lexer.h"

namespace limpet::engine::jinja {
namespace {

using Kind = Statement::Kind;

class StatementParser {
 public:
  explicit StatementParser(TokenStream& tokens) : tokens_(tokens), expressions_(tokens) {}

  Block run() {
    Block block = parse_until({});
    if (tokens_.current().kind != TokenKind::end) tokens_.fail("unexpected end of a block");
    return block;
  }

 private:
  // Statements up to one of these block names (which stays the current token), or the end.
  Block parse_until(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(tokens_);
    Block block;
    for (;;) {
      const TemplateToken& token = tokens_.current();
      switch (token.kind) {
        case TokenKind::end:
          if (ends.size() > 0) {
            tokens_.fail("the template ends where {% " + std::string(*ends.begin()) +
                         " %} is expected");
          }
          return block;
        case TokenKind::text:
          block.push_back(start(Kind::text));
          block.back().text = token.value;
          tokens_.next();
          break;
        case TokenKind::output_begin:
          block.push_back(start(Kind::output));
          tokens_.next();
          block.back().expression = expressions_.parse_tuple();
          tokens_.expect(TokenKind::output_end, "}}");
          break;
        default:
          tokens_.expect(TokenKind::block_begin, "{%");
          for (std::string_view end : ends) {
            if (tokens_.is_name(end)) return block;
          }
          parse_statement(block);
      }
    }
  }

  Statement start(Kind kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = tokens_.current().line;
    return statement;
  }
  void close() { tokens_.expect(TokenKind::block_end, "%}"); }
  void close_with(std::string_view name) {
    tokens_.expect_name(name);
    close();
  }

  void parse_statement(Block& block) {
    if (tokens_.current().kind != TokenKind::name) tokens_.fail("a block needs a name");
    const std::string name = tokens_.current().value;
    if (name == "if") {
      block.push_back(parse_if());
    } else if (name == "for") {
      block.push_back(parse_for());
    } else if (name == "set") {
      block.push_back(parse_set());
    } else if (name == "macro") {
      block.push_back(parse_macro());
    } else if (name == "filter") {
      block.push_back(parse_filter());
    } else if (name == "generation") {  // marks what the assistant says; has no other effect
      block.push_back(start(Kind::block));
      tokens_.next();
      close();
      block.back().body = parse_until({"endgeneration"});
      close_with("endgeneration");
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) tokens_.fail("{% " + name + " %} outside of a loop");
      block.push_back(start(name == "break" ? Kind::stop : Kind::skip));
      tokens_.next();
      close();
    } else {
      tokens_.fail("the block {% " + name + " %} is unknown or out of place");
    }
  }

  Statement parse_if() {
    Statement statement = start(Kind::condition);
    tokens_.expect_name("if");
    for (;;) {
      ExpressionPointer test = expressions_.parse_tuple(false);
      close();
      statement.branches.emplace_back(std::move(test), parse_until({"endif", "elif", "else"}));
      if (!tokens_.is_name("elif")) break;
      tokens_.next();
    }
    if (tokens_.is_name("else")) {
      tokens_.next();
      close();
      statement.branches.emplace_back(nullptr, parse_until({"endif"}));
    }
    close_with("endif");
    return statement;
  }

  Statement parse_for() {
    Statement statement = start(Kind::loop);
    tokens_.expect_name("for");
    statement.targets = parse_targets(false);
    tokens_.expect_name("in");
    statement.expression = expressions_.parse_tuple(false);
    if (tokens_.is_name("if")) {
      tokens_.next();
      statement.filter = expressions_.parse();
    }
    if (tokens_.is_name("recursive")) tokens_.fail("recursive loops are not supported");
    close();
    ++loops_;
    statement.body = parse_until({"endfor", "else"});
    --loops_;
    if (tokens_.is_name("else")) {
      tokens_.next();
      close();
      statement.otherwise = parse_until({"endfor"});
    }
    close_with("endfor");
    return statement;
  }

  // name, name / (name, name) / name.attribute
  std::vector<Statement::Target> parse_targets(bool attributes) {
    std::vector<Statement::Target> targets;
    const bool bracketed = tokens_.take_symbol("(");
    do {
      if (bracketed && tokens_.is_symbol(")")) break;
      targets.push_back({tokens_.take_name(), ""});
      if (attributes && tokens_.take_symbol(".")) targets.back().attribute = tokens_.take_name();
    } while (tokens_.take_symbol(","));
    if (bracketed) tokens_.expect_symbol(")");
    return targets;
  }

  // The filters that follow, applied to the block's text.
  ExpressionPointer parse_block_filters(bool bare) {
    ExpressionPointer text = expressions_.make(Expression::Kind::name);
    text->text = kBlockText;
    return expressions_.parse_filters(std::move(text), bare);
  }

  Statement parse_set() {
    Statement statement = start(Kind::set);
    tokens_.expect_name("set");
    statement.targets = parse_targets(true);
    if (tokens_.take_symbol("=")) {
      statement.expression = expressions_.parse_tuple();
      close();
      return statement;
    }
    if (statement.targets.size() != 1) tokens_.fail("expected = after the names to set");
    statement.kind = Kind::set_block;
    statement.expression = parse_block_filters(false);
    close();
    statement.body = parse_until({"endset"});
    close_with("endset");
    return statement;
  }

  Statement parse_filter() {
    Statement statement = start(Kind::filter_block);
    tokens_.expect_name("filter");
    statement.expression = parse_block_filters(true);
    close();
    statement.body = parse_until({"endfilter"});
    close_with("endfilter");
    return statement;
  }

  Statement parse_macro() {
    Statement statement = start(Kind::macro);
    tokens_.expect_name("macro");
    statement.macro = std::make_unique<MacroCode>();
    MacroCode& macro = *statement.macro;
    macro.name = tokens_.take_name();
    tokens_.expect_symbol("(");
    while (!tokens_.take_symbol(")")) {
      std::string name = tokens_.take_name();
      ExpressionPointer otherwise;
      if (tokens_.take_symbol("=")) otherwise = expressions_.parse();
      macro.parameters.emplace_back(std::move(name), std::move(otherwise));
      if (!tokens_.is_symbol(")")) tokens_.expect_symbol(",");
    }
    close();
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_until({"endmacro"});
    loops_ = loops;
    close_with("endmacro");
    return statement;
  }

  TokenStream& tokens_;
  ExpressionParser expressions_;
  int loops_ = 0;  // around
};

}  // namespace

Block parse_template(std::string_view source) {
  if (source.size() > kMaxTemplate) throw TemplateError("the template is too large");
  TokenStream tokens(tokenize_template(source));
  return StatementParser(tokens).run();
}

}  // namespace limpet::engine::jinja
