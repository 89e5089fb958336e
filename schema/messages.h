// The messages of limpet as plain data. wire.h turns them into verified FlatBuffers frames and
// back; protocol.md says who sends which when. Nothing here knows sockets or storage.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schema/types.h"

namespace limpet {

struct ChatMessage {
  std::string role;
  std::string content;
  bool operator==(const ChatMessage&) const = default;
};

// Temperature 0 is greedy. top_k 0, top_p 1, min_p 0, repetition_penalty 1: off.
struct Sampling {
  float temperature = 0.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  std::optional<uint64_t> seed;  // drawn from the job id by the broker when absent
  int32_t logprobs = -1;  // alternatives told for each token; -1: none, 0: only the chosen one
  bool operator==(const Sampling&) const = default;
};

enum class InputKind : uint8_t { messages, text, tokens };

// What a client asks for. Exactly the input field that `kind` names is used.
struct JobSpec {
  std::string job_id;   // chosen by the client; makes the job idempotent
  std::string session;  // empty: a session of its own that ends with it
  InputKind kind = InputKind::messages;
  std::vector<ChatMessage> messages;  // rendered by the model's chat template
  std::string text;                   // tokenized as it is
  std::vector<Token> tokens;          // appended as they are
  Sampling sampling;
  int32_t max_tokens = 256;
  std::vector<std::string> stop;        // strings that end the output; not part of its text
  std::vector<Token> stop_tokens;       // besides the model's own end tokens
  bool ignore_eos = false;
  int64_t deadline_ms = 0;              // from acceptance; 0: none
  int32_t priority = 0;                 // higher goes first among jobs that wait
  bool require_resident = false;
  int64_t rewind_to = -1;               // cut the session to this many tokens first; -1: do not
  bool operator==(const JobSpec&) const = default;
};

struct TokenLogprob {
  Token token = 0;
  float logprob = 0.0f;
  bool operator==(const TokenLogprob&) const = default;
};

struct Usage {
  int64_t prompt_tokens = 0;   // tokens of the session before the output, cached ones included
  int64_t cached_tokens = 0;   // of these, how many had their KV at hand
  int64_t output_tokens = 0;
  bool operator==(const Usage&) const = default;
};

// Seconds, as the broker saw them.
struct Timings {
  double queue = 0;        // accepted → dispatched (last attempt)
  double first_token = 0;  // accepted → first token durable
  double total = 0;        // accepted → end
  bool operator==(const Timings&) const = default;
};

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
struct List {
  Listing what = Listing::jobs;
  uint32_t limit = 1000;
};
using ClientMessage = std::variant<Submit, Attach, Detach, Cancel, List>;

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
};
struct SessionInfo {
  std::string session, home;
  SessionState state = SessionState::idle;
  uint64_t epoch = 0;
  int64_t tokens = 0;
  int64_t queued_jobs = 0;
};
struct WorkerInfo {
  std::string worker, device, model, state;
  int64_t sessions = 0, running = 0, slots = 0, free_kv_tokens = 0, total_kv_tokens = 0;
};
struct Listed {
  std::vector<JobInfo> jobs;
  std::vector<SessionInfo> sessions;
  std::vector<WorkerInfo> workers;
  bool truncated = false;
};
using BrokerToClient = std::variant<Accepted, Refused, Started, Tokens, Finished, Failed, Listed>;

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
  int64_t free_kv_tokens = 0;    // tokens of KV that new or growing sessions could take
  int64_t total_kv_tokens = 0;
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
};
struct Heartbeat {
  uint64_t incarnation = 0;
  uint64_t sequence = 0;      // grows: proves that the loop turns, and orders what it says
  Room room;
  std::vector<HeldJob> jobs;  // all that it has: what is missing here was lost on the way
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
};
using WorkerMessage = std::variant<Register, Heartbeat, NeedTranscript, JobStarted, StepTokens,
                                   JobEnded, SessionDropped, Leaving>;

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
                 CancelJob, ResumeJob, EndAck, ReleaseSession>;

}  // namespace limpet
