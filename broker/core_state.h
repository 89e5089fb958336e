// The inside of broker::Core, split over core*.cpp by what each part decides.
#pragma once
#include <span>
#include <string_view>

#include "broker/core.h"
#include "broker/core_handover.h"
#include "broker/fair_queue.h"
#include "broker/job_table.h"
#include "broker/session_table.h"
#include "broker/tenant_table.h"
#include "broker/timers.h"
#include "broker/worker_table.h"

namespace limpet::broker {

struct Core::State {
  explicit State(const CoreOptions& options) : options(options) {}

  // One event being decided.
  struct Turn {
    Now now;
    Output& out;
  };

  // Whether an attempt counts against max_attempts: not one that its worker never began, unless
  // the worker died with it.
  enum class Counts : bool { no, yes };

  // ---- core_apply.cpp: the only writers of durable state.
  void apply(const JournalEntry& entry);
  void apply_one(const SessionOpened& e);
  void apply_one(const SessionTerms& e);
  void apply_one(const JobAccepted& e);
  void apply_one(const HomeSet& e);
  void apply_one(const JobDispatched& e);
  void apply_one(const JobRequeued& e);
  void apply_one(const StartedEntry& e);
  void apply_one(const TokensAppended& e);
  void apply_one(const JobEndedEntry& e);
  void apply_one(const SessionClosed& e);
  void apply_one(const SessionSnapshot& e);
  void apply_one(const JobSnapshot& e);
  void apply_one(const NumbersReserved& e);
  void set_home(Session& session, const std::string& worker, uint64_t incarnation);
  void forget_unused_workers();
  // Appends and applies.
  void commit(Turn& t, JournalEntry entry);

  // ---- core_client.cpp
  void on(Turn& t, const ClientEvent& e);
  void submit(Turn& t, const ClientEvent& e, const Submit& m);
  void attach(Turn& t, const ClientEvent& e, const Attach& m);
  void cancel(Turn& t, const ClientEvent& e, const Cancel& m);
  bool no_room(Turn& t, const ClientEvent& e, const std::string& tenant, const JobSpec& spec);
  bool beyond_budget(Turn& t, const ClientEvent& e, const JobSpec& spec);
  Job& accept(Turn& t, const std::string& tenant, const std::shared_ptr<const JobSpec>& spec,
              uint64_t body_hash, JobNumber replaces = {});
  bool attach_known(Turn& t, const ClientEvent& e, const std::string& id, const Submit* submit,
                    int64_t from_index, bool tokens);
  void refuse(Turn& t, ClientId client, const std::string& job_id, ErrorCode code,
              std::string message, int64_t retry_after_ms = 0);

  // ---- core_operator.cpp: what those ask who look after it.
  bool of_another(Turn& t, const ClientEvent& e, const std::string& tenant);
  void release(Turn& t, const ClientEvent& e, const Release& m);
  void retry(Turn& t, const ClientEvent& e, const Retry& m);
  void list(Turn& t, const ClientEvent& e, const List& m);
  SessionInfo describe(const Session& session);

  // ---- core_keep.cpp: how long a session's KV, and the session, are kept.
  void set_terms(Turn& t, Session& session, const JobSpec& spec);
  void keep(Turn& t, Session& session);
  void keep_until(Turn& t, Session& session);
  int64_t keep_alive_of(const Session& session) const;
  void look_at(Session& session, Time at);
  void session_due(Turn& t, Session& session);
  void retire(Turn& t, int64_t most, std::string_view why);
  Time next_retired() const;

