// The worker's sessions: whose KV is here, under which lease, and which has been idle longest.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "worker/scheduler.h"
#include "worker/tiers.h"

namespace limpet::worker {

class Sessions : public SessionKv {
 public:
  struct Evicted {
    SessionNumber session{};
    Epoch epoch{};
  };

  Sessions(engine::KvCache& kv, int32_t max_idle, const TierOptions& tiers)
      : kv_(kv), max_idle_(max_idle), tiers_(tiers, kv.page_tokens()) {}

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
  void drop_kv(Session& session) override;  // what stands below the device stays
  void drop_all_kv(Session& session);
  // What has been evicted since the last call; the broker must hear of it.
  std::vector<Evicted> take_evicted();

  Session& of(const Job& job) override;
  const Session& of(const Job& job) const { return const_cast<Sessions*>(this)->of(job); }
  Evict evict_idle() override;
  int64_t idle_pages() const override { return idle_pages_; }
  // Likewise, but what comes from other workers stays; unless `lose`, only where KV goes below the
  // device for it and none is lost.
  Evict give_way(bool lose);
  int64_t spill_pages() const;  // about so many would come free by that

  // ---- core_tiers.cpp: KV below the device ----
  Restore restore(Session& session) override;
  bool moving() const override { return !moves_.empty() || !tiers_.idle(); }
  // Tokens of the session whose KV is here, on the device or below it.
  int64_t kv_tokens(const Session& session) const;
  // For a session without a job or KV on the device: begins to bring its KV back. later: there is
  // no room yet; nothing: there is none.
  Restore bring_back(Session& session);
  // The session whose move has ended; null when it is gone. Its job may go on.
  Session* moved(const PagesMoved& moved);
  // Copies idle sessions below the device before their pages are needed; lets go of sessions whose
  // KV is nowhere any more. After each change.
  void tidy_tiers();
  std::vector<MovePages> take_moves();  // to be carried out
  const Tiers& tiers() const { return tiers_; }

  int64_t size() const { return std::ssize(sessions_); }
  int64_t idle() const { return std::ssize(idle_); }
  int64_t evictions() const { return evictions_; }
  const std::map<SessionNumber, Session>& all() const { return sessions_; }

 private:
  uint64_t scope_of(const std::string& tenant);

  int64_t pages_of(const Session& session) const;
  void give_up(Session& session);  // one without a job; the broker must hear of it
  bool keeps(const Session& session) const;
  Evict evict(Session& oldest);
  bool spill(Session& session, bool make_room);
  void list(Session& session);
  void unlist(Session& session);
  void release(Session& session);
  void settle_gone();
  void spill_early();

  struct KvMove {
    SessionNumber session{};
    engine::SequenceId sequence{};  // holds the pages until the move has ended
    std::vector<Token> tokens;      // of a restore: what they will hold
    int64_t first = 0;              // of a restore: the page of the session that it begins with
  };
  engine::KvCache& kv_;
  size_t max_idle_;
  std::map<SessionNumber, Session> sessions_;
  std::map<std::string, uint64_t> scopes_;  // by tenant; grows with those that were ever here
  // In the order in which they give way: those whose clients have asked for no time, the longest
  // idle first, then the others.
  using Turn = std::pair<bool, uint64_t>;
  static Turn turn_of(const Session& session) { return {session.kept, session.idle_since}; }
  std::map<Turn, SessionNumber> idle_;
  uint64_t next_idle_ = 1;
  int64_t idle_pages_ = 0;
  std::map<Turn, SessionNumber> uncopied_;  // of the idle: those that should have a copy
  std::map<Turn, SessionNumber> copied_;    // and those that have one
  int64_t uncopied_pages_ = 0, copied_pages_ = 0;  // of these
  Tiers tiers_;
  std::map<uint64_t, KvMove> moves_;  // to and from the device
  std::vector<MovePages> begun_;
  int64_t evictions_ = 0;
  std::vector<Evicted> evicted_;
};

}  // namespace limpet::worker
