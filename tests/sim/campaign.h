// Many seeds on some threads. A run shares nothing with another.
#pragma once
#include "tests/sim/simulation.h"

namespace limpet::sim {

struct Campaign {
  uint64_t seeds = 0;
  std::vector<std::pair<uint64_t, std::string>> violations;  // seed, what; in order of seed
  Verdict sum;
};

// Seeds [from, to). Stops early once `enough` violations are found; only those count that say
// `about`.
Campaign run_campaign(uint64_t from, uint64_t to, int threads, Plant plant, size_t enough,
                      std::string_view about = "");

}  // namespace limpet::sim
