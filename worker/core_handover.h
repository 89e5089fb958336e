// What the worker remembers of sessions whose KV it brings to another, or is brought.
#pragma once
#include <algorithm>
#include <string>

#include "worker/event.h"

namespace limpet::worker {

// Pages go in order, as far as the receiver's credit reaches. Full ones go while the session's job
// runs on, some with each step; it pauses when they have arrived, all but a few, so that a client
// waits for those and the last page alone.
struct Outgoing {
  Epoch epoch{};
  std::string endpoint;
  uint64_t receiver = 0;  // its incarnation
  int64_t next = 0;       // page to be sent next
  int64_t credit = 0;     // pages below it may go
  int64_t sent = 0;       // tokens that have left
  int64_t arrived = 0;    // pages that the receiver has
  int64_t end = -1;       // tokens in all, once that is told
  bool open = false;      // the receiver has answered
  bool done = false;      // it has everything: the broker decides
  Time ask_at{}, until{};
  Time pause_by = Time::max();  // even if more is on its way: a step may be shorter than that

  Time due() const { return done ? Time::max() : std::min(ask_at, until); }
};

// What has come stands in the session's own pages, idle, and gives way like what else is idle.
struct Incoming {
  SessionNumber session{};
  Epoch epoch{};       // of the giver's lease
  uint64_t giver = 0;  // its incarnation
  std::string giver_key;  // let in for this alone
  std::string peer;    // where it spoke from last
  int64_t next = 0;    // page wanted next
  int64_t credit = 0;
  int64_t told = 0;    // pages of which the giver knows that they are here
  int64_t tokens = 0;  // that have KV here
  int32_t damaged = 0;
  int64_t want = 0;    // tokens in all, as far as the broker knows
  bool has_job = false;  // idle KV may be lost for it
  bool begun = false;  // it has been let in
  bool waits = false;  // for KV that goes below the device: what comes meanwhile is not taken
  bool asked = false;  // for pages that are missing, since the last one came
  bool complete = false;
  Time until{};

  Time due() const { return complete ? Time::max() : until; }
};

}  // namespace limpet::worker
