#include "broker/store.h"

#include <algorithm>

#include "broker/store_impl.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

constexpr size_t kSweepAtOnce = 128;   // entities folded in one commit, at least
constexpr int64_t kSweepRows = 4096;   // a sweep begins after so many log rows, however small
constexpr int64_t kCutAtOnce = 16;     // log rows deleted in one commit
constexpr int64_t kLongestLog = 16;    // write-ahead log, in checkpoints

}  // namespace

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

std::unique_ptr<Store> Store::open(const Options& options) {
  return std::unique_ptr<Store>(new Store(std::make_unique<Impl>(options)));
}

void Store::commit(std::span<const JournalEntry> entries) { impl_->commit(entries); }
void Store::snapshot(const std::function<void(const JournalEntry&)>& sink) const {
  impl_->snapshot(sink);
}
std::optional<StoredJob> Store::find_job(std::string_view tenant, std::string_view id) {
  return impl_->find_job(tenant, id);
}
std::optional<StoredProgress> Store::progress(JobNumber job) { return impl_->progress(job); }
std::vector<Token> Store::transcript(SessionNumber session, int64_t n) {
  return impl_->transcript(session, n);
}
std::optional<std::vector<Token>> Store::transcript_of(JobNumber job) {
  return impl_->transcript_of(job);
}
void Store::read_output(JobNumber job, int64_t from,
                        const std::function<bool(OutputRow&&)>& sink) {
  impl_->read_output(job, from, sink);
}
Store::Ended Store::ended_jobs(const List& list, size_t limit, const std::string* tenant) {
  return impl_->ended_jobs(list, limit, tenant);
}
std::shared_ptr<const JobSpec> Store::body(JobNumber job) { return impl_->body(job); }
Store::Retired Store::retire(const Retention& keep, WallMs now) {
  return impl_->retire(keep, now);
}
int64_t Store::bytes_used() { return impl_->bytes_used(); }

const std::vector<std::string>& Store::mended() const { return impl_->mended; }

Store::Counters Store::counters() const {
  Counters c = impl_->counters;
  c.live_jobs = static_cast<int64_t>(impl_->state.jobs.size());
  c.sessions = static_cast<int64_t>(impl_->state.sessions.size());
  return c;
}

void Store::Impl::commit(std::span<const JournalEntry> entries) {
  if (broken_) throw StoreError("the store " + db_.path() + " has failed before");
  if (entries.empty()) return;
  broken_ = true;  // until all of it is durable
  for (const JournalEntry& entry : entries) state.apply(entry);
  try {
    sql_.begin.run();
    write_log_and_ended();
    sql_.commit.run();
  } catch (const StoreError&) {
    try {
      sql_.rollback.run();
    } catch (const StoreError&) {  // SQLite has rolled back itself
    }
    throw;
  }
  broken_ = false;
  checkpoint();
  ++counters.commits;
  counters.entries += static_cast<int64_t>(entries.size());
}

// The thread copies the log while we go on, so it is never quite done; beyond a bound the little
// that is left is copied here, and the log begins anew.
void Store::Impl::checkpoint() {
  if (const std::string what = checkpointer_->damage(); !what.empty()) damaged(what);
  if (db_.log_pages() < options_.checkpoint_pages) return;
  if (db_.log_pages() < kLongestLog * options_.checkpoint_pages) return checkpointer_->wanted();
  try {
    db_.execute("PRAGMA wal_checkpoint(PASSIVE)");
  } catch (const StoreError&) {  // the commit is durable; what is wrong fails the next one
    if (!db_.damage().empty()) throw;
  }
}

void Store::Impl::write_log_and_ended() {
  ++sequence_;
  log_.begin(state.highest_job, state.highest_session);
  const size_t touched = state.touched_jobs.size() + state.touched_sessions.size();
  std::sort(state.touched_sessions.begin(), state.touched_sessions.end());
  SessionNumber before{};
  for (SessionNumber number : state.touched_sessions) {
    auto it = state.sessions.find(number);
    if (number != before && it != state.sessions.end()) {
      log_.session(it->second);
      mark_dirty(it->second);
    }
    before = number;
  }
  for (const SessionHead& session : state.closed) write_closed(session);
  for (JobNumber number : state.replaced) {
    sql_.archive_job.bind(static_cast<int64_t>(raw(number))).run();
  }
  for (JobNumber number : state.touched_jobs) write_touched_job(number);
  for (auto& ended : state.ended) {
    write_ended(ended);
    if (std::ranges::count(state.replaced, ended.head.job) == 0) continue;
    sql_.archive_job.bind(static_cast<int64_t>(raw(ended.head.job))).run();
  }
  state.touched_sessions.clear();
  state.closed.clear();
  state.touched_jobs.clear();
  state.ended.clear();
  state.replaced.clear();

  sql_.put_log.bind(sequence_).bind_blob(log_.bytes()).run();
  counters.log_bytes += static_cast<int64_t>(log_.bytes().size());
  bytes_since_mark_ += static_cast<int64_t>(log_.bytes().size());
  ++rows_since_mark_;
  sweep(touched);
  counters.log_rows = sequence_ - first_kept_ + 1;
}

