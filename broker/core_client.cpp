// What clients ask for.
#include "broker/core_state.h"
#include "broker/listing.h"
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
  const Tenant& tenant = tenants.of(e.tenant);
  const int64_t own = tenant.policy.max_queued_jobs;
  if (own > 0 && tenant.queued >= own) {
    const int64_t rounds = 1 + tenant.queued / std::max<int64_t>(tenant.in_flight, 1);
    return refuse(t, e.client, id, ErrorCode::busy,
                  "this tenant has " + std::to_string(own) + " jobs waiting, its cap; retry later",
                  options.retry_after.count() * std::min<int64_t>(rounds, 100));
  }
  const JobTable::Counts& counts = jobs.counts();
  const int64_t bytes = static_cast<int64_t>(body_bytes(*m.spec));
  if (counts.queued >= static_cast<int64_t>(options.max_queued_jobs) ||
      counts.queued_bytes + bytes > static_cast<int64_t>(options.max_queued_bytes)) {
    // One retry_after for each round of the workers' places that the queue is deep.
    int64_t places = 0;
    workers.each([&](const Worker& w) {
      if (w.state == WorkerState::ready) places += w.room.slots + std::ssize(w.in_flight);
    });
    const int64_t rounds = 1 + counts.queued / std::max<int64_t>(places, 64);
    return refuse(t, e.client, id, ErrorCode::busy, "the queue is full; retry later",
                  options.retry_after.count() * std::min<int64_t>(rounds, 100));
  }
  accept(t, e, m);
}

void Core::State::accept(Turn& t, const ClientEvent& e, const Submit& m) {
  const JobSpec& spec = *m.spec;
  Session* session = spec.session.empty() ? nullptr : sessions.find({e.tenant, spec.session});
  if (!session) {
    const SessionNumber number{raw(last_session) + 1};
    commit(t, SessionOpened{number, spec.session, e.tenant});
    session = &sessions.at(number);
  }
  const JobNumber number{raw(last_job) + 1};
  const int64_t limit = std::min(spec.deadline_ms, kLongestDeadlineMs);
  const WallMs deadline_at = limit > 0 ? t.now.wall + limit : 0;
  commit(t, JobAccepted{number, session->number, m.spec, e.body_hash, seed_of(spec), t.now.wall,
                        deadline_at});
  Job& job = jobs.at(number);
  job.accepted = t.now.mono;
  if (limit > 0) job.deadline = t.now.mono + std::chrono::milliseconds(limit);
  arm(job);
  fact(t, Fact::Kind::job_accepted, job.id());
  t.out.send.push_back(ToClient{e.client, Accepted{job.id(), JobState::queued, true}});
  t.out.send.push_back(
      StreamOpened{e.client, number, job.id(), std::max<int64_t>(m.from_index, 0), m.stream});
  if (session->first == &job) make_ready(t, *session);
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

namespace {

std::string_view state_name(const Worker& w) {
  if (w.state == WorkerState::expected) return "expected";
  if (w.state == WorkerState::absent) return "lost";
  return w.leaving ? "leaving" : "ready";
}

WorkerInfo describe(const Worker& w) {
  const bool ready = w.state == WorkerState::ready;
  return {w.name,
          w.device,
          w.model,
          std::string(state_name(w)),
          ready ? w.homes_now() : w.homes,
          std::ssize(w.in_flight),
          std::max<int64_t>(w.credit(), 0),
          ready ? std::max<int64_t>(w.room.free_kv_tokens - w.promised, 0) : 0,
          w.room.total_kv_tokens};
}

}  // namespace

void Core::State::list(Turn& t, const ClientEvent& e, const List& m) {
  Listed all;
  ListingRoom room{std::min<size_t>(m.limit, Limits::kItems)};
  const auto add = [&](auto& list, auto&& info) {
    if (!room.take(info)) return !(all.truncated = true);
    list.push_back(std::move(info));
    return true;
  };
  if (m.what == Listing::jobs) {
    jobs.each([&](const Job& j) {
      if (!e.admin && j.tenant() != e.tenant) return true;
      JobInfo info{j.id(), j.session->name,
                   j.worker == kNoWorker ? "" : workers.at(j.worker).name, j.state,
                   static_cast<int32_t>(raw(j.attempt)), j.output_tokens, j.why, j.tenant()};
      shorten(info.detail, kListedDetail);
      return add(all.jobs, std::move(info));
    });
  } else if (m.what == Listing::sessions) {
    sessions.each([&](const Session& s) {
      if (!e.admin && s.tenant->name != e.tenant) return true;
      return add(all.sessions,
                 SessionInfo{s.name, s.home == kNoWorker ? "" : workers.at(s.home).name,
                             s.in_flight ? SessionState::running
                             : s.first   ? SessionState::queued
                                         : SessionState::idle,
                             raw(s.epoch), s.tokens, s.jobs - (s.in_flight ? 1 : 0),
                             s.tenant->name});
    });
  } else {
    workers.each([&](const Worker& w) {
      if (!all.truncated) add(all.workers, describe(w));
    });
  }
  t.out.send.push_back(ToClient{e.client, std::move(all)});
}

}  // namespace limpet::broker
