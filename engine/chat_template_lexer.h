// A chat template's source as tokens, with Jinja's white-space rules as chat templates are
// rendered with: trim_blocks and lstrip_blocks on, the last newline dropped.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace limpet::engine::jinja {

enum class TokenKind : unsigned char {
  text,          // outside of tags
  output_begin,  // {{
  output_end,    // }}
  block_begin,   // {%
  block_end,     // %}
  name,
  string,  // its value, escapes resolved
  integer,
  real,
  symbol,  // an operator or a bracket
  end
};

struct TemplateToken {
  TokenKind kind = TokenKind::end;
  std::string value;
  int line = 1;
};

// Throws TemplateError with the line of what cannot be read.
std::vector<TemplateToken> tokenize_template(std::string_view source);

}  // namespace limpet::engine::jinja
