// Tokens drawn on the device, one step ahead of the host, are those that step() and sample() give.
#include "engine/drawn_steps.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/gpu/gpus.h"

namespace limpet::engine {
namespace {

std::vector<std::string> devices() {
  auto all = test::gpus();
  all.push_back("cpu");
  return all;
}

class DrawnStepsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    EngineOptions o;
    o.model_dir = "models/limpet-tiny";
    o.device = GetParam();
    o.precision = Precision::f32;
    o.kv_pages = 128;
    o.max_rows = 64;
    o.max_sequences = 8;
    o.threads = 2;
    o.share_prefixes = false;
    engine_ = Engine::open(o);
  }

  static std::vector<Token> prompt(int i) {
    std::vector<Token> tokens(static_cast<size_t>(5 + 6 * i));
    for (size_t j = 0; j < tokens.size(); ++j) {
      tokens[j] = static_cast<Token>((j * 41 + static_cast<size_t>(i) * 17 + 3) % 380);
    }
    return tokens;
  }
  static SamplingOptions sampling(int i) {
    SamplingOptions o{.seed = 100 + static_cast<uint64_t>(i)};
    if (i % 4 != 0) o.temperature = 1.5f;
    if (i % 4 == 2) o.top_k = 40, o.top_p = 0.9f;
    if (i % 4 == 3) o.repetition_penalty = 1.5f, o.logprobs = 3;
    return o;
  }

  // `n` tokens after prompt i, by step() and sample().
  std::vector<Token> plainly(int i, int64_t n) {
    const SequenceId s = engine_->kv().create(0);
    std::vector<Token> next = prompt(i), out;
    while (std::ssize(out) < n) {
      EXPECT_TRUE(engine_->kv().reserve(s, std::ssize(next)));
      const StepResult r = engine_->step({{s, next, Want::last}});
      EXPECT_TRUE(r.ok()) << r.error;
      const auto context = engine_->kv().tokens(s);
      const Sampled drawn = sample(r.row(0), context, sampling(i), std::ssize(context));
      EXPECT_TRUE(drawn.ok()) << drawn.error;
      next = {drawn.token};
      out.push_back(drawn.token);
    }
    engine_->kv().destroy(s);
    return out;
  }

  std::vector<int32_t> all_of(int64_t n) const {
    std::vector<int32_t> rows(static_cast<size_t>(n));
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }

  std::unique_ptr<Engine> engine_;
};

TEST_P(DrawnStepsTest, GoOnWithoutTheHostAndLoseRowsOnTheWay) {
  const int64_t count = 8, length = 40;
  std::vector<std::vector<Token>> want, got(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) want.push_back(plainly(i, length));

  KvCache& kv = engine_->kv();
  std::vector<SequenceId> sequences;
  std::vector<DrawRow> rows;
  std::vector<std::vector<Token>> prompts;
  for (int i = 0; i < count; ++i) prompts.push_back(prompt(i));
  std::vector<size_t> who;  // of each row of the step that is collected next
  for (int i = 0; i < count; ++i) {
    // One prompt a step: 64 rows do not hold them all.
    sequences.push_back(kv.create(0));
    const auto& p = prompts[static_cast<size_t>(i)];
    ASSERT_TRUE(kv.reserve(sequences.back(), std::ssize(p)));
    const DrawRow row{sequences.back(), p, sampling(i), std::ssize(p)};
    ASSERT_EQ(engine_->submit(std::span(&row, 1)), "");
    got[static_cast<size_t>(i)].push_back(engine_->collect(all_of(1)).at(0).token);
    who.push_back(static_cast<size_t>(i));
  }
  for (const size_t i : who) {
    ASSERT_TRUE(kv.reserve(sequences[i], 2));
    rows.push_back({sequences[i], std::span(got[i]).last(1), sampling(static_cast<int>(i)),
                    kv.length(sequences[i]) + 1});
  }
  ASSERT_EQ(engine_->submit(rows), "");
  const EngineCounters before = engine_->counters();
  for (int64_t n = 1; n < length; ++n) {
    // After 10 tokens one sequence ends at every third step; its row does not go on.
    std::vector<int32_t> on = all_of(std::ssize(who));
    if (n > 10 && n % 3 == 0 && who.size() > 2) on.erase(on.begin() + n % std::ssize(who));
    for (const int32_t r : on) ASSERT_TRUE(kv.reserve(sequences[who[static_cast<size_t>(r)]], 2));
    if (n + 1 < length) {
      ASSERT_EQ(engine_->submit_next(on), "");
    }
    const auto drawn = engine_->collect(all_of(std::ssize(who)));
    ASSERT_EQ(drawn.size(), who.size());
    for (size_t r = 0; r < who.size(); ++r) {
      ASSERT_TRUE(drawn[r].ok()) << drawn[r].error;
      got[who[r]].push_back(drawn[r].token);
      EXPECT_EQ(drawn[r].top.size(), who[r] % 4 == 3 ? 3u : 0u);
      EXPECT_EQ(kv.length(sequences[who[r]]),
                std::ssize(prompts[who[r]]) + std::ssize(got[who[r]]) - 1);
    }
    std::vector<size_t> still;
    for (const int32_t r : on) still.push_back(who[static_cast<size_t>(r)]);
    who = still;
  }
  EXPECT_LT(who.size(), 4u);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i], std::vector<Token>(want[i].begin(), want[i].begin() + std::ssize(got[i])))
        << "sequence " << i;
  }
  const EngineCounters after = engine_->counters();
  EXPECT_EQ(after.steps - before.steps, length - 2);
  // What goes up is page tables that grew and the rows that ended: no tokens, no positions.
  EXPECT_LT((after.bytes_up - before.bytes_up) / (length - 2), 600);
}

