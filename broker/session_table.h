// What the broker knows of each session: its lane of jobs, its transcript's length, its home.
// Pure. Its durable part changes only through the core's apply(). O(1) per call; an idle session
// costs about 200 bytes and its name.
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
  FairQueue* waits_in = nullptr;   // the queue in which its first job waits for a place
  uint32_t waits_at = kNoWorker;   // the worker whose queue that is; none: anywhere
  bool rests = false;              // its KV is idle at home; a list of its tenant's by how long
  Session* idle_before = nullptr;
  Session* idle_after = nullptr;

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

 private:
  std::unordered_map<uint64_t, Session> sessions_;
  std::unordered_map<OwnedName, Session*, OwnedNameHash> names_;  // views of the sessions' own
};

}  // namespace limpet::broker
