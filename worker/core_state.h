// What the worker's core remembers. Its parts: core.cpp (the link to the broker, steps),
// core_jobs.cpp (a job from its dispatch to its end), core_give.cpp and core_receive.cpp (KV that
// goes to and comes from other workers), core_tiers.cpp (KV that goes below the device and back).
#pragma once
#include <deque>
#include <map>
#include <unordered_map>

#include "worker/core.h"
#include "worker/core_handover.h"
#include "worker/core_sessions.h"

namespace limpet::worker {

// The highest value told for a key; bounded: the keys told first are forgotten first. Fences off
// messages that come late or twice.
template <typename Key, typename Value>
class Fence {
 public:
  void raise(Key key, Value value) {
    const auto [it, fresh] = values_.try_emplace(raw(key), value);
    if (it->second < value) it->second = value;
    if (!fresh) return;
    order_.push_back(raw(key));
    if (order_.size() <= kKept) return;
    values_.erase(order_.front());
    order_.pop_front();
  }
  bool covers(Key key, Value value) const {
    const auto it = values_.find(raw(key));
    return it != values_.end() && value <= it->second;
  }
  bool past(Key key, Value value) const {  // something higher was told
    const auto it = values_.find(raw(key));
    return it != values_.end() && value < it->second;
  }

 private:
  static constexpr size_t kKept = 4096;
  std::unordered_map<uint64_t, Value> values_;
  std::deque<uint64_t> order_;
};

// One call from outside.
struct Turn {
  Time now;
  Output& out;
};

enum class Link : uint8_t { offline, registering, registered, refused };

struct Core::State {
  State(const CoreOptions& o, engine::KvCache& cache)
      : options(o),
        kv(cache),
        sessions(cache, o.max_sessions, o.tiers),
        scheduler(cache, o.token_budget, o.prefill_chunk) {}

  // ---- core.cpp ----
  void decide(const Turn& turn, const Event& event);
  void on(const Turn& turn, const FromBroker& event);
  void on(const Turn& turn, const Tokenized& event);
  void on(const Turn& turn, const AlreadyEnded& event);
  void on(const Turn& turn, const StepDone& event);
  void on(const Turn& turn, const Tick&);
  void on(const Turn& turn, const Connected&);
  void on(const Turn& turn, const Stop&);
  void on(const Turn& turn, const GoNow&);
  void from(const Turn& turn, const Registered& m);
  void from(const Turn& turn, const RegisterRefused& m);
  void from(const Turn& turn, const WhoAreYou& m);
  void from(const Turn& turn, const Dispatch& m);
  void from(const Turn& turn, const TranscriptReply& m);
  void from(const Turn& turn, const CancelJob& m);
  void from(const Turn& turn, const ResumeJob& m);
  void from(const Turn& turn, const EndAck& m);
  void from(const Turn& turn, const ReleaseSession& m);
  void from(const Turn& turn, const Leave& m);
  void from(const Turn& turn, const MayLeave& m);
  void say(const Turn& turn, WorkerMessage message);  // once registered; else it is not said
  void say_hello(const Turn& turn);
  void heartbeat(const Turn& turn);
  void say_evicted(const Turn& turn);
  struct KvRoom {  // pages
    int64_t free = 0, idle = 0;
  };
  int32_t slots() const;  // jobs that it would take
  Room room() const;      // O(pages that its jobs hold)
  KvRoom kv_room() const;
  int64_t resident_kv_tokens() const;
  std::vector<HeldJob> held_jobs() const;
  StepRow step_row(const ScheduledRow& row);
  void row_done(const Turn& turn, const StepRow& row, const RowResult& result, StepTokens& tokens,
                std::vector<Job*>& ending);

  // ---- core_give.cpp ----
  void on(const Turn& turn, const FromReceiver& event);
  void from(const Turn& turn, const HandOver& m);
  void from(const Turn& turn, const StopHandOver& m);
  void heard(const Turn& turn, Outgoing& o, const TransferCredit& m);
  void ask_receiver(const Turn& turn, SessionNumber number, Outgoing& o);
  void give_all(const Turn& turn);
  std::string give_pages(const Turn& turn, SessionNumber number, Outgoing& o);
  bool may_pause(const Turn& turn, Outgoing& o) const;
  int64_t pages_of_a_step() const;
  int64_t pages_before_next_step() const;
  void fail_giving(const Turn& turn, SessionNumber number, std::string why);
  void stop_giving(const Turn& turn, SessionNumber number);
  void giving_due(const Turn& turn);
  bool at_rest(const Session& session) const;
  void pause(const Session& session, bool yes);

