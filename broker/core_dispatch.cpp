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

void Core::State::enqueue(Session& session, ReadyQueue& queue) {
  queue.insert({session.first->spec->priority, session.first->number}, &session);
  session.waits_in = &queue;
  ++ready_sessions;
}

void Core::State::unready(Session& session) {
  if (!session.waits_in) return;
  if (session.waits_in != &anywhere) let_go(workers.at(session.home));
  session.waits_in->erase({session.first->spec->priority, session.first->number});
  session.waits_in = nullptr;
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
  if (!home_usable(session) || session.home == job.avoid) return enqueue(session, anywhere);
  enqueue(session, workers.at(session.home).ready);
  gained.push_back(session.home);
  job.start_by = t.now.mono + options.start_deadline;
  arm(job);
}

// Who waited there for KV before all others waits no more: the next is looked at in settle().
void Core::State::let_go(Worker& worker) {
  if (worker.held) gained.push_back(worker.slot);
}

void Core::State::settle(Turn& t) {
  for (;;) {
    Worker* next = anywhere.empty() ? nullptr : room_for(*anywhere.first());
    if (!next) {
      if (gained.empty()) return;
      next = &workers.at(gained.back());
      gained.pop_back();
      next->held = false;
      workers.rank(*next);
    }
    pump(t, *next);
  }
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
  int64_t need = before + spec.max_tokens;
  // A worker cuts the output where its context or its pool ends.
  for (const int64_t most : {worker.max_context, worker.room.total_kv_tokens}) {
    if (most > 0) need = std::min(need, most);
  }
  return need;
}

// Where a session that may go anywhere goes now: its home, if that will do, or the worker with the
// most room; null while that has too little.
Worker* Core::State::room_for(const Session& session) {
  const Job& job = *session.first;
  if (session.home != kNoWorker && session.home != job.avoid) {
    Worker& home = workers.at(session.home);
    if (at_home(session, home) && !home.held && home.takes(kv_need(job, home))) return &home;
  }
  Worker* best = workers.best(job.avoid, session.model);
  return best && best->takes(kv_need(job, *best)) ? best : nullptr;
}

// The most urgent of those who wait for this worker and those who would go anywhere, until it
// has no more room. One that would go anywhere may well be given to another. While one waits for
// KV no later one takes it: at its home, or at the worker that is the next to have enough.
void Core::State::pump(Turn& t, Worker& worker) {
  while (worker.credit() > 0 && !worker.held) {
    if (!anywhere.empty() &&
        (worker.ready.empty() || anywhere.first_key() < worker.ready.first_key())) {
      Session& session = *anywhere.first();
      if (Worker* there = room_for(session)) {
        place(t, session, *there);
        continue;
      }
      if (&worker == workers.best(session.first->avoid, session.model)) return;
    }
    if (worker.ready.empty()) return;
    Session& session = *worker.ready.first();
    if (!worker.takes(kv_need(*session.first, worker))) {
      worker.held = true;
      return workers.rank(worker);
    }
    unready(session);
    dispatch(t, session, worker);
  }
}

void Core::State::place(Turn& t, Session& session, Worker& worker) {
  Job& job = *session.first;
  unready(session);
  if (!at_home(session, worker)) {
    if (job.spec->require_resident && session.tokens > 0) {
      return fail(t, job, ErrorCode::not_resident, "the session's home is gone, or has no room");
    }
    move_home(t, session, worker);
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

void Core::State::move_home(Turn& t, Session& session, const Worker& worker) {
  const Reason reason = move_reason(session, worker);
  if (session.home != kNoWorker) {
    const bool changed = reason == Reason::model_changed;
    fact(t, Fact::Kind::affinity_break, session.name,
         name(changed ? reason : break_reason(session)));
    release_home(t, session);
  }
  commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1}, worker.name, worker.incarnation,
                    reason, worker.model_fingerprint});
}

void Core::State::leave_home(Turn& t, Session& session, Reason reason) {
  const bool waits = session.waits_in != nullptr;
  if (waits) unready(session);
  fact(t, Fact::Kind::affinity_break, session.name, name(reason));
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
  job.start_by = job.start_by == Time::max() ? t.now.mono + options.start_deadline
                                             : std::max(job.start_by, at_least);
  job.ask_after = Time::min();
  job.heard_index = 0;
  job.heard_started = false;
  job.move = Reason::none;
  arm(job);
  workers.sent(
      worker, {job.number, job.attempt},
      {.heard = worker.heartbeat, .sent = t.now.mono, .promised = kv_need(job, worker)});
  Dispatch message = dispatch_message(t, session, job);
  const bool fill = message.has_transcript;
  send(t, worker, std::move(message), fill, job.prompt_tokens < 0 ? job.base() : -1);
}

}  // namespace limpet::broker
