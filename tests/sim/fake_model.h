// A model whose every token depends on the whole transcript before it, so that work on a wrong
// transcript shows at once. Pure functions; the seed of a draw is the job's, as in the real one.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "schema/types.h"

namespace limpet::sim {

inline constexpr Token kVocab = 1000;

inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

inline Token next_token(std::span<const Token> transcript, uint64_t seed) {
  uint64_t h = mixed(seed + 0x9E3779B97F4A7C15ull * (transcript.size() + 1));
  for (const Token t : transcript) h = (h ^ static_cast<uint64_t>(t)) * 0x100000001B3ull;
  return static_cast<Token>(1 + mixed(h) % (kVocab - 1));
}

inline bool is_end(Token t) { return t % 13 == 0; }
inline std::string text_of(Token t) { return is_end(t) ? "" : "t" + std::to_string(t) + " "; }
inline std::string tail_after(Token t) { return is_end(t) ? "." : ""; }

}  // namespace limpet::sim
