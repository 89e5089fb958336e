#include "worker/scheduler.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace limpet::worker {
namespace {

bool is_ready(const Job* job) {
  return !job->paused && (job->stage == Stage::waiting || job->stage == Stage::admitted);
}

}  // namespace

Scheduler::Scheduler(engine::KvCache& kv, int32_t token_budget, int32_t prefill_chunk)
    : kv_(kv), token_budget_(token_budget), prefill_chunk_(prefill_chunk) {
  if (token_budget < 1 || prefill_chunk < 1) {
    throw std::logic_error("scheduler: token_budget and prefill_chunk must be positive");
  }
}

int64_t Scheduler::missing(const Session& session) const {
  const int64_t have = session.sequence ? kv_.length(*session.sequence) : 0;
  return std::ssize(session.tokens) - have;
}

void Scheduler::preempt(Job& job, SessionKv& sessions, Plan& out) {
  sessions.drop_kv(sessions.of(job));
  std::erase(out.admitted, &job);
  if (job.stage == Stage::admitted) job.stage = Stage::waiting;
  if (!job.started) return;
  job.preempted = true;
  out.preempted.push_back(&job);
}

// Reserves for an admitted job: evicts what is idle, then preempts who is younger.
bool Scheduler::make_room(Job& job, int64_t tokens, const std::vector<Job*>& jobs,
                          SessionKv& sessions, Plan& out) {
  const engine::SequenceId sequence = *sessions.of(job).sequence;
  while (!kv_.reserve(sequence, tokens)) {
    const Evict evicted = sessions.evict_idle();
    if (evicted == Evict::done) continue;
    if (evicted == Evict::later) return false;
    const auto victim = std::find_if(jobs.rbegin(), jobs.rend(), [&](const Job* other) {
      const bool yields = other->arrival > job.arrival || !is_ready(other);
      return other != &job && yields && sessions.of(*other).sequence.has_value();
    });
    if (victim == jobs.rend()) return false;
    preempt(**victim, sessions, out);
  }
  return true;
}

bool Scheduler::admit(Job& job, bool oldest, const std::vector<Job*>& jobs, SessionKv& sessions,
                      Plan& out) {
  Session& session = sessions.of(job);
  if (session.restore != 0) {  // begun for the job before
    job.stage = Stage::restoring;
    return true;
  }
  if (!session.sequence) session.sequence = kv_.create(session.scope);
  if (kv_.length(*session.sequence) == 0) kv_.adopt_prefix(*session.sequence, session.tokens);
  const int64_t tokens = missing(session);
  if (!oldest) {
    const auto decoding = std::ranges::count_if(
        jobs, [](const Job* other) { return other->stage == Stage::admitted; });
    const int64_t wanted = kv_.pages_needed(*session.sequence, tokens) + decoding;
    while (kv_.free_pages() < wanted) {
      if (kv_.free_pages() + sessions.idle_pages() < wanted) return false;
      if (sessions.evict_idle() != Evict::done) return false;
    }
  }
  if (!make_room(job, tokens, jobs, sessions, out)) {
    if (oldest && !sessions.moving()) {
      throw std::logic_error("scheduler: the oldest job does not fit alone");
    }
    return false;
  }
  const Restore restore = sessions.restore(session);
  if (restore == Restore::begun) job.stage = Stage::restoring;
  if (restore != Restore::nothing) return true;
  job.stage = Stage::admitted;
  out.admitted.push_back(&job);
  return true;
}

Plan Scheduler::plan(const std::vector<Job*>& jobs, SessionKv& sessions) {
  Plan out;
  std::vector<Job*> ready;
  std::ranges::copy_if(jobs, std::back_inserter(ready), is_ready);
  for (Job* job : ready) {
    if (job->stage == Stage::admitted) continue;
    if (!admit(*job, job == ready.front(), jobs, sessions, out)) break;
  }
  int64_t left = token_budget_;
  const auto prefills = [&](const Job* job) { return missing(sessions.of(*job)) > 1; };
  // One row is kept for the oldest, or decode rows could keep it from its prompt.
  const int64_t kept = !ready.empty() && prefills(ready.front()) ? 1 : 0;
  for (Job* job : ready) {
    if (job->stage != Stage::admitted || prefills(job) || left <= kept) continue;
    if (!make_room(*job, 1, jobs, sessions, out)) continue;  // the youngest: waits, KV kept
    out.rows.push_back({job, 1});
    --left;
  }
  for (Job* job : ready) {
    if (job->stage != Stage::admitted || !prefills(job) || left == 0) continue;
    const int64_t tokens = std::min({missing(sessions.of(*job)), prefill_chunk_, left});
    out.rows.push_back({job, tokens});
    left -= tokens;
  }
  return out;
}

}  // namespace limpet::worker
