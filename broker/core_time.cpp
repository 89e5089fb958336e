// What the passing of time does, and the first moments after a restart.
#include <algorithm>
#include <stdexcept>

#include "broker/core_state.h"

namespace limpet::broker {

Time Core::State::next_due(const Job& job) const {
  Time due = std::min(job.deadline, job.start_by);
  if (job.in_flight()) due = std::min(due, job.silent_since + options.attempt_deadline);
  return due;
}

void Core::State::arm(Job& job) {
  const Time due = next_due(job);
  if (due >= job.timer_at) return;  // it will be looked at before
  job.timer_at = due;
  timers.add(due, Timers::Kind::job, raw(job.number));
  sweep_timers();
}

void Core::State::arm(Worker& worker) {
  const Time due = std::max(worker.heard + options.lease, patience_until);
  if (due >= worker.timer_at) return;
  worker.timer_at = due;
  timers.add(due, Timers::Kind::worker, worker.slot);
}

// Most entries die before they are due: jobs end sooner than their deadlines.
void Core::State::sweep_timers() {
  if (timers.size() < 2 * jobs.size() + static_cast<size_t>(session_timers) + 4096) return;
  timers.sweep([&](const Timers::Entry& e) {
    if (e.kind != Timers::Kind::job) return true;
    const Job* job = jobs.find(JobNumber{e.id});
    return job && job->timer_at == e.at;
  });
}

void Core::State::on(Turn& t, const Wake&) {
  if (options.retain_sessions.count() > 0) retire(t, 0, "age");
  while (const auto due = timers.take(t.now.mono)) {
    if (due->kind == Timers::Kind::grace) {
      std::vector<Worker*> missing;
      workers.each([&](Worker& w) {
        if (w.state == WorkerState::expected) missing.push_back(&w);
      });
      for (Worker* w : missing) lose(t, *w, "not_back");
    } else if (due->kind == Timers::Kind::worker) {
      Worker* worker = workers.find_slot(static_cast<uint32_t>(due->id));
      if (!worker || worker->timer_at != due->at) continue;
      worker->timer_at = Time::max();
      worker_due(t, *worker);
    } else if (due->kind == Timers::Kind::hand_over) {
      hand_over_due(t, SessionNumber{due->id});
    } else if (due->kind == Timers::Kind::session) {
      --session_timers;
      Session* session = sessions.find(SessionNumber{due->id});
      if (session && session->timer_at == due->at) session_due(t, *session);
    } else {
      Job* job = jobs.find(JobNumber{due->id});
      if (!job || job->timer_at != due->at) continue;
      job->timer_at = Time::max();
      job_due(t, *job);
    }
  }
}

void Core::State::worker_due(Turn& t, Worker& worker) {
  if (worker.state != WorkerState::ready) return;
  if (t.now.mono >= worker.heard + options.lease && t.now.mono >= patience_until) {
    return lose(t, worker, "lease");
  }
  arm(worker);
}

void Core::State::job_due(Turn& t, Job& job) {
  const JobNumber number = job.number;
  if (t.now.mono >= job.deadline) return stop(t, job, JobState::expired);
  if (job.in_flight() && t.now.mono >= job.silent_since + options.attempt_deadline) {
    job.avoid = job.worker;
    job.move = Reason::worker_lost;
    const bool began = job.state == JobState::running;
    end_attempt(t, job, "attempt_deadline", began ? Counts::yes : Counts::no, true);
  } else if (t.now.mono >= job.start_by) {
    start_overdue(t, job);
  }
  if (Job* still = jobs.find(number)) arm(*still);
}

// It has not begun in time. It goes elsewhere as soon as elsewhere has room; while there is none,
// waiting where it is costs least.
void Core::State::start_overdue(Turn& t, Job& job) {
  Session& session = *job.session;
  if (!job.in_flight()) {
    job.start_by = Time::max();
    job.avoid = kNoWorker;  // nobody else had a place for it in all that time
    unready(session);
    enqueue(session, kNoWorker);
    if (job.spec->require_resident) {  // its home may go while it waits
      if (astray(session)) strays.push_back(session.number);
      job.start_by = t.now.mono + options.start_deadline;
    }
    return;
  }
  Worker* other = workers.freest(job.worker, session.model);
  if (!other || !other->takes(kv_need(job, *other))) other = workers.roomiest(job.worker);
  if (!other || other->slot == job.worker || !other->takes(kv_need(job, *other))) {
    job.start_by = t.now.mono + look_again();
    return;
  }
  job.avoid = job.worker;
  job.move = Reason::start_deadline;
  ++job.moves;
  end_attempt(t, job, "start_deadline", Counts::no, true);
}

void Core::State::recover_session(Turn& t, Session& session) {
  if (session.home != kNoWorker) {
    Worker& home = workers.at(session.home);
    if (home.state == WorkerState::absent) home.state = WorkerState::expected;
  }
  if (!session.in_flight) SessionTable::rest(session);
  if (session.used_at == 0) session.used_at = t.now.wall;  // stored before it was known
  if (!session.first) return session.home == kNoWorker ? void() : keep_until(t, session);
  Job& job = *session.first;
  if (!session.in_flight) return make_ready(t, session);
  if (session.home == kNoWorker)
    throw std::logic_error("a dispatched job whose session has no home");
  job.worker = session.home;
  job.silent_since = t.now.mono;
  if (job.state == JobState::dispatched) {
    job.start_by = t.now.mono + options.home_grace + options.start_deadline;
  }
  Worker& home = workers.at(session.home);
  home.in_flight[{job.number, job.attempt}] = {.sent = t.now.mono};
  job.kv_promised = kv_need(job, home);
  job.output_before = job.output_tokens;
  session.tenant->promised += job.kv_promised;
  arm(job);
}

void Core::State::recovered(Now now) {
  Output nothing;
  Turn t{now, nothing};
  last_now = now.mono;
  last_wall = now.wall;
  jobs.each([&](Job& job) {
    const std::chrono::milliseconds age{std::max<int64_t>(now.wall - job.accepted_at, 0)};
    job.accepted = now.mono - age;
    // When it was dispatched, and when its first token came, is not stored: at the latest now.
    if (job.attempt != Attempt{}) job.queue_seconds = seconds_between(job.accepted, now.mono);
    if (job.output_tokens > 0) job.first_token_seconds = seconds_between(job.accepted, now.mono);
    if (job.deadline_at != 0) {
      const WallMs left = std::max<WallMs>(job.deadline_at - now.wall, 0);
      job.deadline = now.mono + std::chrono::milliseconds(left);
    }
    arm(job);
    return true;
  });
  sessions.each([&](Session& session) {
    recover_session(t, session);
    return true;
  });
  sessions.sort_unused();
  timers.add(now.mono + options.home_grace, Timers::Kind::grace, 0);
}

}  // namespace limpet::broker
