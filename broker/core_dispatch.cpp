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
  session.waits_in->erase({session.first->spec->priority, session.first->number});
  session.waits_in = nullptr;
  --ready_sessions;
}

void Core::State::make_ready(Turn& t, Session& session) {
  Job& job = *session.first;
  if (!home_usable(session) || session.home == job.avoid) return enqueue(session, anywhere);
  enqueue(session, workers.at(session.home).ready);
  gained.push_back(session.home);
  job.start_by = t.now.mono + options.start_deadline;
  arm(job);
}

void Core::State::settle(Turn& t) {
  for (;;) {
    if (!anywhere.empty() && workers.any_credit()) {
      pump(t, *workers.best(kNoWorker));
    } else if (!gained.empty()) {
      const uint32_t slot = gained.back();
      gained.pop_back();
      pump(t, workers.at(slot));
    } else {
      return;
    }
  }
}

// The most urgent of those who wait for this worker and those who would go anywhere, until it
// has no more room. One that would go anywhere may well be given to another.
void Core::State::pump(Turn& t, Worker& worker) {
  while (worker.credit() > 0) {
    if (!anywhere.empty() &&
        (worker.ready.empty() || anywhere.first_key() < worker.ready.first_key())) {
      place(t, *anywhere.first());
    } else if (!worker.ready.empty()) {
      Session& session = *worker.ready.first();
      unready(session);
      dispatch(t, session, worker);
    } else {
      return;
    }
  }
}

void Core::State::place(Turn& t, Session& session) {
  Job& job = *session.first;
  unready(session);
  Worker* worker = nullptr;
  if (session.home != kNoWorker && session.home != job.avoid) {
    Worker& home = workers.at(session.home);
    if (at_home(session, home) && home.credit() > 0) worker = &home;
  }
  if (!worker) worker = workers.best(job.avoid);
  if (!at_home(session, *worker)) {
    if (job.spec->require_resident && session.tokens > 0) {
      return fail(t, job, ErrorCode::not_resident, "the session's home is gone, or has no room");
    }
    move_home(t, session, *worker);
  }
  dispatch(t, session, *worker);
}

Reason Core::State::move_reason(const Session& session) {
  if (session.tokens == 0) return Reason::new_session;
  if (session.home == kNoWorker) {
    return session.reason == Reason::none ? Reason::new_session : session.reason;
  }
  const Worker& home = workers.at(session.home);
  if (!at_home(session, home)) {
    return session.incarnation == home.left ? Reason::drained : Reason::worker_lost;
  }
  if (home.leaving) return Reason::drained;
  const Reason why = session.first->move;
  return why == Reason::none ? Reason::start_deadline : why;
}

void Core::State::move_home(Turn& t, Session& session, const Worker& worker) {
  const Reason reason = move_reason(session);
  if (session.home != kNoWorker) {
    fact(t, Fact::Kind::affinity_break, session.name, name(reason));
    release_home(t, session);
  }
  commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1}, worker.name, worker.incarnation,
                    reason});
}

void Core::State::leave_home(Turn& t, Session& session, Reason reason) {
  const bool waits = session.waits_in != nullptr;
  if (waits) unready(session);
  release_home(t, session);
  commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1}, "", 0, reason});
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
  if (job.spec->require_resident && session.reason != Reason::none && session.tokens > 0) {
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
  const Time at_least = t.now.mono + options.start_deadline / 4;
  job.start_by = job.start_by == Time::max() ? t.now.mono + options.start_deadline
                                             : std::max(job.start_by, at_least);
  job.ask_after = Time::min();
  job.heard_index = 0;
  job.heard_started = false;
  job.move = Reason::none;
  arm(job);
  const JobSpec& spec = *job.spec;
  const int64_t input = static_cast<int64_t>(
      job.prompt_tokens >= 0 ? 0 : std::max(spec.tokens.size(), (job.bytes - sizeof(JobSpec)) / 4));
  workers.sent(worker, {job.number, job.attempt},
               {.heard = worker.heartbeat,
                .sent = t.now.mono,
                .promised = spec.max_tokens + input +
                            (session.reason != Reason::none ? session.tokens : 0)});
  Dispatch message = dispatch_message(t, session, job);
  const bool fill = message.has_transcript;
  send(t, worker, std::move(message), fill, job.prompt_tokens < 0 ? job.base() : -1);
}

}  // namespace limpet::broker
