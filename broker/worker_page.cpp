#include "broker/worker_page.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace limpet::broker {

std::string worker_page(const std::vector<Core::WorkerCost>& workers) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Core::WorkerCost& w : workers) {
    const int64_t cost = w.resident_kv_tokens + kRunningJobTokens * w.running_jobs;
    list.push_back({{"worker", w.worker},
                    {"device", w.device},
                    {"model", w.model},
                    {"state", w.leaving ? "leaving" : "ready"},
                    {"sessions", w.sessions},
                    {"running_jobs", w.running_jobs},
                    {"resident_kv_tokens", w.resident_kv_tokens},
                    {"deletion_cost",
                     std::min<int64_t>(cost, std::numeric_limits<int32_t>::max())}});
  }
  // Names are whatever bytes their workers chose.
  return list.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace limpet::broker
