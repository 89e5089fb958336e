// limpet-sim: a campaign of simulated runs, or one of them told line by line.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/sim/campaign.h"

namespace limpet::sim {
namespace {

int usage() {
  std::fprintf(stderr,
               "usage: limpet-sim [--seeds FROM..TO] [--threads N] [--plant NAME] [--trace SEED]\n"
               "  --seeds 0..2000   run these seeds (TO not included)\n"
               "  --threads 2       on so many threads\n"
               "  --plant NAME      with a bug put in on purpose; exits 0 if it is found;\n"
               "                    all: each, and the first seed that finds it:\n"
               "                   ");
  for (const Plant p : all_plants()) std::fprintf(stderr, " %s", std::string(name(p)).c_str());
  std::fprintf(stderr, "\n  --trace SEED      tell one run line by line\n");
  return 2;
}

struct Arguments {
  uint64_t from = 0, to = 2000;
  int threads = 2;
  Plant plant = Plant::none;
  bool trace = false, every_plant = false;
};

bool parse(int argc, char** argv, Arguments& a) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--seeds") {
      const size_t dots = value.find("..");
      if (dots == std::string::npos) return false;
      a.from = std::strtoull(value.c_str(), nullptr, 10);
      a.to = std::strtoull(value.c_str() + dots + 2, nullptr, 10);
    } else if (flag == "--threads") {
      a.threads = std::atoi(value.c_str());
    } else if (flag == "--trace") {
      a.from = std::strtoull(value.c_str(), nullptr, 10);
      a.trace = true;
    } else if (flag == "--plant") {
      a.every_plant = value == "all";
      for (const Plant p : all_plants())
        if (name(p) == value) a.plant = p;
      if (!a.every_plant && a.plant == Plant::none) return false;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

int tell(const Arguments& a) {
  const Verdict v = simulate(a.from, a.plant, true);
  std::printf("seed %llu: %s after %lld ms\n", static_cast<unsigned long long>(a.from),
              v.violation.empty() ? "no violation" : v.violation.c_str(),
              static_cast<long long>(v.sim_ms));
  return v.violation.empty() ? 0 : 1;
}

// A line for each planted bug: what it breaks, and the first seed that says so.
int find_all(const Arguments& a) {
  bool all = true;
  for (const Plant plant : all_plants()) {
    const Campaign c = run_campaign(a.from, a.to, 1, plant, 1, breaks(plant));
    const bool found = !c.violations.empty();
    const std::string seed = found ? std::to_string(c.violations[0].first) : "none";
    std::printf("| %s | %s | %s |\n", std::string(breaks(plant)).c_str(),
                std::string(name(plant)).c_str(), seed.c_str());
    all = all && found;
  }
  return all ? 0 : 1;
}

int run(const Arguments& a) {
  const auto begin = std::chrono::steady_clock::now();
  const Campaign c = run_campaign(a.from, a.to, a.threads, a.plant, 20);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const auto& [seed, what] : c.violations) {
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), what.c_str());
  }
  const auto n = [](int64_t x) { return static_cast<long long>(x); };
  const Verdict& s = c.sum;
  std::printf("%llu seeds in %.1f s (%.0f/s), %zu violations\n",
              static_cast<unsigned long long>(c.seeds), seconds, c.seeds / seconds,
              c.violations.size());
  std::printf(
      "%lld jobs: %lld finished, %lld failed, %lld stopped; %lld starts (%lld resident), "
      "%lld tokens, %lld homes set\n",
      n(s.jobs), n(s.finished), n(s.failed), n(s.stopped), n(s.attempts), n(s.resident_starts),
      n(s.tokens), n(s.moves));
  std::printf(
      "%lld hand-overs, %lld came to nothing, %lld pages; %lld starts migrated\n",
      n(s.hand_overs), n(s.hand_overs_failed), n(s.pages_moved), n(s.migrated_starts));
  std::printf("%lld moves to and from tiers; %lld starts restored\n", n(s.tier_moves),
              n(s.restored_starts));
  std::printf(
      "%lld partitions, %lld slow links, %lld broker stalls, %lld turns on a full disk; %lld "
      "scenes judged for turns\n",
      n(s.partitions), n(s.slow_links), n(s.stalls), n(s.full_disks), n(s.solo));
  std::printf(
      "%lld broker crashes, %lld worker crashes, %lld messages, %lld lost, %lld simulated "
      "seconds\n",
      n(s.broker_crashes), n(s.worker_crashes), n(s.messages), n(s.messages_lost),
      n(s.sim_ms / 1000));
  const bool found = !c.violations.empty();
  return found == (a.plant != Plant::none) ? 0 : 1;
}

}  // namespace
}  // namespace limpet::sim

int main(int argc, char** argv) {
  limpet::sim::Arguments a;
  if (!limpet::sim::parse(argc, argv, a)) return limpet::sim::usage();
  if (a.every_plant) return limpet::sim::find_all(a);
  return a.trace ? limpet::sim::tell(a) : limpet::sim::run(a);
}
