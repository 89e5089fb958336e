// A worker leaves: which of its peers receives which session, and when the session is theirs.
#include "broker/core_handover.h"

#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {
namespace {

constexpr int64_t kMovingAtOnce = 8;  // sessions of one worker
constexpr size_t kTries = 2;          // receivers for one session

// In pages of that worker.
int64_t whole_pages(int64_t tokens, const Worker& w) {
  return (tokens + w.kv_page_tokens - 1) / w.kv_page_tokens * w.kv_page_tokens;
}

int64_t free_kv(const Worker& w) { return w.room.free_kv_tokens - w.promised - w.reserved_kv; }

bool has_work(const Worker& worker) {
  return std::ranges::any_of(worker.in_flight, [](const auto& e) { return !e.second.orphan; });
}

}  // namespace

// ---- Who leaves ------------------------------------------------------------------------------

void Core::State::drain(Turn& t, const ClientEvent& e, const Drain& m) {
  using State = DrainStatus::State;
  if (!e.admin && !e.tenant.empty()) {  // with keys, whose tenants are not the operator
    return refuse(t, e.client, "", ErrorCode::forbidden, "only an admin's key may drain a worker");
  }
  DrainStatus status{m.worker, State::unknown, 0, 0, m.incarnation};
  if (Worker* w = workers.find(std::string_view(m.worker))) {
    const bool other = m.incarnation != 0 && m.incarnation != w->incarnation;
    if (other || w->state != WorkerState::ready) {
      status.state = State::gone;
    } else {
      status.state = w->leaving ? State::leaving : State::asked;
      status.incarnation = w->drain_asked = w->incarnation;
      status.sessions = w->homes_now();
      status.running = std::ssize(w->in_flight);
      if (!w->leaving) send(t, *w, Leave{w->incarnation});
    }
  } else if (m.incarnation != 0) {
    status.state = State::gone;
  }
  t.out.send.push_back(ToClient{e.client, std::move(status)});
}

// Its sessions wait here for their turn, and with them the jobs that have not begun.
void Core::State::depart(Worker& worker) {
  Departure& d = departures[worker.slot];
  d = {};
  d.incarnation = worker.incarnation;
  if (worker.kv_layout == 0) return;
  std::vector<Session*> by_urgency[3];
  sessions.each([&](Session& s) {
    if (!at_home(s, worker) || (s.tokens == 0 && !s.in_flight)) return true;
    by_urgency[s.in_flight ? 0 : s.first ? 1 : 2].push_back(&s);
    return true;
  });
  for (auto& list : by_urgency) {
    std::ranges::sort(list, {}, &Session::number);
    for (Session* s : list) {
      s->move = Move::waits;
      if (s->waits_in) {
        unready(*s);
        s->first->start_by = Time::max();
      }
      d.waits.push_back(s->number);
    }
  }
}

// What was said and may have been lost is said again; what runs there without having found a
// receiver is looked at again.
void Core::State::remind(Turn& t, Worker& worker) {
  if (worker.drain_asked == worker.incarnation && !worker.leaving) {
    send(t, worker, Leave{worker.incarnation});
  }
  for (const auto& [number, m] : hand_overs) {
    if (!still_moving(number, m)) continue;
    if (m.receiver == worker.slot) say_expect(t, number, m);
    if (m.giver == worker.slot) say_hand_over(t, number, m);
  }
  const auto it = departures.find(worker.slot);
  if (it == departures.end()) return;
  Departure& d = it->second;
  d.told = false;
  if (worker.kv_layout == 0) return;
  for (const auto& [attempt, entry] : worker.in_flight) {
    const Job* job = entry.orphan ? nullptr : jobs.find(attempt.job);
    if (!job || job->session->move != Move::no || d.tried[job->session->number].size() >= kTries) {
      continue;
    }
    job->session->move = Move::waits;
    d.waits.push_front(job->session->number);
  }
}

// ---- Which sessions go where -----------------------------------------------------------------

// Once, at the end of each step.
void Core::State::move_sessions(Turn& t) {
  std::vector<SessionNumber> over;
  for (const auto& [number, m] : hand_overs)
    if (!still_moving(number, m)) over.push_back(number);
  for (const SessionNumber number : over) give_up(t, number, "overtaken");
  for (auto it = departures.begin(); it != departures.end();) {
    Departure& d = it->second;
    Worker* worker = workers.find_slot(it->first);
    if (!worker || worker->state != WorkerState::ready || !worker->leaving ||
        worker->incarnation != d.incarnation) {
      const auto left = std::move(d.waits);
      for (const auto& [number, why] : d.unmoved) {
        told(t, sessions.find(number), why);
      }
      it = departures.erase(it);
      for (const SessionNumber number : left) {
        Session* s = sessions.find(number);
        if (s && s->move == Move::waits) stay(t, *s);
      }
      continue;
    }
    while (d.moving < kMovingAtOnce && !d.waits.empty()) {
      Session* s = sessions.find(d.waits.front());
      d.waits.pop_front();
      if (!s || s->move != Move::waits || begin_hand_over(t, *s, *worker, d)) continue;
      d.waits.push_front(s->number);
      break;
    }
    if (!d.told && d.moving == 0 && d.waits.empty() && !has_work(*worker)) {
      send(t, *worker, MayLeave{worker->incarnation});
      d.told = true;
    }
    ++it;
  }
}