void Store::Impl::write_closed(const SessionHead& session) {
  log_.session_closed(session.session);
  if (session.in_table) {
    sql_.delete_session.bind(static_cast<int64_t>(raw(session.session))).run();
  }
}

void Store::Impl::write_touched_job(JobNumber number) {
  JobHead* head = state.find(number);
  if (head == nullptr) return;  // it has ended
  if (static_cast<int64_t>(head->tail.ids.size()) >=
      options_.fold_tokens + static_cast<int64_t>(raw(number) % 64)) {  // not all at one step
    fold(*head);
  } else {
    if (head->is_new) log_.spec(*head);
    if (head->changed) log_.job(*head);
    if (head->new_prompt) log_.prompt(*head);
    if (head->logged_pieces < head->tail.pieces.size()) log_.output(*head);
    head->logged_pieces = head->tail.pieces.size();
    head->logged_tokens = head->tail.ids.size();
    head->logged_text = head->tail.text.size();
    mark_dirty(*head);
  }
  head->touched = head->is_new = head->changed = head->new_prompt = false;
}

void Store::Impl::mark_dirty(JobHead& head) {
  if (!head.dirty) dirty_jobs_.push_back(head.job);
  head.dirty = true;
}

void Store::Impl::mark_dirty(SessionHead& head) {
  if (!head.dirty) dirty_sessions_.push_back(head.session);
  head.dirty = true;
}

void Store::Impl::put_chunk(int64_t key, std::string_view bytes) {
  sql_.put_chunk.bind(key).bind_blob(bytes).run();
}

void Store::Impl::put_prompt(JobHead& head) {
  if (head.prompt.empty()) return;
  put_chunk(chunk_key(head.job, Slot::prompt),
            {reinterpret_cast<const char*>(head.prompt.data()),
             head.prompt.size() * sizeof(Token)});
  std::vector<Token>().swap(head.prompt);
}

void Store::Impl::put_tail(JobHead& head) {
  if (head.tail.pieces.empty()) return;
  scratch_.clear();
  broker::put_chunk(scratch_, head.tail);
  put_chunk(chunk_key(head.job, Slot::output, head.tail.first), scratch_);
  head.tail.restart(head.tail.end());
  head.logged_pieces = head.logged_tokens = head.logged_text = 0;
}

// Moves all of a live job that is only in the log into the tables.
void Store::Impl::fold(JobHead& head) {
  head.table_sequence = sequence_;
  if (head.in_table) {
    sql_.delete_job.bind(static_cast<int64_t>(raw(head.job))).run();
  } else {
    scratch_ = wire::encode_spec(*head.spec);
    put_chunk(chunk_key(head.job, Slot::spec), scratch_);
  }
  put_job_row(head, nullptr);
  put_prompt(head);
  put_tail(head);
  head.in_table = true;
  head.dirty = false;
}

void Store::Impl::fold_session(SessionHead& s) {
  sql_.put_session.bind(static_cast<int64_t>(raw(s.session)))
      .bind(sequence_)
      .bind(std::string_view(s.name))
      .bind(static_cast<int64_t>(raw(s.epoch)))
      .bind(std::string_view(s.home))
      .bind(static_cast<int64_t>(s.incarnation))
      .bind(static_cast<int64_t>(raw(s.reason)))
      .bind(s.tokens)
      .bind(static_cast<int64_t>(raw(s.last_job)))
      .bind(static_cast<int64_t>(s.model))
      .bind(std::string_view(s.tenant))
      .bind(s.keep_alive_ms)
      .bind(s.max_tokens)
      .bind(s.used_at)
      .run();
  s.table_sequence = sequence_;
  s.in_table = true;
  s.dirty = false;
}

