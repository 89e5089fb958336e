#include "tests/sim/campaign.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace limpet::sim {
namespace {

void add(Verdict& sum, const Verdict& v) {
  for (auto field : {&Verdict::sim_ms, &Verdict::jobs, &Verdict::finished, &Verdict::failed,
                     &Verdict::stopped, &Verdict::attempts, &Verdict::tokens,
                     &Verdict::resident_starts, &Verdict::moves,
                     &Verdict::restored_starts, &Verdict::tier_moves,
                     &Verdict::migrated_starts, &Verdict::hand_overs,
                     &Verdict::hand_overs_failed, &Verdict::pages_moved, &Verdict::broker_crashes,
                     &Verdict::worker_crashes, &Verdict::messages, &Verdict::messages_lost,
                     &Verdict::partitions, &Verdict::slow_links, &Verdict::stalls,
                     &Verdict::full_disks, &Verdict::solo}) {
    sum.*field += v.*field;
  }
}

}  // namespace

Campaign run_campaign(uint64_t from, uint64_t to, int threads, Plant plant, size_t enough,
                      std::string_view about) {
  Campaign all;
  std::mutex mutex;
  std::atomic<uint64_t> next{from};
  std::atomic<bool> stop{false};
  const auto work = [&] {
    while (!stop) {
      const uint64_t seed = next++;
      if (seed >= to) return;
      const Verdict v = simulate(seed, plant, false);
      const std::lock_guard lock(mutex);
      ++all.seeds;
      add(all.sum, v);
      if (v.violation.empty() || v.violation.find(about) == std::string::npos) continue;
      all.violations.emplace_back(seed, v.violation);
      if (all.violations.size() >= enough) stop = true;
    }
  };
  std::vector<std::thread> pool;
  for (int i = 0; i < std::max(threads, 1); ++i) pool.emplace_back(work);
  for (std::thread& t : pool) t.join();
  std::ranges::sort(all.violations);
  return all;
}

}  // namespace limpet::sim
