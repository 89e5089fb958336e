// The broker's durable memory: SQLite in the data folder, written in one transaction per turn.
//
// A commit writes one row of a log (what changed, as records) and, for jobs that ended in it,
// their final rows; a sweep of bounded work per commit folds what is older into the tables and
// cuts the log. Transcripts and outputs are on disk; memory holds a head per open session and per
// live job, and the tokens that are in the log but not yet in the tables. journal_format.md.
//
// One owner, one thread. After commit() has thrown, the store refuses everything but reading and
// its destruction: what was committed before is durable, what was given to it is not.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "broker/event.h"
#include "broker/sqlite.h"

namespace limpet::broker {

// A job as the store knows it, live or ended.
struct StoredProgress {
  JobNumber job{};
  SessionNumber session{};
  std::string job_id;
  JobState state = JobState::queued;
  Attempt attempt{};
  int64_t output_tokens = 0;
  std::optional<StartedEntry> started;  // the latest, without its prompt
  std::optional<JobEndedEntry> ended;
};

class Store {
 public:
  // How long what has ended is kept. Zero: for ever, however large.
  struct Retention {
    int64_t jobs_ms = 0;  // a job, from its end on
    int64_t bytes = 0;    // of the file in use: beyond, the oldest go before their time
    bool operator==(const Retention&) const = default;
  };
  struct Retired {
    int64_t by_age = 0, by_size = 0;  // jobs
    bool stuck = false;               // too large still, and no job is left that can go
  };
  // Ended jobs of a listing, newest first.
  struct Ended {
    std::vector<JobInfo> jobs;
    bool more = false;  // not all were looked at
  };
  struct Options {
    std::string folder;               // created if it is not there
    int64_t fold_tokens = 256;        // a job's output leaves the log in chunks of this many
    int64_t sweep_bytes = 32 << 20;   // of log, between two sweeps
    int64_t checkpoint_pages = 1000;  // of SQLite's write-ahead log
  };
  struct Counters {
    int64_t commits = 0, entries = 0, log_bytes = 0, log_rows = 0;
    int64_t live_jobs = 0, sessions = 0;
  };

  // Throws StoreError: the folder cannot be written, another broker has it, the file is foreign,
  // damaged or of a newer version.
  static std::unique_ptr<Store> open(const Options& options);
  ~Store();

  // Durable when it returns. Throws StoreError when it cannot be; std::logic_error when an entry
  // contradicts the ones before it.
  void commit(std::span<const JournalEntry> entries);

  // What is alive, for Core::apply: NumbersReserved, the sessions, the jobs by acceptance.
  void snapshot(const std::function<void(const JournalEntry&)>& sink) const;

  // As of the last commit. They throw StoreError when the file cannot be read.
  std::optional<StoredJob> find_job(std::string_view tenant, std::string_view job_id);
  std::optional<StoredProgress> progress(JobNumber job);
  // The session's first n tokens; fewer are never given: StoreError.
  std::vector<Token> transcript(SessionNumber session, int64_t n);
  // A live job's session up to and with its prompt and output so far; none when it has ended.
  std::optional<std::vector<Token>> transcript_of(JobNumber job);
  // The job's output from `from` on as rows in order, until `sink` returns false or it ends.
  void read_output(JobNumber job, int64_t from, const std::function<bool(OutputRow&&)>& sink);
  // Of this tenant, or of all (null): those that the listing asks for. Bounded work.
  Ended ended_jobs(const List& list, size_t limit, const std::string* tenant);
  // Of a job that has failed; null when it is not kept.
  std::shared_ptr<const JobSpec> body(JobNumber job);

  // One bite of what retention asks for: bounded work, durable when it returns. Never takes a job
  // that an open session's transcript needs. Throws as commit() does.
  Retired retire(const Retention& keep, WallMs now);
  int64_t bytes_used();  // of the file, without the free pages in it

  Counters counters() const;
  // Flipped bits that were put right when it was opened, by their place: wal_check.h.
  const std::vector<std::string>& mended() const;

 private:
  class Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::broker
