// `limpet tokenize`: text to token ids and back, by a model's tokenizer, a JSON line at a time.
#pragma once
#include <iosfwd>
#include <string>
#include <string_view>

#include "engine/tokenizer.h"

namespace limpet::client {

struct TokenizeOptions {
  bool decode = false;       // {"ids": [...]} to {"text": "..."}; else the other way
  bool with_special = true;  // encoding: with the tokens that the post-processor puts around
};

// {"text": "..."} to {"ids": [...]}, or back; without the line's end. Decoded text shows special
// tokens as they are written. Throws std::runtime_error that says what is wrong with the line.
std::string tokenize_line(const engine::Tokenizer& tokenizer, std::string_view line,
                          const TokenizeOptions& options);

// Every line of `in` but empty ones, each answered as soon as it is read. Throws with the number
// of the first bad line.
void tokenize_lines(const engine::Tokenizer& tokenizer, std::istream& in, std::ostream& out,
                    const TokenizeOptions& options);

// The command. Exit status: 0 fine, 1 failed, 2 wrong usage.
int tokenize_main(int argc, char** argv);

}  // namespace limpet::client
