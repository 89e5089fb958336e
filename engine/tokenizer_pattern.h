// A compiled split pattern: PCRE2 with just-in-time compilation, over text that is valid UTF-8.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace limpet::engine {

class Pattern {
 public:
  struct Range {
    size_t begin, end;  // bytes
  };

  // A regular expression as tokenizer.json spells them (Oniguruma's syntax, of which the common
  // part is the same), or the text itself when `literal`. Throws std::runtime_error.
  Pattern(const std::string& source, bool literal);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // All matches in order, without overlap. May be called from any thread. Returns an error text
  // when the pattern exceeds its limits on this input; empty when all is well.
  std::string find_all(std::string_view text, std::vector<Range>& matches) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace limpet::engine
