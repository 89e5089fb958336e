// What clients ask for.
#include "broker/core_state.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

// The seed of a job that brought none: the same for the same id, on every broker (FNV-1a, then
// the finalizer of SplitMix64).
uint64_t seed_of(const JobSpec& spec) {
  if (spec.sampling.seed) return *spec.sampling.seed;
  uint64_t h = 0xCBF29CE484222325ull;
  for (const char c : spec.job_id) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
  return h ^ (h >> 31);
}

// A deadline further away than this is none that anyone waits for; it keeps sums in range.
constexpr int64_t kLongestDeadlineMs = int64_t{1} << 40;

}  // namespace

void Core::State::on(Turn& t, const ClientEvent& e) {
  if (const auto* m = std::get_if<Submit>(&e.message)) {
    submit(t, e, *m);
  } else if (const auto* m = std::get_if<Attach>(&e.message)) {
    attach(t, e, *m);
  } else if (const auto* m = std::get_if<Detach>(&e.message)) {
    t.out.send.push_back(StreamClosed{e.client, m->job_id});
  } else if (const auto* m = std::get_if<Cancel>(&e.message)) {
    cancel(t, e, *m);
  } else if (const auto* m = std::get_if<List>(&e.message)) {
    list(t, e, *m);
  } else if (const auto* m = std::get_if<Drain>(&e.message)) {
    drain(t, e, *m);
  } else if (const auto* m = std::get_if<Release>(&e.message)) {
    release(t, e, *m);
  } else if (const auto* m = std::get_if<Retry>(&e.message)) {
    retry(t, e, *m);
  }
}

void Core::State::refuse(Turn& t, ClientId client, const std::string& job_id, ErrorCode code,
                         std::string message, int64_t retry_after_ms) {
  fact(t, Fact::Kind::rejected, job_id, name(code));
  t.out.send.push_back(ToClient{client, Refused{job_id, code, std::move(message), retry_after_ms}});
}

bool Core::State::attach_known(Turn& t, const ClientEvent& e, const std::string& id,
                               const Submit* submit, int64_t from_index, bool tokens) {
  JobNumber number{};
  uint64_t hash = 0;
  JobState state{};
  if (const Job* job = jobs.find({e.tenant, id})) {
    number = job->number, hash = job->body_hash, state = job->state;
  } else if (const JobTable::Ended* ended = jobs.find_ended({e.tenant, id})) {
    number = ended->job, hash = ended->body_hash, state = ended->state;
  } else if (e.stored) {
    number = e.stored->job, hash = e.stored->body_hash, state = e.stored->state;
  } else {
    return false;
  }
  if (submit && hash != e.body_hash) {
    refuse(t, e.client, id, ErrorCode::conflict,
           "a job with this id and another body exists; choose another id");
    return true;
  }
  t.out.send.push_back(ToClient{e.client, Accepted{id, state, false}});
  t.out.send.push_back(
      StreamOpened{e.client, number, id, std::max<int64_t>(from_index, 0), tokens});
  return true;
}

void Core::State::submit(Turn& t, const ClientEvent& e, const Submit& m) {
  if (!m.spec) return refuse(t, e.client, "", ErrorCode::invalid, "a submission without a job");
  const std::string& id = m.spec->job_id;
  if (attach_known(t, e, id, &m, m.from_index, m.stream)) return;
  if (std::string wrong = wire::check(*m.spec); !wrong.empty()) {
    return refuse(t, e.client, id, ErrorCode::invalid, std::move(wrong));
  }
  if (beyond_budget(t, e, *m.spec) || no_room(t, e, e.tenant, *m.spec)) return;
  const Job& job = accept(t, e.tenant, m.spec, e.body_hash);
  t.out.send.push_back(ToClient{e.client, Accepted{id, JobState::queued, true}});
  t.out.send.push_back(
      StreamOpened{e.client, job.number, id, std::max<int64_t>(m.from_index, 0), m.stream});
}

