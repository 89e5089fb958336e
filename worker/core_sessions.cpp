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
  drop_all_kv(it->second);
  sessions_.erase(it);
}

void Sessions::set_busy(Session& session, JobNumber job) {
  leave_idle(session);
  tiers_.touch(session.number);
  session.job = job;
}

void Sessions::set_idle(Session& session) {
  session.job.reset();
  const bool below = session.restore != 0 || tiers_.tier_of(session.number).has_value();
  if (session.ephemeral || !session.trusted || (!session.sequence && !below)) {
    const bool lost = !session.ephemeral && !session.tokens.empty();
    if (lost) evicted_.push_back({session.number, session.epoch});
    close(session.number);
    return;
  }
  // Of a job that did not come to use it, what stands below is more than what is on the device.
  if (session.sequence &&
      tiers_.covered(session.number, session.tokens) > kv_.length(*session.sequence)) {
    drop_kv(session);
  }
  if (!session.sequence) return tiers_.set_spare(session.number, false);
  kv_.truncate(*session.sequence, kv_.length(*session.sequence));  // what was reserved ahead
  enter_idle(session);
  while (idle_.size() > max_idle_ && evict_idle() == Evict::done) {}
}

void Sessions::enter_idle(Session& session) {
  session.idle_since = next_idle_++;
  idle_.emplace(turn_of(session), session.number);
  idle_pages_ += pages_of(session);
  list(session);
}

void Sessions::drop_kv(Session& session) {
  if (session.sequence) kv_.destroy(*session.sequence);
  session.sequence.reset();
}

void Sessions::drop_all_kv(Session& session) {
  drop_kv(session);
  session.restore = 0;
  tiers_.drop(session.number);
}

std::vector<Sessions::Evicted> Sessions::take_evicted() { return std::exchange(evicted_, {}); }

Session& Sessions::of(const Job& job) {
  Session* session = find(job.dispatch.session);
  if (session == nullptr) throw std::logic_error("sessions: a job without its session");
  return *session;
}

void Sessions::give_up(Session& session) {
  evicted_.push_back({session.number, session.epoch});
  ++evictions_;
  close(session.number);
}

int64_t Sessions::pages_of(const Session& session) const {
  return session.sequence ? std::ssize(kv_.page_table(*session.sequence)) : 0;
}

void Sessions::leave_idle(Session& session) {
  if (session.idle_since == 0) return;
  idle_.erase(turn_of(session));
  idle_pages_ -= pages_of(session);
  unlist(session);
  session.idle_since = 0;
}

}  // namespace limpet::worker
