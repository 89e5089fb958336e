// The worker's decisions: which jobs it has, which sessions' KV it keeps, what runs in the next
// step, what it tells the broker.
//
// Pure: no I/O, clock, thread, environment or randomness. One owner, one thread. It shares the
// page bookkeeping (engine::KvCache, host data only) with the engine: the core creates, reserves,
// truncates, forks and destroys sequences; the engine writes the KV and commits tokens.
//
// The caller's loop:   core.step(now, event, out) for all that arrived; carry out.commands; send
// out.send;  Step s = core.plan(now, out);  run it;  core.step(now, StepDone{...}, out).
#pragma once
#include <memory>

#include "worker/event.h"
#include "worker/tiers.h"

namespace limpet::worker {

struct CoreOptions {
  std::string name{};        // of the worker
  uint64_t incarnation = 0;  // drawn at start
  std::string device{}, model{};
  uint64_t model_fingerprint = 0;
  int64_t max_context = 4096;    // tokens of a session
  Token vocab = 0;               // token ids are below; 0: unchecked
  int32_t max_jobs = 32;         // running or waiting here: the slots it offers
  int32_t token_budget = 256;    // token rows in one step, decode rows first
  // Most prefill rows of one job in one step, but for those that other tenants leave to it.
  int32_t prefill_chunk = 128;
  int32_t max_sessions = 16384;  // idle ones whose KV is kept; beyond, the longest idle goes
  std::chrono::milliseconds register_retry{500};
  std::string transfer{};   // where other workers bring it KV; empty: it takes none
  uint64_t kv_layout = 0;   // what a page's bytes mean; 0: it gives and takes none
  int64_t page_bytes = 0;
  int32_t transfer_window = 64;  // pages on their way to it, of one session
  // What it sends with each step of running jobs: so many pages, or more where steps are long
  // (bytes a second of the time that they take) or very many pages are left.
  int32_t transfer_step_pages = 1;
  int64_t transfer_step_rate = 64 << 20;
  std::chrono::milliseconds transfer_ask_again{200};  // a receiver that says nothing
  std::chrono::milliseconds transfer_patience{5000};  // without progress
  TierOptions tiers{};  // in pages of the pool's size
};

class Core {
 public:
  Core(const CoreOptions& options, engine::KvCache& kv);
  ~Core();

  void step(Time now, const Event& event, Output& out);

  // The next step's rows (decode rows first, then prefill chunks by their tenants' turns and in
  // order of arrival, within the token budget and the pages there are). May evict idle sessions
  // and preempt the youngest jobs; the oldest job always fits. Empty when there is nothing to run.
  // A step that is not empty must be answered by StepDone.
  Step plan(Time now, Output& out);

  Time next_deadline() const;  // when a Tick is due
  // The public keys of those who may bring KV now.
  std::vector<std::string> expected_givers() const;
  bool registered() const;     // the broker has answered, and not asked again since
  bool asked_to_leave() const;  // by the broker: as if it had been told to stop
  // After Stop: nothing is here any more that could go elsewhere, and the broker knows it.
  bool may_leave() const;

  struct Gauges {
    int64_t jobs = 0, jobs_waiting = 0, sessions = 0, sessions_idle = 0;
    int64_t evictions = 0, preemptions = 0, prefilled_tokens = 0, decoded_tokens = 0;
    int64_t idle_pages = 0;  // of KV that could be evicted
    int64_t resident_kv_tokens = 0;  // of all sessions that are at home here
    std::string refused;     // why the broker would not register this worker; empty: it did not
    std::vector<std::pair<Reason, int64_t>> reprefilled_tokens;  // by reason, since start
    std::vector<std::pair<Reason, int64_t>> evicted_sessions;
    Tiers::Gauges tiers;
    int64_t device_sessions = 0, device_tokens = 0;  // that have KV on the device, and how much
  };
  Gauges gauges() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace limpet::worker
