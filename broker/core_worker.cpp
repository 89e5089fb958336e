// What workers say of themselves: who they are, that they live, what room they have.
#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {
namespace {

constexpr int64_t kMostWorkers = 4096;
constexpr size_t kReplacedRemembered = 8;

Room bounded(const Room& room) {
  constexpr int64_t kMost = int64_t{1} << 40;
  return {std::clamp<int32_t>(room.slots, 0, 1 << 16),
          std::clamp<int64_t>(room.free_kv_tokens, 0, kMost),
          std::clamp<int64_t>(room.total_kv_tokens, 0, kMost),
          std::clamp<int64_t>(room.idle_kv_tokens, 0, kMost),
          std::clamp<int64_t>(room.spill_kv_tokens, 0, kMost)};
}

// The attempts in flight at a worker that are still wanted, in order.
std::vector<JobAttempt> wanted(const Worker& worker) {
  std::vector<JobAttempt> all;
  for (const auto& [attempt, entry] : worker.in_flight)
    if (!entry.orphan) all.push_back(attempt);
  std::sort(all.begin(), all.end(),
            [](const JobAttempt& a, const JobAttempt& b) { return a.job < b.job; });
  return all;
}

}  // namespace

void Core::State::on(Turn& t, const WorkerEvent& e) {
  if (const auto* m = std::get_if<Register>(&e.message)) return enroll(t, e, *m);
  Worker* worker = workers.find(e.worker);
  const auto* beat = std::get_if<Heartbeat>(&e.message);
  const auto* leave = std::get_if<Leaving>(&e.message);
  if (!worker || (beat && beat->incarnation != worker->incarnation) ||
      (leave && leave->incarnation != worker->incarnation)) {
    t.out.send.push_back(ToWorker{e.worker, WhoAreYou{}});
    return;
  }
  worker->heard = t.now.mono;
  if (beat) {
    heartbeat(t, *worker, *beat);
  } else if (leave) {
    leaving(t, *worker);
    if (leave->gone) lose(t, *worker, "left");
  } else if (const auto* m = std::get_if<StepTokens>(&e.message)) {
    step_tokens(t, *worker, *m);
  } else if (const auto* m = std::get_if<JobStarted>(&e.message)) {
    job_started(t, *worker, *m);
  } else if (const auto* m = std::get_if<JobEnded>(&e.message)) {
    job_ended(t, *worker, *m);
  } else if (const auto* m = std::get_if<NeedTranscript>(&e.message)) {
    need_transcript(t, *worker, *m);
  } else if (const auto* m = std::get_if<SessionDropped>(&e.message)) {
    session_dropped(t, *worker, *m);
  } else if (const auto* m = std::get_if<SessionReceived>(&e.message)) {
    session_received(t, *worker, *m);
  } else if (const auto* m = std::get_if<HandOverFailed>(&e.message)) {
    hand_over_failed(t, *worker, *m);
  }
}

std::string Core::State::refusal(const WorkerEvent& e, const Register& m) {
  if (m.worker.empty() || m.worker.size() > Limits::kName) {
    return "a worker's name has 1 to " + std::to_string(Limits::kName) + " bytes";
  }
  if (m.incarnation == 0) return "an incarnation is not 0";
  const Worker* known = workers.find(std::string_view(m.worker));
  // Who has a worker's key takes no other's place; a name whose holder is lost or gone is free.
  if (known && known->state == WorkerState::ready && known->key != e.key) {
    return "the name " + m.worker + " is in use by a worker with another key; give each its own";
  }
  // Only while the newer one lives: a late copy of an old registration may have looked newer.
  if (known && known->state == WorkerState::ready &&
      std::ranges::count(known->replaced, m.incarnation) > 0) {
    return "a newer process has taken over the name " + m.worker + "; give each its own";
  }
  const bool joins = !workers.find(e.worker) && !(known && known->state == WorkerState::ready);
  if (joins && workers.ready() >= kMostWorkers) return "too many workers";
  return {};
}

