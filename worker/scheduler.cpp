#include "worker/scheduler.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace limpet::worker {
namespace {

constexpr int64_t kMostBehindSteps = 16;  // full ones: prompts of that length go first whole

bool is_ready(const Job* job) {
  return !job->paused && (job->stage == Stage::waiting || job->stage == Stage::admitted);
}

}  // namespace

Scheduler::Scheduler(engine::KvCache& kv, int32_t token_budget, int32_t prefill_chunk)
    : kv_(kv),
      token_budget_(token_budget),
      prefill_chunk_(prefill_chunk),
      turns_(kMostBehindSteps * int64_t{token_budget}) {
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

// A prompt has a chunk of a step, so that those who decode beside it wait no longer than for that.
// The prompts of a tenant that is behind those it shares the step with have all the rest of it,
// and prompts of tenants that are ahead of it by more than a step wait for the next one: its step
// is no longer than its own rows and those that decode make it.
void Scheduler::add_prompts(std::vector<Job*> prompts, int64_t left, SessionKv& sessions,
                            Plan& out) const {
  if (prompts.empty()) return;
  const auto had = [&](const Job* job) { return turns_.had(sessions.of(*job).scope); };
  std::ranges::stable_sort(prompts, {}, had);
  const int64_t least = had(prompts.front());
  const bool behind =
      had(prompts.back()) > least ||
      std::ranges::any_of(out.rows, [&](const ScheduledRow& row) { return had(row.job) > least; });
  for (Job* job : prompts) {
    if (left == 0 || had(job) - least > token_budget_) break;
    const int64_t most = behind && had(job) == least ? left : std::min(prefill_chunk_, left);
    const int64_t tokens = std::min(missing(sessions.of(*job)), most);
    out.rows.push_back({job, tokens});
    left -= tokens;
  }
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
  std::vector<Job*> prompts;
  std::ranges::copy_if(ready, std::back_inserter(prompts), [&](const Job* job) {
    return job->stage == Stage::admitted && prefills(job);
  });
  add_prompts(std::move(prompts), left, sessions, out);
  for (const ScheduledRow& row : out.rows) turns_.charge(sessions.of(*row.job).scope, row.tokens);
  return out;
}

}  // namespace limpet::worker
