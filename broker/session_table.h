// What the broker knows of each session: its lane of jobs, its transcript's length, its home.
// Pure. Its durable part changes only through the core's apply(). O(1) per call; an idle session
// costs about 300 bytes and its name.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "broker/event.h"
#include "broker/tenant_table.h"

namespace limpet::broker {

struct Job;
class FairQueue;
inline constexpr uint32_t kNoWorker = UINT32_MAX;

// A session of a worker that leaves: to be moved to another, or on its way. Its jobs wait so long.
enum class Move : uint8_t { no, waits, moving };

// A name that a client chose, within its tenant.
struct OwnedName {
  std::string_view tenant, name;
  bool operator==(const OwnedName&) const = default;
};
struct OwnedNameHash {
  size_t operator()(const OwnedName& n) const {
    const std::hash<std::string_view> hash;
    return hash(n.name) ^ (hash(n.tenant) * 0x9E3779B97F4A7C15ull);
  }
};

struct Session {
  SessionNumber number{};
  std::string name;              // empty: ephemeral
  Tenant* tenant = nullptr;      // owns it and its jobs
  int64_t tokens = 0;            // durable transcript, a running job's prompt and output included
  Epoch epoch{};                 // of its home
  uint64_t incarnation = 0;      // of its home
  uint64_t model = 0;            // fingerprint of what its home computes, or its last one; 0: none
  uint32_t home = kNoWorker;     // slot in the worker table
  Reason reason = Reason::none;  // why the next start at home is not resident; none: it may be
  bool in_flight = false;        // the lane's first job is dispatched or running
  uint32_t jobs = 0;             // in the lane
  Job* first = nullptr;          // the lane, oldest first
  Job* last = nullptr;
  Move move = Move::no;
  bool migrated = false;           // its home was given its KV; no start there since
  FairQueue* waits_in = nullptr;   // the queue in which its first job waits for a place
  uint32_t waits_at = kNoWorker;   // the worker whose queue that is; none: anywhere
  bool rests = false;              // its KV is idle at home; a list of its tenant's by how long
  Session* idle_before = nullptr;
  Session* idle_after = nullptr;
  int64_t keep_alive_ms = -1;      // its KV is kept so long when idle; -1: as the broker has it
  int64_t max_tokens = 0;          // it may never hold more; 0: no cap of its own
  bool release = false;            // its KV is to go when the job in flight has ended
  Time kept_until = Time::max();   // without jobs, at home: its KV goes then
  Time timer_at = Time::max();     // its one live timer
  WallMs used_at = 0;              // a job of its was accepted or ended
  bool unused = false;             // named, without jobs; a list of all by how long
  Session* unused_before = nullptr;
  Session* unused_after = nullptr;

  bool ephemeral() const { return name.empty(); }
};

class SessionTable {
 public:
  // Throws std::logic_error when the number or the tenant's name is there already.
  Session& open(SessionNumber number, const std::string& name, Tenant& tenant);
  void close(SessionNumber number);
  Session* find(SessionNumber number);
  Session* find(const OwnedName& name);  // never finds an ephemeral one
  Session& at(SessionNumber number);     // std::logic_error when it is not there
  size_t size() const { return sessions_.size(); }

  template <typename Visit>  // visit(session) → whether to go on
  void each(Visit visit) {
    for (auto& [number, session] : sessions_)
      if (!visit(session)) return;
  }

  // A lane is a list through its jobs.
  static void append(Session& session, Job& job);
  static void remove(Session& session, Job& job);
  // Its KV becomes idle at its home, and is so no more; both at any time. Its tokens must not
  // change in between.
  static void rest(Session& session);
  static void rouse(Session& session);
  // A named one has no job any more; it has one. Both at any time.
  void end_use(Session& session);
  void begin_use(Session& session);
  void sort_unused();  // by used_at, once all are there
  Session* longest_unused() const { return longest_unused_; }

 private:
  Session* longest_unused_ = nullptr;
  Session* last_unused_ = nullptr;
  std::unordered_map<uint64_t, Session> sessions_;
  std::unordered_map<OwnedName, Session*, OwnedNameHash> names_;  // views of the sessions' own
};

}  // namespace limpet::broker
