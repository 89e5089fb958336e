#include "engine/tokenizer_split.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace limpet::engine {
namespace {

using Range = Pattern::Range;

struct Part {
  Range range;
  bool delimiter;
};

// The whole text as alternating parts: matches, and what is between them.
std::vector<Part> parts_of(size_t size, const std::vector<Range>& matches, bool invert) {
  std::vector<Part> parts;
  size_t from = 0;
  for (const Range& m : matches) {
    if (from < m.begin) parts.push_back({{from, m.begin}, invert});
    parts.push_back({m, !invert});
    from = m.end;
  }
  if (from < size) parts.push_back({{from, size}, invert});
  return parts;
}

std::vector<Range> joined(const std::vector<Part>& parts, SplitBehavior behavior) {
  std::vector<Range> out;
  bool previous = false;  // the part before (in the direction of the walk) was a delimiter
  if (behavior == SplitBehavior::merged_with_next) {
    for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
      if (p->delimiter && !previous && !out.empty()) {
        out.back().begin = p->range.begin;
      } else {
        out.push_back(p->range);
      }
      previous = p->delimiter;
    }
    std::reverse(out.begin(), out.end());
    return out;
  }
  for (const Part& p : parts) {
    bool merge = false;
    if (behavior == SplitBehavior::merged_with_previous) merge = p.delimiter && !previous;
    if (behavior == SplitBehavior::contiguous) merge = p.delimiter == previous;
    if (behavior == SplitBehavior::removed && p.delimiter) continue;
    if (merge && !out.empty()) {
      out.back().end = p.range.end;
    } else {
      out.push_back(p.range);
    }
    previous = p.delimiter;
  }
  return out;
}

std::string apply(const SplitByPattern& step, Pieces& pieces) {
  std::vector<Range> out, matches;
  for (const Range& piece : pieces.ranges) {
    const size_t size = piece.end - piece.begin;
    const std::string_view text(pieces.text.data() + piece.begin, size);
    std::string error = step.pattern.find_all(text, matches);
    if (!error.empty()) return error;
    for (const Range& r : joined(parts_of(size, matches, step.invert), step.behavior)) {
      if (r.begin < r.end) out.push_back({piece.begin + r.begin, piece.begin + r.end});
    }
  }
  pieces.ranges = std::move(out);
  // What is removed at the start stays the start: what comes after it is not.
  if (!pieces.ranges.empty() && pieces.ranges.front().begin > 0) pieces.at_start = false;
  return "";
}

// Gives every piece a new text.
template <typename Rewrite>
void rewrite(Pieces& pieces, const Rewrite& rewrite_piece) {
  std::string text;
  for (Range& r : pieces.ranges) {
    const std::string_view old(pieces.text.data() + r.begin, r.end - r.begin);
    const size_t begin = text.size();
    rewrite_piece(old, text);
    r = {begin, text.size()};
  }
  pieces.text = std::move(text);
}

std::string apply(const SpacePrefix&, Pieces& pieces) {
  rewrite(pieces, [](std::string_view old, std::string& text) {
    if (!old.starts_with(' ')) text += ' ';
    text += old;
  });
  return "";
}

std::string apply(const Metaspace& step, Pieces& pieces) {
  bool first = pieces.at_start;
  rewrite(pieces, [&](std::string_view old, std::string& text) {
    const bool prepend = step.prepend == Metaspace::Prepend::always ||
                         (step.prepend == Metaspace::Prepend::first && first);
    first = false;
    if (prepend && !old.starts_with(' ') && !old.starts_with(step.replacement)) {
      text += step.replacement;
    }
    for (char c : old) {
      if (c == ' ') {
        text += step.replacement;
      } else {
        text += c;
      }
    }
  });
  if (!step.split) return "";
  std::vector<Range> out;
  for (const Range& r : pieces.ranges) {
    const std::string_view text(pieces.text.data(), r.end);
    size_t begin = r.begin;
    while (begin < r.end) {
      const size_t next = text.find(step.replacement, begin + 1);
      const size_t end = next == std::string_view::npos ? r.end : next;
      out.push_back({begin, end});
      begin = end;
    }
  }
  pieces.ranges = std::move(out);
  return "";
}

}  // namespace

std::string split(const std::vector<Splitter>& steps, Pieces& pieces, size_t max_bytes) {
  for (const Splitter& step : steps) {
    std::string error = std::visit([&](const auto& s) { return apply(s, pieces); }, step);
    if (!error.empty()) return error;
    if (pieces.text.size() > max_bytes) {
      return "pre-tokenized, the text is longer than the " + std::to_string(max_bytes) +
             " bytes that are left for it";
    }
  }
  return "";
}

}  // namespace limpet::engine