// A session may not ask for more than any worker that is there could hold of it.
bool Core::State::beyond_budget(Turn& t, const ClientEvent& e, const JobSpec& spec) {
  if (spec.session_max_tokens == 0) return false;
  int64_t most = 0;
  workers.each([&](const Worker& w) {
    if (w.state != WorkerState::ready || w.leaving) return;
    int64_t holds = w.room.total_kv_tokens > 0 ? w.room.total_kv_tokens : w.max_context;
    if (w.max_context > 0) holds = std::min(holds, w.max_context);
    most = std::max(most, holds);
  });
  if (most == 0 || spec.session_max_tokens <= most) return false;
  refuse(t, e.client, spec.job_id, ErrorCode::too_long,
         "session_max_tokens of " + std::to_string(spec.session_max_tokens) +
             " is more than any worker can hold of a session: " + std::to_string(most));
  return true;
}

// True when there is no place for one more job; the client has been told.
bool Core::State::no_room(Turn& t, const ClientEvent& e, const std::string& tenant_name,
                          const JobSpec& spec) {
  const std::string& told = std::holds_alternative<Submit>(e.message) ? spec.job_id : "";
  const Tenant& tenant = tenants.of(tenant_name);
  const int64_t own = tenant.policy.max_queued_jobs;
  if (own > 0 && tenant.queued >= own) {
    const int64_t rounds = 1 + tenant.queued / std::max<int64_t>(tenant.in_flight, 1);
    refuse(t, e.client, told, ErrorCode::busy,
           "this tenant has " + std::to_string(own) + " jobs waiting, its cap; retry later",
           options.retry_after.count() * std::min<int64_t>(rounds, 100));
    return true;
  }
  const JobTable::Counts& counts = jobs.counts();
  const int64_t bytes = static_cast<int64_t>(body_bytes(spec));
  if (counts.queued < static_cast<int64_t>(options.max_queued_jobs) &&
      counts.queued_bytes + bytes <= static_cast<int64_t>(options.max_queued_bytes)) {
    return false;
  }
  // One retry_after for each round of the workers' places that the queue is deep.
  int64_t places = 0;
  workers.each([&](const Worker& w) {
    if (w.state == WorkerState::ready) places += w.room.slots + std::ssize(w.in_flight);
  });
  const int64_t rounds = 1 + counts.queued / std::max<int64_t>(places, 64);
  refuse(t, e.client, told, ErrorCode::busy, "the queue is full; retry later",
         options.retry_after.count() * std::min<int64_t>(rounds, 100));
  return true;
}

Job& Core::State::accept(Turn& t, const std::string& tenant,
                         const std::shared_ptr<const JobSpec>& body, uint64_t body_hash,
                         JobNumber replaces) {
  const JobSpec& spec = *body;
  Session* session = spec.session.empty() ? nullptr : sessions.find({tenant, spec.session});
  if (!session) {
    const SessionNumber number{raw(last_session) + 1};
    commit(t, SessionOpened{number, spec.session, tenant});
    session = &sessions.at(number);
  }
  set_terms(t, *session, spec);
  const JobNumber number{raw(last_job) + 1};
  const int64_t limit = std::min(spec.deadline_ms, kLongestDeadlineMs);
  const WallMs deadline_at = limit > 0 ? t.now.wall + limit : 0;
  commit(t, JobAccepted{number, session->number, body, body_hash, seed_of(spec), t.now.wall,
                        deadline_at, replaces});
  Job& job = jobs.at(number);
  job.accepted = t.now.mono;
  if (limit > 0) job.deadline = t.now.mono + std::chrono::milliseconds(limit);
  arm(job);
  fact(t, Fact::Kind::job_accepted, job.id());
  if (session->first == &job) make_ready(t, *session);
  return job;
}

void Core::State::attach(Turn& t, const ClientEvent& e, const Attach& m) {
  if (attach_known(t, e, m.job_id, nullptr, m.from_index, true)) return;
  refuse(t, e.client, m.job_id, ErrorCode::not_found, "no such job");
}

void Core::State::cancel(Turn& t, const ClientEvent& e, const Cancel& m) {
  JobState state = JobState::cancelled;
  if (Job* job = jobs.find({e.tenant, m.job_id})) {
    stop(t, *job, JobState::cancelled);
  } else if (const JobTable::Ended* ended = jobs.find_ended({e.tenant, m.job_id})) {
    state = ended->state;
  } else if (e.stored) {
    state = e.stored->state;
  } else {
    return refuse(t, e.client, m.job_id, ErrorCode::not_found, "no such job");
  }
  t.out.send.push_back(ToClient{e.client, Accepted{m.job_id, state, false}});
}

}  // namespace limpet::broker
