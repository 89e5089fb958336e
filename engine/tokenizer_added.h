// The added tokens of a tokenizer.json: strings that are found in text before anything else.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token.h"

namespace limpet::engine {

struct AddedToken {
  Token id = 0;
  std::string content;
  bool special = false;      // left out of decoded text on request
  bool normalized = false;   // searched for in normalized text, not in the text as given
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
};

// Finds a set of added tokens: leftmost first, of those the longest.
class AddedTokens {
 public:
  struct Segment {
    std::string_view text;
    Token id = -1;  // -1: text between added tokens
  };

  AddedTokens();
  void add(const AddedToken& token);  // a content that is empty, or there already, is ignored
  bool empty() const { return tokens_.empty(); }
  std::vector<Segment> split(std::string_view text) const;

 private:
  struct Node {
    int32_t token = -1;                                 // index in tokens_
    std::vector<std::pair<unsigned char, int32_t>> to;  // by byte
  };
  int32_t child(int32_t node, unsigned char byte) const;
  const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> first_;  // the root's children
};

}  // namespace limpet::engine
