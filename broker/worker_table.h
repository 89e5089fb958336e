// What the broker knows of each worker: its connection, its room, what it was sent. Pure.
//
// A slot is a worker's name. It outlives the connection for as long as a session has its home
// there; an incarnation is one life of the process behind the name.
#pragma once
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "broker/event.h"
#include "broker/fair_queue.h"
#include "broker/session_table.h"

namespace limpet::broker {

struct JobAttempt {
  JobNumber job{};
  Attempt attempt{};
  bool operator==(const JobAttempt&) const = default;
};
struct JobAttemptHash {
  size_t operator()(const JobAttempt& a) const {
    return static_cast<size_t>(raw(a.job) * 0x9E3779B97F4A7C15ull + raw(a.attempt));
  }
};

// A dispatch that the worker may hold.
struct InFlight {
  uint64_t heard = 0;  // the worker's last heartbeat when it left
  Time sent{};
  int64_t promised = 0;  // KV tokens that it may come to need, its session's own included
  bool listed = false;   // in the worker's last heartbeat, so its slots allow for it
  bool started = false;  // and there it had started, so its KV tokens allow for it too
  bool ended = false;    // and there it was over already
  bool known = false;    // it has been listed: the worker did get it
  bool gone = false;     // it was listed once, and is no more
  bool orphan = false;   // the broker has given this attempt up; the worker may not know yet

  // By the room that the worker announced in that heartbeat. A job that it has ended takes no
  // place there any more, but does here until its end is known.
  void unlist() { listed = started = ended = false; }
  void list(const HeldJob& held) {
    listed = known = true;
    started = held.started;
    ended = held.ended;
  }
  bool allowed_for() const { return listed && !ended; }
  bool kv_allowed_for() const { return allowed_for() && started; }
};

enum class WorkerState : uint8_t {
  absent,    // not connected, or silent beyond its lease
  expected,  // after a restart of the broker: may announce itself still
  ready,
};

// A worker with fewer places keeps none back.
inline constexpr int64_t kFewPlaces = 4;

struct Worker {
  uint32_t slot = 0;
  std::string name, device, model;
  uint64_t model_fingerprint = 0;  // 0: not known (yet)
  WorkerState state = WorkerState::absent;
  bool leaving = false;
  uint64_t incarnation = 0;
  uint64_t drain_asked = 0;        // the incarnation that is to leave; 0: none
  uint64_t left = 0;               // the last incarnation that said that it goes; 0: none
  std::vector<uint64_t> replaced;  // the last incarnations that a newer one has replaced
  WorkerId connection{};
  int64_t max_context = 0;
  std::string transfer;     // where it receives KV of others; empty: nowhere
  std::string key;          // its public key; empty when keys are off
  uint64_t kv_layout = 0;   // of its pages
  int64_t resident_kv = 0;  // tokens of its sessions
  int64_t kv_page_tokens = 1;
  Room room;               // as last announced
  uint64_t heartbeat = 0;  // its number
  Time heard{};
  Time timer_at = Time::max();
  std::unordered_map<JobAttempt, InFlight, JobAttemptHash> in_flight;
  int64_t places = 0;    // jobs that it has or would take, by its last announcement
  int64_t unlisted = 0;  // of these, not allowed for in `room`
  int64_t freed = 0;     // allowed for in `room`, and over since by the worker's own word
  int64_t promised = 0;  // KV tokens of those that `room` does not allow for
  int64_t freed_kv = 0;  // KV tokens that it allows for, and that are idle since
  int64_t reserved_kv = 0;      // KV tokens of sessions on their way to it
  int32_t reserved_slots = 0;   // places of their jobs
  uint64_t room_due = 0;        // the heartbeat by which its room after the last of them is known
  bool held = false;     // the first of `ready` waits for KV: nothing is placed before it
  FairQueue ready;       // sessions that wait for this worker, their home
  int64_t waiting = 0;   // so many
  int64_t homes = 0;     // sessions with their home in this slot, of any incarnation
  std::map<uint64_t, int64_t> homes_of;  // the same by incarnation
  // As it stands in the order of placement; nothing when it takes no jobs.
  using Rank = std::tuple<int64_t, int64_t, int64_t, uint32_t>;
  using Credit = std::pair<int64_t, uint32_t>;
  Rank rank{};
  Credit most{};
  bool ranked = false, ranked_open = false;

