// Byte-pair encoding (Sennrich et al. 2016): merges a piece's symbols, lowest rank first.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/token.h"

namespace limpet::engine {

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
using Vocabulary = std::unordered_map<std::string, Token, TextHash, std::equal_to<>>;

// The printable character that stands for each byte in the vocabulary of a byte-level tokenizer
// (GPT-2's bytes_to_unicode), and the bytes that a token's content stands for: false when it has
// a character that stands for none.
char32_t byte_level_character(unsigned char byte);
bool byte_level_bytes(std::string_view content, std::string& bytes);

class Bpe {
 public:
  struct Merge {
    Token left, right, merged;  // in order of rank
  };
  struct Options {
    bool byte_level = false;     // symbols are bytes; else characters
    bool byte_fallback = false;  // a character that is not in the vocabulary becomes its bytes
    bool fuse_unknown = false;
    bool ignore_merges = false;  // a piece that is in the vocabulary as a whole is that token
    Token unknown = -1;          // -1: characters that are not in the vocabulary vanish
  };

  Bpe(const Options& options, const Vocabulary& vocabulary, const std::vector<Merge>& merges);

  // Reused between pieces.
  struct Scratch {
    struct Symbol {
      Token id;
      int32_t previous, next;  // -1: none
    };
    struct Pair {
      int32_t rank, position;
      Token merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Pair> heap;
  };
  // Appends the piece's tokens. Time n log n in its bytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<Token>& ids) const;

 private:
  struct Entry {
    uint64_t key;
    int32_t rank;
    Token merged;
  };
  const Entry* find(Token left, Token right) const;
  void symbolize(std::string_view piece, Scratch& scratch) const;
  void push_pair(Scratch& scratch, int32_t position) const;
  void merge(Scratch& scratch) const;

  Options options_;
  std::array<Token, 256> bytes_{};  // byte level: the byte's token; else the fallback's; or -1
  Vocabulary pieces_;               // characters, or whole pieces; as the text spells them
  std::vector<Entry> table_;        // open addressing; a power of two, at most half full
};

}  // namespace limpet::engine
