// Sessions whose next job waits for a place, the most urgent first. Pure.
#pragma once
#include <cstdint>
#include <map>

#include "schema/types.h"

namespace limpet::broker {

struct Session;

// Higher priority first; within one priority in order of acceptance.
struct ReadyKey {
  int32_t priority = 0;
  JobNumber job{};
  bool operator<(const ReadyKey& other) const {
    if (priority != other.priority) return priority > other.priority;
    return job < other.job;
  }
};

class ReadyQueue {
 public:
  bool empty() const { return sessions_.empty(); }
  size_t size() const { return sessions_.size(); }
  const ReadyKey& first_key() const { return sessions_.begin()->first; }
  Session* first() const { return sessions_.begin()->second; }
  void insert(const ReadyKey& key, Session* session) { sessions_.emplace(key, session); }
  void erase(const ReadyKey& key) { sessions_.erase(key); }

 private:
  std::map<ReadyKey, Session*> sessions_;
};

}  // namespace limpet::broker
