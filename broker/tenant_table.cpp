#include "broker/tenant_table.h"

#include <algorithm>
#include <cmath>

namespace limpet::broker {
namespace {

constexpr double kShare = 1024;  // of one token at weight 1: room for large weights

}  // namespace

const TenantPolicy& TenantTable::policy_of(std::string_view name) const {
  const auto it = policies_.named.find(name);
  return it == policies_.named.end() ? policies_.standard : it->second;
}

Tenant& TenantTable::of(std::string_view name) {
  const auto [it, fresh] =
      names_.try_emplace(std::string(name), static_cast<uint32_t>(tenants_.size()));
  if (fresh) {
    tenants_.push_back(std::make_unique<Tenant>());
    Tenant& tenant = *tenants_.back();
    tenant.index = it->second;
    tenant.name = name;
    tenant.policy = policy_of(name);
  }
  return *tenants_[it->second];
}

void TenantTable::set_policies(const TenantPolicies& policies) {
  policies_ = policies;
  for (const auto& tenant : tenants_) tenant->policy = policy_of(tenant->name);
}

void TenantTable::waits(Tenant& tenant) {
  if (tenant.waiting++ == 0 && tenant.in_flight == 0) tenant.served = std::max(tenant.served, now_);
}

void TenantTable::waits_not(Tenant& tenant) { --tenant.waiting; }

int64_t TenantTable::shares(const Tenant& tenant, int64_t tokens) {
  const double shares = static_cast<double>(tokens) * kShare / tenant.policy.weight;
  return std::llround(std::clamp(shares, -1e15, 1e15));
}

void TenantTable::begin(Tenant& tenant, int64_t tokens) {
  now_ = std::max(now_, tenant.served);
  tenant.served += shares(tenant, tokens);
}

void TenantTable::correct(Tenant& tenant, int64_t tokens) {
  tenant.served += shares(tenant, tokens);
}

}  // namespace limpet::broker
