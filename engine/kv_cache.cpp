#include "engine/kv_cache.h"

#include <algorithm>
#include <string>
#include <utility>
#include <stdexcept>

namespace limpet::engine {
namespace {

void check(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("kv cache: ") + what);
}

uint64_t mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15ull;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  return h ^ (h >> 31);
}

uint64_t content_hash(uint64_t parent, std::span<const Token> tokens) {
  uint64_t h = mix(0, parent);
  for (const Token t : tokens) h = mix(h, static_cast<uint32_t>(t));
  return h;
}

// Nodes are counted up from 1; roots have the top bit set, so the two never meet.
constexpr uint64_t kRootBit = 1ull << 63;

uint64_t root(uint64_t scope) {
  check(scope < kRootBit, "a scope is below 2^63");
  return kRootBit | scope;
}

}  // namespace

KvCache::KvCache(const Options& options) : options_(options) {
  check(options.page_tokens > 0 && options.pages > 0, "page_tokens and pages must be positive");
  pages_.resize(static_cast<size_t>(options.pages));
  blank_.reserve(pages_.size());
  for (int32_t p = options.pages - 1; p >= 0; --p) blank_.push_back(p);
}

KvCache::Sequence& KvCache::at(SequenceId id) {
  const auto it = sequences_.find(raw(id));
  check(it != sequences_.end(), "no such sequence");
  return it->second;
}

const KvCache::Sequence& KvCache::at(SequenceId id) const {
  const auto it = sequences_.find(raw(id));
  check(it != sequences_.end(), "no such sequence");
  return it->second;
}

SequenceId KvCache::create(uint64_t scope) {
  check(scope < kRootBit, "a scope is below 2^63");
  const uint64_t id = next_sequence_++;
  sequences_[id].scope = scope;
  return SequenceId{id};
}

void KvCache::destroy(SequenceId id) {
  truncate(id, 0);
  sequences_.erase(raw(id));
}

int64_t KvCache::length(SequenceId id) const { return std::ssize(at(id).tokens); }
std::span<const Token> KvCache::tokens(SequenceId id) const { return at(id).tokens; }
std::span<const int32_t> KvCache::page_table(SequenceId id) const { return at(id).pages; }

int64_t KvCache::pages_for(int64_t tokens) const {
  return (tokens + options_.page_tokens - 1) / options_.page_tokens;
}

bool KvCache::last_page_shared(const Sequence& s) const {
  const size_t length = s.tokens.size();
  const size_t width = static_cast<size_t>(options_.page_tokens);
  if (length % width == 0) return false;
  return pages_[static_cast<size_t>(s.pages[length / width])].references > 1;
}

int64_t KvCache::pages_needed(SequenceId id, int64_t new_tokens) const {
  const Sequence& s = at(id);
  check(new_tokens >= 0, "a negative number of tokens");
  if (new_tokens == 0) return 0;
  const int64_t more = pages_for(std::ssize(s.tokens) + new_tokens) - std::ssize(s.pages);
  return std::max<int64_t>(more, 0) + (last_page_shared(s) ? 1 : 0);
}

bool KvCache::reserved(SequenceId id, int64_t new_tokens) const {
  const Sequence& s = at(id);
  if (new_tokens == 0) return true;
  if (pages_needed(id, new_tokens) != 0) return false;
  const size_t first = s.tokens.size() / static_cast<size_t>(options_.page_tokens);
  return pages_[static_cast<size_t>(s.pages[first])].node == 0;
}

bool KvCache::reserve(SequenceId id, int64_t new_tokens) {
  Sequence& s = at(id);
  if (pages_needed(id, new_tokens) > free_pages()) return false;
  if (new_tokens == 0) return true;
  const size_t width = static_cast<size_t>(options_.page_tokens);
  if (s.tokens.size() % width != 0) {
    int32_t& last = s.pages[s.tokens.size() / width];
    if (pages_[static_cast<size_t>(last)].references > 1) {
      const int32_t own = take_page();
      copies_.push_back({last, own});
      ++counters_.copied_pages;
      release(last);
      last = own;
    } else if (pages_[static_cast<size_t>(last)].node != 0) {
      withdraw(pages_[static_cast<size_t>(last)], last);  // cut back into; about to be rewritten
    }
  }
  const int64_t wanted = pages_for(std::ssize(s.tokens) + new_tokens);
  while (std::ssize(s.pages) < wanted) s.pages.push_back(take_page());
  return true;
}

void KvCache::commit(SequenceId id, std::span<const Token> tokens) {
  check(reserved(id, std::ssize(tokens)), "commit beyond what was reserved");
  Sequence& s = at(id);
  const size_t width = static_cast<size_t>(options_.page_tokens);
  const size_t full_before = s.tokens.size() / width;
  s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
  if (!options_.share_prefixes) return;
  for (size_t i = full_before; i < s.tokens.size() / width; ++i) offer(s, i);
}

void KvCache::truncate(SequenceId id, int64_t length) {
  Sequence& s = at(id);
  check(length >= 0 && length <= std::ssize(s.tokens), "truncate beyond the end");
  s.tokens.resize(static_cast<size_t>(length));
  // Last first, so that of one prefix the deepest page is the first to be reused.
  while (std::ssize(s.pages) > pages_for(length)) {
    release(s.pages.back());
    s.pages.pop_back();
  }
}

