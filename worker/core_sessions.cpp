#include "worker/core_sessions.h"

#include <stdexcept>
#include <utility>

namespace limpet::worker {

Session* Sessions::find(SessionNumber number) {
  const auto it = sessions_.find(number);
  return it == sessions_.end() ? nullptr : &it->second;
}

const Session* Sessions::find(SessionNumber number) const {
  const auto it = sessions_.find(number);
  return it == sessions_.end() ? nullptr : &it->second;
}

uint64_t Sessions::scope_of(const std::string& tenant) {
  return scopes_.try_emplace(tenant, scopes_.size()).first->second;
}

Session& Sessions::open(const Dispatch& dispatch) {
  Session& session = sessions_[dispatch.session];
  session.number = dispatch.session;
  session.epoch = dispatch.epoch;
  session.ephemeral = dispatch.ephemeral;
  session.scope = scope_of(dispatch.tenant);
  return session;
}

Session& Sessions::open_incoming(const ExpectSession& expected) {
  Session& session = sessions_[expected.session];
  session.number = expected.session;
  session.epoch = expected.epoch;
  session.scope = scope_of(expected.tenant);
  session.trusted = false;
  session.incoming = true;
  session.sequence = kv_.create(session.scope);
  enter_idle(session);
  return session;
}

void Sessions::close(SessionNumber number) {
  const auto it = sessions_.find(number);
  if (it == sessions_.end()) throw std::logic_error("sessions: closed twice");
  leave_idle(it->second);
  drop_kv(it->second);
  sessions_.erase(it);
}

void Sessions::set_busy(Session& session, JobNumber job) {
  leave_idle(session);
  session.job = job;
}

void Sessions::set_idle(Session& session) {
  session.job.reset();
  if (session.ephemeral || !session.trusted || !session.sequence) {
    const bool lost = !session.ephemeral && !session.tokens.empty();
    if (lost) evicted_.push_back({session.number, session.epoch});
    close(session.number);
    return;
  }
  kv_.truncate(*session.sequence, kv_.length(*session.sequence));  // what was reserved ahead
  enter_idle(session);
  while (idle_.size() > max_idle_) evict_idle();
}

void Sessions::enter_idle(Session& session) {
  session.idle_since = next_idle_++;
  idle_.emplace(std::pair(session.kept, session.idle_since), session.number);
  idle_pages_ += pages_of(session);
}

void Sessions::drop_kv(Session& session) {
  if (session.sequence) kv_.destroy(*session.sequence);
  session.sequence.reset();
}

std::vector<Sessions::Evicted> Sessions::take_evicted() { return std::exchange(evicted_, {}); }

Session& Sessions::of(const Job& job) {
  Session* session = find(job.dispatch.session);
  if (session == nullptr) throw std::logic_error("sessions: a job without its session");
  return *session;
}

bool Sessions::evict_idle() {
  if (idle_.empty()) return false;
  Session& session = sessions_.at(idle_.begin()->second);
  evicted_.push_back({session.number, session.epoch});
  ++evictions_;
  close(session.number);
  return true;
}

int64_t Sessions::pages_of(const Session& session) const {
  return session.sequence ? std::ssize(kv_.page_table(*session.sequence)) : 0;
}

void Sessions::leave_idle(Session& session) {
  if (session.idle_since == 0) return;
  idle_.erase({session.kept, session.idle_since});
  idle_pages_ -= pages_of(session);
  session.idle_since = 0;
}

}  // namespace limpet::worker
