// Which sequence owns which KV pages: host bookkeeping only, no device memory.
//
// A sequence is an append-only list of tokens whose K and V rows stand in pages of `page_tokens`
// rows. Pages are counted: fork() shares them copy-on-write, adopt_prefix() shares whole pages by
// content within a scope (a tenant). Pure and deterministic: no clock, thread, I/O or randomness,
// so the worker's core and the simulator use it as it is. One owner, one thread.
//
// The order of a step: reserve() for every row group; the device does take_copies() in the order
// given; the device writes KV; commit() the tokens written. A page is offered for sharing only
// once all its rows are committed, and is never written again while it is offered or shared.
//
// A wrong call (unknown sequence, commit beyond the reservation) is a bug: std::logic_error.
#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/token.h"

namespace limpet::engine {

enum class SequenceId : uint64_t {};  // never used twice by one cache

struct PageCopy {
  int32_t from = 0;
  int32_t to = 0;
};

class KvCache {
 public:
  struct Options {
    int32_t page_tokens = 16;
    int32_t pages = 0;           // in the pool
    bool share_prefixes = true;  // offer full pages by content
  };
  struct Counters {
    int64_t adopted_tokens = 0;      // not computed because adopt_prefix() found them
    int64_t copied_pages = 0;        // copy-on-write
    int64_t deduplicated_pages = 0;  // computed, then found to be there already
    int64_t evicted_pages = 0;       // offered pages given up for new content
  };

  explicit KvCache(const Options& options);

  SequenceId create(uint64_t scope);  // empty; sees its own scope's prefixes; scope < 2^63
  void destroy(SequenceId id);        // its full pages stay adoptable until the room is needed
  bool contains(SequenceId id) const { return sequences_.contains(raw(id)); }
  int64_t sequences() const { return static_cast<int64_t>(sequences_.size()); }

  int64_t length(SequenceId id) const;                  // tokens committed
  std::span<const Token> tokens(SequenceId id) const;   // valid until the sequence changes
  // Pool page of rows [i * page_tokens, …); reserved pages included. Valid as tokens() is.
  std::span<const int32_t> page_table(SequenceId id) const;

  // Pages that reserve(id, new_tokens) would take from the free ones, the copy of a shared last
  // page included.
  int64_t pages_needed(SequenceId id, int64_t new_tokens) const;
  // Makes room for `new_tokens` after the committed ones, or changes nothing and says false.
  bool reserve(SequenceId id, int64_t new_tokens);
  // Whether the next `new_tokens` rows stand in pages that this sequence alone may write.
  bool reserved(SequenceId id, int64_t new_tokens) const;
  // The KV rows of these tokens are written. They must have been reserved.
  void commit(SequenceId id, std::span<const Token> tokens);
  // Forgets the tokens from `length` on, and every reservation. O(pages released).
  void truncate(SequenceId id, int64_t length);
  // A new sequence of the same scope with the first `length` tokens; pages are shared.
  SequenceId fork(SequenceId id, int64_t length);
  // For an empty sequence: takes the longest run of offered pages that begin `tokens`, but leaves
  // at least the last token to compute. Returns the tokens taken, which are committed already.
  int64_t adopt_prefix(SequenceId id, std::span<const Token> tokens);
  // What adopt_prefix would return.
  int64_t adoptable(uint64_t scope, std::span<const Token> tokens) const;

  // Copies the device has to make, in this order, before anything else is written to the pool.
  std::vector<PageCopy> take_copies();

  int32_t page_tokens() const { return options_.page_tokens; }
  int64_t total_pages() const { return options_.pages; }
  int64_t free_pages() const { return static_cast<int64_t>(blank_.size()) + cached_; }
  int64_t cached_pages() const { return cached_; }  // free, and adoptable until reused
  const Counters& counters() const { return counters_; }

 private:
  struct Page {
    int32_t references = 0;
    uint64_t node = 0;    // of its content, when offered; 0 otherwise
    uint64_t parent = 0;  // node of the page before it, or the scope's root
    std::vector<Token> tokens;  // when offered
    int32_t older = -1, newer = -1;  // neighbours among the cached pages
  };
  struct Sequence {
    uint64_t scope = 0;
    std::vector<Token> tokens;
    std::vector<int32_t> pages;
  };

  static uint64_t raw(SequenceId id) { return static_cast<uint64_t>(id); }
  Sequence& at(SequenceId id);
  const Sequence& at(SequenceId id) const;
  int64_t pages_for(int64_t tokens) const;
  bool last_page_shared(const Sequence& s) const;
  int32_t take_page();
  void release(int32_t page);
  void offer(Sequence& s, size_t index);
  void withdraw(Page& page, int32_t number);
  int32_t find(uint64_t parent, std::span<const Token> tokens) const;
  void link_newest(int32_t page);
  void unlink(int32_t page);

  Options options_;
  std::vector<Page> pages_;
  std::vector<int32_t> blank_;  // free, without content
  int32_t oldest_ = -1, newest_ = -1;
  int64_t cached_ = 0;
  uint64_t next_sequence_ = 1, next_node_ = 1;
  std::unordered_map<uint64_t, Sequence> sequences_;
  std::unordered_multimap<uint64_t, int32_t> index_;  // hash of (parent, tokens) -> page
  std::vector<PageCopy> copies_;
  Counters counters_;
};

}  // namespace limpet::engine
