// Who shares the workers, by which weight and within which caps. Pure.
//
// A tenant that waits is served when, of all that wait, it has had least: tokens (what a job had to
// prefill and what it made) over its weight. One that comes back after a while begins level with
// those that are being served, so it neither pays for its absence nor is paid for it. These are the
// shares of deficit round robin without its rounds (start-time fair queueing, Goyal, Vin and Cheng
// 1996): a tenant is behind its share by at most about one job of each of the others.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace limpet::broker {

struct TenantPolicy {
  double weight = 1;                // of its share; > 0
  int64_t max_queued_jobs = 0;      // beyond: busy; 0: no cap of its own
  int64_t max_running_jobs = 0;     // dispatched or running; beyond, its jobs wait; 0: no cap
  int64_t max_resident_tokens = 0;  // of KV, of all its sessions with a home; 0: no cap
  bool operator==(const TenantPolicy&) const = default;
};
struct TenantPolicies {
  TenantPolicy standard{};  // of tenants that are not named
  std::map<std::string, TenantPolicy, std::less<>> named{};
  bool operator==(const TenantPolicies&) const = default;
};

struct Session;

struct Tenant {
  uint32_t index = 0;
  std::string name;  // empty: who has no key
  TenantPolicy policy;
  int64_t served = 0;  // what it has had, in shares
  int64_t waiting = 0;  // sessions in ready queues
  int64_t queued = 0, in_flight = 0;  // jobs
  int64_t promised = 0;  // KV tokens that its jobs in flight may come to need
  int64_t idle_tokens = 0;  // of its idle sessions with a home; those by how long they are idle:
  Session* longest_idle = nullptr;
  Session* last_idle = nullptr;

  bool capped() const { return policy.max_running_jobs > 0 || policy.max_resident_tokens > 0; }
  // Whether one more of its jobs, that may come to need so many KV tokens, is within its caps.
  // Without jobs it may have one: what exceeds the cap by itself is not refused, only alone.
  bool may_run(int64_t kv_tokens) const {
    if (in_flight == 0) return true;
    if (policy.max_running_jobs > 0 && in_flight >= policy.max_running_jobs) return false;
    return policy.max_resident_tokens == 0 || promised + kv_tokens <= policy.max_resident_tokens;
  }
};

class TenantTable {
 public:
  Tenant& of(std::string_view name);  // made when it is not there
  bool several() const { return tenants_.size() > 1; }
  Tenant& at(uint32_t index) { return *tenants_[index]; }
  void set_policies(const TenantPolicies& policies);

  void waits(Tenant& tenant);     // a session of its has come to a ready queue
  void waits_not(Tenant& tenant); // and has left it
  // A job of its begins, and is taken for so many tokens; later the truth, as a difference.
  void begin(Tenant& tenant, int64_t tokens);
  void correct(Tenant& tenant, int64_t tokens);
  // Of two that wait, whether `a` is served before `b`.
  static bool before(const Tenant& a, const Tenant& b) {
    return a.served != b.served ? a.served < b.served : a.index < b.index;
  }

  template <typename Visit>
  void each(Visit visit) const {
    for (const auto& tenant : tenants_) visit(*tenant);
  }

 private:
  static int64_t shares(const Tenant& tenant, int64_t tokens);
  const TenantPolicy& policy_of(std::string_view name) const;

  std::vector<std::unique_ptr<Tenant>> tenants_;
  std::unordered_map<std::string, uint32_t> names_;
  TenantPolicies policies_;
  int64_t now_ = 0;  // what the one that began last had had before
};

}  // namespace limpet::broker
