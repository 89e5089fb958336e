// UTF-8, a character at a time; bad sequences as the Unicode standard recommends (one U+FFFD for
// each maximal subpart, 3.9 "Best Practices for Using U+FFFD").
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace limpet::engine {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct Utf8Step {
  size_t length = 1;  // bytes taken, at least 1
  char32_t character = 0xFFFD;
  bool valid = false;
  bool incomplete = false;  // the text ends inside a character that could still be valid
};

// The first character of a text that is not empty.
Utf8Step utf8_step(std::string_view text);

bool valid_utf8(std::string_view text);
std::string replace_bad_utf8(std::string_view text);
void append_utf8(char32_t character, std::string& text);
size_t utf8_length(std::string_view text);  // characters (bad sequences count as one each)

}  // namespace limpet::engine
