// What the journal's entries mean, written a second time and as plainly as possible: whole
// transcripts in memory, nothing clever. The simulator's disk; it is independent of Core::apply
// and refuses every entry that contradicts what is stored.
#pragma once
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "broker/event.h"

namespace limpet::sim {

using broker::JournalEntry;

// An entry that breaks a promise: what the simulator is there to find.
struct Contradiction : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ReferenceStore {
 public:
  struct Job {
    broker::JobAccepted accepted;
    JobState state = JobState::queued;
    Attempt attempt{};
    std::string owner;  // of its attempt: the home when it was dispatched
    uint64_t owner_incarnation = 0;
    int64_t cap = 0;  // its session's, when it was dispatched
    bool has_prompt = false;
    int64_t base = 0;
    int64_t cached = 0;
    int32_t failures = 0;
    std::vector<Token> prompt, output;
    std::vector<Token> cut;  // what its rewind took off the transcript
    std::string text;
    std::vector<broker::StartedEntry> starts;
    std::optional<broker::JobEndedEntry> end;
  };
  struct Session {
    std::string name, tenant;
    std::vector<Token> transcript;  // a running job's prompt and output too
    Epoch epoch{};
    std::string home;
    uint64_t incarnation = 0;
    Reason reason = Reason::none;
    uint64_t model = 0;
    int64_t keep_alive_ms = -1, max_tokens = 0;
    WallMs used_at = 0;
    bool closed = false;
    std::vector<JobNumber> lane;  // not ended, oldest first
  };

  void commit(std::span<const JournalEntry> entries);
  // What recovery applies to a new core.
  std::vector<JournalEntry> snapshot() const;

  std::optional<broker::StoredJob> find_ended(const std::string& job_id,
                                              const std::string& tenant = "") const;
  const Job* find(const std::string& job_id, const std::string& tenant = "") const;
  const Job* find(JobNumber job) const;
  const Session* find(SessionNumber session) const;
  const std::map<JobNumber, Job>& jobs() const { return jobs_; }
  const std::map<SessionNumber, Session>& sessions() const { return sessions_; }
  // What a Dispatch or TranscriptReply of this job carries.
  std::vector<Token> transcript(JobNumber job) const;

 private:
  void take(const broker::SessionOpened& e);
  void take(const broker::SessionTerms& e);
  void take(const broker::JobAccepted& e);
  void take(const broker::HomeSet& e);
  void take(const broker::JobDispatched& e);
  void take(const broker::JobRequeued& e);
  void take(const broker::StartedEntry& e);
  void take(const broker::TokensAppended& e);
  void take(const broker::JobEndedEntry& e);
  void take(const broker::SessionClosed& e);
  void take(const broker::SessionSnapshot&);
  void take(const broker::JobSnapshot&);
  void take(const broker::NumbersReserved& e);
  Job& live(JobNumber number, const char* what);
  Session& open(SessionNumber number, const char* what);

  std::map<JobNumber, Job> jobs_;
  using Owned = std::pair<std::string, std::string>;  // tenant, and the name that it chose
  std::map<Owned, JobNumber> ids_;
  std::map<SessionNumber, Session> sessions_;
  std::map<Owned, SessionNumber> names_;
  JobNumber last_job_{};
  SessionNumber last_session_{};
};

}  // namespace limpet::sim