  // ---- core_worker.cpp: what workers say of themselves.
  void on(Turn& t, const WorkerEvent& e);
  void enroll(Turn& t, const WorkerEvent& e, const Register& m);
  std::string refusal(const WorkerEvent& e, const Register& m);
  Registered answer(const Worker& worker, const Register& m);
  void adopt(Turn& t, Worker& worker, WorkerId connection, const Register& m);
  void requeue_waiting(Turn& t, Worker& worker);
  void heartbeat(Turn& t, Worker& worker, const Heartbeat& m);
  void note_listed(Turn& t, Worker& worker, const HeldJob& held);
  void end_lost_dispatches(Turn& t, Worker& worker);
  void session_dropped(Turn& t, Worker& worker, const SessionDropped& m);
  void leaving(Turn& t, Worker& worker);
  void lose(Turn& t, Worker& worker, std::string_view why);
  Counts counts(const Worker& worker, const JobAttempt& attempt);

  // ---- core_job_report.cpp: what workers say of jobs.
  Job* current(Turn& t, Worker& worker, JobNumber job, Attempt attempt, std::string_view what);
  void need_transcript(Turn& t, Worker& worker, const NeedTranscript& m);
  void job_started(Turn& t, Worker& worker, const JobStarted& m);
  void step_tokens(Turn& t, Worker& worker, const StepTokens& m);
  bool take_row(Turn& t, const StepRow& row, Job& job, TokensAppended& entry);
  void flush(Turn& t, TokensAppended& entry);
  void job_ended(Turn& t, Worker& worker, const JobEnded& m);
  void ask_again(Turn& t, Worker& worker, Job& job);

  // ---- core_dispatch.cpp: who gets what, and when it is over.
  bool home_usable(const Session& session);  // it lives, or may announce itself still
  bool at_home(const Session& session, const Worker& worker);
  void make_ready(Turn& t, Session& session);
  bool astray(const Session& session);
  void refuse_strays(Turn& t);
  void enqueue(Session& session, uint32_t at);
  void wait_for_start(Turn& t, Session& session);
  bool wait_at_one(Turn& t, Session& session);
  void unready(Session& session);
  void settle(Turn& t);  // once, at the end of each step: gives out what can be given
  void let_go(Worker& worker);
  int64_t kv_need(const Job& job, const Worker& worker);
  Worker* room_for(const Session& session);
  FairQueue::First first_of(const FairQueue& queue);
  void pump(Turn& t, Worker& worker);
  void balance(Turn& t, Worker& worker);
  // `why`: told as the reason of the move; empty: what is told with the next start.
  void place(Turn& t, Session& session, Worker& worker, std::string_view why = {});
  void move_home(Turn& t, Session& session, const Worker& worker, std::string_view why);
  void leave_home(Turn& t, Session& session, Reason reason, std::string_view why = {});
  void release_home(Turn& t, const Session& session);
  Reason move_reason(const Session& session, const Worker& to);
  Reason break_reason(const Session& session);
  bool admissible(Turn& t, Session& session, Job& job);
  static std::string beyond_cap(const Session& session, int64_t tokens, bool with_prompt) {
    return "the session may hold at most " + std::to_string(session.max_tokens) +
           " tokens (session_max_tokens): the " + std::to_string(tokens) + " that it has " +
           (with_prompt ? "with" : "before") + " this turn's prompt leave no room for output";
  }
  void dispatch(Turn& t, Session& session, Worker& worker);
  Dispatch dispatch_message(Turn& t, const Session& session, const Job& job);