  // ---- core_receive.cpp ----
  void on(const Turn& turn, const FromGiver& event);
  void from(const Turn& turn, const ExpectSession& m);
  void from(const Turn& turn, const KeepSession& m);
  void receive(const Turn& turn, Incoming& in, const TransferOpen& m);
  void receive(const Turn& turn, Incoming& in, const TransferPage& m);
  void receive(const Turn& turn, Incoming& in, const TransferEnd& m);
  std::string store_page(const Turn& turn, Incoming& in, const TransferPage& m);
  void grant(const Turn& turn, Incoming& in, bool again);
  void tell_arrived(const Turn& turn);
  void begin_receiving(const Turn& turn, Incoming& in);
  void receive_waiting(const Turn& turn);
  int64_t pages_to_come(const Incoming& in) const;
  Evict make_room(const Incoming& in, int64_t pages);
  void refuse(const Turn& turn, SessionNumber number, std::string why);
  void drop_incoming(SessionNumber number);
  void receiving_due(const Turn& turn);

  // ---- core_tiers.cpp ----
  void on(const Turn& turn, const PagesMoved& event);
  void restored(const Turn& turn, const Session& session);
  void tidy_tiers(const Turn& turn);

  // ---- core_jobs.cpp ----
  bool stale(const Dispatch& m) const;
  Job& take(const Dispatch& m);
  void merge(const Turn& turn, Job& job, const std::vector<Token>& transcript);
  void transcript_known(const Turn& turn, Job& job);
  void prompt_known(const Turn& turn, Job& job);
  void start(const Turn& turn, Job& job);
  void say_again(const Turn& turn, Job& job, int64_t from_index);
  void fail(const Turn& turn, Job& job, ErrorCode code, std::string message, bool retryable);
  void finish(const Turn& turn, Job& job, FinishReason reason, std::string tail_text);
  void end(const Turn& turn, Job& job, JobEnded end);
  void cut_copy(const Job& job);
  void leave_session(const Turn& turn, Job& job);
  void forget(const Turn& turn, JobNumber number);
  void release(const Turn& turn, SessionNumber session, Epoch epoch);
  Job* find(JobNumber number, Attempt attempt);
  int64_t limit() const;  // tokens of a session here: the model's context, the pool's pages
  int64_t active_jobs() const;
  std::vector<Job*> by_age();

  CoreOptions options;
  engine::KvCache& kv;
  Sessions sessions;
  Scheduler scheduler;
  std::map<JobNumber, Job> jobs;  // until their end is acknowledged
  uint64_t next_arrival = 1;
  Fence<JobNumber, Attempt> over;          // attempts that nobody wants to hear of again
  Fence<SessionNumber, JobNumber> newest;  // job taken along a session's lane
  Fence<SessionNumber, Epoch> released;    // leases that have been given back
  std::map<SessionNumber, Outgoing> outgoing;
  std::map<SessionNumber, Incoming> incoming;
  int64_t pages_allowed = 0;  // to be sent before the next step, but for those of paused jobs

  std::optional<Step> in_flight;
  Time step_began{};
  std::chrono::microseconds step_took{};  // the last one
  std::vector<Event> put_aside;

  Link link = Link::offline;
  std::string refused;
  Time next_register = Time::max();
  Time next_heartbeat = Time::max();
  std::chrono::milliseconds heartbeat_every{250};
  uint64_t heartbeat_sequence = 0;
  bool stopping = false;
  bool ever_registered = false;
  bool leave_asked = false, leave_allowed = false;  // by the broker

  int64_t preemptions = 0, prefilled_tokens = 0, decoded_tokens = 0;
  std::map<Reason, int64_t> reprefilled_tokens;
};

}  // namespace limpet::worker