  int64_t homes_now() const {
    const auto it = homes_of.find(incarnation);
    return it == homes_of.end() ? 0 : it->second;
  }
  int64_t credit() const {
    return state == WorkerState::ready && !leaving ? room.slots + freed - unlisted - reserved_slots
                                                   : 0;
  }
  int64_t kv_credit() const {
    return room.free_kv_tokens + room.idle_kv_tokens + freed_kv - promised - reserved_kv;
  }
  // Whether its room is about to be another, by sessions that come or have just come.
  bool receives() const { return reserved_kv > 0 || heartbeat < room_due; }
  // Whether its credit covers one more job that may come to need so many KV tokens. A worker that
  // has nothing takes any: it knows best whether the job fits at all.
  bool takes(int64_t kv_tokens) const {
    return credit() > 0 && (in_flight.empty() || kv_tokens <= kv_credit());
  }
  // Whether it has a place for a tenant that has jobs at work already: its last one is for one that
  // has none, where there are several tenants.
  bool open(bool several_tenants) const {
    return credit() > (several_tenants && places >= kFewPlaces ? 1 : 0);
  }
  bool idle() const { return credit() > 0 && in_flight.empty() && waiting == 0; }
  // Whether more jobs are there, at work or waiting for it, than `factor` times those at work.
  bool overloaded(double factor) const {
    const auto running = static_cast<double>(std::max<size_t>(in_flight.size(), 1));
    return static_cast<double>(waiting + std::ssize(in_flight)) > factor * running;
  }
};

class WorkerTable {
 public:
  // The slot of this name, made when it is not there.
  Worker& slot(const std::string& name);
  Worker& at(uint32_t slot) { return *slots_[slot]; }
  Worker* find_slot(uint32_t slot) { return slot < slots_.size() ? slots_[slot].get() : nullptr; }
  Worker* find(WorkerId connection);
  Worker* find(std::string_view name);
  void connect(Worker& worker, WorkerId connection);
  void disconnect(Worker& worker);
  // Gives the slot back when nothing speaks of it any more.
  void forget_if_unused(uint32_t slot);

  // In-flight bookkeeping; each call keeps the rank.
  void sent(Worker& worker, JobAttempt attempt, const InFlight& entry);
  void promise(Worker& worker, JobAttempt attempt, int64_t kv_tokens);  // it is known better now
  void over(Worker& worker, JobAttempt attempt);       // the worker itself says so
  void forgotten(Worker& worker, JobAttempt attempt);  // never to be heard of again
  void recount(Worker& worker);  // after a heartbeat has been noted in the entries
  void rank(Worker& worker);

  // Once there is more than one tenant.
  void several_tenants() { several_tenants_ = true; }
  bool open(const Worker& worker) const { return worker.open(several_tenants_); }
  bool any_open() const { return open_ > 0; }  // of those that are ranked

  // Of the ready workers with free slots that hold nobody back, never `avoid` unless it is the only
  // one that is ready at all; `open`: only of those:
  // the one with the most free KV, then the fewest jobs, then the fewest homes; one of this model
  // when there is any (0: of any);
  Worker* freest(uint32_t avoid, uint64_t model, bool open = false);
  // the one with the most KV that is free or gives way, all of it where there are no jobs.
  Worker* roomiest(uint32_t avoid, bool open = false);
  // One that has nothing to do, and computes this model (0: any).
  Worker* idle(uint64_t model);
  // A ready worker that stays, but this one, with the fewest jobs; it may have no free slot.
  Worker* another(uint32_t but);

  template <typename Visit>
  void each(Visit visit) {
    for (auto& worker : slots_)
      if (worker) visit(*worker);
  }
  int64_t ready() const { return static_cast<int64_t>(connections_.size()); }

 private:
  std::vector<std::unique_ptr<Worker>> slots_;
  std::vector<uint32_t> free_;
  std::unordered_map<std::string, uint32_t> names_;
  std::unordered_map<uint64_t, uint32_t> connections_;
  bool alone(uint32_t slot) const;

  std::set<Worker::Rank> ranks_;    // -free KV, jobs, homes, slot
  std::set<Worker::Credit> mosts_;  // -KV credit, slot; of the same workers
  std::unordered_map<uint64_t, int64_t> models_;  // ready workers by fingerprint
  bool several_tenants_ = false;
  int64_t open_ = 0;
};

}  // namespace limpet::broker
