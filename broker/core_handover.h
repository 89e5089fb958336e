// What the broker remembers of workers that leave, and of the sessions that it moves from them.
// Nothing of it is durable: after a restart a worker says again that it leaves.
#pragma once
#include <deque>
#include <map>
#include <vector>

#include "broker/event.h"
#include "broker/session_table.h"

namespace limpet::broker {

// A session whose KV is on its way. Until the receiver has all of it the giver is its home.
struct Moving {
  Epoch epoch{};  // of the giver's lease: once that has changed, this means nothing
  uint32_t giver = kNoWorker, receiver = kNoWorker;  // slots
  uint64_t giver_life = 0, receiver_life = 0;        // incarnations
  Time until{};           // given up then
  int64_t kv_tokens = 0;  // kept for it at the receiver
  int32_t slots = 0;      // likewise, for a job that runs
};

// A worker that leaves. Its sessions are moved some at a time: those whose jobs run, then those
// whose jobs wait, then the idle ones.
struct Departure {
  uint64_t incarnation = 0;
  std::deque<SessionNumber> waits;  // to be moved yet; may name sessions that wait no more
  int64_t moving = 0;
  std::map<SessionNumber, std::vector<uint32_t>> tried;  // receivers with which it came to nothing
  std::map<SessionNumber, std::string> unmoved;  // of those that have not: why, as it stands
  bool told = false;                             // that it may leave
};

}  // namespace limpet::broker
