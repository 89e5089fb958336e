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
  void close(SessionNumber number);         // with its KV

  void set_busy(Session& session, JobNumber job);
  // Its job has left: the session stays for its next one, or goes when there is nothing to keep.
  void set_idle(Session& session);
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
  int64_t pages_of(const Session& session) const;
  void leave_idle(Session& session);

  engine::KvCache& kv_;
  size_t max_idle_;
  std::map<SessionNumber, Session> sessions_;
  std::map<std::string, uint64_t> scopes_;  // by tenant; grows with those that were ever here
  std::map<uint64_t, SessionNumber> idle_;  // longest idle first
  uint64_t next_idle_ = 1;
  int64_t idle_pages_ = 0;
  int64_t evictions_ = 0;
  std::vector<Evicted> evicted_;
};

}  // namespace limpet::worker
