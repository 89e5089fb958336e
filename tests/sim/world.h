// What the processes of a simulation stand in: time, chance, a network, and a memory for what was
// promised. Internal to the simulator.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "broker/core.h"
#include "tests/sim/fake_model.h"
#include "tests/sim/reference_store.h"
#include "tests/sim/simulation.h"

namespace limpet::sim {

using std::chrono::milliseconds;

struct Rng {
  uint64_t state;
  uint64_t next() { return mixed(state += 0x9E3779B97F4A7C15ull); }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t a, int64_t b) { return a + below(b - a + 1); }
  bool chance(int64_t per_mille) { return below(1000) < per_mille; }
};

// A row of a worker's KV: the token that it was computed from, and whose it is.
struct KvRow {
  Token token = -1;
  int32_t tenant = 0;
};

// Drawn from the seed: how big the scene is and what goes wrong in it.
struct Scene {
  int64_t workers, clients, sessions, jobs, slots, pages, max_context;
  bool share_prefixes = true;
  bool calm = false;  // nothing goes wrong; a worker leaves all the same, and there is room
  // One worker, few places, and more jobs at once than it can take: whose turn it is is judged.
  bool solo = false;
  int64_t tenants = 1;              // 1: keys are off
  broker::TenantPolicies policies;  // by the names that tenant() gives them
  int64_t faulty_ms;                                        // after this everything is healed
  int64_t loss = 0, duplicates = 0, late = 0, late_ms = 0;  // per mille of messages
  int64_t broker_crashes = 0, worker_crashes = 0, hangs = 0, reconnects = 0, leaves = 0;
  int64_t wall_jumps = 0, client_crashes = 0;
  int64_t partitions = 0, slow_links = 0, stalls = 0, full_disks = 0, reloads = 0;
  int64_t damaged_pages = 0;  // per mille
  int64_t host_pages = 0, disk_pages = 0, least_tokens = 0;  // of each worker's tiers
  int64_t stuck_tokenizers = 0, bad_rows = 0;                      // per mille
  // Terms of sessions, by their number in the scene: KV kept so long (-1: for ever), and never more
  // tokens than so many (0: no cap).
  std::vector<int64_t> keep_alive_ms, max_tokens;
  int64_t releases = 0;  // of sessions, while they have jobs or not
  int64_t cancels = 0, deadlines = 0, rewinds = 0, residents = 0;  // per mille of jobs
  broker::CoreOptions core;
  static Scene draw(Rng& rng);
  void be_tight(Rng& rng);
  std::string tenant(int64_t t) const { return tenants == 1 ? "" : "tenant" + std::to_string(t); }
  void draw_terms(Rng& rng);
  void draw_policies(Rng& rng);  // of the tenants that there are
  void be_calm(Rng& rng);
  void be_solo(Rng& rng);
};

class World {
 public:
  World(uint64_t seed, Plant plant, bool trace);

  // Runs `action` in so many milliseconds.
  void in(int64_t ms, std::function<void()> action);
  // Brings a message over the network: late, twice, or not at all while there are faults. `link`
  // is the machine at its other end than the broker's; between two workers, one of them.
  void carry(const std::string& link, std::function<void()> deliver);
  void carry(std::function<void()> deliver) { carry("", std::move(deliver)); }
  void cut(const std::string& link, int64_t ms);   // nothing passes
  void slow(const std::string& link, int64_t ms);  // everything is late, in order
  bool run_next();  // false: nothing is left to do
  int64_t ms() const { return now.mono.time_since_epoch() / milliseconds(1) - kStart; }
  bool faulty() const { return ms() < scene.faulty_ms; }
  template <typename... Parts>
  void trace(const Parts&... parts) {
    if (tracing) print((std::string() + ... + parts));
  }

  Rng rng;
  Plant plant;
  bool tracing;
  Scene scene;
  broker::Now now;
  Verdict verdict;
  // A worker of this name and incarnation samples a token for it.
  std::function<void(JobNumber, Attempt, const std::string&, uint64_t)> on_decode;
  std::function<std::string(JobNumber)> tenant_of;  // by what is durable
  // What clients meant, by tenant and job id, whatever has become of their messages.
  std::map<std::pair<std::string, std::string>, int32_t> priorities;
  // And by tenant and session.
  std::map<std::pair<std::string, std::string>, int64_t> keep_alives, caps;

 private:
  static constexpr int64_t kStart = 3'600'000;
  void print(const std::string& line);
  struct Link {
    int64_t cut_until = 0, slow_until = 0, last_arrival = 0;  // ms
  };
  std::map<std::string, Link> links_;
  std::map<std::pair<broker::Time, uint64_t>, std::function<void()>> agenda_;
  uint64_t order_ = 0;
};

}  // namespace limpet::sim
