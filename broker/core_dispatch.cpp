// Who gets which job: a session's home first, any worker when there is none.
#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {

bool Core::State::at_home(const Session& session, const Worker& worker) {
  return session.home == worker.slot && session.incarnation == worker.incarnation &&
         worker.state == WorkerState::ready;
}

bool Core::State::home_usable(const Session& session) {
  if (session.home == kNoWorker) return false;
  const Worker& home = workers.at(session.home);
  return home.state == WorkerState::expected || (at_home(session, home) && !home.leaving);
}

// At a worker, or (kNoWorker) anywhere.
void Core::State::enqueue(Session& session, uint32_t at) {
  FairQueue& queue = at == kNoWorker ? anywhere : workers.at(at).ready;
  queue.insert(*session.tenant, {session.first->spec->priority, session.first->number}, &session);
  tenants.waits(*session.tenant);
  session.waits_in = &queue;
  session.waits_at = at;
  ++ready_sessions;
  if (at == kNoWorker) return;
  ++workers.at(at).waiting;
  gained.push_back(at);
}

void Core::State::unready(Session& session) {
  if (!session.waits_in) return;
  if (session.waits_at != kNoWorker) {
    --workers.at(session.waits_at).waiting;
    let_go(workers.at(session.waits_at));
  }
  session.waits_in->erase(*session.tenant,
                          {session.first->spec->priority, session.first->number});
  tenants.waits_not(*session.tenant);
  session.waits_in = nullptr;
  session.waits_at = kNoWorker;
  --ready_sessions;
}

void Core::State::make_ready(Turn& t, Session& session) {
  Job& job = *session.first;
  if (session.move != Move::no) {
    const auto d = departures.find(session.home);
    if (session.move == Move::waits && d != departures.end()) {
      d->second.waits.push_front(session.number);  // a job waits for it: it goes next
    }
    return;
  }
  const bool home = home_usable(session) && session.home != job.avoid;
  enqueue(session, home ? session.home : kNoWorker);
  if (astray(session)) strays.push_back(session.number);
  // At home it waits so long; whom to avoid, too, is thought over then.
  if (home || job.avoid != kNoWorker) wait_for_start(t, session);
}

// Its next job asks for KV that no worker has, or will come back with.
bool Core::State::astray(const Session& session) {
  return session.first->spec->require_resident && session.tokens > 0 && !home_usable(session);
}

// They need not wait for a worker to hear that it would have to prefill.
void Core::State::refuse_strays(Turn& t) {
  while (!strays.empty()) {
    Session* s = sessions.find(strays.back());
    strays.pop_back();
    if (!s || !s->waits_in || !astray(*s)) continue;
    const Reason why = s->home == kNoWorker ? s->reason : break_reason(*s);
    fail(t, *s->first, ErrorCode::not_resident,
         "no worker holds the session's KV any more: " + std::string(name(why)));
  }
}

// Each move gives the next place more time, so that a job ends up where it starts at all.
void Core::State::wait_for_start(Turn& t, Session& session) {
  Job& job = *session.first;
  job.start_by = t.now.mono + options.start_deadline * (1 + std::min(job.moves, 15));
  arm(job);
}

// Who waited there for KV before all others waits no more: the next is looked at in settle().
void Core::State::let_go(Worker& worker) {
  if (worker.held) gained.push_back(worker.slot);
}

void Core::State::settle(Turn& t) {
  for (;;) {
    refuse_strays(t);
    if (tenants.several()) workers.several_tenants();
    const FairQueue::First first = first_of(anywhere);
    if (first && (workers.any_open() || first.tenant->in_flight == 0)) {
      if (Worker* there = room_for(*first.session)) {
        const int64_t before = ready_sessions;
        pump(t, *there);
        // Nothing: the last place there, and before it the turn of one for whom it is not.
        if (ready_sessions != before || there->held) continue;
      } else if (wait_at_one(t, *first.session)) {
        continue;
      }
    }
    if (gained.empty()) return;
    Worker& worker = workers.at(gained.back());
    gained.pop_back();
    worker.held = false;
    workers.rank(worker);
    pump(t, worker);
    balance(t, worker);
  }
}

// No worker has the KV for it now. It waits at the one that is the next to have enough, so that
// those behind it may go to the others.
bool Core::State::wait_at_one(Turn& t, Session& session) {
  const uint32_t avoid = session.first->avoid;
  Worker* worker = workers.roomiest(avoid, session.tenant->in_flight > 0);
  // One that avoids the only worker with a place waits at another, or it would hold up that one.
  if (!worker && avoid != kNoWorker) worker = workers.another(avoid);
  if (!worker) return false;
  unready(session);
  enqueue(session, worker->slot);
  wait_for_start(t, session);
  return true;
}

