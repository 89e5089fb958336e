// tokenizer.json's pre-tokenizers: steps that cut text into the pieces that are encoded alone.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "engine/tokenizer_pattern.h"

namespace limpet::engine {

enum class SplitBehavior : uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous
};

struct SplitByPattern {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // what does not match is the delimiter
};
struct SpacePrefix {};  // a space before each piece that begins with none (byte level)
struct Metaspace {
  enum class Prepend : uint8_t { always, first, never };
  std::string replacement;  // for each space; one character
  Prepend prepend = Prepend::always;
  bool split = true;  // before each replacement
};
using Splitter = std::variant<SplitByPattern, SpacePrefix, Metaspace>;

struct Pieces {
  std::string text;
  std::vector<Pattern::Range> ranges;  // in order, none of them empty
  bool at_start = true;                // the first one begins where the whole input does
};

// Cuts every piece by each step in turn. Returns an error text, empty when all is well: a step
// must not leave more than `max_bytes` of text.
std::string split(const std::vector<Splitter>& steps, Pieces& pieces, size_t max_bytes);

}  // namespace limpet::engine