// An ended job goes to the tables at once and needs no record: its row says that the log's
// records of it are old. Its body has been served, unless it has failed and is to be done again;
// its prompt is needed while its session lives.
void Store::Impl::write_ended(JournalState::Ended& ended) {
  JobHead& head = ended.head;
  const bool failed = ended.end.state == JobState::failed;
  head.table_sequence = sequence_;
  if (head.in_table) {
    sql_.delete_job.bind(static_cast<int64_t>(raw(head.job))).run();
    if (!failed) sql_.delete_chunk.bind(chunk_key(head.job, Slot::spec)).run();
  } else if (failed) {
    scratch_ = wire::encode_spec(*head.spec);
    put_chunk(chunk_key(head.job, Slot::spec), scratch_);
  }
  head.state = ended.end.state;
  put_job_row(head, &ended.end);
  const bool session_lives = state.sessions.contains(head.session);
  if (session_lives) {
    put_prompt(head);
  } else if (head.in_table && head.span.prompt >= 0) {
    sql_.delete_chunk.bind(chunk_key(head.job, Slot::prompt)).run();
  }
  put_tail(head);
}

void Store::Impl::put_job_row(const JobHead& j, const JobEndedEntry* end) {
  static const JobEndedEntry kNotEnded;
  const JobEndedEntry& e = end ? *end : kNotEnded;
  sql_.put_job.bind(static_cast<int64_t>(raw(j.job)))
      .bind(std::string_view(j.id))
      .bind(j.table_sequence)
      .bind(static_cast<int64_t>(raw(j.session)))
      .bind(static_cast<int64_t>(j.body_hash))
      .bind(static_cast<int64_t>(j.seed))
      .bind(j.accepted_at)
      .bind(j.deadline_at)
      .bind(static_cast<int64_t>(raw(j.state)))
      .bind(static_cast<int64_t>(raw(j.attempt)))
      .bind(std::string_view(j.why))
      .bind(static_cast<int64_t>(raw(j.span.previous)))
      .bind(j.span.base)
      .bind(j.span.prompt)
      .bind(j.span.output)
      .bind(static_cast<int64_t>(j.has_started))
      .bind(static_cast<int64_t>(raw(j.started.attempt)))
      .bind(std::string_view(j.has_started ? j.started.worker : j.worker))
      .bind(static_cast<int64_t>(raw(j.started.residency)))
      .bind(static_cast<int64_t>(raw(j.started.reason)))
      .bind(j.started.cached_tokens)
      .bind(j.started.prefilled_tokens)
      .bind(static_cast<int64_t>(raw(e.reason)))
      .bind(std::string_view(e.tail_text))
      .bind(static_cast<int64_t>(raw(e.code)))
      .bind(std::string_view(e.message))
      .bind(e.usage.prompt_tokens)
      .bind(e.usage.cached_tokens)
      .bind(e.usage.output_tokens)
      .bind(e.timings.queue)
      .bind(e.timings.first_token)
      .bind(e.timings.total)
      .bind(e.ended_at)
      .bind(e.session_tokens)
      .bind(static_cast<int64_t>(j.failures))
      .bind(std::string_view(j.tenant))
      .run();
}

void Store::Impl::start_sweep() {
  sweeping_ = true;
  sweep_mark_ = sequence_;
  bytes_since_mark_ = rows_since_mark_ = 0;
  sweep_sessions_.swap(dirty_sessions_);
  sweep_jobs_.swap(dirty_jobs_);
  dirty_sessions_.clear();
  dirty_jobs_.clear();
  // In the order of the tables, so that rows of one page are written together; from the back.
  std::sort(sweep_sessions_.begin(), sweep_sessions_.end(), std::greater<>());
  std::sort(sweep_jobs_.begin(), sweep_jobs_.end(), std::greater<>());
}

// At least as many as this commit touched, so that a sweep always comes to its end.
void Store::Impl::sweep(size_t touched) {
  if (!sweeping_ &&
      (bytes_since_mark_ >= options_.sweep_bytes || rows_since_mark_ >= kSweepRows)) {
    start_sweep();
  }
  for (size_t n = std::max(kSweepAtOnce, touched); sweeping_ && n > 0; --n) {
    if (!sweep_sessions_.empty()) {
      auto it = state.sessions.find(sweep_sessions_.back());
      sweep_sessions_.pop_back();
      if (it != state.sessions.end() && it->second.dirty) fold_session(it->second);
    } else if (!sweep_jobs_.empty()) {
      JobHead* head = state.find(sweep_jobs_.back());
      sweep_jobs_.pop_back();
      if (head != nullptr && head->dirty) fold(*head);
    } else {
      sweeping_ = false;
      cut_below_ = sweep_mark_ + 1;
    }
  }
  const int64_t until = std::min({cut_below_, sequence_, first_kept_ + kCutAtOnce});
  if (first_kept_ < until) {  // the newest row stays: it holds the highest numbers
    sql_.cut_log.bind(until).run();
    first_kept_ = until;
  }
}

}  // namespace limpet::broker
