// The messages between workers and the broker, as plain data.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "schema/handover_messages.h"
#include "schema/job.h"

namespace limpet {

// ---- Worker → broker -----------------------------------------------------------------------

// A session whose KV this worker holds, with the lease under which it does.
struct HeldSession {
  SessionNumber session{};
  Epoch epoch{};
  int64_t tokens = 0;  // transcript tokens known to the worker
};
// A job that the worker has and has not been told to forget.
struct HeldJob {
  JobNumber job{};
  Attempt attempt{};
  int64_t next_index = 0;  // output tokens made so far
  bool started = false;    // its Started has been sent
  bool ended = false;      // its JobEnded awaits an EndAck
};
struct Room {
  int32_t slots = 0;             // jobs that it would take now, beyond those it has
  // Tokens of KV that nobody holds and that no job which has started here may come to need.
  int64_t free_kv_tokens = 0;
  int64_t total_kv_tokens = 0;
  // Tokens of KV that give way to jobs when need be: of idle sessions, and of sessions whose job
  // has not started.
  int64_t idle_kv_tokens = 0;
  // Of these, tokens that nobody loses when they give way: below the device there is room for them.
  int64_t spill_kv_tokens = 0;
};
struct Register {
  std::string worker;        // its name; a newer incarnation of a name replaces the older
  uint64_t incarnation = 0;  // drawn at start: KV dies with it
  std::string device, model;
  uint64_t model_fingerprint = 0;
  int64_t max_context = 0;   // tokens
  Room room;
  std::vector<HeldSession> sessions;
  std::vector<HeldJob> jobs;
  int64_t kv_page_tokens = 1;  // KV is taken in pages of so many tokens
  std::string transfer{};  // where other workers bring it KV; empty: it takes none
  uint64_t kv_layout = 0;  // workers of the same one understand each other's pages
};
struct Heartbeat {
  uint64_t incarnation = 0;
  uint64_t sequence = 0;      // grows: proves that the loop turns, and orders what it says
  Room room;
  std::vector<HeldJob> jobs;  // all that it has: what is missing here was lost on the way
  int64_t resident_kv_tokens = 0;  // of its sessions: what would be computed again without it
};
struct NeedTranscript {
  JobNumber job{};
  Attempt attempt{};
};
// The job has a place and its prompt is known. From here on the prompt is part of the transcript.
struct JobStarted {
  JobNumber job{};
  Attempt attempt{};
  Residency residency = Residency::resident;
  Reason reason = Reason::none;
  int64_t cached_tokens = 0;
  int64_t prefilled_tokens = 0;
  std::vector<Token> prompt;  // tokens that follow the session's first base_tokens; empty if the
                              // dispatch already carried them (a later attempt)
};
struct StepRow {
  JobNumber job{};
  Attempt attempt{};
  int64_t first_index = 0;
  std::vector<Token> ids;
  std::string text;
  std::vector<std::vector<TokenLogprob>> logprobs;
};
struct StepTokens {  // what one step made, for all its jobs
  std::vector<StepRow> rows;
};
struct JobEnded {
  JobNumber job{};
  Attempt attempt{};
  bool ok = true;
  FinishReason reason = FinishReason::stop;    // when ok
  int64_t output_tokens = 0;                   // when ok: all of them, for a check
  std::string tail_text;                       // when ok: held-back text that is certain now
  ErrorCode code = ErrorCode::none;            // when not ok
  std::string message;
  bool retryable = false;                      // when not ok: another worker may succeed
};
struct SessionDropped {  // its KV is gone from here; the lease is given back
  SessionNumber session{};
  Epoch epoch{};
  Reason reason = Reason::evicted;
};
struct Leaving {  // takes no more jobs and will go
  uint64_t incarnation = 0;
  bool gone = false;  // the last word: it goes now
};
using WorkerMessage = std::variant<Register, Heartbeat, NeedTranscript, JobStarted, StepTokens,
                                   JobEnded, SessionDropped, Leaving, SessionReceived,
                                   HandOverFailed>;

// ---- Broker → worker -----------------------------------------------------------------------

struct Registered {
  uint64_t incarnation = 0;
  int64_t heartbeat_ms = 0;  // how often to send a Heartbeat
  int64_t lease_ms = 0;      // after this long without one it is taken for lost
  std::vector<HeldSession> release;              // not (or no longer) its own
  struct Resume {
    JobNumber job{};
    Attempt attempt{};
    int64_t from_index = 0;
  };
  std::vector<Resume> resume;  // go on; send again from this index
  std::vector<Resume> drop;    // stop: another attempt has taken over, or the job has ended
};
struct RegisterRefused {
  ErrorCode code = ErrorCode::none;
  std::string message;
};
struct WhoAreYou {};  // the broker does not know this worker: register (again)
struct Dispatch {
  JobNumber job{};
  Attempt attempt{};
  SessionNumber session{};
  Epoch epoch{};
  bool ephemeral = false;        // the session ends with the job
  Reason home_reason = Reason::none;  // why the session came to this worker; none: it was here
  int64_t base_tokens = 0;       // transcript length before this job's prompt
  int64_t prompt_tokens = -1;    // -1: the prompt is not known yet, tokenize the spec's input
  int64_t output_tokens = 0;     // already made and durable; continue at this index
  uint64_t seed = 0;
  int64_t deadline_ms = 0;       // time left; 0: none
  std::shared_ptr<const JobSpec> spec;
  bool has_transcript = false;   // else the worker is believed to hold it
  // All base_tokens + prompt_tokens + output_tokens of them, when has_transcript.
  std::vector<Token> transcript;
  std::string tenant{};          // KV of a common prefix is shared within it alone
  int64_t keep_alive_ms = -1;    // of the session; -1: until room is needed
  int64_t session_max_tokens = 0;  // it may never hold more; 0: as many as there is room for
};
struct TranscriptReply {  // answers NeedTranscript
  JobNumber job{};
  Attempt attempt{};
  std::vector<Token> transcript;  // as in Dispatch
};
struct CancelJob {
  JobNumber job{};
  Attempt attempt{};
};
struct ResumeJob {  // a gap: send again from this index
  JobNumber job{};
  Attempt attempt{};
  int64_t from_index = 0;
};
struct EndAck {  // the outcome is durable (or no longer wanted): forget the job
  JobNumber job{};
  Attempt attempt{};
};
struct ReleaseSession {  // another worker owns it, or it has ended: drop its KV
  SessionNumber session{};
  Epoch epoch{};  // drop if the lease held is at most this
};
using BrokerToWorker =
    std::variant<Registered, RegisterRefused, WhoAreYou, Dispatch, TranscriptReply,
                 CancelJob, ResumeJob, EndAck, ReleaseSession, Leave, MayLeave, HandOver,
                 StopHandOver, ExpectSession, KeepSession>;

}  // namespace limpet
