// The messages between clients and the broker, as plain data.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "schema/job.h"

namespace limpet {

// ---- Client → broker -----------------------------------------------------------------------

struct Submit {
  std::shared_ptr<const JobSpec> spec;
  bool stream = true;       // send Started and Tokens; else only the outcome
  int64_t from_index = 0;   // first token index wanted
};
struct Attach {
  std::string job_id;
  int64_t from_index = 0;
};
struct Detach {  // stop sending this job's events to this connection; the job goes on
  std::string job_id;
};
struct Cancel {
  std::string job_id;
};
enum class Listing : uint8_t { jobs, sessions, workers };
// Of what `what` names, only what all of these hold for; an empty or zero one holds for everything.
struct List {
  Listing what = Listing::jobs;
  uint32_t limit = 1000;
  std::string tenant{}, worker{}, session{};  // whose; where, or its home; of which
  uint32_t states = 0;  // bits 1 << JobState or 1 << SessionState; not of workers
  WallMs since = 0;     // jobs that ended, or are there, and sessions that were used, since then
};
struct Drain {  // the worker is to hand over what it has, and to go; harmless when said again
  std::string worker;
  uint64_t incarnation = 0;  // 0: the one that is there now
};
// The session's KV may go, now or as soon as its running job has ended: its client will be away for
// long. Its transcript stays, and its next job prefills. Harmless when said again.
struct Release {
  std::string session;
  std::string tenant{};  // whose, said by an admin; else one's own
};
struct Retry {  // a job that has failed is to be done after all; harmless when said again
  std::string job_id;
  std::string tenant{};  // whose, said by an admin; else one's own
};
using ClientMessage =
    std::variant<Submit, Attach, Detach, Cancel, List, Drain, Release, Retry>;

// ---- Broker → client -----------------------------------------------------------------------

struct Accepted {  // durable: this job will reach a terminal state
  std::string job_id;
  JobState state = JobState::queued;
  bool created = true;  // false: the id was known, the client is attached to it
};
struct Refused {  // of a request; the job, if there is one, is as it was
  std::string job_id;
  ErrorCode code = ErrorCode::none;
  std::string message;
  int64_t retry_after_ms = 0;
};
struct Started {
  std::string job_id;
  std::string worker;
  Residency residency = Residency::resident;
  Reason reason = Reason::none;
  int64_t cached_tokens = 0;
  int64_t prefilled_tokens = 0;
  int32_t attempt = 0;
};
// Consecutive output tokens. `text` is what became certain with them (it may lag behind the ids
// by an unfinished character or a possible stop string, never contradict them).
struct Tokens {
  std::string job_id;
  int64_t first_index = 0;
  std::vector<Token> ids;
  std::string text;
  std::vector<std::vector<TokenLogprob>> logprobs;  // [ids] or empty; chosen token first
};
struct Finished {
  std::string job_id;
  FinishReason reason = FinishReason::stop;
  Usage usage;
  Timings timings;
  std::string tail_text;  // held-back text that is certain now; follows the last token's
};
struct Failed {
  std::string job_id;
  ErrorCode code = ErrorCode::none;
  std::string message;
};
struct JobInfo {
  std::string job_id, session, worker;
  JobState state = JobState::queued;
  int32_t attempt = 0;
  int64_t output_tokens = 0;
  std::string detail;  // finish reason, error, residency: what an operator would ask next
  std::string tenant{};
  WallMs accepted_at = 0, ended_at = 0;  // 0: has not ended
  ErrorCode code = ErrorCode::none;      // of a failed one
};
struct SessionInfo {
  std::string session;
  std::string home;  // the worker that has its KV; empty: none, or one that is gone
  SessionState state = SessionState::idle;
  uint64_t epoch = 0;
  int64_t tokens = 0;
  int64_t queued_jobs = 0;
  std::string tenant{};
  int64_t keep_alive_ms = -1, max_tokens = 0;  // its terms, as JobSpec has them
  WallMs used_at = 0;                          // its last job ended
};
struct WorkerInfo {
  std::string worker, device, model, state;
  int64_t sessions = 0, running = 0, slots = 0, free_kv_tokens = 0, total_kv_tokens = 0;
  int64_t waiting = 0;             // sessions whose next job waits for this very worker
  int64_t resident_kv_tokens = 0;  // of its sessions
};
struct Listed {
  std::vector<JobInfo> jobs;
  std::vector<SessionInfo> sessions;
  std::vector<WorkerInfo> workers;
  bool truncated = false;
};
struct DrainStatus {  // answers Drain
  enum class State : uint8_t { unknown, asked, leaving, gone };
  std::string worker;
  State state = State::unknown;
  int64_t sessions = 0;  // whose home it still is
  int64_t running = 0;   // jobs that it still has
  uint64_t incarnation = 0;  // that was asked; name it to ask how far it is
};
struct Released {  // answers Release
  std::string session;
  SessionState state = SessionState::idle;  // running: its KV goes when its job has ended
  int64_t tokens = 0;                       // of its transcript, which stays
};
struct Retried {  // answers Retry
  std::string job_id;
  JobState state = JobState::queued;
  bool again = false;  // it had failed, and is queued again: last in its session's lane
};
using BrokerToClient = std::variant<Accepted, Refused, Started, Tokens, Finished, Failed, Listed,
                                    DrainStatus, Released, Retried>;

}  // namespace limpet
