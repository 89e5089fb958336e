// Sessions whose KV goes below the device and comes back, as the core decides it.
#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

CoreOptions with_tiers(int64_t host, int64_t disk = 0) {
  CoreOptions o;
  o.max_context = 64;
  o.tiers = {.host_pages = host, .disk_pages = disk, .least_tokens = 4};
  return o;
}

std::vector<Token> prompt(int64_t n, Token first) {
  std::vector<Token> all;
  for (int64_t i = 0; i < n; ++i) all.push_back(static_cast<Token>((first + 3 * i) % kVocab));
  return all;
}

// Runs a turn to its end, and all moves that it brings about.
void run(Rig& rig) {
  for (int i = 0; i < 1000; ++i) {
    const bool ran = rig.turn();
    if (!ran && rig.moves.empty()) return;
    rig.finish_moves();
  }
  FAIL() << "does not come to an end";
}

// A turn of `session` from `so_far` on, which is brought up to date.
JobStarted turn_of(Rig& rig, uint64_t job, uint64_t session, std::vector<Token>& so_far,
                   const std::vector<Token>& text) {
  rig.tell(rig.dispatch(job, session, text, std::ssize(so_far)));
  run(rig);
  so_far.insert(so_far.end(), text.begin(), text.end());
  EXPECT_EQ(rig.output_of(job), undisturbed(so_far, job, 4));
  const auto output = rig.output_of(job);
  so_far.insert(so_far.end(), output.begin(), output.end());
  rig.tell(EndAck{JobNumber{job}, Attempt{1}});
  return rig.last<JobStarted>();
}

TEST(CoreTiers, AnIdleSessionGoesToTheHostAndComesBack) {
  Rig rig(with_tiers(64), 16);  // 16 pages of 4 tokens: two sessions of 24 leave little
  std::vector<Token> a, b, c;
  turn_of(rig, 1, 1, a, prompt(24, 1));
  turn_of(rig, 2, 2, b, prompt(24, 2));
  turn_of(rig, 3, 3, c, prompt(24, 5));
  EXPECT_TRUE(rig.all<SessionDropped>().empty());
  EXPECT_GT(rig.core->gauges().tiers.sessions[0], 0);
  EXPECT_EQ(rig.core->gauges().resident_kv_tokens, 3 * 27) << "what is below counts as well";

  const JobStarted back = turn_of(rig, 4, 1, a, prompt(3, 7));
  EXPECT_EQ(back.residency, Residency::restored);
  EXPECT_EQ(back.reason, Reason::none);
  EXPECT_EQ(back.cached_tokens, 27);
  EXPECT_EQ(back.prefilled_tokens, 4);
  EXPECT_EQ(rig.core->gauges().tiers.restored[0], 1);
  EXPECT_TRUE(rig.all<SessionDropped>().empty());
}

TEST(CoreTiers, CopiesAreMadeBeforePagesAreNeeded) {
  Rig rig(with_tiers(64), 32);
  std::vector<Token> a, b, c, d;
  turn_of(rig, 1, 1, a, prompt(24, 1));
  turn_of(rig, 2, 2, b, prompt(24, 2));
  EXPECT_EQ(rig.core->gauges().tiers.spilled, 0) << "there is room";
  turn_of(rig, 3, 3, c, prompt(28, 5));
  turn_of(rig, 4, 4, d, prompt(20, 6));
  EXPECT_GT(rig.core->gauges().tiers.spilled, 0);
  EXPECT_GT(rig.core->gauges().tiers.spare_pages, 0) << "they are on the device still";
  // A turn on one of these finds all on the device, and moves nothing.
  EXPECT_EQ(turn_of(rig, 5, 1, a, prompt(3, 7)).residency, Residency::resident);
  EXPECT_EQ(rig.core->gauges().tiers.restored[0], 0);
}

TEST(CoreTiers, APageIsNotGivenAwayWhileItIsCopied) {
  Rig rig(with_tiers(64), 8);
  std::vector<Token> a;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  rig.tell(rig.dispatch(2, 2, prompt(20, 2)));
  EXPECT_FALSE(rig.turn());  // its pages are those of the first, which are on their way
  ASSERT_EQ(rig.moves.size(), 1u);
  EXPECT_FALSE(rig.turn());
  EXPECT_EQ(rig.moves.size(), 1u);
  rig.finish_move();
  run(rig);
  EXPECT_EQ(rig.output_of(2), undisturbed(prompt(20, 2), 2, 4));
}

TEST(CoreTiers, ATurnThatComesWhileItsSessionIsCopiedFindsItResident) {
  Rig rig(with_tiers(64), 12);
  std::vector<Token> a;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  rig.tell(rig.dispatch(2, 2, prompt(20, 2)));
  while (rig.moves.empty()) ASSERT_TRUE(rig.turn());  // the copy of the first has begun
  rig.tell(rig.dispatch(3, 1, prompt(3, 9), std::ssize(a)));
  while (rig.turn()) {}
  rig.finish_moves();
  run(rig);
  const auto text = prompt(3, 9);
  a.insert(a.end(), text.begin(), text.end());
  EXPECT_EQ(rig.output_of(3), undisturbed(a, 3, 4));
}

