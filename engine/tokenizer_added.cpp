#include "engine/tokenizer_added.h"

#include <utf8proc.h>

#include <algorithm>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

bool is_space(char32_t c) {
  if ((c >= 0x09 && c <= 0x0D) || c == 0x85) return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP;
}

// \w of the reference's regular expressions: what is alphabetic (Unicode 16, DerivedCoreProperties:
// letters, letter numbers, and letters in circles and squares), marks, digits, connectors, joiners.
bool is_word(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  const auto within = [c](char32_t first, char32_t last) { return c >= first && c <= last; };
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC || within(0x24B6, 0x24E9) || within(0x1F130, 0x1F149) ||
         within(0x1F150, 0x1F169) || within(0x1F170, 0x1F189) || within(0x200C, 0x200D);
}

char32_t last_character(std::string_view text, size_t* length) {
  size_t n = 1;
  while (n < text.size() && n < 4 && (text[text.size() - n] & 0xC0) == 0x80) ++n;
  *length = n;
  return utf8_step(text.substr(text.size() - n)).character;
}

size_t spaces_at_end(std::string_view text) {
  size_t taken = 0, length = 0;
  while (taken < text.size()) {
    if (!is_space(last_character(text.substr(0, text.size() - taken), &length))) break;
    taken += length;
  }
  return taken;
}

size_t spaces_at_start(std::string_view text) {
  size_t taken = 0;
  while (taken < text.size()) {
    const Utf8Step step = utf8_step(text.substr(taken));
    if (!is_space(step.character)) break;
    taken += step.length;
  }
  return taken;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  size_t length = 0;
  const bool before = begin == 0 || !is_word(last_character(text.substr(0, begin), &length));
  return before && (end == text.size() || !is_word(utf8_step(text.substr(end)).character));
}

}  // namespace

AddedTokens::AddedTokens() : nodes_(1) { first_.fill(-1); }

int32_t AddedTokens::child(int32_t node, unsigned char byte) const {
  if (node == 0) return first_[byte];
  const auto& to = nodes_[static_cast<size_t>(node)].to;
  const auto it = std::lower_bound(to.begin(), to.end(), std::pair(byte, int32_t{0}));
  return it != to.end() && it->first == byte ? it->second : -1;
}

void AddedTokens::add(const AddedToken& token) {
  if (token.content.empty()) return;
  int32_t node = 0;
  for (char c : token.content) {
    const auto byte = static_cast<unsigned char>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0) {
        first_[byte] = next;
      } else {
        auto& to = nodes_[static_cast<size_t>(node)].to;
        to.insert(std::upper_bound(to.begin(), to.end(), std::pair(byte, int32_t{0})),
                  {byte, next});
      }
    }
    node = next;
  }
  Node& end = nodes_[static_cast<size_t>(node)];
  if (end.token >= 0) return;
  end.token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

const AddedToken* AddedTokens::longest_at(std::string_view text) const {
  const AddedToken* found = nullptr;
  int32_t node = 0;
  for (char c : text) {
    node = child(node, static_cast<unsigned char>(c));
    if (node < 0) break;
    const int32_t token = nodes_[static_cast<size_t>(node)].token;
    if (token >= 0) found = &tokens_[static_cast<size_t>(token)];
  }
  return found;
}

std::vector<AddedTokens::Segment> AddedTokens::split(std::string_view text) const {
  std::vector<Segment> segments;
  size_t from = 0;  // what is before it is in `segments`
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = longest_at(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin -= spaces_at_end(text.substr(from, begin - from));
    if (token->rstrip) end += spaces_at_start(text.substr(end));
    if (from < begin) segments.push_back({text.substr(from, begin - from), -1});
    segments.push_back({text.substr(begin, end - begin), token->id});
    from = at = end;
  }
  if (from < text.size()) segments.push_back({text.substr(from), -1});
  return segments;
}

}  // namespace limpet::engine
