#include "engine/tokenizer_bpe.h"

#include <algorithm>
#include <bit>

#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

constexpr uint64_t kEmpty = ~uint64_t{0};

uint64_t key_of(Token left, Token right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint64_t mixed(uint64_t key) {  // SplitMix64's finalizer
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  return key ^ (key >> 31);
}

constexpr bool stands_for_itself(unsigned b) {
  return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

constexpr std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> table{};
  char32_t next = 256;
  for (unsigned b = 0; b < 256; ++b) table[b] = stands_for_itself(b) ? b : next++;
  return table;
}
constexpr std::array<char32_t, 256> kByteCharacters = byte_characters();

constexpr std::array<int16_t, 512> character_bytes() {
  std::array<int16_t, 512> table{};
  table.fill(-1);
  for (unsigned b = 0; b < 256; ++b) table[kByteCharacters[b]] = static_cast<int16_t>(b);
  return table;
}
constexpr std::array<int16_t, 512> kCharacterBytes = character_bytes();

Token find_in(const Vocabulary& vocabulary, std::string_view content) {
  const auto it = vocabulary.find(content);
  return it == vocabulary.end() ? -1 : it->second;
}

std::string byte_token_content(unsigned byte) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  return std::string("<0x") + kHex[byte >> 4] + kHex[byte & 15] + ">";
}

// Lowest rank first; of equal ranks the leftmost.
bool later(const Bpe::Scratch::Pair& a, const Bpe::Scratch::Pair& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

char32_t byte_level_character(unsigned char byte) { return kByteCharacters[byte]; }

bool byte_level_bytes(std::string_view content, std::string& bytes) {
  bytes.clear();
  while (!content.empty()) {
    const Utf8Step step = utf8_step(content);
    if (!step.valid || step.character >= kCharacterBytes.size()) return false;
    const int16_t byte = kCharacterBytes[step.character];
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    content.remove_prefix(step.length);
  }
  return true;
}

Bpe::Bpe(const Options& options, const Vocabulary& vocabulary, const std::vector<Merge>& merges)
    : options_(options) {
  for (unsigned b = 0; b < 256; ++b) {
    std::string content;
    if (options.byte_level) {
      append_utf8(kByteCharacters[b], content);
    } else {
      content = byte_token_content(b);
    }
    bytes_[b] = find_in(vocabulary, content);
  }
  std::string bytes;
  for (const auto& [content, id] : vocabulary) {
    if (options.byte_level) {
      if (options.ignore_merges && byte_level_bytes(content, bytes)) pieces_[bytes] = id;
    } else if (options.ignore_merges || utf8_length(content) == 1) {
      pieces_[content] = id;
    }
  }
  table_.resize(std::bit_ceil(merges.size() * 2 + 2), Entry{kEmpty, 0, 0});
  const uint64_t mask = table_.size() - 1;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& m = merges[rank];
    const uint64_t key = key_of(m.left, m.right);
    uint64_t at = mixed(key) & mask;
    while (table_[at].key != kEmpty && table_[at].key != key) at = (at + 1) & mask;
    table_[at] = {key, static_cast<int32_t>(rank), m.merged};  // of equal pairs the last counts
  }
}

const Bpe::Entry* Bpe::find(Token left, Token right) const {
  const uint64_t key = key_of(left, right), mask = table_.size() - 1;
  for (uint64_t at = mixed(key) & mask; table_[at].key != kEmpty; at = (at + 1) & mask) {
    if (table_[at].key == key) return &table_[at];
  }
  return nullptr;
}

void Bpe::symbolize(std::string_view piece, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  const auto add = [&](Token id) {
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  };
  bool after_unknown = false;
  for (size_t i = 0; i < piece.size();) {
    const size_t length = options_.byte_level ? 1 : utf8_step(piece.substr(i)).length;
    const std::string_view character = piece.substr(i, length);
    i += length;
    const Token id = options_.byte_level ? bytes_[static_cast<unsigned char>(character[0])]
                                         : find_in(pieces_, character);
    const auto has_byte = [&](char b) { return bytes_[static_cast<unsigned char>(b)] >= 0; };
    const auto has_bytes = [&] {
      return std::all_of(character.begin(), character.end(), has_byte);
    };
    if (id >= 0) {
      add(id);
    } else if (options_.byte_fallback && has_bytes()) {
      for (char b : character) add(bytes_[static_cast<unsigned char>(b)]);
    } else {
      if (options_.unknown >= 0 && !(after_unknown && options_.fuse_unknown)) add(options_.unknown);
      after_unknown = true;
      continue;
    }
    after_unknown = false;
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::push_pair(Scratch& scratch, int32_t position) const {
  const auto& symbols = scratch.symbols;
  if (position < 0 || symbols[position].next < 0) return;
  const Entry* e = find(symbols[position].id, symbols[symbols[position].next].id);
  if (e == nullptr) return;
  scratch.heap.push_back({e->rank, position, e->merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), later);
}

void Bpe::merge(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) push_pair(scratch, static_cast<int32_t>(i));
  while (!heap.empty()) {
    const Scratch::Pair top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    auto& left = symbols[top.position];
    if (left.id < 0 || left.next < 0) continue;  // merged away since, or the last
    auto& right = symbols[left.next];
    const Entry* e = find(left.id, right.id);
    if (e == nullptr || e->merged != top.merged) continue;  // its neighbours have changed since
    left.id = e->merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    push_pair(scratch, left.previous);
    push_pair(scratch, top.position);
  }
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<Token>& ids) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    if (const Token id = find_in(pieces_, piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  symbolize(piece, scratch);
  merge(scratch);
  for (const auto& s : scratch.symbols) {
    if (s.id >= 0) ids.push_back(s.id);
  }
}

}  // namespace limpet::engine
