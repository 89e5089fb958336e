// limpet-bench: measurements, one JSON line each. A scenario is a name, a function and a line here.
#include <cstdio>
#include <cstring>
#include <exception>

#include "bench/broker_bench.h"
#include "bench/engine_bench.h"
#include "bench/fairness_bench.h"
#include "bench/handover_bench.h"
#include "bench/worker_bench.h"

namespace {

struct Scenario {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};

constexpr Scenario kScenarios[] = {
    {"broker", limpet::bench::broker_bench, "jobs, streams, latency and memory of the broker"},
    {"rawstore", limpet::bench::rawstore_bench, "the broker's store alone"},
    {"handover", limpet::bench::handover_bench, "a running job whose worker leaves or dies"},
    {"fairness", limpet::bench::fairness_bench, "a flooding tenant beside one that asks at times"},
    {"turn2", limpet::bench::turn2_bench, "a second turn on resident KV against a re-prefill"},
    {"decode", limpet::bench::decode_bench, "decode steps against the memory's read bandwidth"},
    {"cpu", limpet::bench::cpu_bench, "decode and prefill against this machine's memory"},
    {"prefill", limpet::bench::prefill_bench, "a long prompt to its first token"},
    {"attention", limpet::bench::attention_bench, "paged attention of decode rows alone"},
    {"tokenize", limpet::bench::tokenize_bench, "text to ids and back"},
    {"copyback", limpet::bench::copyback_bench, "KV through the host at every step: the baseline"},
    {"spill", limpet::bench::spill_bench, "KV to the host's memory and back, beside decoding"},
    {"serve", limpet::bench::serve_bench, "turns that come and go on a worker's scheduler"},
    {"bucket", limpet::bench::bucket_bench, "what a bucket's padding and its change cost"},
};

void usage(std::FILE* out) {
  std::fprintf(out, "usage: limpet-bench SCENARIO [flags]; SCENARIO --help tells its flags\n");
  for (const Scenario& s : kScenarios) std::fprintf(out, "  %-10s %s\n", s.name, s.help);
}

}  // namespace

int main(int argc, char** argv) {
  const char* name = argc > 1 ? argv[1] : "";
  if (std::strcmp(name, "--help") == 0 || std::strcmp(name, "-h") == 0) {
    usage(stdout);
    return 0;
  }
  for (const Scenario& s : kScenarios) {
    if (std::strcmp(name, s.name) != 0) continue;
    try {
      return s.run(argc - 1, argv + 1);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "limpet-bench %s: %s\n", name, e.what());
      return 1;
    }
  }
  usage(stderr);
  return 2;
}
