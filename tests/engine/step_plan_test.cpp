#include "engine/step_plan.h"

#include <gtest/gtest.h>

namespace limpet::engine {
namespace {

using Ints = std::vector<int32_t>;

class StepPlanTest : public ::testing::Test {
 protected:
  StepPlanTest() : kv({.page_tokens = 4, .pages = 8}) {
    a = kv.create(0);
    b = kv.create(0);
    grow(a, 5);
  }
  void grow(SequenceId id, size_t n) {
    ASSERT_TRUE(kv.reserve(id, static_cast<int64_t>(n)));
    kv.commit(id, std::vector<Token>(n, 1));
  }
  std::string plan_of(std::vector<StepRow> rows) { return plan_step(rows, kv, limits, plan); }

  KvCache kv;
  SequenceId a{}, b{};
  StepLimits limits{.max_rows = 6, .max_sequences = 2, .max_wanted = 4, .max_context = 20,
                    .vocab = 10};
  StepPlan plan;
};

TEST_F(StepPlanTest, RaggedGroupsAreLaidOutInOrder) {
  const Ints one = {7}, three = {4, 5, 6};
  ASSERT_TRUE(kv.reserve(a, 1) && kv.reserve(b, 3));
  ASSERT_EQ(plan_of({{b, three, Want::all}, {a, one, Want::last}}), "");
  EXPECT_EQ(plan.token_ids, (Ints{4, 5, 6, 7}));
  EXPECT_EQ(plan.positions, (Ints{0, 1, 2, 5}));
  EXPECT_EQ(plan.row_sequence, (Ints{0, 0, 0, 1}));
  EXPECT_EQ(plan.wanted_rows, (Ints{0, 1, 2, 3}));
  EXPECT_EQ(plan.first, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(plan.longest_past, 5);
  const Ints pages = page_table(plan.sequences, kv, 3);
  EXPECT_EQ(pages, (Ints{kv.page_table(b)[0], 0, 0, kv.page_table(a)[0], kv.page_table(a)[1], 0}));
  ASSERT_EQ(plan_of({{b, three, Want::nothing}, {a, one, Want::last}}), "");
  EXPECT_EQ(plan.wanted_rows, Ints{3});
}

TEST_F(StepPlanTest, WhatCannotRunIsAnErrorValue) {
  const Ints one = {7}, many(7, 1), wrong = {10};
  const auto says = [&](std::vector<StepRow> rows, const char* what) {
    const std::string error = plan_of(std::move(rows));
    EXPECT_NE(error.find(what), std::string::npos) << error;
  };
  says({}, "without rows");
  says({{a, {}}}, "without tokens");
  says({{a, wrong}}, "token 10");
  says({{b, one}}, "no KV pages");
  says({{SequenceId{99}, one}}, "unknown");
  ASSERT_TRUE(kv.reserve(a, 7) && kv.reserve(b, 1));
  says({{a, many}}, "7 rows; the limit is 6");
  says({{a, std::span(many).first(5), Want::all}}, "5 rows wanted back");
  says({{a, one}, {a, one}}, "twice");
  says({{a, one}, {b, one}, {b, one}}, "3 sequences; the limit is 2");
  grow(a, 15);
  says({{a, one}}, "21 tokens; the limit is 20");
}

}  // namespace
}  // namespace limpet::engine
