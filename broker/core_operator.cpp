// What those ask who look after the system: listings, KV that may go, failed jobs once more.
#include "broker/core_state.h"
#include "broker/listing.h"

namespace limpet::broker {
namespace {

std::string_view state_name(const Worker& w) {
  if (w.state == WorkerState::expected) return "expected";
  if (w.state == WorkerState::absent) return w.leaving ? "left" : "lost";
  return w.leaving ? "leaving" : "ready";
}

WorkerInfo info_of(const Worker& w) {
  const bool ready = w.state == WorkerState::ready;
  return {w.name,
          w.device,
          w.model,
          std::string(state_name(w)),
          ready ? w.homes_now() : w.homes,
          std::ssize(w.in_flight),
          std::max<int64_t>(w.credit(), 0),
          ready ? std::max<int64_t>(w.room.free_kv_tokens - w.promised, 0) : 0,
          w.room.total_kv_tokens,
          w.waiting,
          ready ? w.resident_kv : 0};
}

SessionState state_of(const Session& s) {
  return s.in_flight ? SessionState::running : s.first ? SessionState::queued : SessionState::idle;
}

bool is(const std::string& asked, std::string_view has) { return asked.empty() || asked == has; }

bool asked_for(const List& m, const JobInfo& job) {
  return is(m.tenant, job.tenant) && is(m.worker, job.worker) && is(m.session, job.session) &&
         (m.states == 0 || (m.states >> raw(job.state) & 1) != 0);
}

bool asked_for(const List& m, const SessionInfo& s) {
  return is(m.tenant, s.tenant) && is(m.worker, s.home) && is(m.session, s.session) &&
         (m.states == 0 || (m.states >> raw(s.state) & 1) != 0) &&
         (s.state != SessionState::idle || s.used_at >= m.since);
}

}  // namespace

SessionInfo Core::State::describe(const Session& s) {
  const Worker* home = s.home == kNoWorker ? nullptr : &workers.at(s.home);
  const bool there = home && (home->state == WorkerState::expected || at_home(s, *home));
  return {s.name,
          there ? home->name : "",
          state_of(s),
          raw(s.epoch),
          s.tokens,
          s.jobs - (s.in_flight ? 1 : 0),
          s.tenant->name,
          s.keep_alive_ms,
          s.max_tokens,
          s.used_at};
}

void Core::State::list(Turn& t, const ClientEvent& e, const List& m) {
  if (of_another(t, e, m.tenant)) return;
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
                   static_cast<int32_t>(raw(j.attempt)), j.output_tokens, j.why, j.tenant(),
                   j.accepted_at};
      if (!asked_for(m, info)) return true;
      shorten(info.detail, kListedDetail);
      return add(all.jobs, std::move(info));
    });
  } else if (m.what == Listing::sessions) {
    sessions.each([&](const Session& s) {
      if (!e.admin && s.tenant->name != e.tenant) return true;
      SessionInfo info = describe(s);
      return !asked_for(m, info) || add(all.sessions, std::move(info));
    });
  } else {
    workers.each([&](const Worker& w) {
      if (!all.truncated && is(m.worker, w.name)) add(all.workers, info_of(w));
    });
  }
  t.out.send.push_back(ToClient{e.client, std::move(all)});
}

// Another tenant's is an admin's alone to name. True when it was refused.
bool Core::State::of_another(Turn& t, const ClientEvent& e, const std::string& tenant) {
  if (tenant.empty() || tenant == e.tenant || e.admin) return false;
  refuse(t, e.client, "", ErrorCode::forbidden, "only an admin's key may name another tenant");
  return true;
}

void Core::State::release(Turn& t, const ClientEvent& e, const Release& m) {
  if (of_another(t, e, m.tenant)) return;
  Session* s = m.session.empty() ? nullptr
                                 : sessions.find({m.tenant.empty() ? e.tenant : m.tenant,
                                                  m.session});
  if (!s) return refuse(t, e.client, "", ErrorCode::not_found, "no such session");
  t.out.send.push_back(ToClient{e.client, Released{s->name, state_of(*s), s->tokens}});
  if (s->in_flight) {
    s->release = true;
  } else if (s->home != kNoWorker) {
    leave_home(t, *s, Reason::evicted, "released");
  }
}

// What a failed job had shown ended with its failure: done again, it has a number of its own and
// comes last in its session's lane. Workers rely on it that numbers grow along a lane.
void Core::State::retry(Turn& t, const ClientEvent& e, const Retry& m) {
  if (of_another(t, e, m.tenant)) return;
  const std::string tenant = m.tenant.empty() ? e.tenant : m.tenant;
  Retried told{m.job_id, JobState::queued, false};
  if (const Job* job = jobs.find({tenant, m.job_id})) {
    told.state = job->state;
  } else {
    const JobTable::Ended* ended = jobs.find_ended({tenant, m.job_id});
    if (!ended && !e.stored) {
      return refuse(t, e.client, "", ErrorCode::not_found, "no such job");
    }
    const JobNumber number = ended ? ended->job : e.stored->job;
    told.state = ended ? ended->state : e.stored->state;
    if (told.state == JobState::failed) {
      if (!e.stored || e.stored->job != number) {  // it has failed within this very turn
        return refuse(t, e.client, "", ErrorCode::busy, "it is failing just now; retry later",
                      options.retry_after.count());
      }
      if (!e.stored->spec) {
        return refuse(t, e.client, "", ErrorCode::not_found, "its body is not kept any more");
      }
      if (no_room(t, e, tenant, *e.stored->spec)) return;
      accept(t, tenant, e.stored->spec, e.stored->body_hash, number);
      told = {m.job_id, JobState::queued, true};
    }
  }
  t.out.send.push_back(ToClient{e.client, std::move(told)});
}

}  // namespace limpet::broker
