#include "worker/turns.h"

#include <algorithm>

namespace limpet::worker {

int64_t Turns::had(uint64_t tenant) const {
  const auto it = had_.find(tenant);
  const int64_t least = most_ - most_behind_;
  return it == had_.end() ? least : std::max(it->second, least);
}

void Turns::charge(uint64_t tenant, int64_t rows) {
  const int64_t now = had(tenant) + rows;
  had_[tenant] = now;
  if (now <= most_) return;
  most_ = now;
  std::erase_if(had_, [&](const auto& entry) { return entry.second <= most_ - most_behind_; });
}

}  // namespace limpet::worker
