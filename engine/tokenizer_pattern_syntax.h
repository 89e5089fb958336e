// A pattern as tokenizer.json spells it, Oniguruma's syntax with the tables of Unicode 16, in that
// of PCRE2 10.42, whose tables are Unicode 14's.
#pragma once
#include <string>

namespace limpet::engine {

// The pattern that matches the same to PCRE2 with UTF, UCP and MULTILINE. What PCRE2 would take for
// something else, and has no other spelling here, throws std::runtime_error that names it. A
// negated category in a class (\P{L}) still has what Unicode assigned since.
std::string to_pcre2(const std::string& source);

}  // namespace limpet::engine
