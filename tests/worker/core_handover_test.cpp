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
}

}  // namespace
}  // namespace limpet::worker
