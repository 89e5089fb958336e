// Giving and receiving a session's KV: two real cores, and a wire in the test's hands.
#include <deque>

#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

constexpr size_t kPage = 16;

CoreOptions with_transfer() {
  CoreOptions o;
  o.transfer = "there";
  o.kv_layout = 5;
  o.page_bytes = kPage;
  o.transfer_window = 4;
  o.transfer_step_pages = 4;
  return o;
}

// A giver with session 1 and a receiver; what they say to each other waits in `wire`.
struct Pair : testing::Test {
  Pair() : giver(with_transfer()), receiver(with_transfer()) {
    giver.tell(giver.dispatch(1, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}, 0, 6));
    for (int i = 0; i < 4; ++i) giver.turn();
    EXPECT_EQ(giver.output_of(1).size(), 4u);
  }
  void begin() {
    receiver.tell(ExpectSession{SessionNumber{1}, Epoch{1}, 7});
    giver.tell(HandOver{SessionNumber{1}, Epoch{1}, "there", 7});
    collect();
  }
  void collect() {
    for (Command& c : giver.transfers) {
      if (auto* open = std::get_if<ToReceiver>(&c)) wire.push_back(FromGiver{"g", open->message});
      if (auto* page = std::get_if<SendPage>(&c)) {
        page->page.bytes = std::make_shared<std::vector<std::byte>>(kPage);
        wire.push_back(FromGiver{"g", page->page});
      }
    }
    for (Command& c : receiver.transfers) {
      if (auto* to = std::get_if<ToGiver>(&c)) wire.push_back(FromReceiver{"there", to->message});
      stored += std::holds_alternative<StorePage>(c);
    }
    giver.transfers.clear();
    receiver.transfers.clear();
  }
  void deliver(const Event& e) {
    (std::holds_alternative<FromGiver>(e) ? receiver : giver).give(e);
    collect();
  }
  void run_wire() {
    for (int n = 0; !wire.empty() && n < 1000; ++n) {
      const Event e = wire.front();
      wire.pop_front();
      deliver(e);
    }
  }
  Rig giver, receiver;
  std::deque<Event> wire;
  int stored = 0;
};

TEST_F(Pair, AJobPausesAtItsIndexAndGoesOnThere) {
  begin();
  run_wire();
  EXPECT_FALSE(giver.turn()) << "the job has paused";
  EXPECT_EQ(giver.output_of(1).size(), 4u);
  const auto received = receiver.last<SessionReceived>();
  EXPECT_EQ(received.tokens, 12);  // 9 and 4, the last of which has no KV yet
  EXPECT_EQ(stored, 3);
  receiver.tell(KeepSession{SessionNumber{1}, Epoch{2}});
  giver.tell(ReleaseSession{SessionNumber{1}, Epoch{1}});
  EXPECT_EQ(giver.core->gauges().sessions, 0);

  Dispatch d = receiver.dispatch(1, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}, 0, 6);
  d.attempt = Attempt{2};
  d.epoch = Epoch{2};
  d.home_reason = Reason::drained;
  d.prompt_tokens = 9;
  d.output_tokens = 4;
  d.has_transcript = true;
  d.transcript = d.spec->tokens;
  for (const Token t : giver.output_of(1)) d.transcript.push_back(t);
  receiver.tell(d);
  receiver.settle();
  const auto started = receiver.last<JobStarted>();
  EXPECT_EQ(started.residency, Residency::migrated);
  EXPECT_EQ(started.reason, Reason::none);
  EXPECT_EQ(started.cached_tokens, 12);
  EXPECT_EQ(started.prefilled_tokens, 1);
  const auto all = undisturbed(d.spec->tokens, 1, 6);
  EXPECT_EQ(receiver.output_of(1)[4], all[4]);
  EXPECT_EQ(receiver.output_of(1)[5], all[5]);
}

TEST_F(Pair, FullPagesGoWhileTheJobRunsOn) {
  receiver.tell(ExpectSession{SessionNumber{1}, Epoch{1}, 7});
  giver.tell(HandOver{SessionNumber{1}, Epoch{1}, "there", 7});
  giver.give(FromReceiver{"there", TransferCredit{SessionNumber{1}, Epoch{1}, 0, 2, true}});
  EXPECT_TRUE(giver.turn()) << "two full pages have gone, and a full one may follow";
}

