// A session stays at its home while that can be borne: what an overloaded worker sheds.
#include "broker/core_state.h"

namespace limpet::broker {

// Looks at a worker whose load has changed. A session whose job has not begun goes from one that is
// overloaded to one that has nothing to do, the next in turn first, until either is no more.
void Core::State::balance(Turn& t, Worker& worker) {
  if (ready_sessions == 0) return;
  // One with a place left is about to take who waits there, or their tenants' caps hold them.
  const auto overloaded = [&](const Worker& w) {
    const bool full = w.held || !workers.open(w);
    return w.state == WorkerState::ready && full && w.overloaded(options.balance_factor);
  };
  Worker* hot = overloaded(worker) ? &worker : nullptr;
  if (!hot && worker.idle()) {
    workers.each([&](Worker& w) {
      if (overloaded(w) && (!hot || w.waiting > hot->waiting)) hot = &w;
    });
  }
  if (!hot) return;
  const FairQueue::First next = first_of(hot->ready);
  if (!next) return;
  Session& session = *next.session;
  const Job& job = *session.first;
  Worker* to = workers.idle(session.model);
  if (!to || to == hot || to->slot == job.avoid) return;
  if (job.spec->require_resident && session.tokens > 0) return;  // it would rather wait
  gained.push_back(hot->slot);  // there may be more that it must shed
  place(t, session, *to, session.home == hot->slot ? "balance_factor" : "");
}

}  // namespace limpet::broker
