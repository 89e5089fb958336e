// The room that a receiver makes for the KV of others.
#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

constexpr size_t kPageBytes = 16;
constexpr SessionNumber kComing{9};

CoreOptions receiving(int64_t host, int64_t disk) {
  CoreOptions o;
  o.max_context = 64;
  o.transfer = "there";
  o.kv_layout = 5;
  o.page_bytes = kPageBytes;
  o.tiers = {.host_pages = host, .disk_pages = disk, .least_tokens = 4};
  return o;
}

// A worker of 16 pages, of which sessions 1 and 2, idle, hold 7 each.
struct Full {
  explicit Full(int64_t host = 0, int64_t disk = 0) : rig(receiving(host, disk), 16) {
    for (const uint64_t session : {1, 2}) {
      turn_of(session, session, 24);
      finish();
    }
    rig.sent.clear();
  }
  void turn_of(uint64_t job, uint64_t session, int64_t tokens) {
    std::vector<Token> prompt;
    for (int64_t i = 0; i < tokens; ++i) {
      prompt.push_back(static_cast<Token>((i + 7 * static_cast<int64_t>(session)) % kVocab));
    }
    rig.tell(rig.dispatch(job, session, prompt));
  }
  void finish() {
    for (int i = 0; i < 100; ++i) {
      if (!rig.turn() && rig.moves.empty()) break;
      rig.finish_moves();
    }
    for (const auto& end : rig.all<JobEnded>()) rig.tell(EndAck{end.job, end.attempt});
  }
  void expect(int64_t tokens, bool has_job, SessionNumber session = kComing) {
    rig.tell(ExpectSession{session, Epoch{1}, 8, {}, {}, tokens, has_job});
    ask(session);
  }
  void ask(SessionNumber session = kComing) {
    rig.give(FromGiver{"g", TransferOpen{session, Epoch{1}, 8, 7, 5}});
  }
  void bring(int64_t from, int64_t pages, SessionNumber session = kComing) {
    const auto bytes = std::make_shared<std::vector<std::byte>>(kPageBytes);
    for (int64_t i = from; i < pages; ++i) {
      const auto row = static_cast<Token>((i + 20 * static_cast<int64_t>(raw(session))) % kVocab);
      rig.give(FromGiver{"g", TransferPage{session, Epoch{1}, 8, i, {row, 1, 2, 3}, bytes, false}});
    }
  }
  void end(int64_t tokens, SessionNumber session = kComing) {
    rig.give(FromGiver{"g", TransferEnd{session, Epoch{1}, 8, tokens}});
  }
  // The credits since the last call.
  std::vector<TransferCredit> credits() {
    std::vector<TransferCredit> all;
    for (const Command& c : std::exchange(rig.transfers, {})) {
      const auto* to = std::get_if<ToGiver>(&c);
      if (to && std::holds_alternative<TransferCredit>(to->message)) {
        all.push_back(std::get<TransferCredit>(to->message));
      }
    }
    return all;
  }
  Room room() {
    rig.now += 200ms;
    rig.give(Tick{});
    return rig.last<Heartbeat>().room;
  }
  int64_t sessions() { return rig.core->gauges().sessions; }
  Rig rig;
};

TEST(ReceiverRoom, IdleKvGoesBelowForAnIdleSessionAndNothingIsLost) {
  Full w(64);
  w.expect(32, false);
  EXPECT_TRUE(w.rig.all<HandOverFailed>().empty());
  w.rig.finish_moves();
  const auto credits = w.credits();
  ASSERT_EQ(credits.size(), 1u) << "once there is room";
  EXPECT_TRUE(credits[0].again);
  w.bring(0, 8);
  w.end(32);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 32);
  w.rig.tell(KeepSession{kComing, Epoch{2}});
  EXPECT_EQ(w.sessions(), 3);
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
  EXPECT_EQ(w.rig.core->gauges().resident_kv_tokens, 2 * 27 + 32);
}

TEST(ReceiverRoom, WhileItSpillsTheGiverAsksAgain) {
  Full w(64);
  // Nothing of the sessions has been copied yet, or it would be free at once.
  w.expect(56, false);
  ASSERT_FALSE(w.rig.moves.empty());
  w.ask();
  w.bring(0, 2);  // of an earlier credit, perhaps
  EXPECT_TRUE(w.credits().empty());
  w.rig.finish_moves();
  EXPECT_EQ(w.credits().size(), 1u);
  w.bring(0, 14);
  w.end(56);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 56);
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
}