TEST_F(Pair, WhatComesTwiceOrTooEarlyChangesNothing) {
  begin();
  deliver(wire.front());  // the greeting, twice
  run_wire();
  EXPECT_EQ(receiver.last<SessionReceived>().tokens, 12);
  giver.give(FromReceiver{"there", TransferCredit{SessionNumber{1}, Epoch{1}, 0, 9, true}});
  collect();
  ASSERT_GE(wire.size(), 4u);  // all pages and the end, again
  std::swap(wire[0], wire[2]);
  run_wire();
  EXPECT_EQ(receiver.kv.sequences(), 1);
  EXPECT_EQ(receiver.last<SessionReceived>().tokens, 12);
}

TEST_F(Pair, ADamagedPageIsAskedForAgain) {
  begin();
  deliver(wire.front());
  wire.pop_front();
  for (int n = 0, damaged = 0; !wire.empty() && n < 1000; ++n) {
    Event e = wire.front();
    wire.pop_front();
    auto* from = std::get_if<FromGiver>(&e);
    auto* page = from ? std::get_if<TransferPage>(&from->message) : nullptr;
    if (page && page->index == 1 && damaged++ == 0) page->damaged = true;
    deliver(e);
  }
  EXPECT_EQ(receiver.last<SessionReceived>().tokens, 12);
}

TEST_F(Pair, AReceiverThatSaysNothingIsAskedAgainAndThenGivenUp) {
  begin();
  wire.clear();
  giver.now += 250ms;
  giver.give(Tick{});
  collect();
  EXPECT_EQ(wire.size(), 1u) << "the greeting, once more";
  giver.now += 6s;
  giver.give(Tick{});
  EXPECT_EQ(giver.last<HandOverFailed>().session, SessionNumber{1});
  EXPECT_TRUE(giver.turn()) << "the job goes on here";
}

TEST_F(Pair, ABrokenHandOverLetsThePausedJobGoOn) {
  begin();
  run_wire();
  EXPECT_FALSE(giver.turn());
  giver.tell(StopHandOver{SessionNumber{1}, Epoch{1}});
  giver.settle();
  EXPECT_EQ(giver.output_of(1), undisturbed({1, 2, 3, 4, 5, 6, 7, 8, 9}, 1, 6));
  receiver.tell(ReleaseSession{SessionNumber{1}, Epoch{1}});
  EXPECT_EQ(receiver.kv.sequences(), 0);
}

TEST_F(Pair, AReceiverWithoutRoomSaysSo) {
  Rig small(with_transfer(), 2);
  small.tell(ExpectSession{SessionNumber{1}, Epoch{1}, 7});
  auto bytes = std::make_shared<std::vector<std::byte>>(kPage);
  for (int64_t i = 0; i < 3; ++i) {
    small.give(FromGiver{"g", TransferPage{SessionNumber{1}, Epoch{1}, 7, i, {1, 2, 3, 4}, bytes,
                                           false}});
  }
  EXPECT_EQ(small.last<HandOverFailed>().why, "there is no room for it");
  EXPECT_EQ(small.kv.sequences(), 0);
}

TEST_F(Pair, WhatIsIncomingGivesWayAndIsNoLeaseOfIts) {
  begin();
  run_wire();
  receiver.give(Connected{});
  EXPECT_TRUE(receiver.last<Register>().sessions.empty());
  receiver.tell(Registered{.incarnation = 7, .heartbeat_ms = 100, .lease_ms = 1000, .release = {},
                           .resume = {}, .drop = {}});
  std::vector<Token> prompt(4 * 62, 3);
  receiver.tell(receiver.dispatch(9, 9, prompt, 0, 4));
  receiver.settle();
  EXPECT_EQ(receiver.last<HandOverFailed>().session, SessionNumber{1});
  EXPECT_TRUE(receiver.all<SessionDropped>().empty());
}