TEST_P(DrawnStepsTest, ARowThatIsNotKeptHasNeverRun) {
  KvCache& kv = engine_->kv();
  const auto want = plainly(0, 6);
  const auto p = prompt(0);
  const SequenceId s = kv.create(0);
  ASSERT_TRUE(kv.reserve(s, std::ssize(p)));
  const DrawRow first{s, p, sampling(0), std::ssize(p)};
  ASSERT_EQ(engine_->submit(std::span(&first, 1)), "");
  const Token one = engine_->collect(all_of(1)).at(0).token;
  ASSERT_TRUE(kv.reserve(s, 2));
  const DrawRow second{s, std::span(&one, 1), sampling(0), std::ssize(p) + 1};
  ASSERT_EQ(engine_->submit(std::span(&second, 1)), "");
  ASSERT_EQ(engine_->submit_next(all_of(1)), "");
  const Token two = engine_->collect(all_of(1)).at(0).token;
  engine_->collect({});  // ran ahead of an end
  EXPECT_EQ(kv.length(s), std::ssize(p) + 1);
  EXPECT_EQ((std::vector<Token>{one, two}), std::vector<Token>(want.begin(), want.begin() + 2));
  // Another turn in its place, and then the one that was dropped.
  const std::vector<Token> turn = {two, 7, 8};
  ASSERT_TRUE(kv.reserve(s, 3));
  ASSERT_TRUE(engine_->step({{s, turn, Want::last}}).ok());
  kv.truncate(s, std::ssize(p) + 1);
  std::vector<Token> rest = {two}, got;
  while (got.size() < 3) {
    ASSERT_TRUE(kv.reserve(s, 1));
    const StepResult r = engine_->step({{s, rest, Want::last}});
    rest = {sample(r.row(0), {}, sampling(0), kv.length(s)).token};
    got.push_back(rest[0]);
  }
  EXPECT_EQ(got, std::vector<Token>(want.begin() + 2, want.begin() + 5));
}

TEST_P(DrawnStepsTest, WhatCannotRunIsSaidBeforeAnythingIsDone) {
  KvCache& kv = engine_->kv();
  const auto p = prompt(1);
  const SequenceId s = kv.create(0);
  const DrawRow row{s, p, sampling(0), std::ssize(p)};
  EXPECT_NE(engine_->submit(std::span(&row, 1)), "");  // no pages
  EXPECT_NE(engine_->submit_next(all_of(1)), "");      // nothing is in flight
  EXPECT_THROW(engine_->collect({}), std::logic_error);
  ASSERT_TRUE(kv.reserve(s, std::ssize(p)));
  ASSERT_EQ(engine_->submit(std::span(&row, 1)), "");
  EXPECT_NE(engine_->submit_next(all_of(1)), "");  // it was a prompt
  EXPECT_FALSE(engine_->step({{s, p, Want::last}}).ok());
  engine_->collect(all_of(1));
  EXPECT_EQ(kv.length(s), std::ssize(p));
  const Token next = 5;
  ASSERT_TRUE(kv.reserve(s, 1));
  const DrawRow decode{s, std::span(&next, 1), sampling(0), std::ssize(p) + 1};
  ASSERT_EQ(engine_->submit(std::span(&decode, 1)), "");
  EXPECT_NE(engine_->submit_next(all_of(2)), "");  // no such row
  EXPECT_FALSE(kv.reserved(s, 20));
  engine_->collect(all_of(1));
}

INSTANTIATE_TEST_SUITE_P(Devices, DrawnStepsTest, ::testing::ValuesIn(devices()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, ':', '_');
                           return name;
                         });

}  // namespace
}  // namespace limpet::engine
