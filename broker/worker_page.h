// GET /workers: what it would cost to lose each worker, for whoever has to choose one.
#pragma once
#include <string>
#include <vector>

#include "broker/core.h"

namespace limpet::broker {

// A JSON list of {worker, device, model, state, sessions, running_jobs, resident_kv_tokens,
// deletion_cost}. The last fits `controller.kubernetes.io/pod-deletion-cost`: tokens of KV that
// would be computed again, and kRunningJobTokens more for each job whose client waits meanwhile.
inline constexpr int64_t kRunningJobTokens = 1024;
std::string worker_page(const std::vector<Core::WorkerCost>& workers);

}  // namespace limpet::broker
