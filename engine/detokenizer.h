// Token ids to text, one at a time: gives each character as soon as it is certain.
//
// A deterministic state machine, copyable, with no clock and no I/O: the same ids give the same
// pieces wherever they are fed. The pieces and finish() concatenate to Tokenizer::decode(ids).
// The tokenizer must outlive it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/tokenizer.h"

namespace limpet::engine {

class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, bool skip_special);

  // Appends to `text` what is certain with this token: whole UTF-8 characters. A tokenizer with
  // byte fallback decides on a run of byte tokens as a whole, so their text comes at its end.
  void push(Token id, std::string& text);

  // Appends what is left; incomplete bytes become U+FFFD as the reference decoders do. Call once.
  void finish(std::string& text);

 private:
  void close_byte_run(std::string& text);
  void append_whole_characters(std::string& text, bool at_end);
  void append_text(std::string_view characters, std::string& text);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool first_ = true;
  int32_t strip_left_;
  std::string pending_;  // bytes that are not characters yet
};

}  // namespace limpet::engine
