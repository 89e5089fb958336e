// Sessions whose next job waits for a place: in turn by tenant, within a tenant the most urgent
// first. Pure. A tenant has one place in it however many sessions it has there.
#pragma once
#include <cstdint>
#include <map>

#include "broker/tenant_table.h"
#include "schema/types.h"

namespace limpet::broker {

// Higher priority first; within one priority in order of acceptance.
struct ReadyKey {
  int32_t priority = 0;
  JobNumber job{};
  bool operator<(const ReadyKey& other) const {
    if (priority != other.priority) return priority > other.priority;
    return job < other.job;
  }
};

class FairQueue {
 public:
  struct First {
    Session* session = nullptr;  // null: none is there that may go
    const Tenant* tenant = nullptr;
    ReadyKey key;

    explicit operator bool() const { return session != nullptr; }
    bool before(const First& other) const {
      if (tenant != other.tenant) return TenantTable::before(*tenant, *other.tenant);
      return key < other.key;
    }
  };

  // The first session of the tenant whose turn it is, of those whose first session may(session) go:
  // none overtakes in its own tenant. O(tenants that wait here).
  template <typename May>
  First first(May may) const {
    First best;
    for (const auto& [index, lane] : lanes_) {
      const First one{lane.sessions.begin()->second, lane.tenant, lane.sessions.begin()->first};
      if ((!best || one.before(best)) && may(*one.session)) best = one;
    }
    return best;
  }

  bool empty() const { return lanes_.empty(); }
  void insert(const Tenant& tenant, const ReadyKey& key, Session* session) {
    Lane& lane = lanes_[tenant.index];
    lane.tenant = &tenant;
    lane.sessions.emplace(key, session);
  }
  void erase(const Tenant& tenant, const ReadyKey& key) {
    const auto lane = lanes_.find(tenant.index);
    lane->second.sessions.erase(key);
    if (lane->second.sessions.empty()) lanes_.erase(lane);
  }
  // Any of them, to empty the queue by.
  Session* any() const { return lanes_.begin()->second.sessions.begin()->second; }

 private:
  struct Lane {
    const Tenant* tenant = nullptr;
    std::map<ReadyKey, Session*> sessions;
  };
  std::map<uint32_t, Lane> lanes_;
};

}  // namespace limpet::broker
