#include "worker/turns.h"

#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

using Ids = std::vector<Token>;

void tell(Rig& rig, uint64_t number, const std::string& tenant, Ids prompt,
          int32_t max_tokens = 4) {
  Dispatch d = rig.dispatch(number, number, std::move(prompt), 0, max_tokens);
  d.tenant = tenant;
  rig.tell(d);
}

std::vector<std::pair<uint64_t, int64_t>> rows_of(const Step& step) {
  std::vector<std::pair<uint64_t, int64_t>> rows;
  for (const StepRow& row : step.rows) rows.emplace_back(raw(row.job), std::ssize(row.tokens));
  return rows;
}

TEST(Turns, WhoHasHadLittleIsBehindByABound) {
  Turns turns(100);
  turns.charge(1, 60);
  EXPECT_EQ(turns.had(1) - turns.had(2), 60);
  turns.charge(1, 110);
  EXPECT_EQ(turns.had(1) - turns.had(2), 100);
  turns.charge(2, 30);
  EXPECT_EQ(turns.had(1) - turns.had(2), 70);
  turns.charge(1, 1000);
  EXPECT_EQ(turns.had(1) - turns.had(2), 100);
}

TEST(Turns, RememberNobodyWhoIsBehindByTheMost) {
  Turns turns(100);
  for (uint64_t tenant = 1; tenant < 1000; ++tenant) {
    turns.charge(0, 10);
    turns.charge(tenant, 50);
    EXPECT_LE(turns.remembered(), 20u);
  }
}

TEST(Turns, APromptOfWhoHasHadLittleGoesBeforeOlderOnesOfAnother) {
  Rig rig({.token_budget = 16, .prefill_chunk = 4});
  tell(rig, 1, "loud", {1, 2, 3}, 30);
  rig.turn();
  for (uint64_t job = 2; job <= 4; ++job) {
    tell(rig, job, "loud", Ids(20, static_cast<Token>(job)));
  }
  const Step alone = rig.plan();
  using Rows = std::vector<std::pair<uint64_t, int64_t>>;
  EXPECT_EQ(rows_of(alone), (Rows{{1, 1}, {2, 4}, {3, 4}, {4, 4}}));
  tell(rig, 5, "quiet", Ids(15, 9));
  rig.give(rig.run(alone));
  const Step beside = rig.plan();
  EXPECT_EQ(rows_of(beside), (Rows{{1, 1}, {5, 15}})) << "all that the prompts may have";
  rig.give(rig.run(beside));
  EXPECT_EQ(rows_of(rig.plan()), (Rows{{1, 1}, {5, 1}, {2, 4}, {3, 4}, {4, 4}}));
}

TEST(Turns, WhoIsBehindThoseThatDecodeHasTheRestOfTheStep) {
  Rig rig({.token_budget = 16, .prefill_chunk = 4});
  for (uint64_t job = 1; job <= 3; ++job) tell(rig, job, "loud", {1, 2, 3}, 30);
  rig.turn();
  tell(rig, 4, "loud", Ids(6, 4));
  using Rows = std::vector<std::pair<uint64_t, int64_t>>;
  const Step even = rig.plan();
  EXPECT_EQ(rows_of(even), (Rows{{1, 1}, {2, 1}, {3, 1}, {4, 4}})) << "a tenant with itself";
  rig.give(rig.run(even));
  tell(rig, 5, "quiet", Ids(20, 9));
  const Step behind = rig.plan();
  EXPECT_EQ(rows_of(behind), (Rows{{1, 1}, {2, 1}, {3, 1}, {5, 13}}));
  rig.give(rig.run(behind));
  EXPECT_EQ(rows_of(rig.plan()), (Rows{{1, 1}, {2, 1}, {3, 1}, {5, 7}, {4, 2}}));
}

TEST(Turns, PromptsOfWhoIsAStepAheadWait) {
  Rig rig({.token_budget = 16, .prefill_chunk = 4});
  tell(rig, 1, "loud", Ids(16 + 4, 1), 1);
  rig.settle();  // now the others are behind it by 20 rows, which is more than a step
  tell(rig, 2, "loud", Ids(4, 2));
  tell(rig, 3, "quiet", Ids(3, 3));
  tell(rig, 4, "other", Ids(2, 4));
  using Rows = std::vector<std::pair<uint64_t, int64_t>>;
  const Step step = rig.plan();
  EXPECT_EQ(rows_of(step), (Rows{{3, 3}, {4, 2}})) << "tenants that are even share the step";
  rig.give(rig.run(step));
  EXPECT_EQ(rows_of(rig.plan()), (Rows{{3, 1}, {4, 1}, {2, 4}}));
}

TEST(Turns, TenantsThatAreEvenHaveTheirChunks) {
  Rig rig({.token_budget = 64, .prefill_chunk = 4});
  tell(rig, 1, "loud", Ids(20, 1));
  tell(rig, 2, "quiet", Ids(3, 2));
  tell(rig, 3, "loud", Ids(2, 3));
  int64_t rows = 0;
  for (const auto& [job, tokens] : rows_of(rig.plan())) rows += tokens;
  EXPECT_EQ(rows, 4 + 3 + 2);
}

TEST(Turns, WhoReturnsDoesNotShutOthersOutForLong) {
  Rig rig({.token_budget = 4, .prefill_chunk = 4});
  tell(rig, 1, "loud", Ids(70, 1), 1);
  rig.settle();
  tell(rig, 2, "loud", Ids(110, 2));
  tell(rig, 3, "quiet", Ids(110, 3));
  std::map<uint64_t, int64_t> had;
  for (int i = 0; i < 30; ++i) {
    const Step step = rig.plan();
    for (const auto& [job, tokens] : rows_of(step)) had[job] += tokens;
    rig.give(rig.run(step));
    if (i < 16) {
      EXPECT_EQ(had[2], 0);
    }
    EXPECT_LE(had[3] - had[2], 64) << "16 steps of 4 rows";
  }
  EXPECT_GE(had[2], 24);
  rig.settle();
  EXPECT_EQ(rig.output_of(2), undisturbed(Ids(110, 2), 2, 4));
}

}  // namespace
}  // namespace limpet::worker
