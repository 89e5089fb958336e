// When what is due: a heap of times with lazy deletion. Pure.
//
// An entry is a hint to look at its subject again; whoever takes it decides whether it still
// means anything. So nothing is ever searched for in order to be removed: O(log n) to add or take.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "broker/event.h"

namespace limpet::broker {

class Timers {
 public:
  enum class Kind : uint8_t { job, worker, grace, hand_over, session };
  struct Entry {
    Time at;
    Kind kind;
    uint64_t id;  // a job's or a session's number, a worker's slot
  };

  void add(Time at, Kind kind, uint64_t id) {
    heap_.push_back({at, kind, id});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  Time next() const { return heap_.empty() ? Time::max() : heap_.front().at; }
  // The earliest entry that is due, removed; none when nothing is.
  std::optional<Entry> take(Time now) {
    if (heap_.empty() || heap_.front().at > now) return std::nullopt;
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Entry e = heap_.back();
    heap_.pop_back();
    return e;
  }
  size_t size() const { return heap_.size(); }
  // Forgets what `alive(entry)` denies; O(n), so the caller does it when most are dead.
  template <typename Alive>
  void sweep(Alive alive) {
    std::erase_if(heap_, [&](const Entry& e) { return !alive(e); });
    std::make_heap(heap_.begin(), heap_.end(), later);
  }

 private:
  static bool later(const Entry& a, const Entry& b) {
    if (a.at != b.at) return a.at > b.at;
    return a.kind != b.kind ? a.kind > b.kind : a.id > b.id;
  }
  std::vector<Entry> heap_;
};

}  // namespace limpet::broker
