#include "broker/core.h"

#include <algorithm>

#include "broker/core_state.h"

namespace limpet::broker {

Core::Core(const CoreOptions& options) : state_(std::make_unique<State>(options)) {}
Core::~Core() = default;
Core::Core(Core&&) noexcept = default;
Core& Core::operator=(Core&&) noexcept = default;

void Core::step(Now now, const Event& event, Output& out) {
  State& s = *state_;
  State::Turn t{now, out};
  // After a stall of this process the workers' heartbeats lie in its queues, behind the timers.
  // That nothing came is no stall: next_deadline() asks for a turn often enough.
  if (now.mono - s.last_now > s.options.lease / 2) {
    s.patience_until = now.mono + 2 * s.options.heartbeat;
  }
  s.last_now = now.mono;
  s.last_wall = now.wall;
  if (const auto* client = std::get_if<ClientEvent>(&event)) {
    s.on(t, *client);
  } else if (const auto* worker = std::get_if<WorkerEvent>(&event)) {
    s.on(t, *worker);
  } else if (const auto* gone = std::get_if<WorkerUnreachable>(&event)) {
    if (Worker* w = s.workers.find(gone->worker)) s.lose(t, *w, "unreachable");
  } else if (std::holds_alternative<Wake>(event)) {
    s.on(t, Wake{});
  } else if (const auto* close = std::get_if<CloseUnused>(&event)) {
    s.retire(t, close->sessions, "size");
  }
  // ClientGone: a job belongs to no connection; who follows it is the streams' concern.
  s.move_sessions(t);
  s.settle(t);
  if (s.hold_caps(t)) s.settle(t);
  s.forget_unused_workers();
}

void Core::State::forget_unused_workers() {
  for (const uint32_t slot : unused) workers.forget_if_unused(slot);
  unused.clear();
}

void Core::apply(const JournalEntry& entry) { state_->apply(entry); }

void Core::committed() { state_->jobs.forget_ended(); }

void Core::set_policies(const TenantPolicies& policies) {
  State& s = *state_;
  s.tenants.set_policies(policies);
  s.workers.each([&](const Worker& w) {  // a cap that has gone may have held someone back
    if (w.state == WorkerState::ready) s.gained.push_back(w.slot);
  });
  s.tenants.each([&](Tenant& tenant) {
    if (tenant.policy.max_resident_tokens > 0) s.caps_due.push_back(&tenant);
  });
}

void Core::set_retention(std::chrono::milliseconds sessions) {
  state_->options.retain_sessions = sessions;
}

void Core::recovered(Now now) { state_->recovered(now); }

Time Core::next_deadline() const {
  const State& s = *state_;
  if (!s.caps_due.empty()) return s.last_now;
  const Time due = std::min(s.timers.next(), s.next_retired());
  const auto often = std::max(s.options.lease / 4, std::chrono::milliseconds(1));
  return s.workers.ready() == 0 ? due : std::min(due, s.last_now + often);
}

Core::Gauges Core::gauges() const {
  State& s = *state_;
  Gauges g;
  const JobTable::Counts& counts = s.jobs.counts();
  g.queued = counts.queued;
  g.dispatched = counts.dispatched;
  g.running = counts.running;
  g.queued_bytes = counts.queued_bytes;
  g.sessions_running = counts.dispatched + counts.running;
  g.sessions_queued = s.ready_sessions;
  g.sessions_idle =
      static_cast<int64_t>(s.sessions.size()) - g.sessions_running - g.sessions_queued;
  s.workers.each([&](const Worker& w) {
    if (w.state != WorkerState::ready) return;
    g.sessions_homed += w.homes_now();
    if (w.leaving) return;
    (s.last_now - w.heard > 2 * s.options.heartbeat ? g.workers_silent : g.workers_ready) += 1;
  });
  return g;
}

std::vector<Core::WorkerCost> Core::worker_costs() const {
  std::vector<WorkerCost> all;
  state_->workers.each([&](const Worker& w) {
    if (w.state != WorkerState::ready) return;
    const int64_t jobs =
        std::ranges::count_if(w.in_flight, [](const auto& e) { return !e.second.orphan; });
    all.push_back({w.name, w.device, w.model, w.leaving, w.homes_now(), jobs, w.resident_kv});
  });
  return all;
}

}  // namespace limpet::broker