bool Core::State::still_moving(SessionNumber number, const Moving& m) {
  const Session* s = sessions.find(number);
  const Worker* giver = workers.find_slot(m.giver);
  const Worker* receiver = workers.find_slot(m.receiver);
  return s && s->epoch == m.epoch && giver && giver->incarnation == m.giver_life &&
         at_home(*s, *giver) && receiver && receiver->incarnation == m.receiver_life &&
         receiver->state == WorkerState::ready && !receiver->leaving;
}

// How it would stand there. 3: beside what is there; 2: what is idle there goes below the device
// for it, and nobody loses KV; 1: idle KV may be lost for it, since a job goes before an idle
// session; 0: not at all. A job that runs needs a place to go on at once.
Core::State::Fit Core::State::fit(const Session& session, const Worker& w) {
  const bool job_fits = session.first && kv_need(*session.first, w) <= w.kv_credit();
  if (session.in_flight && (w.credit() <= 0 || w.held || !job_fits)) return {0, 0};
  const int64_t tokens = whole_pages(session.tokens, w);
  const int64_t free = free_kv(w), spare = free + w.room.spill_kv_tokens;
  if (free >= tokens) return {3, free};
  if (spare >= tokens) return {2, spare};
  return job_fits ? Fit{1, w.kv_credit()} : Fit{0, 0};
}

// The worker that understands its pages, and where it fits best. An idle one need not go at once.
Core::State::Receiver Core::State::receiver_for(const Session& session, const Worker& giver,
                                                const std::vector<uint32_t>& tried) {
  Receiver best;
  Fit best_fit{0, 0};
  workers.each([&](Worker& w) {
    if (w.slot == giver.slot || w.state != WorkerState::ready || w.leaving) return;
    if (w.transfer.empty() || w.kv_layout != giver.kv_layout ||
        w.model_fingerprint != giver.model_fingerprint || std::ranges::count(tried, w.slot) > 0) {
      return;
    }
    best.later = best.later || (!session.first && w.receives());
    const Fit there = fit(session, w);
    if (there.first == 0 || (best.worker && there <= best_fit)) return;
    best.worker = &w;
    best_fit = there;
  });
  return best;
}

// False: not yet.
bool Core::State::begin_hand_over(Turn& t, Session& session, const Worker& giver, Departure& d) {
  Receiver to;
  if (at_home(session, giver)) to = receiver_for(session, giver, d.tried[session.number]);
  if (!to.worker && to.later) return false;
  if (!to.worker) {
    d.unmoved.try_emplace(session.number, "no_room");
    not_moved(t, session, d);
    return true;
  }
  Moving m{session.epoch, giver.slot, to.worker->slot, giver.incarnation, to.worker->incarnation,
           {}, 0, 0};
  m.until = t.now.mono + options.hand_over_deadline;
  m.kv_tokens = session.first ? kv_need(*session.first, *to.worker)
                              : whole_pages(session.tokens, *to.worker);
  m.slots = session.in_flight ? 1 : 0;
  reserve(*to.worker, m.kv_tokens, m.slots);
  ++d.moving;
  session.move = Move::moving;
  hand_overs[session.number] = m;
  timers.add(m.until, Timers::Kind::hand_over, raw(session.number));
  say_expect(t, session.number, m);
  say_hand_over(t, session.number, m);
  return true;
}

// What became of moving it, for the operator. Null: the session is no more.
void Core::State::told(Turn& t, const Session* session, std::string_view outcome) {
  if (session) return fact(t, Fact::Kind::hand_over, *session, outcome);
  fact(t, Fact::Kind::hand_over, std::string(), outcome);
}

// While its job runs there it is tried again, and what becomes of it is told once, at the end.
void Core::State::not_moved(Turn& t, Session& session, Departure& d) {
  if (!session.in_flight) {
    told(t, &session, d.unmoved.extract(session.number).mapped());
  }
  stay(t, session);
}

void Core::State::say_hand_over(Turn& t, SessionNumber number, const Moving& m) {
  send(t, workers.at(m.giver),
       HandOver{number, m.epoch, workers.at(m.receiver).transfer, m.receiver_life,
                workers.at(m.receiver).key});
}

void Core::State::say_expect(Turn& t, SessionNumber number, const Moving& m) {
  const Session& session = sessions.at(number);
  send(t, workers.at(m.receiver),
       ExpectSession{number, m.epoch, m.giver_life, session.tenant->name,
                     workers.at(m.giver).key, session.tokens, session.first != nullptr});
}