  // ---- core_handover.cpp: a worker leaves, its sessions go to others.
  void drain(Turn& t, const ClientEvent& e, const Drain& m);
  void depart(Worker& worker);
  void remind(Turn& t, Worker& worker);
  void move_sessions(Turn& t);
  bool still_moving(SessionNumber number, const Moving& m);
  struct Receiver {
    Worker* worker = nullptr;
    bool later = false;  // there is none, and there may be one in a moment
  };
  Receiver receiver_for(const Session& session, const Worker& giver,
                        const std::vector<uint32_t>& tried);
  using Fit = std::pair<int, int64_t>;  // the larger the better
  Fit fit(const Session& session, const Worker& worker);
  bool begin_hand_over(Turn& t, Session& session, const Worker& giver, Departure& d);
  void told(Turn& t, const Session* session, std::string_view outcome);
  void not_moved(Turn& t, Session& session, Departure& d);
  void say_hand_over(Turn& t, SessionNumber number, const Moving& m);
  void say_expect(Turn& t, SessionNumber number, const Moving& m);
  void reserve(Worker& worker, int64_t kv_tokens, int32_t slots);
  void stay(Turn& t, Session& session);
  Moving end_hand_over(SessionNumber number);
  void give_up(Turn& t, SessionNumber number, std::string_view why);
  void hand_over_failed(Turn& t, Worker& worker, const HandOverFailed& m);
  void hand_over_due(Turn& t, SessionNumber number);
  void session_received(Turn& t, Worker& worker, const SessionReceived& m);
  void hand_over(Turn& t, Session& session);
  // ---- core_tenant.cpp: what tenants have had, and their caps.
  bool within_caps(const Session& session);
  void begin_share(Turn& t, Session& session, const Worker& worker);
  void end_share(Job& job);
  void look_everywhere(const Tenant& tenant);
  bool evict_beyond_cap(Turn& t, Tenant& tenant, int64_t more);
  bool hold_caps(Turn& t);
  int64_t kv_longest(const Job& job);

  // ---- core_end.cpp: the end of attempts and jobs.
  void end_attempt(Turn& t, Job& job, std::string why, Counts counts, bool tell_worker);
  void detach_attempt(Turn& t, Job& job, bool tell_worker);
  void end_job(Turn& t, Job& job, JobEndedEntry entry);
  void fail(Turn& t, Job& job, ErrorCode code, std::string message);
  void stop(Turn& t, Job& job, JobState state);  // cancelled, expired

  // ---- core_time.cpp: what the passing of time does.
  void on(Turn& t, const Wake&);
  void arm(Job& job);
  void arm(Worker& worker);
  void job_due(Turn& t, Job& job);
  void start_overdue(Turn& t, Job& job);
  std::chrono::milliseconds look_again() const {  // while a start is overdue
    return std::max(options.start_deadline / 4, std::chrono::milliseconds(1));
  }
  void worker_due(Turn& t, Worker& worker);
  Time next_due(const Job& job) const;
  void sweep_timers();
  void recovered(Now now);
  void recover_session(Turn& t, Session& session);

  void send(Turn& t, const Worker& worker, BrokerToWorker message, bool fill = false,
            int64_t keep = -1) {
    t.out.send.push_back(ToWorker{worker.connection, std::move(message), fill, keep});
  }
  void fact(Turn& t, Fact::Kind kind, std::string subject, std::string_view detail = {},
            double seconds = 0) {
    t.out.facts.push_back({kind, std::move(subject), std::string(detail), seconds, false, {}});
  }
  void fact(Turn& t, Fact::Kind kind, const Session& session, std::string_view detail) {
    fact(t, kind, session.name, detail);
    t.out.facts.back().tenant = session.tenant->name;
  }
  static double seconds_between(Time from, Time to) {
    return std::chrono::duration<double>(to - from).count();
  }

  CoreOptions options;
  TenantTable tenants;
  SessionTable sessions;
  JobTable jobs;
  WorkerTable workers;
  std::map<uint32_t, Departure> departures;    // by slot
  std::map<SessionNumber, Moving> hand_overs;  // on their way
  FairQueue anywhere;  // sessions whose next job may go to any worker
  Timers timers;
  JobNumber last_job{};
  SessionNumber last_session{};
  std::vector<uint32_t> unused;  // slots that may have no one to speak of them any more
  int64_t ready_sessions = 0;
  int64_t session_timers = 0;
  uint64_t step_mark = 0;
  Time last_now{};
  WallMs last_wall = 0;
  Time patience_until{};         // no worker is given up before this
  std::vector<uint32_t> gained;  // slots to look at in settle()
  std::vector<SessionNumber> strays;  // to be looked at by refuse_strays()
  std::vector<Tenant*> caps_due;  // whose idle KV may exceed its cap
};

}  // namespace limpet::broker
