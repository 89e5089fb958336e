#include "tests/sim/turns_judge.h"

#include <algorithm>

namespace limpet::sim {
namespace {

// The longest that a job may be: prompt and output, in whole pages. Its session is resident here.
constexpr int64_t kLongestJob = 48;

}  // namespace

const broker::TenantPolicy& TurnsJudge::policy(const std::string& tenant) const {
  const auto it = world_.scene.policies.named.find(tenant);
  return it == world_.scene.policies.named.end() ? world_.scene.policies.standard : it->second;
}

const ReferenceStore::Job* TurnsJudge::head(const ReferenceStore& disk,
                                            const ReferenceStore::Session& s) {
  const ReferenceStore::Job* job = s.lane.empty() ? nullptr : disk.find(s.lane.front());
  return job && job->state == JobState::queued ? job : nullptr;
}

void TurnsJudge::judge(const JournalEntry& entry, const ReferenceStore& disk) {
  const auto tenant_of = [&](JobNumber job) -> const std::string& {
    return disk.find(disk.find(job)->accepted.session)->tenant;
  };
  if (const auto* e = std::get_if<broker::StartedEntry>(&entry)) {
    tenants_[tenant_of(e->job)].had += e->prefilled_tokens;
  } else if (const auto* e = std::get_if<broker::TokensAppended>(&entry)) {
    for (const auto& row : e->rows) tenants_[tenant_of(row.job)].had += std::ssize(row.ids);
  } else if (const auto* e = std::get_if<broker::JobDispatched>(&entry)) {
    judge_urgency(*e, disk);
    note_who_waits(disk, JobNumber{});
    judge_shares(tenant_of(e->job), disk);
    note_who_waits(disk, e->job);
  } else {
    note_who_waits(disk, JobNumber{});
  }
}

void TurnsJudge::judge_urgency(const broker::JobDispatched& e, const ReferenceStore& disk) const {
  const std::string& tenant = disk.find(disk.find(e.job)->accepted.session)->tenant;
  const auto priority = [&](const ReferenceStore::Job& job) {
    return world_.priorities.at({tenant, job.accepted.spec->job_id});
  };
  const int32_t own = priority(*disk.find(e.job));
  for (const auto& [number, session] : disk.sessions()) {
    if (session.closed || session.tenant != tenant) continue;
    const ReferenceStore::Job* other = head(disk, session);
    if (!other || other->accepted.job == e.job) continue;
    const int32_t theirs = priority(*other);
    if (theirs > own || (theirs == own && other->accepted.job < e.job)) {
      throw Contradiction("job " + std::to_string(raw(e.job)) + " is served before job " +
                          std::to_string(raw(other->accepted.job)) +
                          " of its tenant, which is more urgent");
    }
  }
}

// Start-time fair queueing: what two that wait throughout have had, over their weights, differs by
// at most a job of each for every place.
void TurnsJudge::judge_shares(const std::string& served, const ReferenceStore&) const {
  const auto of = tenants_.find(served);
  if (of == tenants_.end()) return;
  const double weight = policy(served).weight;
  for (const auto& [name, waiting] : tenants_) {
    if (name == served || !waiting.waits || policy(name).max_running_jobs > 0) continue;
    const auto then = waiting.had_then.find(served);
    const auto had = [&](const Tenant& t, int64_t before) {
      return static_cast<double>(t.had - before);
    };
    const double theirs =
        had(of->second, then == waiting.had_then.end() ? 0 : then->second) / weight;
    const double own = had(waiting, waiting.had_then.at(name)) / policy(name).weight;
    const double most = static_cast<double>((world_.scene.slots + 1) * kLongestJob) *
                        (1 / weight + 1 / policy(name).weight);
    if (theirs - own > most) {
      throw Contradiction(name + " waits while " + served + " has " +
                          std::to_string(static_cast<int64_t>(theirs - own)) +
                          " tokens more than its share");
    }
  }
}

void TurnsJudge::note_who_waits(const ReferenceStore& disk, JobNumber dispatched) {
  std::map<std::string, bool> waits;
  for (const auto& [number, session] : disk.sessions()) {
    const ReferenceStore::Job* job = session.closed ? nullptr : head(disk, session);
    if (job && job->accepted.job != dispatched) waits[session.tenant] = true;
  }
  for (auto& [name, waiting] : waits) tenants_[name];
  for (auto& [name, tenant] : tenants_) {
    if (waits.contains(name) == tenant.waits) continue;
    tenant.waits = !tenant.waits;
    tenant.had_then.clear();
    if (!tenant.waits) continue;
    for (const auto& [other, t] : tenants_) tenant.had_then[other] = t.had;
  }
}

}  // namespace limpet::sim
