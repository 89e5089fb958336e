// The store's inside, shared by its three sources: writing, recovery and reading.
#pragma once
#include "broker/checkpointer.h"
#include "broker/journal_record.h"
#include "broker/store.h"

namespace limpet::broker {

inline constexpr int32_t kStoreApplication = 0x4c4d5054;  // "LMPT" in the file's header
inline constexpr int64_t kStoreVersion = 5;

// A chunk's key: a job's spec, its prompt, then its output by first index.
inline constexpr int kChunkBits = 22;
enum class Slot : int64_t { spec = 0, prompt = 1, output = 2 };
inline int64_t chunk_key(JobNumber job, Slot slot, int64_t first = 0) {
  const int64_t place = static_cast<int64_t>(slot) + first;
  if (first < 0 || place >= int64_t{1} << kChunkBits || raw(job) >> (62 - kChunkBits) != 0) {
    throw std::logic_error("chunk key out of range");
  }
  return static_cast<int64_t>(raw(job) << kChunkBits) + place;
}

// store_tables.cpp
void create_tables(Database& db);
// The same path, when the store there can be opened: its write-ahead log has been looked at
// (wal_check.h), and one of an older version is of this version: copied into a new file, which has
// taken the old one's place. Only under the folder's lock.
std::string made_ready(const std::string& path, std::vector<std::string>& mended);

// An exclusive lock on a file of the data folder; released with the process at the latest.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

class Store::Impl {
 public:
  explicit Impl(const Options& options);

  // store.cpp
  void commit(std::span<const JournalEntry> entries);

  // store_recover.cpp
  void check_file();
  void recover();
  void snapshot(const std::function<void(const JournalEntry&)>& sink) const;

  // store_read.cpp
  std::optional<StoredJob> find_job(std::string_view tenant, std::string_view job_id);
  std::optional<StoredProgress> progress(JobNumber job);
  std::vector<Token> transcript(SessionNumber session, int64_t n);
  std::optional<std::vector<Token>> transcript_of(JobNumber job);
  void read_output(JobNumber job, int64_t from, const std::function<bool(OutputRow&&)>& sink);
  Ended ended_jobs(const List& list, size_t limit, const std::string* tenant);
  std::shared_ptr<const JobSpec> body(JobNumber job);

  // store_retire.cpp
  Retired retire(const Retention& keep, WallMs now);
  int64_t bytes_used();

  Counters counters;
  JournalState state;
  std::vector<std::string> mended;  // in the write-ahead log, when it was opened

 private:
  struct Statements {
    Statement begin, commit, rollback;
    Statement put_log, cut_log, put_session, delete_session, put_job, delete_job, put_chunk,
        delete_chunk, archive_job, delete_chunks, oldest;
    Statement find_id, get_job, get_chunk, chunk_of, output_from, ended, ended_of,
        ended_of_none, failed;
  };

  // store.cpp: parts of one commit
  void write_log_and_ended();
  void write_closed(const SessionHead& session);
  void write_touched_job(JobNumber number);
  void write_ended(JournalState::Ended& ended);
  void fold(JobHead& head);
  void fold_session(SessionHead& head);
  void put_prompt(JobHead& head);
  void put_tail(JobHead& head);
  void put_job_row(const JobHead& head, const JobEndedEntry* end);
  void put_chunk(int64_t key, std::string_view bytes);
  void sweep(size_t touched);
  void start_sweep();
  void checkpoint();

  // store_retire.cpp: one bite of a pass over the jobs, oldest first
  bool retire_some(const Retention& keep, WallMs now, bool over, Retired& done);

  // store_recover.cpp
  void load_sessions();
  void load_live_jobs();
  void replay(int64_t sequence, std::string_view row);
  void replay_session(int64_t sequence, ByteReader& body);
  void replay_job(int64_t sequence, Record& record);
  JobHead* replayed(JobNumber number, int64_t sequence);
  void mark_dirty(JobHead& head);
  void mark_dirty(SessionHead& head);

  // store_read.cpp
  JobSpan span_of(JobNumber job);
  void append_tokens(JobNumber job, int64_t count, std::vector<Token>& out);
  [[noreturn]] void damaged(const std::string& what) const;

  Options options_;
  FolderLock lock_;
  Database db_;
  Statements sql_;
  std::optional<Checkpointer> checkpointer_;
  RecordWriter log_;
  std::string scratch_;
  bool broken_ = false;

  int64_t sequence_ = 0;      // of the newest log row
  int64_t first_kept_ = 1;    // the oldest log row that may still be there
  int64_t cut_below_ = 1;     // rows before it are in the tables; the newest row stays anyhow

  // What is dirty, and the sweep in progress: it folds what was dirty when it began.
  std::vector<SessionNumber> dirty_sessions_, sweep_sessions_;
  std::vector<JobNumber> dirty_jobs_, sweep_jobs_;
  bool sweeping_ = false;
  int64_t sweep_mark_ = 0, bytes_since_mark_ = 0, rows_since_mark_ = 0;

  // The pass over the jobs that looks for those whose time is over.
  int64_t pass_at_ = 0;         // jobs up to this one have been looked at
  bool pass_removed_ = false, pass_blocked_ = false;  // something; not yet, the log speaks of it
  bool waited_ = false;  // a pass ago, for the log
  WallMs next_pass_ = 0;
};

}  // namespace limpet::broker