void Core::State::reserve(Worker& worker, int64_t kv_tokens, int32_t slots) {
  worker.reserved_kv += kv_tokens;
  worker.reserved_slots += slots;
  workers.rank(worker);
}

// It is not moved (any more): its jobs go on where they are, or go anywhere.
void Core::State::stay(Turn& t, Session& session) {
  session.move = Move::no;
  if (session.first && !session.in_flight && !session.waits_in) make_ready(t, session);
}

// ---- How it ends -----------------------------------------------------------------------------

// The receiver's places and KV are free again. The session, if it is there still, is told nothing.
Moving Core::State::end_hand_over(SessionNumber number) {
  const Moving m = hand_overs.at(number);
  hand_overs.erase(number);
  Worker& receiver = workers.at(m.receiver);
  reserve(receiver, -m.kv_tokens, -m.slots);
  if (receiver.incarnation == m.receiver_life) receiver.room_due = receiver.heartbeat + 2;
  gained.push_back(m.receiver);
  const auto d = departures.find(m.giver);
  if (d != departures.end() && d->second.incarnation == m.giver_life) --d->second.moving;
  return m;
}

void Core::State::give_up(Turn& t, SessionNumber number, std::string_view why) {
  const Moving m = end_hand_over(number);
  const Worker& giver = workers.at(m.giver);
  const Worker& receiver = workers.at(m.receiver);
  if (giver.state == WorkerState::ready && giver.incarnation == m.giver_life) {
    send(t, giver, StopHandOver{number, m.epoch});
  }
  if (receiver.state == WorkerState::ready && receiver.incarnation == m.receiver_life) {
    send(t, receiver, ReleaseSession{number, m.epoch});
  }
  Session* session = sessions.find(number);
  const auto d = departures.find(m.giver);
  const bool here = d != departures.end() && d->second.incarnation == m.giver_life;
  if (!session || !here) {
    told(t, session, why);
    if (session) stay(t, *session);
    return;
  }
  d->second.unmoved[number] = why;
  if (session->epoch == m.epoch && at_home(*session, giver)) {
    d->second.tried[number].push_back(m.receiver);
    if (d->second.tried[number].size() < kTries) {
      session->move = Move::waits;
      d->second.waits.push_front(number);
      return;
    }
  }
  not_moved(t, *session, d->second);
}

void Core::State::hand_over_failed(Turn& t, Worker& worker, const HandOverFailed& m) {
  const auto it = hand_overs.find(m.session);
  if (it == hand_overs.end() || it->second.epoch != m.epoch) return;
  const bool giver =
      it->second.giver == worker.slot && it->second.giver_life == worker.incarnation;
  const bool receiver =
      it->second.receiver == worker.slot && it->second.receiver_life == worker.incarnation;
  if (giver || receiver) give_up(t, m.session, giver ? "giver: " + m.why : "receiver: " + m.why);
}

void Core::State::hand_over_due(Turn& t, SessionNumber number) {
  const auto it = hand_overs.find(number);
  if (it != hand_overs.end() && t.now.mono >= it->second.until) give_up(t, number, "timeout");
}

void Core::State::session_received(Turn& t, Worker& worker, const SessionReceived& m) {
  const auto it = hand_overs.find(m.session);
  if (it != hand_overs.end() && it->second.epoch == m.epoch &&
      it->second.receiver == worker.slot && still_moving(m.session, it->second)) {
    return hand_over(t, sessions.at(m.session));
  }
  const Session* s = sessions.find(m.session);
  if (s && at_home(*s, worker) && raw(s->epoch) == raw(m.epoch) + 1) {
    return send(t, worker, KeepSession{m.session, s->epoch});  // it has been told; that was lost
  }
  send(t, worker, ReleaseSession{m.session, m.epoch});
}

// The receiver has all of it: it is the home from here on. Its copy is compared with the
// transcript at the session's next start, since the giver may have been ahead of what is durable.
void Core::State::hand_over(Turn& t, Session& session) {
  const Moving m = end_hand_over(session.number);
  const Worker& receiver = workers.at(m.receiver);
  session.move = Move::no;
  if (session.in_flight) {
    Job& job = *session.first;
    const std::string why(name(Reason::drained));
    detach_attempt(t, job, true);
    fact(t, Fact::Kind::requeued, job.id(), why);
    commit(t, JobRequeued{job.number, why, false});
    look_everywhere(*session.tenant);
  }
  fact(t, Fact::Kind::affinity_break, session, name(Reason::drained));
  release_home(t, session);
  commit(t, HomeSet{session.number, Epoch{raw(session.epoch) + 1}, receiver.name,
                    receiver.incarnation, Reason::drained, receiver.model_fingerprint});
  session.migrated = true;
  SessionTable::rest(session);
  send(t, receiver, KeepSession{session.number, session.epoch});
  told(t, &session, "moved");
  if (const auto d = departures.find(m.giver); d != departures.end()) {
    d->second.unmoved.erase(session.number);
  }
  if (session.first) make_ready(t, session);
}

}  // namespace limpet::broker