SequenceId KvCache::fork(SequenceId id, int64_t length) {
  check(length >= 0 && length <= this->length(id), "fork beyond the end");
  const uint64_t scope = at(id).scope;
  const SequenceId twin = create(scope);
  const Sequence& from = at(id);
  Sequence& to = at(twin);
  to.tokens.assign(from.tokens.begin(), from.tokens.begin() + length);
  to.pages.assign(from.pages.begin(), from.pages.begin() + pages_for(length));
  for (const int32_t p : to.pages) ++pages_[static_cast<size_t>(p)].references;
  return twin;
}

int64_t KvCache::adoptable(uint64_t scope, std::span<const Token> tokens) const {
  const size_t width = static_cast<size_t>(options_.page_tokens);
  uint64_t parent = root(scope);
  size_t taken = 0;
  while (taken + width < tokens.size()) {
    const int32_t page = find(parent, tokens.subspan(taken, width));
    if (page < 0) break;
    parent = pages_[static_cast<size_t>(page)].node;
    taken += width;
  }
  return static_cast<int64_t>(taken);
}

int64_t KvCache::adopt_prefix(SequenceId id, std::span<const Token> tokens) {
  check(at(id).tokens.empty(), "only an empty sequence can adopt a prefix");
  truncate(id, 0);
  Sequence& s = at(id);
  const int64_t taken = adoptable(s.scope, tokens);
  const size_t width = static_cast<size_t>(options_.page_tokens);
  uint64_t parent = root(s.scope);
  for (int64_t at = 0; at < taken; at += options_.page_tokens) {
    const int32_t number = find(parent, tokens.subspan(static_cast<size_t>(at), width));
    Page& page = pages_[static_cast<size_t>(number)];
    if (page.references++ == 0) unlink(number);
    s.pages.push_back(number);
    parent = page.node;
  }
  s.tokens.assign(tokens.begin(), tokens.begin() + taken);
  counters_.adopted_tokens += taken;
  return taken;
}

std::vector<PageCopy> KvCache::take_copies() { return std::exchange(copies_, {}); }

int32_t KvCache::take_page() {
  int32_t number = -1;
  if (!blank_.empty()) {
    number = blank_.back();
    blank_.pop_back();
  } else {
    number = oldest_;
    check(number >= 0, "no free page");
    unlink(number);
    withdraw(pages_[static_cast<size_t>(number)], number);
    ++counters_.evicted_pages;
  }
  pages_[static_cast<size_t>(number)].references = 1;
  return number;
}

void KvCache::release(int32_t number) {
  Page& page = pages_[static_cast<size_t>(number)];
  check(page.references > 0, "a page released twice");
  if (--page.references > 0) return;
  if (page.node != 0) {
    link_newest(number);
  } else {
    blank_.push_back(number);
  }
}

// Page `index` of the sequence is full: others may adopt it. When the same content is there
// already, the sequence takes that page and gives its own back.
void KvCache::offer(Sequence& s, size_t index) {
  const size_t width = static_cast<size_t>(options_.page_tokens);
  const uint64_t parent =
      index == 0 ? root(s.scope) : pages_[static_cast<size_t>(s.pages[index - 1])].node;
  const auto content = std::span<const Token>(s.tokens).subspan(index * width, width);
  const int32_t same = find(parent, content);
  if (same >= 0) {
    Page& page = pages_[static_cast<size_t>(same)];
    if (page.references++ == 0) unlink(same);
    release(s.pages[index]);
    s.pages[index] = same;
    ++counters_.deduplicated_pages;
    return;
  }
  Page& page = pages_[static_cast<size_t>(s.pages[index])];
  page.node = next_node_++;
  page.parent = parent;
  page.tokens.assign(content.begin(), content.end());
  index_.emplace(content_hash(parent, content), s.pages[index]);
}

void KvCache::withdraw(Page& page, int32_t number) {
  const auto [begin, end] = index_.equal_range(content_hash(page.parent, page.tokens));
  const auto it = std::find_if(begin, end, [&](const auto& e) { return e.second == number; });
  check(it != end, "an offered page is not in the index");
  index_.erase(it);
  page.node = page.parent = 0;
  page.tokens.clear();
}

int32_t KvCache::find(uint64_t parent, std::span<const Token> tokens) const {
  const auto [begin, end] = index_.equal_range(content_hash(parent, tokens));
  for (auto it = begin; it != end; ++it) {
    const Page& page = pages_[static_cast<size_t>(it->second)];
    if (page.parent == parent && std::ranges::equal(page.tokens, tokens)) return it->second;
  }
  return -1;
}

void KvCache::link_newest(int32_t number) {
  Page& page = pages_[static_cast<size_t>(number)];
  page.older = newest_;
  page.newer = -1;
  (newest_ < 0 ? oldest_ : pages_[static_cast<size_t>(newest_)].newer) = number;
  newest_ = number;
  ++cached_;
}

void KvCache::unlink(int32_t number) {
  const Page& page = pages_[static_cast<size_t>(number)];
  (page.older < 0 ? oldest_ : pages_[static_cast<size_t>(page.older)].newer) = page.newer;
  (page.newer < 0 ? newest_ : pages_[static_cast<size_t>(page.newer)].older) = page.older;
  --cached_;
}

}  // namespace limpet::engine