TEST_F(Pair, PagesOfAnotherGiverAreNotTaken) {
  begin();
  wire.clear();
  auto bytes = std::make_shared<std::vector<std::byte>>(kPage);
  receiver.give(FromGiver{"x", TransferPage{SessionNumber{1}, Epoch{1}, 8, 0, {1, 2, 3, 4}, bytes,
                                            false}});
  collect();
  EXPECT_EQ(stored, 0);
}

TEST_F(Pair, ItLeavesOnTheBrokersWord) {
  giver.settle();
  giver.give(Stop{});
  EXPECT_FALSE(giver.core->may_leave());
  giver.tell(MayLeave{7});
  EXPECT_FALSE(giver.core->may_leave()) << "its job's end is not acknowledged";
  giver.tell(EndAck{JobNumber{1}, Attempt{1}});
  EXPECT_TRUE(giver.core->may_leave());
}

TEST_F(Pair, WhenTheTimeIsOverItsJobsAreGivenBack) {
  giver.give(Stop{});
  giver.give(GoNow{});
  const auto end = giver.last<JobEnded>();
  EXPECT_EQ(end.code, ErrorCode::busy);
  EXPECT_TRUE(end.retryable);
  EXPECT_TRUE(giver.last<Leaving>().gone) << "nothing of it has to wait for its lease";
}

// A giver of long sessions, one page a step; what it is answered is in the test's hands.
struct Pace : testing::Test {
  explicit Pace(int64_t rate = 0) : giver(slow(rate), 400) {}
  static CoreOptions slow(int64_t rate) {
    CoreOptions o = with_transfer();
    o.transfer_step_pages = 1;
    o.transfer_step_rate = rate;
    return o;
  }
  // Session and job of this number: 40 tokens, ten full pages, and one more token each step.
  void run(uint64_t number) {
    giver.tell(giver.dispatch(number, number, std::vector<Token>(40, 3), 0, 200));
    giver.turn();
  }
  void hand_over(uint64_t session) {
    giver.tell(HandOver{SessionNumber{session}, Epoch{1}, "there", 7});
    arrived(session, 0, true);
  }
  void arrived(uint64_t session, int64_t pages, bool again = false) {
    giver.give(FromReceiver{"there", TransferCredit{SessionNumber{session}, Epoch{1}, pages,
                                                    pages + 64, again}});
  }
  // What was sent since the last call.
  std::vector<TransferPage> sent() {
    std::vector<TransferPage> pages;
    for (const Command& c : std::exchange(giver.transfers, {})) {
      if (const auto* page = std::get_if<SendPage>(&c)) pages.push_back(page->page);
      const auto* to = std::get_if<ToReceiver>(&c);
      ended = ended || (to && std::holds_alternative<TransferEnd>(to->message));
    }
    return pages;
  }
  Rig giver;
  bool ended = false;
};

TEST_F(Pace, APageLeavesWithEachStepAndTheLastWhenTheOthersHaveArrived) {
  run(1);
  hand_over(1);
  EXPECT_EQ(sent().size(), 1u);
  for (int64_t page = 1; page < 10; ++page) {
    ASSERT_TRUE(giver.turn());
    EXPECT_EQ(sent().size(), 1u) << page;
  }
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(giver.turn()) << "none has arrived that one knows of";
    EXPECT_LE(sent().size(), 1u);
  }
  EXPECT_FALSE(ended);
  arrived(1, 12);
  ASSERT_TRUE(giver.turn()) << "two are on their way";
  EXPECT_TRUE(sent().empty());
  arrived(1, 13);  // of 14 full ones: 40 tokens and one for each of 18 steps
  const auto last = sent();
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(last[0].index, 14);
  EXPECT_EQ(last[0].tokens.size(), 2u);
  EXPECT_TRUE(ended);
  EXPECT_FALSE(giver.turn()) << "it has paused";
}