// KV tokens that the session may come to hold by this job: all of its transcript counts, since
// what is idle gives way to others. A prompt that is only text is taken for a token in four bytes.
int64_t Core::State::kv_need(const Job& job, const Worker& worker) {
  const JobSpec& spec = *job.spec;
  int64_t before = job.base_tokens + job.prompt_tokens;
  if (job.prompt_tokens < 0) {
    before = job.base() + static_cast<int64_t>(
                              std::max(spec.tokens.size(), (job.bytes - sizeof(JobSpec)) / 4));
  }
  const int64_t page = std::max<int64_t>(worker.kv_page_tokens, 1);
  int64_t most_tokens = before + spec.max_tokens;
  if (job.session->max_tokens > 0) most_tokens = std::min(most_tokens, job.session->max_tokens);
  int64_t need = (most_tokens + page - 1) / page * page;
  // A worker cuts the output where its context or its pool ends.
  for (const int64_t most : {worker.max_context, worker.room.total_kv_tokens}) {
    if (most > 0) need = std::min(need, most);
  }
  return need;
}

// Who is next there, of those that their tenants' caps let go.
FairQueue::First Core::State::first_of(const FairQueue& queue) {
  return queue.first([this](const Session& session) { return within_caps(session); });
}

// Where a session that may go anywhere goes now: its home, if that will do; the worker that has the
// most free, so that nobody's idle KV is given up; else the one that has the most when that is.
Worker* Core::State::room_for(const Session& session) {
  const Job& job = *session.first;
  const bool busy = session.tenant->in_flight > 0;  // so that a last place is not for it
  const auto takes = [&](Worker* w) {
    return w && !w->held && (!busy || workers.open(*w)) && w->takes(kv_need(job, *w));
  };
  if (session.home != kNoWorker && session.home != job.avoid) {
    Worker& home = workers.at(session.home);
    if (at_home(session, home) && takes(&home)) return &home;
  }
  Worker* freest = workers.freest(job.avoid, session.model, busy);
  if (takes(freest)) return freest;
  Worker* roomiest = workers.roomiest(job.avoid, busy);
  return takes(roomiest) ? roomiest : nullptr;
}

// The next of those who wait for this worker and those who would go anywhere, until it has no more
// room. One that would go anywhere may well be given to another. While one waits here for KV, none
// whose turn is later takes it.
void Core::State::pump(Turn& t, Worker& worker) {
  while (worker.credit() > 0 && !worker.held) {
    const FairQueue::First far = first_of(anywhere), near = first_of(worker.ready);
    const bool is_far = far && (!near || far.before(near));
    const FairQueue::First& next = is_far ? far : near;
    // Its last place is not for one that has jobs at work, whoever waits behind it.
    if (next && next.tenant->in_flight > 0 && !workers.open(worker)) return;
    if (is_far) {
      Worker* there = room_for(*far.session);
      if (!there) return;  // it is given a place to wait at in settle()
      place(t, *far.session, *there);
      continue;
    }
    if (!near) return;
    if (!worker.takes(kv_need(*near.session->first, worker))) {
      worker.held = true;
      return workers.rank(worker);
    }
    place(t, *near.session, worker);
  }
}

void Core::State::place(Turn& t, Session& session, Worker& worker, std::string_view why) {
  Job& job = *session.first;
  unready(session);
  if (!at_home(session, worker)) {
    if (job.spec->require_resident && session.tokens > 0) {
      return fail(t, job, ErrorCode::not_resident, "the session's home is gone, or has no room");
    }
    move_home(t, session, worker, why);
  }
  dispatch(t, session, worker);
}

// Why its next start will not be resident.
Reason Core::State::move_reason(const Session& session, const Worker& to) {
  if (session.tokens == 0) return Reason::new_session;
  // Its KV would be of no use, whatever else has happened.
  if (session.model != 0 && session.model != to.model_fingerprint) return Reason::model_changed;
  if (session.home != kNoWorker) return break_reason(session);
  return session.reason == Reason::none ? Reason::new_session : session.reason;
}

// Why it leaves the home that it has.
Reason Core::State::break_reason(const Session& session) {
  const Worker& home = workers.at(session.home);
  if (!at_home(session, home)) {
    return session.incarnation == home.left ? Reason::drained : Reason::worker_lost;
  }
  if (home.leaving) return Reason::drained;
  const Reason why = session.first->move;
  return why == Reason::none ? Reason::start_deadline : why;
}

