// tokenizer.json's normalizers: steps that rewrite text before it is split.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/tokenizer_pattern.h"

namespace limpet::engine {

struct UnicodeForm {  // NFC, NFD, NFKC, NFKD (Unicode annex 15)
  bool compose = true;
  bool compatibility = false;
};
struct PrependText {  // to a text that is not empty
  std::string text;
};
struct ReplaceText {
  Pattern pattern;
  std::string with;
};
using Normalizer = std::variant<UnicodeForm, PrependText, ReplaceText>;

// `text` is valid UTF-8; so is what it becomes. Linear in its size but for the ordering of runs
// of combining marks (n log n). Returns an error text, empty when all is well: a step that would
// make the text longer than `max_bytes` (or, decomposed, more characters) is not taken.
std::string normalize(const std::vector<Normalizer>& steps, std::string& text, size_t max_bytes);

}  // namespace limpet::engine