TEST_F(Pace, ItPausesAllTheSameWhereTheWayIsLongerThanAPageTakesToFill) {
  run(1);
  hand_over(1);
  for (int64_t turn = 0, there = 0; turn < 60 && !ended; ++turn) {
    giver.now += 10ms;
    ASSERT_TRUE(giver.turn());
    for (const TransferPage& page : sent()) there = std::max<int64_t>(there, page.index - 3);
    arrived(1, there);
    sent();
  }
  EXPECT_TRUE(ended);
  EXPECT_FALSE(giver.turn());
}

TEST_F(Pace, ItDoesNotPauseForAReceiverThatHasFallenSilent) {
  run(1);
  hand_over(1);
  for (int turn = 0; turn < 60; ++turn) {
    giver.now += 10ms;
    ASSERT_TRUE(giver.turn());
  }
}

TEST_F(Pace, WithoutStepsAllOfItLeavesAtOnce) {
  giver.tell(giver.dispatch(1, 1, std::vector<Token>(40, 3), 0, 2));
  giver.settle();
  hand_over(1);
  EXPECT_FALSE(giver.turn());
  EXPECT_EQ(sent().size(), 11u);
  EXPECT_TRUE(ended);
}

TEST_F(Pace, AnIdleSessionsPagesLeaveBetweenTheStepsOfOthersToo) {
  giver.tell(giver.dispatch(1, 1, std::vector<Token>(40, 3), 0, 1));
  giver.settle();
  run(2);
  hand_over(1);
  EXPECT_EQ(sent().size(), 1u);
  ASSERT_TRUE(giver.turn());
  EXPECT_EQ(sent().size(), 1u);
  giver.tell(CancelJob{JobNumber{2}, Attempt{1}});
  EXPECT_FALSE(giver.turn());
  EXPECT_EQ(sent().size(), 8u) << "no step is left for which the others would wait";
}

TEST_F(Pace, VeryManyPagesLeaveInMoreThanOneAStep) {
  giver.tell(giver.dispatch(1, 1, std::vector<Token>(4 * 192, 3), 0, 200));
  while (giver.output_of(1).empty()) giver.turn();
  hand_over(1);
  sent();
  giver.turn();
  EXPECT_EQ(sent().size(), 2u);  // of 191 that are left, in 64 steps
}

struct PaceByTime : Pace {
  PaceByTime() : Pace(480) {}  // bytes a second: three pages in 100 ms
};

TEST_F(PaceByTime, LongStepsTakeMorePagesWithThem) {
  run(1);
  hand_over(1);
  sent();
  for (const auto& [took, pages] : {std::pair(100ms, 3u), {10ms, 1u}}) {
    const Step step = giver.plan();
    giver.now += took;
    giver.give(giver.run(step));
    EXPECT_EQ(sent().size(), pages);
  }
}

TEST_F(Pace, WhoseTurnHasNotComeIsNotLate) {
  run(1);
  run(2);
  hand_over(1);
  hand_over(2);
  for (int64_t there = 1; there < 10; ++there) {
    giver.now += 1s;
    arrived(1, there);
    giver.give(Tick{});
    ASSERT_TRUE(giver.turn());
  }
  EXPECT_TRUE(giver.all<HandOverFailed>().empty());
}

TEST_F(Pair, WhatArrivesBetweenTwoStepsIsToldOnce) {
  receiver.options.transfer_window = 64;
  Rig wide(receiver.options);
  wide.tell(ExpectSession{SessionNumber{1}, Epoch{1}, 7});
  auto bytes = std::make_shared<std::vector<std::byte>>(kPage);
  for (int64_t i = 0; i < 3; ++i) {
    wide.give(FromGiver{"g", TransferPage{SessionNumber{1}, Epoch{1}, 7, i, {1, 2, 3, 4}, bytes,
                                          false}});
  }
  wide.transfers.clear();
  wide.turn();
  ASSERT_EQ(wide.transfers.size(), 1u);
  const auto& credit = std::get<TransferCredit>(std::get<ToGiver>(wide.transfers[0]).message);
  EXPECT_EQ(credit.next_page, 3);
  EXPECT_FALSE(credit.again);
  wide.turn();
  EXPECT_EQ(wide.transfers.size(), 1u);
}

}  // namespace
}  // namespace limpet::worker
