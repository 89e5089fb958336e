// Opening the store: the lock, the file's identity, the tables, and the log's replay.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "broker/store_impl.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

std::string in_folder(const std::string& folder, const char* name) {
  return (std::filesystem::path(folder) / name).string();
}

}  // namespace

FolderLock::FolderLock(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw StoreError("cannot create the data folder " + folder + ": " + error.message() +
                     ". Choose a writable one with --data.");
  }
  const std::string path = in_folder(folder, "lock");
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    throw StoreError("cannot write in the data folder " + folder + ": " + std::strerror(errno) +
                     ". Make it writable for this user, or choose another with --data.");
  }
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int why = errno;
    ::close(fd_);
    throw StoreError(why == EWOULDBLOCK
                         ? "another broker is using the data folder " + folder +
                               ". Stop it first, or choose another folder with --data."
                         : "cannot lock " + path + ": " + std::strerror(why));
  }
}

FolderLock::~FolderLock() { ::close(fd_); }

Store::Impl::Impl(const Options& options)
    : options_(options),
      lock_(options.folder),
      db_(made_ready(in_folder(options.folder, "limpet.sqlite"), mended)) {
  check_file();
  sql_.begin = Statement(db_, "BEGIN IMMEDIATE");
  sql_.commit = Statement(db_, "COMMIT");
  sql_.rollback = Statement(db_, "ROLLBACK");
  sql_.put_log = Statement(db_, "INSERT INTO log VALUES(?,?)");
  sql_.cut_log = Statement(db_, "DELETE FROM log WHERE sequence < ?");
  sql_.put_session = Statement(db_, "REPLACE INTO session VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  sql_.delete_session = Statement(db_, "DELETE FROM session WHERE number = ?");
  sql_.put_job = Statement(
      db_, "INSERT INTO job VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
           "?,?,?,?)");
  sql_.delete_job = Statement(db_, "DELETE FROM job WHERE number = ?");
  sql_.put_chunk = Statement(db_, "INSERT INTO chunk VALUES(?,?)");
  sql_.delete_chunk = Statement(db_, "DELETE FROM chunk WHERE key = ?");
  // A tenant's name has no '#': nobody finds the job by its id any more.
  sql_.archive_job = Statement(
      db_, "UPDATE job SET tenant = tenant || '#' || number WHERE number = ? AND state = 4");
  sql_.delete_chunks = Statement(db_, "DELETE FROM chunk WHERE key BETWEEN ? AND ?");
  sql_.oldest = Statement(
      db_, "SELECT number, session, state, ended_at, sequence, prompt_tokens, output_tokens,"
           " accepted_at FROM job WHERE number > ? ORDER BY number LIMIT ?");
  sql_.find_id = Statement(
      db_, "SELECT number, body_hash, state FROM job WHERE tenant = ? AND id = ?");
  sql_.get_job = Statement(db_, "SELECT * FROM job WHERE number = ?");
  sql_.get_chunk = Statement(db_, "SELECT data FROM chunk WHERE key = ?");
  sql_.chunk_of =
      Statement(db_, "SELECT max(key) FROM chunk WHERE key BETWEEN ? AND ?");
  sql_.output_from = Statement(
      db_, "SELECT key, data FROM chunk WHERE key BETWEEN ? AND ? ORDER BY key");
  sql_.ended = Statement(db_, "SELECT * FROM job WHERE state >= 3 AND instr(tenant, '#') = 0"
                              " ORDER BY number DESC LIMIT ?");
  sql_.failed = Statement(db_, "SELECT * FROM job WHERE state = 4 AND instr(tenant, '#') = 0"
                               " ORDER BY number DESC LIMIT ?");
  sql_.ended_of_none = Statement(db_, "SELECT * FROM job WHERE state >= 3 AND tenant = ''"
                                      " ORDER BY number DESC LIMIT ?");
  sql_.ended_of = Statement(db_, "SELECT * FROM job WHERE tenant = ?2 AND tenant <> ''"
                                 " AND state >= 3 ORDER BY number DESC LIMIT ?1");
  recover();
}

void Store::Impl::check_file() {
  const bool fresh = db_.integer("SELECT count(*) FROM sqlite_schema") == 0;
  if (!fresh && db_.integer("PRAGMA application_id") != kStoreApplication) {
    throw StoreError(db_.path() + " is not a limpet store; choose another folder with --data.");
  }
  const int64_t version = db_.integer("PRAGMA user_version");
  if (!fresh && version > kStoreVersion) {
    throw StoreError("the store " + db_.path() + " has version " + std::to_string(version) +
                     ", this broker knows " + std::to_string(kStoreVersion) +
                     ": it was written by a newer limpet; use that one.");
  }
  if (db_.text("PRAGMA journal_mode = WAL") != "wal") {
    throw StoreError("the store " + db_.path() +
                     " cannot use a write-ahead log; put --data on a local file system.");
  }
  db_.execute("PRAGMA synchronous = FULL");
  db_.execute("PRAGMA cache_size = -32768");
  db_.count_log_pages();  // and no autocheckpoint: checkpointer_ does it
  db_.execute("PRAGMA journal_size_limit = 67108864");
  if (fresh) {
    create_tables(db_);
    db_.execute("PRAGMA wal_checkpoint(TRUNCATE)");  // its header now says what it is
  }
  checkpointer_.emplace(db_.path());
}

void Store::Impl::recover() {
  load_sessions();
  load_live_jobs();
  state.highest_job = JobNumber(db_.integer("SELECT coalesce(max(number), 0) FROM job"));
  Statement rows(db_, "SELECT sequence, records FROM log ORDER BY sequence");
  while (rows.step()) {
    if (sequence_ == 0) first_kept_ = rows.integer(0);
    sequence_ = rows.integer(0);
    replay(sequence_, rows.blob(1));
  }
  if (sequence_ == 0) first_kept_ = 1;
  cut_below_ = first_kept_;
  counters.log_rows = sequence_ - first_kept_ + 1;
}

void Store::Impl::load_sessions() {
  Statement rows(db_, "SELECT * FROM session");
  while (rows.step()) {
    SessionHead s;
    s.session = SessionNumber(rows.integer(0));
    s.table_sequence = rows.integer(1);
    s.name = rows.text(2);
    s.epoch = Epoch(rows.integer(3));
    s.home = rows.text(4);
    s.incarnation = static_cast<uint64_t>(rows.integer(5));
    s.reason = Reason(rows.integer(6));
    s.tokens = rows.integer(7);
    s.last_job = JobNumber(rows.integer(8));
    s.model = static_cast<uint64_t>(rows.integer(9));
    s.tenant = rows.text(10);
    s.keep_alive_ms = rows.integer(11);
    s.max_tokens = rows.integer(12);
    s.used_at = rows.integer(13);
    s.in_table = true;
    state.highest_session = std::max(state.highest_session, s.session);
    state.sessions.emplace(s.session, std::move(s));
  }
}

void Store::Impl::load_live_jobs() {
  Statement rows(db_, "SELECT number, id, sequence, session, body_hash, seed, accepted_at,"
                      " deadline_at, state, attempt, why, previous, base_tokens, prompt_tokens,"
                      " output_tokens, started, started_attempt, worker, residency, reason,"
                      " cached_tokens, prefilled_tokens, failures, tenant FROM job WHERE state < 3"
                      " ORDER BY number");
  while (rows.step()) {
    JobHead j;
    j.job = JobNumber(rows.integer(0));
    j.id = rows.text(1);
    j.table_sequence = rows.integer(2);
    j.session = SessionNumber(rows.integer(3));
    j.body_hash = static_cast<uint64_t>(rows.integer(4));
    j.seed = static_cast<uint64_t>(rows.integer(5));
    j.accepted_at = rows.integer(6);
    j.deadline_at = rows.integer(7);
    j.state = JobState(rows.integer(8));
    j.attempt = Attempt(rows.integer(9));
    j.why = rows.text(10);
    j.span = {JobNumber(rows.integer(11)), rows.integer(12), rows.integer(13), rows.integer(14)};
    j.worker = rows.text(17);
    j.has_started = rows.integer(15) != 0;
    j.started = {j.job, Attempt(rows.integer(16)), std::string(rows.text(17)),
                 Residency(rows.integer(18)), Reason(rows.integer(19)), rows.integer(20),
                 rows.integer(21), j.span.base, false, {}};
    j.failures = static_cast<int32_t>(rows.integer(22));
    j.tenant = rows.text(23);
    j.tail.restart(j.span.output);
    j.in_table = true;
    auto spec = std::make_shared<JobSpec>();
    sql_.get_chunk.bind(chunk_key(j.job, Slot::spec));
    const bool there = sql_.get_chunk.step();
    const auto error =
        there ? wire::decode_spec(std::as_bytes(std::span(sql_.get_chunk.blob(0))), *spec)
              : wire::DecodeError{ErrorCode::internal, "it is missing"};
    sql_.get_chunk.reset();
    if (error.code != ErrorCode::none) damaged("the body of job " + j.id + ": " + error.message);
    j.spec = std::move(spec);
    state.by_id.emplace(JournalState::OwnedId{j.tenant, j.id}, j.job);
    state.jobs.emplace(j.job, std::move(j));
  }
}

void Store::Impl::replay(int64_t sequence, std::string_view row) {
  ByteReader in(row);
  state.highest_job = std::max(state.highest_job, in.get<JobNumber>());
  state.highest_session = std::max(state.highest_session, in.get<SessionNumber>());
  while (auto record = next_record(in)) {
    if (record->kind == RecordKind::session) {
      replay_session(sequence, record->body);
    } else if (record->kind == RecordKind::session_closed) {
      state.sessions.erase(record->body.get<SessionNumber>());
    } else {
      replay_job(sequence, *record);
    }
  }
  if (!in.ok()) damaged("log row " + std::to_string(sequence));
}

void Store::Impl::replay_session(int64_t sequence, ByteReader& body) {
  SessionHead read;
  if (!get_session(body, read)) damaged("a session of log row " + std::to_string(sequence));
  SessionHead& s = state.sessions[read.session];
  if (s.table_sequence >= sequence) return;
  read.in_table = s.in_table;
  read.table_sequence = s.table_sequence;
  read.dirty = s.dirty;
  s = std::move(read);
  mark_dirty(s);
}

// The live job that a record of this log row belongs to; null when its row in the table already
// contains the record, or when it has ended.
JobHead* Store::Impl::replayed(JobNumber number, int64_t sequence) {
  JobHead* head = state.find(number);
  if (head != nullptr) return head->table_sequence >= sequence ? nullptr : head;
  sql_.get_job.bind(static_cast<int64_t>(raw(number)));
  const bool ended = sql_.get_job.step();
  sql_.get_job.reset();
  if (ended) return nullptr;
  head = &state.jobs[number];
  head->job = number;
  return head;
}

void Store::Impl::replay_job(int64_t sequence, Record& record) {
  ByteReader peek = record.body;
  JobHead* head = replayed(peek.get<JobNumber>(), sequence);
  if (!peek.ok()) damaged("log row " + std::to_string(sequence));
  if (head == nullptr) return;
  bool fine = false;
  if (record.kind == RecordKind::job) {
    fine = get_job(record.body, *head);
    head->span.output = head->tail.end();
    state.by_id.insert_or_assign({head->tenant, head->id}, head->job);
  } else if (record.kind == RecordKind::spec) {
    record.body.get<JobNumber>();
    const std::string_view bytes = record.body.counted();
    auto spec = std::make_shared<JobSpec>();
    fine = wire::decode_spec(std::as_bytes(std::span(bytes)), *spec).code == ErrorCode::none;
    head->spec = std::move(spec);
  } else if (record.kind == RecordKind::prompt) {
    record.body.get<JobNumber>();
    fine = get_tokens(record.body, head->prompt);
  } else if (record.kind == RecordKind::output) {
    record.body.get<JobNumber>();
    OutputChunk chunk;
    fine = get_chunk(record.body, chunk) && chunk.first == head->tail.end();
    if (fine) head->tail.append_chunk(chunk);
    head->span.output = head->tail.end();
  }
  if (!fine) damaged("a record of log row " + std::to_string(sequence));
  head->logged_pieces = head->tail.pieces.size();
  head->logged_tokens = head->tail.ids.size();
  head->logged_text = head->tail.text.size();
  mark_dirty(*head);
}

void Store::Impl::snapshot(const std::function<void(const JournalEntry&)>& sink) const {
  sink(NumbersReserved{state.highest_job, state.highest_session});
  for (const auto& [number, s] : state.sessions) {
    int64_t tokens = s.tokens;  // a job that runs, or will again, has added its own
    if (auto last = state.jobs.find(s.last_job); last != state.jobs.end()) {
      const JobSpan& span = last->second.span;
      tokens = span.base + span.prompt + span.output;
    }
    sink(SessionSnapshot{number, s.name, tokens, s.epoch, s.home, s.incarnation, s.reason,
                         s.model, s.tenant, s.keep_alive_ms, s.max_tokens, s.used_at});
  }
  std::vector<const JobHead*> jobs;
  for (const auto& [number, head] : state.jobs) jobs.push_back(&head);
  std::sort(jobs.begin(), jobs.end(),
            [](const JobHead* a, const JobHead* b) { return a->job < b->job; });
  for (const JobHead* j : jobs) {
    JobAccepted accepted{j->job,         j->session,     j->spec, j->body_hash, j->seed,
                         j->accepted_at, j->deadline_at, {}};
    sink(JobSnapshot{std::move(accepted), j->attempt, j->state, j->span.base, j->span.prompt,
                     j->span.output, j->started.cached_tokens,
                     state.sessions.at(j->session).tokens, j->failures});
  }
}

}  // namespace limpet::broker
