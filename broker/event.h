// What the broker's core is told, what it decides, and what must survive a crash. Plain data.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schema/messages.h"

namespace limpet::broker {

// The core never reads a clock: both times are arguments. `Time` is monotonic and drives every
// decision; `WallMs` is only recorded, for what must outlive a restart (deadlines, listings).
using Time = std::chrono::steady_clock::time_point;
struct Now {
  Time mono;
  WallMs wall = 0;
};

// A connection, named by the transport; never reused while the process lives.
enum class ClientId : uint64_t {};
enum class WorkerId : uint64_t {};

// A job that has left the core's memory, as the store remembers it.
struct StoredJob {
  JobNumber job{};
  uint64_t body_hash = 0;
  JobState state = JobState::finished;
  std::shared_ptr<const JobSpec> spec{};  // of one that has failed, when it is to be done again
};

// ---- Events ----------------------------------------------------------------------------------

struct ClientEvent {
  ClientId client{};
  ClientMessage message;
  uint64_t body_hash = 0;           // of a Submit
  // Of a Submit, Attach, Cancel or Retry: what the store knows of the id.
  std::optional<StoredJob> stored;
  // Whose client it is, by its key; empty when keys are off. Ids and session names are a tenant's
  // own: nothing of another one's is found.
  std::string tenant{};
  bool admin = false;  // sees every tenant's in listings
};
struct ClientGone {
  ClientId client{};
};
struct WorkerEvent {
  WorkerId worker{};
  WorkerMessage message;
  std::string key{};  // the public key that it has proven to hold; empty when keys are off
};
struct WorkerUnreachable {  // a frame to it could not be delivered
  WorkerId worker{};
};
struct Wake {};  // next_deadline() has passed
// The store is larger than it may be, and no job that has ended can go: so many of the sessions
// that have not been used for longest do.
struct CloseUnused {
  int64_t sessions = 0;
};
using Event =
    std::variant<ClientEvent, ClientGone, WorkerEvent, WorkerUnreachable, Wake, CloseUnused>;

// ---- Journal: all that survives ----------------------------------------------------------------

struct SessionOpened {
  SessionNumber session{};
  std::string name;  // empty: ephemeral, ends with its job
  std::string tenant{};  // owns it and its jobs
};
struct SessionTerms {  // what holds for it from now on
  SessionNumber session{};
  int64_t keep_alive_ms = -1;  // its KV is kept so long when idle; -1: as the broker has it
  int64_t max_tokens = 0;      // it may never hold more; 0: no cap of its own
};
struct JobAccepted {
  JobNumber job{};
  SessionNumber session{};
  std::shared_ptr<const JobSpec> spec;
  uint64_t body_hash = 0;
  uint64_t seed = 0;
  WallMs accepted_at = 0;
  WallMs deadline_at = 0;  // 0: none
  JobNumber replaces{};    // the one of this id that had failed, and is done again; 0: none
};
struct HomeSet {  // worker empty: the session has no home
  SessionNumber session{};
  Epoch epoch{};
  std::string worker;
  uint64_t incarnation = 0;
  Reason reason = Reason::none;  // why the session's next start there will not be resident
  uint64_t model = 0;            // fingerprint of the worker's model; without one, of the last
};
struct JobDispatched {
  JobNumber job{};
  Attempt attempt{};
};
struct JobRequeued {  // the attempt is over without an outcome
  JobNumber job{};
  std::string why;
  bool failed = false;  // counts against the attempts that it may have
};
struct StartedEntry {
  JobNumber job{};
  Attempt attempt{};
  std::string worker;
  Residency residency = Residency::resident;
  Reason reason = Reason::none;
  int64_t cached_tokens = 0;
  int64_t prefilled_tokens = 0;
  // Transcript length before the prompt. With the prompt, the transcript is cut there: a rewind.
  int64_t base_tokens = 0;
  bool has_prompt = false;    // the first Started of the job carries the prompt; later ones do not
  std::vector<Token> prompt;  // transcript tokens [base_tokens, base_tokens + prompt.size())
};
struct OutputRow {
  JobNumber job{};
  int64_t first_index = 0;
  std::vector<Token> ids;
  std::string text;
  std::vector<std::vector<TokenLogprob>> logprobs;
};
struct TokensAppended {  // the accepted rows of one step
  std::vector<OutputRow> rows;
};
struct JobEndedEntry {
  JobNumber job{};
  JobState state = JobState::finished;  // terminal
  FinishReason reason = FinishReason::stop;
  std::string tail_text;                // belongs after the last token
  ErrorCode code = ErrorCode::none;     // failed
  std::string message;
  Usage usage;
  Timings timings;
  WallMs ended_at = 0;
  // Transcript length from here on. A failed job leaves the transcript as it found it.
  int64_t session_tokens = 0;
};
struct SessionClosed {
  SessionNumber session{};
};

// Recovery: the store says what is alive by these two; the core applies them like any other.
struct SessionSnapshot {
  SessionNumber session{};
  std::string name;
  int64_t tokens = 0;  // transcript length, of a running job's prompt and output too
  Epoch epoch{};
  std::string home;
  uint64_t incarnation = 0;
  Reason reason = Reason::none;
  uint64_t model = 0;
  std::string tenant{};
  int64_t keep_alive_ms = -1, max_tokens = 0;  // its terms
  WallMs used_at = 0;  // a job of its was accepted or ended
};
struct JobSnapshot {  // of a job that has not ended; in order of acceptance
  JobAccepted accepted;
  Attempt attempt{};
  JobState state = JobState::queued;  // queued, dispatched or running
  int64_t base_tokens = 0;
  int64_t prompt_tokens = -1;  // -1: not started yet
  int64_t output_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t session_tokens = 0;  // transcript length before its start, and before its rewind
  int32_t failures = 0;        // attempts that failed
};
struct NumbersReserved {  // no number up to these may be drawn again
  JobNumber job{};
  SessionNumber session{};
};
using JournalEntry =
    std::variant<SessionOpened, SessionTerms, JobAccepted, HomeSet, JobDispatched, JobRequeued,
                 StartedEntry, TokensAppended, JobEndedEntry, SessionClosed, SessionSnapshot,
                 JobSnapshot, NumbersReserved>;

// ---- Sends: leave only after every entry of the same Output is durable -------------------------

struct ToClient {
  ClientId client{};
  BrokerToClient message;  // answers to requests; the events of a job go by streams
};
struct ToWorker {
  WorkerId worker{};
  BrokerToWorker message;
  bool fill_transcript = false;  // Dispatch, TranscriptReply: the shell reads it from the store
  int64_t keep_tokens = -1;      // and of it only so many: the job begins there; -1: all
};
// The client now follows the job from this index: what is stored first, then what comes.
struct StreamOpened {
  ClientId client{};
  JobNumber job{};
  std::string job_id;
  int64_t from_index = 0;
  bool tokens = true;  // false: only the outcome
};
struct StreamClosed {
  ClientId client{};
  std::string job_id;
};
// What happened to a job, for whoever follows it (and for the figures).
struct JobEvent {
  JobNumber job{};
  std::shared_ptr<const JobSpec> spec;
  std::variant<StartedEntry, OutputRow, JobEndedEntry> what;
};
using Send = std::variant<ToClient, ToWorker, StreamOpened, StreamClosed, JobEvent>;

// ---- Facts for metrics and logs: no decision depends on them ------------------------------------

struct Fact {
  enum class Kind : uint8_t {
    job_accepted, job_ended, dispatched, requeued, affinity_break, rejected, worker_registered,
    worker_lost, worker_left, stale_message, home_kept, first_token, queue_left,
    hand_over,       // detail: its outcome
    session_retired  // detail: for its age, or for the store's size
  } kind;
  std::string subject;   // job id, session or worker name, for the log line
  std::string detail;    // outcome, reason or code: a metric's label
  double seconds = 0;    // first_token, queue_left
  bool later_turn = false;                          // first_token
  Residency residency = Residency::resident;        // first_token, dispatched
  std::string tenant{};                             // whose session it is, for the log line
};

// `append` must be durable BEFORE any of `send` leaves the process.
struct Output {
  std::vector<JournalEntry> append;
  std::vector<Send> send;
  std::vector<Fact> facts;
};

}  // namespace limpet::broker
