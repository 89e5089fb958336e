// The broker's decisions: who gets a job, when it is tried again, who owns a session.
//
// Pure: no I/O, clock, thread, environment or randomness; the same events at the same times give
// the same outputs. One owner, one thread. Durable state changes only in apply(), so recovery
// (apply every snapshot entry of the store) runs the code that the running broker ran. The caller
// makes Output::append durable before it lets anything of Output::send leave.
#pragma once
#include <memory>

#include "broker/event.h"
#include "broker/tenant_table.h"

namespace limpet::broker {

struct CoreOptions {
  std::chrono::milliseconds heartbeat{250};       // told to workers
  std::chrono::milliseconds lease{3000};          // a worker silent for this long is lost
  std::chrono::milliseconds start_deadline{5000}; // home must start a job within this
  std::chrono::milliseconds attempt_deadline{60000};  // longest silence of a running attempt
  std::chrono::milliseconds home_grace{3000};  // after a restart: wait for homes to announce
  std::chrono::milliseconds hand_over_deadline{10000};  // for one session
  int32_t max_attempts = 3;
  // A session waits for its home while no more jobs are there than so many times those at work
  // there, or nobody else is idle.
  double balance_factor = 2;
  // KV of a session without jobs is kept so long, where its terms say nothing; negative: until
  // its room is needed.
  std::chrono::milliseconds keep_alive{-1};
  std::chrono::milliseconds retain_sessions{0};  // a named one not used for so long ends; 0: never
  size_t max_queued_jobs = 20000;            // beyond: busy
  size_t max_queued_bytes = 256u << 20;      // of job bodies
  std::chrono::milliseconds retry_after{500};  // told with busy, grown with the queue's depth
};

class Core {
 public:
  explicit Core(const CoreOptions& options);
  ~Core();
  Core(Core&&) noexcept;
  Core& operator=(Core&&) noexcept;

  // Decides about one event. Appends to `out` (never clears it).
  void step(Now now, const Event& event, Output& out);

  // The only writer of durable state; step() calls it for every entry that it appends.
  void apply(const JournalEntry& entry);

  // All that was appended is durable: jobs that have ended are the store's to remember from now on,
  // and to forget.
  void committed();

  // Call once after the last snapshot entry has been applied, before the first step: jobs that
  // were dispatched wait `home_grace` for their workers to announce themselves.
  void recovered(Now now);

  // Weights and caps from now on; what runs goes on, idle KV beyond a cap goes with the next step,
  // which is due at once then.
  void set_policies(const TenantPolicies& policies);

  // Of sessions, from now on: CoreOptions::retain_sessions.
  void set_retention(std::chrono::milliseconds sessions);

  // When step(Wake) is due; Time::max() when nothing waits.
  Time next_deadline() const;

  // For listings, gauges and tests.
  struct Gauges {
    int64_t queued = 0, dispatched = 0, running = 0;
    int64_t sessions_idle = 0, sessions_queued = 0, sessions_running = 0, sessions_homed = 0;
    int64_t workers_ready = 0, workers_silent = 0;
    int64_t queued_bytes = 0;
  };
  Gauges gauges() const;

  // What it would cost to lose each worker that is there.
  struct WorkerCost {
    std::string worker, device, model;
    bool leaving = false;
    int64_t sessions = 0, running_jobs = 0, resident_kv_tokens = 0;
  };
  std::vector<WorkerCost> worker_costs() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace limpet::broker
