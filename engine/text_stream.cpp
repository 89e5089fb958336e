#include "engine/text_stream.h"

#include <algorithm>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

// fallback[i]: the longest proper prefix of text[0..i] that is also its suffix.
std::vector<uint32_t> fallbacks(const std::string& text) {
  std::vector<uint32_t> fallback(text.size(), 0);
  uint32_t matched = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (matched > 0 && text[i] != text[matched]) matched = fallback[matched - 1];
    if (text[i] == text[matched]) ++matched;
    fallback[i] = matched;
  }
  return fallback;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::span<const std::string> stops)
    : detokenizer_(tokenizer, true) {
  for (const std::string& stop : stops) {
    if (!stop.empty() && valid_utf8(stop)) stops_.push_back({stop, fallbacks(stop), 0});
  }
}

TextStream::Piece TextStream::scan(std::string_view fresh) {
  for (char c : fresh) {
    held_ += c;
    size_t hit = 0;
    for (Stop& s : stops_) {
      while (s.matched > 0 && s.text[s.matched] != c) s.matched = s.fallback[s.matched - 1];
      if (s.text[s.matched] == c) ++s.matched;
      if (s.matched == s.text.size()) hit = std::max(hit, s.text.size());
    }
    if (hit > 0) {
      stopped_ = true;
      held_.resize(held_.size() - hit);
      return {std::move(held_), true};
    }
  }
  size_t keep = 0;
  for (const Stop& s : stops_) keep = std::max<size_t>(keep, s.matched);
  Piece piece{held_.substr(0, held_.size() - keep), false};
  held_.erase(0, held_.size() - keep);
  return piece;
}

TextStream::Piece TextStream::push(Token id) {
  if (stopped_) return {"", true};
  std::string fresh;
  detokenizer_.push(id, fresh);
  return scan(fresh);
}

TextStream::Piece TextStream::finish() {
  if (stopped_) return {"", true};
  std::string fresh;
  detokenizer_.finish(fresh);
  Piece piece = scan(fresh);
  if (!piece.stopped) piece.text += held_;
  held_.clear();
  return piece;
}

}  // namespace limpet::engine