void Core::State::enroll(Turn& t, const WorkerEvent& e, const Register& m) {
  const WorkerId connection = e.worker;
  if (std::string why = refusal(e, m); !why.empty()) {
    t.out.send.push_back(ToWorker{connection, RegisterRefused{ErrorCode::conflict, why}});
    return;
  }
  Worker* speaker = workers.find(connection);
  if (speaker && speaker->name != m.worker) lose(t, *speaker, "renamed");
  Worker& worker = workers.slot(m.worker);
  if (worker.state == WorkerState::ready && worker.incarnation == m.incarnation) {
    // The same life of the same process, perhaps by a new connection: only that changes. What it
    // holds and has room for is told, in order, by its heartbeats.
    if (worker.connection != connection) workers.connect(worker, connection);
    worker.heard = t.now.mono;
    send(t, worker, answer(worker, m));
    return;
  }
  if (worker.state == WorkerState::ready) lose(t, worker, "replaced");
  if (worker.incarnation != m.incarnation) {
    if (worker.incarnation != 0) worker.replaced.push_back(worker.incarnation);
    if (worker.replaced.size() > kReplacedRemembered)
      worker.replaced.erase(worker.replaced.begin());
    worker.heartbeat = worker.room_due = 0;
  }
  worker.incarnation = m.incarnation;
  worker.device = m.device;
  worker.model = m.model;
  worker.model_fingerprint = m.model_fingerprint;
  worker.max_context = m.max_context;
  worker.transfer = m.transfer;
  worker.key = e.key;
  worker.kv_layout = m.kv_layout;
  worker.resident_kv = 0;
  worker.kv_page_tokens = std::clamp<int64_t>(m.kv_page_tokens, 1, 1 << 16);
  worker.leaving = false;
  worker.room = bounded(m.room);
  worker.heard = t.now.mono;
  adopt(t, worker, connection, m);
  arm(worker);
  gained.push_back(worker.slot);
}

// `worker` is what it will be when the answer arrives: homes and attempts of this incarnation.
Registered Core::State::answer(const Worker& worker, const Register& m) {
  Registered r{m.incarnation, options.heartbeat.count(), options.lease.count(), {}, {}, {}};
  for (const HeldSession& h : m.sessions) {
    const Session* s = sessions.find(h.session);
    const bool own =
        s && s->home == worker.slot && s->incarnation == m.incarnation && s->epoch == h.epoch;
    if (!own) r.release.push_back(h);
  }
  for (const HeldJob& h : m.jobs) {
    const Job* job = jobs.find(h.job);
    const bool own = job && job->in_flight() && job->attempt == h.attempt &&
                     job->worker == worker.slot && job->session->incarnation == m.incarnation;
    (own ? r.resume : r.drop).push_back({h.job, h.attempt, own ? job->output_tokens : 0});
  }
  return r;
}

// A worker that was not there (or that a restarted broker expects): what it holds is compared
// with what the broker knows.
void Core::State::adopt(Turn& t, Worker& worker, WorkerId connection, const Register& m) {
  Registered r = answer(worker, m);
  const int64_t kept = std::ssize(m.sessions) - std::ssize(r.release);
  for (const HeldSession& h : m.sessions) {  // KV that it was given before this process began
    Session* s = sessions.find(h.session);
    const bool own = s && s->home == worker.slot && s->incarnation == m.incarnation;
    if (own && s->epoch == h.epoch && s->reason == Reason::drained && h.tokens > 0) {
      s->migrated = true;
    }
  }
  for (auto& [attempt, entry] : worker.in_flight) entry.unlist();
  for (const Registered::Resume& resume : r.resume) {
    InFlight& entry = worker.in_flight[{resume.job, resume.attempt}];
    entry.listed = entry.known = true;
    entry.sent = t.now.mono;
    entry.promised = kv_need(jobs.at(resume.job), worker);
  }
  t.out.send.push_back(ToWorker{connection, std::move(r)});
  workers.connect(worker, connection);
  for (const HeldJob& h : m.jobs) {
    const auto it = worker.in_flight.find({h.job, h.attempt});
    if (it != worker.in_flight.end()) it->second.started = h.started, it->second.ended = h.ended;
  }
  workers.recount(worker);
  for (const JobAttempt& a : wanted(worker)) {
    if (worker.in_flight[a].listed) continue;
    end_attempt(t, jobs.at(a.job), "worker_lost", counts(worker, a), false);
  }
  requeue_waiting(t, worker);
  fact(t, Fact::Kind::worker_registered, worker.name);
  if (kept > 0) fact(t, Fact::Kind::home_kept, worker.name, std::to_string(kept));
}

void Core::State::requeue_waiting(Turn& t, Worker& worker) {
  std::vector<Session*> waiting;
  while (!worker.ready.empty()) {
    waiting.push_back(worker.ready.any());
    unready(*waiting.back());
  }
  for (Session* session : waiting) make_ready(t, *session);
}

