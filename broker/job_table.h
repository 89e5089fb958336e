// The jobs that have not ended, and the names of those that ended a moment ago. Pure.
// Its durable part changes only through the core's apply(). O(1) per call.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "broker/event.h"
#include "broker/session_table.h"

namespace limpet::broker {

struct Job {
  // Durable.
  JobNumber number{};
  Session* session = nullptr;
  std::shared_ptr<const JobSpec> spec;
  uint64_t body_hash = 0;
  uint64_t seed = 0;
  WallMs accepted_at = 0;
  WallMs deadline_at = 0;
  Attempt attempt{};
  JobState state = JobState::queued;
  int64_t base_tokens = 0;     // transcript before the prompt; known from the first start on
  int64_t prompt_tokens = -1;  // -1: not started yet
  int64_t output_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t session_tokens = 0;  // transcript before its start and its rewind: left if it fails
  int32_t failures = 0;        // attempts that failed
  std::string why;             // the last attempt ended

  // Of this process.
  Job* lane_before = nullptr;
  Job* lane_after = nullptr;
  uint32_t worker = kNoWorker;  // where the attempt in flight is
  uint32_t avoid = kNoWorker;   // where the last attempt came to nothing
  int moves = 0;                // because it was not started in time
  Reason move = Reason::none;   // why it must go elsewhere than its living home
  int64_t kv_promised = 0;      // of the attempt in flight: KV tokens that it may come to need
  int64_t charged = 0;          // and the tokens that its tenant was taken to have had by it
  int64_t prefilled = 0;        // and what it has: these, and the output from `output_before` on
  int64_t output_before = 0;
  size_t bytes = 0;             // what it counts for in max_queued_bytes
  Time accepted{};
  Time deadline = Time::max();
  Time start_by = Time::max();   // waiting at home, or dispatched and not started
  Time silent_since{};           // of the attempt in flight
  Time timer_at = Time::max();   // its one live timer
  Time ask_after = Time::min();  // no ResumeJob before this
  int64_t heard_index = 0;       // what the worker's last heartbeat said that it had made
  bool heard_started = false;
  Residency residency = Residency::resident;  // of the attempt that runs
  uint64_t step_mark = 0;  // the last message of tokens that had a row of this job
  double queue_seconds = 0;
  double first_token_seconds = 0;

  // Transcript length that the next attempt starts from, without prompt and output. A rewind
  // takes effect with the first start.
  int64_t base() const {
    if (prompt_tokens >= 0) return base_tokens;
    return spec->rewind_to < 0 ? session->tokens : std::min(spec->rewind_to, session->tokens);
  }
  bool in_flight() const { return state == JobState::dispatched || state == JobState::running; }
  const std::string& id() const { return spec->job_id; }
  const std::string& tenant() const { return session->tenant->name; }
};

class JobTable {
 public:
  struct Counts {
    int64_t queued = 0, dispatched = 0, running = 0;
    int64_t queued_bytes = 0;
  };
  struct Ended {  // remembered until the store knows it
    JobNumber job{};
    uint64_t body_hash = 0;
    JobState state = JobState::finished;
  };

  // Throws std::logic_error when the number or the tenant's id is there already.
  Job& add(const JobAccepted& accepted, Session& session);
  void set_state(Job& job, JobState state);  // not terminal
  void end(Job& job, JobState state);        // `job` is gone after this
  Job* find(JobNumber number);
  Job* find(const OwnedName& id);
  Job& at(JobNumber number);  // std::logic_error when it is not there
  const Ended* find_ended(const OwnedName& id) const;
  void forget_ended() { ended_.clear(); }
  const Counts& counts() const { return counts_; }
  size_t size() const { return jobs_.size(); }

  template <typename Visit>  // visit(job) → whether to go on; in no order
  void each(Visit visit) {
    for (auto& [number, job] : jobs_)
      if (!visit(job)) return;
  }

 private:
  void count(const Job& job, int64_t n);

  std::unordered_map<uint64_t, Job> jobs_;
  std::unordered_map<OwnedName, Job*, OwnedNameHash> ids_;  // views of the specs and sessions
  std::unordered_map<std::string, Ended> ended_;  // by tenant, NUL, id
  Counts counts_;
};

// About what a job's body takes in memory.
size_t body_bytes(const JobSpec& spec);

}  // namespace limpet::broker
