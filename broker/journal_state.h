// What the journal's entries amount to, for what is alive: session heads and jobs that have not
// ended, with the tokens that are in the log but not yet in the tables. Plain data and pure folds;
// store.h keeps them on disk. See journal_format.md.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "broker/event.h"

namespace limpet::broker {

// Consecutive output tokens of a job with the boundaries of the rows that they came in: a row's
// text belongs to the row as a whole, so a reader is given whole rows' text.
struct OutputChunk {
  struct Piece {
    uint32_t tokens = 0;
    uint32_t text_bytes = 0;
  };
  int64_t first = 0;
  std::vector<Token> ids;
  std::string text;
  std::vector<Piece> pieces;
  std::vector<std::vector<TokenLogprob>> logprobs;  // [ids], or empty

  int64_t end() const { return first + static_cast<int64_t>(ids.size()); }
  void append(const OutputRow& row);           // row.first_index must be end()
  void append_chunk(const OutputChunk& next);  // likewise
  void restart(int64_t at);                    // empty, beginning at this index
  // The rows from `from` on as one row; the row that `from` lies in gives all of its text.
  OutputRow from(JobNumber job, int64_t from) const;
};

struct SessionHead {
  SessionNumber session{};
  std::string name, tenant;
  Epoch epoch{};
  std::string home;
  uint64_t incarnation = 0;
  Reason reason = Reason::none;
  uint64_t model = 0;    // fingerprint of what its home computes, or the last one did
  int64_t tokens = 0;    // of the transcript as the last job that has ended left it
  JobNumber last_job{};  // the newest job that added to the transcript; 0: none
  int64_t keep_alive_ms = -1, max_tokens = 0;  // its terms
  WallMs used_at = 0;                          // a job of its was accepted or ended; 0: not known
  bool in_table = false, dirty = false;  // it has a row there; newer than that row
  int64_t table_sequence = 0;            // log rows up to this one are contained in the row
};

// Where a job's tokens lie in its session: [base, base + prompt + output). The job before it in
// the session is `previous`, of whose tokens those before `base` count.
struct JobSpan {
  JobNumber previous{};
  int64_t base = 0;
  int64_t prompt = -1;  // -1: has not started yet
  int64_t output = 0;
};

struct JobHead {
  JobNumber job{};
  SessionNumber session{};
  std::string id, tenant;
  std::shared_ptr<const JobSpec> spec;
  uint64_t body_hash = 0, seed = 0;
  WallMs accepted_at = 0, deadline_at = 0;
  JobState state = JobState::queued;
  Attempt attempt{};
  std::string worker;    // that the last attempt went to
  std::string why;       // the last attempt ended without an outcome: why
  int32_t failures = 0;  // attempts that count as failed
  JobSpan span;
  bool has_started = false;
  StartedEntry started;  // the latest one, without its prompt

  // Not in the tables yet: the prompt, and the output from tail.first on.
  std::vector<Token> prompt;
  OutputChunk tail;
  bool in_table = false, dirty = false;
  int64_t table_sequence = 0;  // log rows up to this one are contained in the table's row

  // Within one commit: what is new since the last one.
  bool is_new = false, changed = false, new_prompt = false, touched = false;
  size_t logged_pieces = 0, logged_tokens = 0, logged_text = 0;  // of the tail
};

// All that is alive, and what the entries of the commit in progress have touched.
struct JournalState {
  std::unordered_map<SessionNumber, SessionHead> sessions;
  std::unordered_map<JobNumber, JobHead> jobs;
  using OwnedId = std::pair<std::string, std::string>;  // tenant, id
  using OwnedIdView = std::pair<std::string_view, std::string_view>;
  struct OwnedIdHash {
    using is_transparent = void;
    size_t operator()(const OwnedIdView& n) const;
  };
  struct OwnedIdEqual {
    using is_transparent = void;
    bool operator()(const OwnedIdView& a, const OwnedIdView& b) const { return a == b; }
  };
  std::unordered_map<OwnedId, JobNumber, OwnedIdHash, OwnedIdEqual> by_id;
  JobNumber highest_job{};
  SessionNumber highest_session{};

  struct Ended {
    JobHead head;
    JobEndedEntry end;
  };
  std::vector<SessionNumber> touched_sessions;  // may repeat; a closed one is no longer there
  std::vector<SessionHead> closed;
  std::vector<JobNumber> touched_jobs;          // each once; an ended one is no longer there
  std::vector<Ended> ended;
  std::vector<JobNumber> replaced;  // had failed, and is done again by a job of the same id

  // Throws std::logic_error when the entry contradicts what is there: a bug in who made it.
  void apply(const JournalEntry& entry);
  JobHead& job(JobNumber number);
  SessionHead& session(SessionNumber number);
  JobHead* find(JobNumber number);

 private:
  JobHead& touch(JobNumber number);
  void accept(const JobAccepted& e);
  void start(const StartedEntry& e);
  void end(const JobEndedEntry& e);
};

}  // namespace limpet::broker