TEST(ReceiverRoom, WithoutTiersAnIdleSessionTakesNobodysKv) {
  Full w;
  w.expect(32, false);
  EXPECT_EQ(w.rig.last<HandOverFailed>().why, "there is no room for it");
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
  EXPECT_EQ(w.sessions(), 2);
}

TEST(ReceiverRoom, WhereTheTiersAreFullAnIdleSessionTakesNobodysKv) {
  Full w(7);
  w.expect(56, false);  // of the two, one can go below
  w.rig.finish_moves();
  EXPECT_EQ(w.rig.last<HandOverFailed>().why, "there is no room for it");
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
  EXPECT_EQ(w.sessions(), 2);
}

TEST(ReceiverRoom, TheDiskIsRoomToo) {
  Full w(7, 7);
  w.expect(56, false);
  w.rig.finish_moves();
  w.bring(0, 14);
  w.end(56);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 56);
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
  EXPECT_EQ(w.rig.core->gauges().tiers.sessions[1], 1);
}

TEST(ReceiverRoom, ForAJobTheLongestIdleGivesWay) {
  Full w;
  w.expect(32, true);
  w.bring(0, 8);
  w.end(32);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 32);
  const auto dropped = w.rig.all<SessionDropped>();
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0].session, SessionNumber{1});
}

TEST(ReceiverRoom, ForAJobTooItGoesBelowWhereItCan) {
  Full w(64);
  w.expect(32, true);
  w.rig.finish_moves();
  w.bring(0, 8);
  w.end(32);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 32);
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
}

TEST(ReceiverRoom, ThoseThatComeTakeNothingFromEachOther) {
  Full w;
  w.expect(32, true);
  w.bring(0, 4);
  w.expect(32, true, SessionNumber{10});
  w.bring(0, 8, SessionNumber{10});
  w.bring(4, 8);
  w.end(32);
  w.end(32, SessionNumber{10});
  EXPECT_EQ(w.rig.all<SessionDropped>().size(), 2u);
  w.expect(8, true, SessionNumber{11});
  EXPECT_EQ(w.rig.last<HandOverFailed>().session, SessionNumber{11});
  EXPECT_EQ(w.sessions(), 2) << "they are there, whole";
}

TEST(ReceiverRoom, WhatAJobTookMeanwhileIsMadeAgain) {
  Full w(64);
  w.expect(32, false);
  w.rig.finish_moves();
  w.bring(0, 2);
  w.credits();
  w.turn_of(3, 3, 24);  // begins with the pages that were meant for the rest
  ASSERT_TRUE(w.rig.turn());
  w.bring(2, 8);
  while (w.rig.turn() || !w.rig.moves.empty()) w.rig.finish_moves();
  int64_t next = 2;
  for (const TransferCredit& c : w.credits()) next = std::max(next, c.next_page);
  w.bring(next, 8);
  w.rig.finish_moves();
  w.end(32);
  EXPECT_EQ(w.rig.last<SessionReceived>().tokens, 32);
  EXPECT_TRUE(w.rig.all<SessionDropped>().empty());
  EXPECT_EQ(w.rig.output_of(3).size(), 4u);
}

TEST(ReceiverRoom, WhatCanGoBelowIsAnnounced) {
  EXPECT_EQ(Full().room().spill_kv_tokens, 0);
  EXPECT_EQ(Full(64).room().spill_kv_tokens, 4 * 14);
  EXPECT_EQ(Full(7).room().spill_kv_tokens, 4 * 7);
  EXPECT_EQ(Full(7, 64).room().spill_kv_tokens, 4 * 14);
}

TEST(ReceiverRoom, WhatHasComeIsAnnouncedAsSoonAsItMayGoBelow) {
  Full w(64);
  w.expect(8, false);
  w.bring(0, 2);
  w.end(8);
  const auto before = w.rig.last<Heartbeat>();
  w.rig.tell(KeepSession{kComing, Epoch{2}});
  w.rig.give(Tick{});
  const auto after = w.rig.last<Heartbeat>();
  EXPECT_GT(after.sequence, before.sequence);
  EXPECT_EQ(after.room.spill_kv_tokens, before.room.spill_kv_tokens + 8);
}

}  // namespace
}  // namespace limpet::worker
