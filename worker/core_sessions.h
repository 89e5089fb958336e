// The worker's sessions: whose KV is here, under which lease, and which has been idle longest.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "worker/scheduler.h"

namespace limpet::worker {

class Sessions : public SessionKv {
 public:
  struct Evicted {
    SessionNumber session{};
    Epoch epoch{};
  };

  Sessions(engine::KvCache& kv, int32_t max_idle) : kv_(kv), max_idle_(max_idle) {}

  Session* find(SessionNumber number);
  const Session* find(SessionNumber number) const;
  Session& open(const Dispatch& dispatch);  // it is not there yet
  Session& open_incoming(const ExpectSession& expected);  // likewise; without KV, idle
  void close(SessionNumber number);         // with its KV

  void set_busy(Session& session, JobNumber job);
  // Its job has left: the session stays for its next one, or goes when there is nothing to keep.
  void set_idle(Session& session);
  // Around a change of the pages of a session that is idle.
  void leave_idle(Session& session);
  void enter_idle(Session& session);
  void drop_kv(Session& session);
  // What has been evicted since the last call; the broker must hear of it.
  std::vector<Evicted> take_evicted();

  Session& of(const Job& job) override;
  const Session& of(const Job& job) const { return const_cast<Sessions*>(this)->of(job); }
  bool evict_idle() override;
  int64_t idle_pages() const override { return idle_pages_; }

  int64_t size() const { return std::ssize(sessions_); }
  int64_t idle() const { return std::ssize(idle_); }
  int64_t evictions() const { return evictions_; }
  const std::map<SessionNumber, Session>& all() const { return sessions_; }

 private:
  uint64_t scope_of(const std::string& tenant);

  int64_t pages_of(const Session& session) const;

  engine::KvCache& kv_;
  size_t max_idle_;
  std::map<SessionNumber, Session> sessions_;
  std::map<std::string, uint64_t> scopes_;  // by tenant; grows with those that were ever here
  // In the order in which they give way: those whose clients have asked for no time, the longest
  // idle first, then the others.
  std::map<std::pair<bool, uint64_t>, SessionNumber> idle_;
  uint64_t next_idle_ = 1;
  int64_t idle_pages_ = 0;
  int64_t evictions_ = 0;
  std::vector<Evicted> evicted_;
};

}  // namespace limpet::worker
