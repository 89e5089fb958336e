// The default campaign, and the proof that the simulation sees: every planted bug is found.
#include <gtest/gtest.h>

#include "tests/sim/campaign.h"

namespace limpet::sim {
namespace {

TEST(Simulation, NoSeedBreaksAPromise) {
  const Campaign c = run_campaign(0, 2000, 2, Plant::none, 5);
  for (const auto& [seed, what] : c.violations) ADD_FAILURE() << "seed " << seed << ": " << what;
  // The campaign is worth nothing if it does not go through what it is about.
  EXPECT_EQ(c.seeds, 2000u);
  EXPECT_GT(c.sum.finished, c.sum.jobs / 2);
  EXPECT_GT(c.sum.resident_starts, c.sum.jobs / 20);
  EXPECT_GT(c.sum.restored_starts, 200);
  EXPECT_GT(c.sum.tier_moves, 2000);
  EXPECT_GT(c.sum.attempts, c.sum.finished);
  EXPECT_GT(c.sum.broker_crashes, 500);
  EXPECT_GT(c.sum.worker_crashes, 500);
  EXPECT_GT(c.sum.messages_lost, 10000);
  EXPECT_GT(c.sum.migrated_starts, 50);
  EXPECT_GT(c.sum.partitions, 500);
  EXPECT_GT(c.sum.slow_links, 500);
  EXPECT_GT(c.sum.stalls, 500);
  EXPECT_GT(c.sum.full_disks, 500);
  EXPECT_GT(c.sum.solo, 100);
}

TEST(Simulation, OneSeedIsOneRun) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Verdict a = simulate(seed, Plant::none, false), b = simulate(seed, Plant::none, false);
    EXPECT_EQ(a.messages, b.messages) << seed;
    EXPECT_EQ(a.tokens, b.tokens) << seed;
    EXPECT_EQ(a.sim_ms, b.sim_ms) << seed;
  }
}

class PlantedBug : public testing::TestWithParam<Plant> {};

TEST_P(PlantedBug, IsFound) {
  const Campaign c = run_campaign(0, 5000, 2, GetParam(), 1, breaks(GetParam()));
  EXPECT_FALSE(c.violations.empty()) << name(GetParam()) << " in " << c.seeds << " seeds";
}

INSTANTIATE_TEST_SUITE_P(All, PlantedBug, testing::ValuesIn(all_plants()), [](const auto& info) {
  std::string s(name(info.param));
  for (char& c : s)
    if (c == '-') c = '_';
  return s;
});

}  // namespace
}  // namespace limpet::sim
