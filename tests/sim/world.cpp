#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>

namespace limpet::sim {

Scene Scene::draw(Rng& rng) {
  Scene s{};
  s.workers = rng.between(1, 3);
  s.clients = rng.between(1, 2);
  s.sessions = rng.between(1, 4);
  s.jobs = rng.between(3, 14);
  s.slots = rng.between(1, 4);
  s.pages = rng.between(10, 40);
  s.max_context = rng.between(24, 120);
  s.share_prefixes = rng.chance(500);
  s.faulty_ms = rng.between(1500, 6000);
  const auto sometimes = [&](int64_t most) { return rng.chance(500) ? rng.between(1, most) : 0; };
  s.loss = sometimes(150);
  s.duplicates = sometimes(150);
  s.late = sometimes(300);
  s.late_ms = rng.between(10, 900);
  s.broker_crashes = sometimes(4);
  s.worker_crashes = sometimes(5);
  s.hangs = sometimes(3);
  s.reconnects = sometimes(3);
  s.leaves = sometimes(2);
  s.wall_jumps = sometimes(2);
  s.client_crashes = sometimes(2);
  s.partitions = sometimes(3);
  s.slow_links = sometimes(2);
  s.stalls = sometimes(2);
  s.full_disks = sometimes(2);
  s.reloads = sometimes(2);
  s.stuck_tokenizers = rng.chance(200) ? rng.between(1, 100) : 0;
  s.bad_rows = rng.chance(200) ? rng.between(1, 10) : 0;
  s.cancels = sometimes(200);
  s.deadlines = sometimes(200);
  s.rewinds = sometimes(200);
  s.residents = sometimes(100);
  s.damaged_pages = sometimes(200);
  s.host_pages = rng.chance(700) ? rng.between(2, 30) : 0;
  s.disk_pages = s.host_pages > 0 && rng.chance(700) ? rng.between(2, 60) : 0;
  s.least_tokens = rng.between(0, 12);
  s.core.heartbeat = milliseconds(100);
  s.core.lease = milliseconds(rng.between(400, 1200));
  s.core.start_deadline = milliseconds(rng.between(300, 2000));
  s.core.attempt_deadline = milliseconds(rng.between(1500, 5000));
  s.core.home_grace = milliseconds(rng.between(100, 1000));
  s.core.max_attempts = rng.chance(500) ? 3 : 50;
  s.core.max_queued_jobs = rng.chance(200) ? 3 : 1000;
  s.core.hand_over_deadline = milliseconds(rng.between(200, 3000));
  s.tenants = rng.chance(600) ? rng.between(2, 3) : 1;
  s.clients = std::max(s.clients, s.tenants);
  s.draw_policies(rng);
  s.releases = sometimes(2);
  if (rng.chance(200)) s.be_tight(rng);
  if (rng.chance(150)) {
    s.be_calm(rng);
  } else if (rng.chance(80)) {
    s.be_solo(rng);
  }
  s.draw_terms(rng);
  return s;
}

void Scene::draw_terms(Rng& rng) {
  for (int64_t i = 0; i < sessions; ++i) {
    const int64_t most = std::min(max_context, 4 * pages);
    keep_alive_ms.push_back(!solo && rng.chance(300) ? rng.between(0, 2000) : -1);
    max_tokens.push_back(!solo && rng.chance(250) ? rng.between(16, most) : 0);
  }
}

void Scene::draw_policies(Rng& rng) {
  policies = {};
  for (int64_t t = 0; t < tenants; ++t) {
    if (rng.chance(300)) continue;  // of the standard policy
    broker::TenantPolicy& p = policies.named[tenant(t)];
    p.weight = static_cast<double>(rng.between(1, 4));
    if (rng.chance(400)) p.max_running_jobs = rng.between(1, 3);
    if (rng.chance(150)) p.max_queued_jobs = rng.between(2, 6);
    if (rng.chance(250)) p.max_resident_tokens = rng.between(40, 200);
  }
}

// Sessions that take turns on a pool which holds few of them, with room for the others below it.
void Scene::be_tight(Rng& rng) {
  workers = 1;
  sessions = rng.between(3, 5);
  jobs = rng.between(12, 24);
  max_context = rng.between(30, 60);
  pages = max_context / 4 + rng.between(1, 8);
  host_pages = rng.between(8, 30);
  disk_pages = rng.chance(700) ? rng.between(8, 60) : 0;
  least_tokens = rng.between(0, 6);
  worker_crashes = std::min<int64_t>(worker_crashes, 1);
  leaves = 0;
}

void Scene::be_calm(Rng& rng) {
  calm = true;
  workers = rng.between(2, 3);
  slots = 16;
  pages = 400;
  loss = duplicates = late = damaged_pages = 0;
  broker_crashes = worker_crashes = hangs = reconnects = wall_jumps = client_crashes = 0;
  partitions = slow_links = stalls = full_disks = reloads = releases = 0;
  leaves = 1;
  stuck_tokenizers = bad_rows = cancels = deadlines = rewinds = residents = 0;
  // A tenant's cap of resident tokens would take idle sessions their KV.
  for (auto& [tenant, policy] : policies.named) policy.max_resident_tokens = 0;
  core.balance_factor = 1e6;  // a home that sheds load gives its sessions' KV up
  core.hand_over_deadline = milliseconds(5000);
  core.start_deadline = milliseconds(2000);
  core.max_queued_jobs = 1000;
}

void Scene::be_solo(Rng& rng) {
  be_calm(rng);
  solo = true;
  workers = 1;
  leaves = 0;
  slots = rng.between(1, 3);
  max_context = 120;
  tenants = clients = rng.between(2, 3);
  sessions = rng.between(6, 12);
  jobs = rng.between(25, 45);
  faulty_ms = 150;  // all jobs come within it
  policies = {};
  for (int64_t t = 0; t < tenants; ++t) {
    broker::TenantPolicy& p = policies.named[tenant(t)];
    p.weight = static_cast<double>(rng.between(1, 4));
    if (rng.chance(200)) p.max_running_jobs = rng.between(1, 2);
  }
  core.start_deadline = core.attempt_deadline = milliseconds(60'000);
}

World::World(uint64_t seed, Plant p, bool tracing_on)
    : rng{mixed(seed + 1)}, plant(p), tracing(tracing_on), scene(Scene::draw(rng)) {
  now.mono = broker::Time{} + milliseconds(kStart);
  now.wall = 1'700'000'000'000;
  if (plant == Plant::no_attempt_deadline) scene.core.attempt_deadline = std::chrono::hours(10000);
}

void World::in(int64_t ms, std::function<void()> action) {
  agenda_.emplace(std::pair(now.mono + milliseconds(ms), order_++), std::move(action));
}

void World::cut(const std::string& link, int64_t for_ms) {
  trace(link, " is cut off for ", std::to_string(for_ms));
  links_[link].cut_until = ms() + for_ms;
}

void World::slow(const std::string& link, int64_t for_ms) {
  trace(link, " is slow for ", std::to_string(for_ms));
  links_[link].slow_until = ms() + for_ms;
}

void World::carry(const std::string& at, std::function<void()> deliver) {
  ++verdict.messages;
  const bool faults = faulty();
  Link& link = links_[at];
  if ((faults && rng.chance(scene.loss)) || ms() < link.cut_until) {
    ++verdict.messages_lost;
    return;
  }
  if (ms() < link.slow_until) {  // one after another, each takes its time
    link.last_arrival = std::max(link.last_arrival, ms()) + rng.between(5, 60);
    return in(link.last_arrival - ms(), std::move(deliver));
  }
  const bool twice = faults && rng.chance(scene.duplicates);
  for (int copies = twice ? 2 : 1; copies > 0; --copies) {
    const bool late = faults && rng.chance(scene.late);
    // A connection keeps the order of what goes over it; without faults there is one throughout.
    in((scene.calm ? 2 : rng.between(1, 3)) + (late ? rng.below(scene.late_ms) : 0),
       copies > 1 ? deliver : std::move(deliver));
  }
}

bool World::run_next() {
  if (agenda_.empty()) return false;
  auto first = agenda_.extract(agenda_.begin());
  const auto passed = first.key().first - now.mono;
  now.mono += passed;
  now.wall += passed / milliseconds(1);
  first.mapped()();
  return true;
}

void World::print(const std::string& line) {
  std::printf("%6lld  %s\n", static_cast<long long>(ms()), line.c_str());
}

}  // namespace limpet::sim
