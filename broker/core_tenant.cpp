// What tenants have had of the workers, and what their caps let go.
#include <algorithm>
#include <utility>

#include "broker/core_state.h"

namespace limpet::broker {

// KV tokens at most, on whatever worker.
int64_t Core::State::kv_longest(const Job& job) { return kv_need(job, Worker{}); }

bool Core::State::within_caps(const Session& session) {
  const Tenant& tenant = *session.tenant;
  return !tenant.capped() || tenant.may_run(kv_longest(*session.first));
}

// The tenant's idle KV goes, the longest idle first, until `more` tokens are within its cap too.
bool Core::State::evict_beyond_cap(Turn& t, Tenant& tenant, int64_t more) {
  const int64_t most = tenant.policy.max_resident_tokens;
  bool evicted = false;
  while (most > 0 && tenant.longest_idle && tenant.idle_tokens + tenant.promised + more > most) {
    leave_home(t, *tenant.longest_idle, Reason::evicted);
    evicted = true;
  }
  return evicted;
}

// Once, at the end of each step: a job that exceeded the cap by itself is over, or the cap is
// another. Who waits is placed before, so that a session that goes on at once keeps its KV.
bool Core::State::hold_caps(Turn& t) {
  bool evicted = false;
  for (Tenant* tenant : std::exchange(caps_due, {})) evicted |= evict_beyond_cap(t, *tenant, 0);
  return evicted;
}

// Before the first word to the worker. The job is taken for the longest that it can be; what it
// turns out to be is made good when the attempt is over.
void Core::State::begin_share(Turn& t, Session& session, const Worker& worker) {
  Job& job = *session.first;
  Tenant& tenant = *session.tenant;
  SessionTable::rouse(session);
  job.kv_promised = kv_need(job, worker);
  evict_beyond_cap(t, tenant, job.kv_promised);
  tenant.promised += job.kv_promised;
  job.prefilled = 0;
  job.output_before = job.output_tokens;
  // A session that is resident has its transcript there already.
  const bool resident = session.reason == Reason::none;
  job.charged = std::max<int64_t>(
      job.kv_promised - (resident ? job.base() + job.output_tokens : 0), 1);
  tenants.begin(tenant, job.charged);
}

void Core::State::end_share(Job& job) {
  Tenant& tenant = *job.session->tenant;
  tenant.promised -= job.kv_promised;
  job.kv_promised = 0;
  if (job.charged == 0) return;  // begun before a restart
  const int64_t had = job.prefilled + job.output_tokens - job.output_before;
  tenants.correct(tenant, had - job.charged);
  job.charged = 0;
}

// One that its tenant's cap held back may wait at any worker.
void Core::State::look_everywhere(const Tenant& tenant) {
  if (!tenant.capped() || tenant.waiting == 0) return;
  workers.each([&](const Worker& worker) {
    if (worker.state == WorkerState::ready) gained.push_back(worker.slot);
  });
}

}  // namespace limpet::broker
