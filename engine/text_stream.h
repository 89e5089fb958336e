// A job's output as text: streaming detokenization and stop strings.
//
// Deterministic and copyable: another worker that takes over pushes the same ids, ignores the
// pieces, and goes on. Special tokens give no text. Without a stop string in the output, the
// pieces and finish() concatenate to Tokenizer::decode(ids, skip_special=true). The tokenizer
// must outlive the stream.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "engine/detokenizer.h"

namespace limpet::engine {

class TextStream {
 public:
  struct Piece {
    std::string text;      // certain now: whole characters, nothing that may begin a stop string
    bool stopped = false;  // a stop string is complete; text before it only, and no more to come
  };

  // `stops`: at most a few dozen short strings. Empty ones, and ones that are not UTF-8 (no
  // text can contain them), are ignored. The stop that completes first wins; of several that
  // complete at the same byte, the longest.
  TextStream(const Tokenizer& tokenizer, std::span<const std::string> stops);

  Piece push(Token id);  // nothing after a stop
  Piece finish();        // the rest; call once, at the end
  bool stopped() const { return stopped_; }

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t> fallback;  // Knuth-Morris-Pratt
    uint32_t matched = 0;
  };
  Piece scan(std::string_view fresh);

  Detokenizer detokenizer_;
  std::vector<Stop> stops_;
  std::string held_;  // a possible beginning of a stop string
  bool stopped_ = false;
};

}  // namespace limpet::engine