void Core::State::heartbeat(Turn& t, Worker& worker, const Heartbeat& m) {
  if (m.sequence <= worker.heartbeat) return;  // overtaken by a later one
  worker.heartbeat = m.sequence;
  worker.room = bounded(m.room);
  std::vector<JobAttempt> before;
  for (auto& [attempt, entry] : worker.in_flight) {
    if (entry.listed) before.push_back(attempt);
    entry.unlist();
  }
  for (const HeldJob& held : m.jobs) note_listed(t, worker, held);
  for (const JobAttempt& a : before) {  // known to have arrived: missing now, it is gone
    InFlight& entry = worker.in_flight[a];
    if (!entry.listed) entry.gone = true;
  }
  end_lost_dispatches(t, worker);
  worker.resident_kv = m.resident_kv_tokens;
  remind(t, worker);
  workers.recount(worker);
  gained.push_back(worker.slot);
}

void Core::State::note_listed(Turn& t, Worker& worker, const HeldJob& held) {
  const auto it = worker.in_flight.find({held.job, held.attempt});
  if (it == worker.in_flight.end() || it->second.orphan) {
    if (it != worker.in_flight.end()) it->second.list(held);
    return send(t, worker, EndAck{held.job, held.attempt});
  }
  it->second.list(held);
  // What it had told by its last heartbeat should have come by now.
  Job& job = jobs.at(held.job);
  const bool start_missing = job.heard_started && job.state == JobState::dispatched;
  if (start_missing || job.heard_index > job.output_tokens) ask_again(t, worker, job);
  job.heard_started = held.started;
  job.heard_index = held.next_index;
}

// A dispatch that heartbeats sent well after it do not list never arrived, or was dropped there.
void Core::State::end_lost_dispatches(Turn& t, Worker& worker) {
  std::vector<JobAttempt> lost;
  for (const auto& [attempt, entry] : worker.in_flight) {
    if (entry.listed) continue;
    const bool overdue =
        worker.heartbeat >= entry.heard + 2 && t.now.mono - entry.sent >= 2 * options.heartbeat;
    if (entry.gone || overdue) lost.push_back(attempt);
  }
  std::sort(lost.begin(), lost.end(),
            [](const JobAttempt& a, const JobAttempt& b) { return a.job < b.job; });
  for (const JobAttempt& a : lost) {
    if (worker.in_flight[a].orphan) {
      workers.forgotten(worker, a);
    } else {
      end_attempt(t, jobs.at(a.job), "dispatch_lost", counts(worker, a), false);
    }
  }
}

void Core::State::session_dropped(Turn& t, Worker& worker, const SessionDropped& m) {
  Session* session = sessions.find(m.session);
  if (!session || session->epoch != m.epoch || !at_home(*session, worker)) return;
  // A dispatch is on its way there: the worker will ask for the transcript.
  if (session->in_flight) return;
  leave_home(t, *session, m.reason == Reason::none ? Reason::evicted : m.reason);
}

void Core::State::leaving(Turn& t, Worker& worker) {
  if (worker.leaving) return;
  worker.leaving = true;
  worker.left = worker.incarnation;
  workers.rank(worker);
  fact(t, Fact::Kind::worker_left, worker.name);
  depart(worker);
  requeue_waiting(t, worker);
}

// Of an attempt that its worker has lost, perhaps with its life.
Core::State::Counts Core::State::counts(const Worker& worker, const JobAttempt& attempt) {
  const auto it = worker.in_flight.find(attempt);
  const bool known = it != worker.in_flight.end() && it->second.known;
  return known || jobs.at(attempt.job).state == JobState::running ? Counts::yes : Counts::no;
}

void Core::State::lose(Turn& t, Worker& worker, std::string_view why) {
  const std::vector<JobAttempt> attempts = wanted(worker);
  if (!worker.leaving) fact(t, Fact::Kind::worker_lost, worker.name, why);
  std::vector<Counts> counted;
  for (const JobAttempt& a : attempts) {
    counted.push_back(worker.leaving ? Counts::no : counts(worker, a));
  }
  workers.disconnect(worker);
  for (size_t i = 0; i < attempts.size(); ++i) {
    end_attempt(t, jobs.at(attempts[i].job), worker.leaving ? "drained" : "worker_lost", counted[i],
                false);
  }
  requeue_waiting(t, worker);
  unused.push_back(worker.slot);
}

}  // namespace limpet::broker
