// Jobs whose time is over leave the store, some at a time.
#include <algorithm>

#include "broker/store_impl.h"

namespace limpet::broker {
namespace {

constexpr int64_t kLookedAt = 256;    // jobs in one bite
constexpr int64_t kRowsAtOnce = 512;  // of the tables, deleted in one bite
constexpr WallMs kBetweenPasses = 1000;

}  // namespace

int64_t Store::Impl::bytes_used() {
  const int64_t pages = db_.integer("PRAGMA page_count") - db_.integer("PRAGMA freelist_count");
  return pages * db_.integer("PRAGMA page_size");
}

Store::Retired Store::Impl::retire(const Retention& keep, WallMs now) {
  Retired done;
  if (broken_) throw StoreError("the store " + db_.path() + " has failed before");
  const bool over = keep.bytes > 0 && bytes_used() > keep.bytes;
  if ((keep.jobs_ms <= 0 && !over) || now < next_pass_) return done;
  broken_ = true;  // until all of it is durable
  try {
    sql_.begin.run();
    const bool end = retire_some(keep, now, over, done);  // the pass has come to its end
    // What is in the log still may go in the next pass, once a sweep has been.
    const bool wait = end && pass_blocked_ && !waited_;
    if (wait && !sweeping_ && rows_since_mark_ > 0) start_sweep();
    if (sweeping_) sweep(0);
    sql_.commit.run();
    if (end) {
      done.stuck = over && !wait && bytes_used() > keep.bytes;
      waited_ = wait;
      if (!pass_blocked_ && !pass_removed_) next_pass_ = now + kBetweenPasses;
      pass_at_ = 0;
      pass_removed_ = pass_blocked_ = false;
    }
  } catch (const StoreError&) {
    try {
      sql_.rollback.run();
    } catch (const StoreError&) {  // SQLite has rolled back itself
    }
    throw;
  }
  broken_ = false;
  checkpoint();
  return done;
}

// True when there are no more jobs to look at. A job that the log still speaks of must stay, or a
// restart would take it for one that has not ended.
bool Store::Impl::retire_some(const Retention& keep, WallMs now, bool over, Retired& done) {
  struct Row {
    int64_t number, rows;
    bool old;
  };
  std::vector<Row> gone;
  int64_t looked_at = 0, rows = 0;
  bool end = false;
  sql_.oldest.bind(pass_at_).bind(kLookedAt);
  while (!end && rows < kRowsAtOnce && sql_.oldest.step()) {
    const Statement& row = sql_.oldest;
    ++looked_at;
    // Who was accepted later has ended later than so.
    const bool young = keep.jobs_ms <= 0 || row.integer(7) + keep.jobs_ms > now;
    if (young && !over) {
      end = true;
      break;
    }
    pass_at_ = row.integer(0);
    const auto state_of = JobState(row.integer(2));
    const bool old = keep.jobs_ms > 0 && row.integer(3) + keep.jobs_ms <= now;
    if (!is_terminal(state_of) || (!old && !over)) continue;
    const bool in_transcript = state_of != JobState::failed && row.integer(5) >= 0 &&
                               state.sessions.contains(SessionNumber(row.integer(1)));
    if (in_transcript) continue;
    if (row.integer(4) >= first_kept_) {
      pass_blocked_ = true;
      continue;
    }
    gone.push_back({row.integer(0), 3 + row.integer(6) / options_.fold_tokens, old});
    rows += gone.back().rows;
  }
  end = end || (rows < kRowsAtOnce && looked_at < kLookedAt);
  sql_.oldest.reset();
  for (const Row& job : gone) {
    const JobNumber number{static_cast<uint64_t>(job.number)};
    sql_.delete_chunks.bind(chunk_key(number, Slot::spec))
        .bind(chunk_key(JobNumber{raw(number) + 1}, Slot::spec) - 1)
        .run();
    sql_.delete_job.bind(job.number).run();
    ++(job.old ? done.by_age : done.by_size);
  }
  pass_removed_ = pass_removed_ || !gone.empty();
  return end;
}

}  // namespace limpet::broker