TEST(CoreTiers, WhatComesBackDamagedIsComputedAgain) {
  Rig rig(with_tiers(8, 64), 8);
  std::vector<Token> a, b, c;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  turn_of(rig, 2, 2, b, prompt(20, 2));
  turn_of(rig, 3, 3, c, prompt(20, 5));  // the host holds one: the first is on disk
  EXPECT_GT(rig.core->gauges().tiers.demoted, 0);

  rig.tell(rig.dispatch(4, 1, prompt(3, 7), std::ssize(a)));
  for (int i = 0; i < 100; ++i) {
    rig.turn();
    if (rig.moves.empty()) continue;
    const bool from_disk = rig.moves.front().kind == MoveKind::restore_disk;
    rig.finish_move(from_disk ? 2 : -1);
  }
  run(rig);
  const auto started = rig.last<JobStarted>();
  EXPECT_EQ(started.residency, Residency::reprefilled);
  EXPECT_EQ(started.reason, Reason::evicted);
  EXPECT_EQ(started.cached_tokens, 8) << "the two pages that came are of use";
  EXPECT_EQ(rig.core->gauges().tiers.damaged[1], 1);
  const auto text = prompt(3, 7);
  a.insert(a.end(), text.begin(), text.end());
  EXPECT_EQ(rig.output_of(4), undisturbed(a, 4, 4));
}

TEST(CoreTiers, WhoRequiresResidentKvIsToldWhenItComesBackDamaged) {
  Rig rig(with_tiers(64), 8);
  std::vector<Token> a, b;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  turn_of(rig, 2, 2, b, prompt(20, 2));
  Dispatch d = rig.dispatch(3, 1, prompt(3, 7), std::ssize(a));
  auto spec = std::make_shared<JobSpec>(*d.spec);
  spec->require_resident = true;
  d.spec = spec;
  rig.tell(d);
  for (int i = 0; i < 100 && rig.all<JobEnded>().size() < 3; ++i) {
    rig.turn();
    if (rig.moves.empty()) continue;
    rig.finish_move(rig.moves.front().kind == MoveKind::restore_host ? 0 : -1);
  }
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::not_resident);

  // And gets its turn when it comes back whole.
  turn_of(rig, 4, 2, b, prompt(3, 8));
  EXPECT_TRUE(rig.last<JobEnded>().ok);
}

TEST(CoreTiers, FullTiersDegradeToTheTranscriptAlone) {
  Rig rig(with_tiers(8, 8), 8);
  std::vector<std::vector<Token>> sessions(5);
  for (size_t s = 0; s < sessions.size(); ++s) {
    turn_of(rig, s + 1, s + 1, sessions[s], prompt(20, static_cast<Token>(s)));
  }
  const auto tiers = rig.core->gauges().tiers;
  EXPECT_GT(tiers.gone, 0);
  EXPECT_LE(tiers.pages_used[0], 8);
  EXPECT_LE(tiers.pages_used[1], 8);
  const auto dropped = rig.all<SessionDropped>();
  ASSERT_EQ(std::ssize(dropped), tiers.gone);
  EXPECT_EQ(dropped[0].session, SessionNumber{1});
  EXPECT_EQ(dropped[0].reason, Reason::evicted);
}

TEST(CoreTiers, ACancelledTurnLeavesItsSessionBelow) {
  Rig rig(with_tiers(64), 8);
  std::vector<Token> a, b;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  turn_of(rig, 2, 2, b, prompt(20, 2));
  rig.tell(rig.dispatch(3, 1, prompt(3, 7), std::ssize(a)));
  while (rig.moves.empty() || rig.moves.front().kind != MoveKind::restore_host) {
    rig.turn();
    if (!rig.moves.empty() && rig.moves.front().kind == MoveKind::spill) rig.finish_move();
  }
  rig.tell(CancelJob{JobNumber{3}, Attempt{1}});
  rig.finish_moves();
  EXPECT_EQ(turn_of(rig, 4, 1, a, prompt(3, 8)).residency, Residency::restored);
}

TEST(CoreTiers, ASessionThatIsReleasedLeavesNothing) {
  Rig rig(with_tiers(64), 8);
  std::vector<Token> a, b;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  turn_of(rig, 2, 2, b, prompt(20, 2));
  EXPECT_EQ(rig.core->gauges().tiers.sessions[0], 1);
  for (const uint64_t s : {1, 2}) rig.tell(ReleaseSession{SessionNumber{s}, Epoch{1}});
  rig.finish_moves();
  EXPECT_EQ(rig.core->gauges().tiers.pages_used[0], 0);
  EXPECT_EQ(rig.kv.free_pages(), rig.kv.total_pages());
}

TEST(CoreTiers, WhatIsBelowCanBeHandedOver) {
  CoreOptions o = with_tiers(64);
  o.kv_layout = 1;
  o.page_bytes = 16;
  Rig rig(o, 8);
  std::vector<Token> a, b;
  turn_of(rig, 1, 1, a, prompt(20, 1));
  turn_of(rig, 2, 2, b, prompt(20, 2));
  ASSERT_EQ(rig.core->gauges().tiers.sessions[0], 1);
  // The other session has to make room first; the broker asks again.
  for (int i = 0; i < 2; ++i) {
    rig.tell(HandOver{SessionNumber{1}, Epoch{1}, "there", 9});
    EXPECT_FALSE(rig.moves.empty());
    rig.finish_moves();
  }
  EXPECT_TRUE(rig.all<HandOverFailed>().empty());
  rig.give(FromReceiver{"there", TransferCredit{SessionNumber{1}, Epoch{1}, 0, 64, true}});
  int64_t pages = 0, ends = 0;
  for (const Command& c : rig.transfers) {
    pages += std::holds_alternative<SendPage>(c);
    const auto* to = std::get_if<ToReceiver>(&c);
    ends += to != nullptr && std::holds_alternative<TransferEnd>(to->message);
  }
  EXPECT_EQ(pages, 6);
  EXPECT_EQ(ends, 1);
}

}  // namespace
}  // namespace limpet::worker