void Core::State::move_home(Turn& t, Session& session, const Worker& worker,
                            std::string_view why) {
  const Reason reason = move_reason(session, worker);
  if (session.home != kNoWorker) {
    const bool changed = reason == Reason::model_changed;
    fact(t, Fact::Kind::affinity_break, session,
         !why.empty() ? why : name(changed ? reason : break_reason(session)));
    release_home(t, session);
  }
  commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1}, worker.name, worker.incarnation,
                    reason, worker.model_fingerprint});
}

void Core::State::leave_home(Turn& t, Session& session, Reason reason, std::string_view why) {
  const bool waits = session.waits_in != nullptr;
  if (waits) unready(session);
  fact(t, Fact::Kind::affinity_break, session, why.empty() ? name(reason) : why);
  release_home(t, session);
  commit(t,
         HomeSet{session.number, Epoch{raw(session.epoch) + 1}, "", 0, reason, session.model});
  if (waits) make_ready(t, session);
}

void Core::State::release_home(Turn& t, const Session& session) {
  const Worker& home = workers.at(session.home);
  if (at_home(session, home)) send(t, home, ReleaseSession{session.number, session.epoch});
}

// What only the first dispatch of a job finds out: whether it can be begun as it asks.
bool Core::State::admissible(Turn& t, Session& session, Job& job) {
  if (job.prompt_tokens < 0 && job.spec->rewind_to > session.tokens) {
    fail(t, job, ErrorCode::invalid,
         "rewind_to is beyond the session's " + std::to_string(session.tokens) + " tokens");
    return false;
  }
  const int64_t cap = session.max_tokens;
  if (cap > 0 && job.prompt_tokens < 0) {
    const bool known = job.spec->kind == InputKind::tokens;
    const int64_t before = job.base() + (known ? std::ssize(job.spec->tokens) : 0);
    if (before >= cap) {
      fail(t, job, ErrorCode::too_long, beyond_cap(session, before, known));
      return false;
    }
  }
  if (job.spec->require_resident && session.reason != Reason::none && !session.migrated &&
      session.tokens > 0) {
    fail(t, job, ErrorCode::not_resident, "its home does not hold the session's KV yet");
    return false;
  }
  return true;
}

Dispatch Core::State::dispatch_message(Turn& t, const Session& session, const Job& job) {
  Dispatch d;
  d.job = job.number;
  d.attempt = job.attempt;
  d.session = session.number;
  d.epoch = session.epoch;
  d.ephemeral = session.ephemeral();
  d.home_reason = session.reason;
  d.base_tokens = job.base();
  d.prompt_tokens = job.prompt_tokens;
  d.output_tokens = job.output_tokens;
  d.seed = job.seed;
  if (job.deadline != Time::max()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(job.deadline - t.now.mono);
    d.deadline_ms = std::max<int64_t>(left.count(), 1);
  }
  d.spec = job.spec;
  d.tenant = session.tenant->name;
  d.keep_alive_ms = keep_alive_of(session);
  d.session_max_tokens = session.max_tokens;
  d.has_transcript = session.reason != Reason::none && session.tokens > 0;
  return d;
}

void Core::State::dispatch(Turn& t, Session& session, Worker& worker) {
  Job& job = *session.first;
  if (!admissible(t, session, job)) return;
  if (job.attempt == Attempt{}) {
    job.queue_seconds = seconds_between(job.accepted, t.now.mono);
    fact(t, Fact::Kind::queue_left, job.id(), {}, job.queue_seconds);
  }
  commit(t, JobDispatched{job.number, Attempt{raw(job.attempt) + 1}});
  job.queue_seconds = seconds_between(job.accepted, t.now.mono);
  job.worker = worker.slot;
  job.silent_since = t.now.mono;
  // What is left of the time to start at home, but never less than a worker needs to say so.
  const Time at_least = t.now.mono + look_again();
  const Time in_full = t.now.mono + options.start_deadline * (1 + std::min(job.moves, 15));
  job.start_by = job.start_by == Time::max() ? in_full : std::max(job.start_by, at_least);
  job.ask_after = Time::min();
  job.heard_index = 0;
  job.heard_started = false;
  job.move = Reason::none;
  arm(job);
  begin_share(t, session, worker);
  workers.sent(worker, {job.number, job.attempt},
               {.heard = worker.heartbeat, .sent = t.now.mono, .promised = job.kv_promised});
  Dispatch message = dispatch_message(t, session, job);
  const bool fill = message.has_transcript;
  send(t, worker, std::move(message), fill, job.prompt_tokens < 0 ? job.base() : -1);
}

}  // namespace limpet::broker
