#include "engine/chat_template_lexer.h"

#include <algorithm>
#include <array>

#include "engine/chat_template_value.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Newlines become \n, and the last one goes.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<TemplateToken> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag();
      add_text(tag);
      if (tag == std::string::npos) break;
      const char kind = source_[tag + 1];
      advance(tag + 2);
      // {%- strips before; {%+ keeps what lstrip_blocks would strip: add_text has looked.
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance(at_ + 1);
      if (kind == '#') {
        skip_comment();
      } else if (kind == '{') {
        lex_tag(TokenKind::output_begin, TokenKind::output_end, "}}");
      } else if (!lex_raw()) {
        lex_tag(TokenKind::block_begin, TokenKind::block_end, "%}");
      }
    }
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw TemplateError("line " + std::to_string(line_) + ": " + what);
  }
  void add(TokenKind kind, std::string value) {
    tokens_.push_back({kind, std::move(value), line_});
  }
  void advance(size_t to) {
    to = std::min(to, source_.size());
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool follows(std::string_view what) const { return rest().starts_with(what); }

  size_t next_tag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{') continue;
      const char kind = source_[i + 1];
      if (kind == '{' || kind == '%' || kind == '#') return i;
    }
    return std::string::npos;
  }

  // The text up to a tag (or the end), less what the tag strips before it.
  void add_text(size_t tag) {
    const bool last = tag == std::string::npos;
    std::string_view text = rest().substr(0, last ? std::string_view::npos : tag - at_);
    const std::string_view raw = text;
    if (!last) {
      const char kind = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        text = text.substr(0, text.find_last_not_of(kSpace) + 1);
      } else if (kind != '{' && sign != '+') {
        const size_t newline = text.rfind('\n');
        const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
        const bool at_line_start = newline != std::string_view::npos || line_start_;
        if (at_line_start && text.find_first_not_of(kSpace, begin) == std::string_view::npos) {
          text = text.substr(0, begin);
        }
      }
    }
    if (!text.empty()) add(TokenKind::text, std::string(text));
    advance(at_ + raw.size());
  }

  // After a tag's end: `stripped` by a minus; `newline` says that trim_blocks takes one.
  void after_tag(bool stripped, bool newline) {
    if (stripped) {
      const size_t next = source_.find_first_not_of(kSpace, at_);
      advance(next == std::string::npos ? source_.size() : next);
    } else if (newline && at_ < source_.size() && source_[at_] == '\n') {
      advance(at_ + 1);
    }
    line_start_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment {# is not closed");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    advance(end + 2);
    after_tag(sign == '-', sign != '+');
  }

  // Just after {% : a raw block goes whole into text; false when it is another block.
  bool lex_raw() {
    size_t i = source_.find_first_not_of(kSpace, at_);
    if (i == std::string::npos || source_.compare(i, 3, "raw") != 0) return false;
    i = source_.find_first_not_of(kSpace, i + 3);
    if (i == std::string::npos) return false;
    const bool strip = source_[i] == '-';
    if (strip) ++i;
    if (source_.compare(i, 2, "%}") != 0) return false;
    advance(i + 2);
    after_tag(strip, false);
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; tag += 2) {
      size_t name = tag + 2;
      if (name < source_.size() && (source_[name] == '-' || source_[name] == '+')) ++name;
      name = source_.find_first_not_of(kSpace, name);
      if (name == std::string::npos || source_.compare(name, 6, "endraw") != 0) continue;
      size_t close = source_.find_first_not_of(kSpace, name + 6);
      if (close == std::string::npos) continue;
      const char sign = source_[close];
      if (sign == '-' || sign == '+') ++close;
      if (source_.compare(close, 2, "%}") != 0) continue;
      add_text(tag);
      advance(close + 2);
      after_tag(sign == '-', sign != '+');
      return true;
    }
    fail("{% raw %} is not closed");
  }

  void lex_tag(TokenKind begin, TokenKind end, std::string_view close) {
    const int line = line_;
    add(begin, "");
    std::string open;  // brackets
    for (;;) {
      const size_t next = source_.find_first_not_of(kSpace, at_);
      if (next == std::string::npos) {
        line_ = line;
        fail("a tag is not closed");
      }
      advance(next);
      const bool signed_end = (follows("-") || follows("+")) && rest().substr(1).starts_with(close);
      if (open.empty() && (follows(close) || (signed_end && !(follows("+") && close == "}}")))) {
        const char sign = follows(close) ? ' ' : source_[at_];
        add(end, "");
        advance(at_ + close.size() + (sign == ' ' ? 0 : 1));
        after_tag(sign == '-', sign != '+' && end == TokenKind::block_end);
        return;
      }
      lex_inside(open);
    }
  }

  void lex_inside(std::string& open) {
    const char c = source_[at_];
    if (is_name_start(c)) {
      size_t end = at_ + 1;
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      add(TokenKind::name, source_.substr(at_, end - at_));
      advance(end);
    } else if (is_digit(c)) {
      lex_number();
    } else if (c == '"' || c == '\'') {
      lex_string();
    } else {
      lex_symbol(open);
    }
  }

  void lex_number() {
    size_t end = at_;
    std::string digits;
    bool real = false;
    const auto take_digits = [&] {
      for (; end < source_.size() && (is_digit(source_[end]) || source_[end] == '_'); ++end) {
        if (source_[end] != '_') digits += source_[end];
      }
    };
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit(source_[i]); };
    take_digits();
    if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      real = true;
      digits += source_[end++];
      take_digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool has_sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
      if (digit_at(end + (has_sign ? 2 : 1))) {
        real = true;
        digits += source_.substr(end, has_sign ? 2 : 1);
        end += has_sign ? 2 : 1;
        take_digits();
      }
    }
    add(real ? TokenKind::real : TokenKind::integer, digits);
    advance(end);
  }

  void lex_string() {
    const char quote = source_[at_];
    std::string value;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] == '\\' && i + 1 < source_.size()) {
        i = unescape(i + 1, value);
      } else {
        value += source_[i];
      }
    }
    if (i >= source_.size()) fail("a string is not closed");
    add(TokenKind::string, std::move(value));
    advance(i + 1);
  }

  // Python's escapes; `i` is after the backslash. Returns the last character's place.
  size_t unescape(size_t i, std::string& value) const {
    static constexpr std::string_view kFrom = "nrtabfv0\\'\"", kTo{"\n\r\t\a\b\f\v\0\\'\"", 11};
    const char c = source_[i];
    const size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (width > 0) {
      const std::string digits = source_.substr(i + 1, width);
      if (digits.size() == width &&
          digits.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos) {
        append_utf8(static_cast<char32_t>(std::stoul(digits, nullptr, 16)), value);
        return i + width;
      }
    }
    if (c == '\n') return i;  // a line that goes on
    const size_t at = kFrom.find(c);
    if (at == std::string_view::npos) {
      value += {'\\', c};
    } else {
      value += kTo[at];
    }
    return i;
  }

  void lex_symbol(std::string& open) {
    static constexpr std::array<std::string_view, 6> kPairs = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingles = "+-*/%~[](){}<>=.:|,;";
    for (std::string_view pair : kPairs) {
      if (follows(pair)) {
        add(TokenKind::symbol, std::string(pair));
        return advance(at_ + 2);
      }
    }
    const char c = source_[at_];
    if (kSingles.find(c) == std::string_view::npos) fail(std::string("unexpected character ") + c);
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char want = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open.empty() || open.back() != want) fail(std::string("unexpected ") + c);
      open.pop_back();
    }
    add(TokenKind::symbol, std::string(1, c));
    advance(at_ + 1);
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;
  std::vector<TemplateToken> tokens_;
};

}  // namespace

std::vector<TemplateToken> tokenize_template(std::string_view source) {
  return Lexer(normalized(source)).run();
}

}  // namespace limpet::engine::jinja
