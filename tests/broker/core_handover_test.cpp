// A worker leaves: who receives its sessions, and when they are theirs.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

// Two workers that understand each other's pages; w0 is the home of session "s".
struct HandOvers : testing::Test {
  HandOvers() {
    for (const int w : {0, 1}) s.enroll_with_transfer(w);
    s.at(1).free_kv = 5000;  // so that the first session is placed at w0
    s.heartbeat(1);
    s.submit("a", "s");
    s.run(0, "a");
    s.heartbeat(0);
  }
  SessionNumber session() { return s.job("a").accepted.session; }
  const sim::ReferenceStore::Session& stored() { return s.session_of("a"); }
  void leave() { s.say(0, Leaving{s.incarnation(0)}); }
  void received(Epoch epoch) { s.say(1, SessionReceived{session(), epoch, 13}); }
  Scenario s;
};

TEST_F(HandOvers, AnIdleSessionMovesOnceItIsReceived) {
  const Epoch epoch = stored().epoch;
  leave();
  const auto* expect = s.told_worker<ExpectSession>(1);
  const auto* give = s.told_worker<HandOver>(0);
  ASSERT_TRUE(expect && give);
  EXPECT_EQ(expect->giver, s.incarnation(0));
  EXPECT_EQ(give->endpoint, "ipc://w1");
  EXPECT_EQ(give->receiver, s.incarnation(1));
  EXPECT_EQ(stored().home, "w0") << "its giver owns it until the receiver has all";
  EXPECT_FALSE(s.told_worker<MayLeave>(0));
  received(epoch);
  EXPECT_EQ(stored().home, "w1");
  EXPECT_EQ(raw(stored().epoch), raw(epoch) + 1);
  ASSERT_TRUE(s.told_worker<KeepSession>(1));
  EXPECT_EQ(s.told_worker<KeepSession>(1)->epoch, stored().epoch);
  EXPECT_EQ(s.told_worker<ReleaseSession>(0)->epoch, epoch);
  EXPECT_TRUE(s.told_worker<MayLeave>(0));
  s.submit("b", "s");
  const Dispatch& d = s.held(1, "b").dispatch;
  EXPECT_TRUE(d.has_transcript) << "the copy is compared with what is durable";
  EXPECT_EQ(d.home_reason, Reason::drained);
}

TEST_F(HandOvers, ARunningJobGoesOnAtTheReceiverFromWhatIsDurable) {
  s.submit("b", "s");
  s.start(0, "b");
  s.make(0, "b", 3);
  leave();
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  s.make(0, "b", 1);  // it decodes on while its pages go
  received(stored().epoch);
  ASSERT_TRUE(s.has(1, "b"));
  EXPECT_EQ(s.held(1, "b").dispatch.output_tokens, 4);
  EXPECT_EQ(raw(s.job("b").attempt), 2u);
  EXPECT_EQ(s.job("b").failures, 0);
  EXPECT_FALSE(s.has(0, "b")) << "the giver is told to let go";
}

TEST_F(HandOvers, AJobThatWaitsWaitsForTheMove) {
  leave();
  s.submit("b", "s");
  EXPECT_FALSE(s.has(0, "b"));
  EXPECT_FALSE(s.has(1, "b"));
  received(stored().epoch);
  EXPECT_TRUE(s.has(1, "b"));
}

TEST_F(HandOvers, WordOfAnOldLeaseMovesNothing) {
  leave();
  const Epoch epoch = stored().epoch;
  received(Epoch{raw(epoch) - 1});
  EXPECT_EQ(stored().home, "w0");
  EXPECT_TRUE(s.told_worker<ReleaseSession>(1));
  s.say(0, SessionReceived{session(), epoch, 13});  // nor that of another than the receiver
  EXPECT_EQ(stored().home, "w0");
}

TEST_F(HandOvers, AReceiptThatComesTwiceIsAnsweredTwice) {
  leave();
  const Epoch epoch = stored().epoch;
  received(epoch);
  received(epoch);
  ASSERT_TRUE(s.told_worker<KeepSession>(1));
  EXPECT_EQ(s.told_worker<KeepSession>(1)->epoch, stored().epoch);
}

TEST_F(HandOvers, AFailureLeavesTheJobWhereItRuns) {
  s.submit("b", "s");
  s.start(0, "b");
  leave();
  s.say(0, HandOverFailed{session(), stored().epoch, "its KV is gone"});
  EXPECT_TRUE(s.told_worker<ReleaseSession>(1));
  EXPECT_EQ(stored().home, "w0");
  s.make(0, "b", 8);
  EXPECT_FALSE(s.told_worker<MayLeave>(0));
  s.end(0, "b");
  EXPECT_EQ(s.state("b"), JobState::finished);
  EXPECT_TRUE(s.told_worker<MayLeave>(0));
}

TEST_F(HandOvers, WithoutRoomItsNextTurnIsPrefilledElsewhere) {
  s.at(1).free_kv = 5;
  s.at(1).idle_kv = 5000;
  s.heartbeat(1);
  leave();
  EXPECT_FALSE(s.told_worker<HandOver>(0));
  EXPECT_TRUE(s.told_worker<MayLeave>(0));
  s.submit("b", "s");
  ASSERT_TRUE(s.has(1, "b"));
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::drained);
}

struct FullReceiver : HandOvers {
  FullReceiver() { full(0); }
  // The device of w1 is full of idle KV, and so much of it could go below.
  void full(int64_t spill) {
    s.at(1).free_kv = 5;
    s.at(1).idle_kv = 5000;
    s.at(1).spill_kv = spill;
    s.heartbeat(1);
  }
  using Outcomes = std::vector<std::string>;
  Outcomes outcomes() { return s.told(Fact::Kind::hand_over); }
};

TEST_F(FullReceiver, AnIdleSessionGoesWhereIdleKvCanBeSpilledForIt) {
  full(16);
  leave();
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  const auto* expect = s.told_worker<ExpectSession>(1);
  ASSERT_TRUE(expect);
  EXPECT_EQ(expect->tokens, 11);
  EXPECT_FALSE(expect->has_job) << "nothing may be lost for it";
  received(stored().epoch);
  EXPECT_EQ(outcomes(), Outcomes{"moved"});
}

TEST_F(FullReceiver, WhatCannotAllBeSpilledIsNoRoomForAnIdleSession) {
  full(5);
  leave();
  EXPECT_FALSE(s.told_worker<HandOver>(0));
  EXPECT_EQ(outcomes(), Outcomes{"no_room"});
}

TEST_F(FullReceiver, AJobThatRunsGoesWhereIdleKvGivesWay) {
  s.submit("b", "s");
  s.start(0, "b");
  s.make(0, "b", 3);
  leave();
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  const auto* expect = s.told_worker<ExpectSession>(1);
  ASSERT_TRUE(expect);
  EXPECT_EQ(expect->tokens, 17);
  EXPECT_TRUE(expect->has_job);
  received(stored().epoch);
  EXPECT_TRUE(s.has(1, "b"));
}

TEST_F(FullReceiver, AJobThatWaitsGoesWhereIdleKvGivesWay) {
  s.submit("b", "s");
  s.submit("c", "s");
  s.start(0, "b");
  s.at(1).slots = 0;
  s.heartbeat(1);  // so nobody may take the job that runs
  leave();
  EXPECT_FALSE(s.told_worker<HandOver>(0));
  s.at(1).slots = 2;
  s.at(1).free_kv = s.at(1).idle_kv = 0;
  s.at(2).free_kv = 5;
  s.at(2).idle_kv = 5000;
  s.heartbeat(1);
  s.enroll_with_transfer(2);
  s.heartbeat(0);
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  EXPECT_EQ(s.told_worker<HandOver>(0)->endpoint, "ipc://w2");
}

TEST_F(FullReceiver, WhereNothingHasToGiveWayComesFirst) {
  full(5000);
  s.at(2).free_kv = 20;
  s.enroll_with_transfer(2);
  leave();
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  EXPECT_EQ(s.told_worker<HandOver>(0)->endpoint, "ipc://w2");
}

TEST_F(FullReceiver, AnIdleSessionWaitsForTheRoomThatAMoveLeaves) {
  s.at(1).idle_kv = 0;
  s.heartbeat(1);
  s.submit("b", "s2");
  ASSERT_TRUE(s.has(0, "b"));
  s.run(0, "b");
  s.heartbeat(0);
  s.at(1).free_kv = 15;
  s.heartbeat(1);
  leave();
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  EXPECT_EQ(s.told_worker<HandOver>(0)->session, session()) << "there is room for one of them";
  s.at(1).free_kv = 4;
  s.at(1).idle_kv = 11;
  s.heartbeat(1);
  received(stored().epoch);
  EXPECT_FALSE(s.told_worker<MayLeave>(0)) << "what has come may be what gives way";
  s.heartbeat(1);
  EXPECT_FALSE(s.told_worker<MayLeave>(0)) << "that one may have crossed with the news";
  s.at(1).spill_kv = 11;
  s.heartbeat(1);
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  EXPECT_NE(s.told_worker<HandOver>(0)->session, session());
  EXPECT_EQ(outcomes(), Outcomes{"moved"});
}

TEST_F(FullReceiver, AnIdleSessionForWhichNoRoomIsLeftWaitsNoLonger) {
  s.at(1).idle_kv = 0;
  s.heartbeat(1);
  s.submit("b", "s2");
  s.run(0, "b");
  s.heartbeat(0);
  s.at(1).free_kv = 15;
  s.heartbeat(1);
  leave();
  s.at(1).free_kv = 4;
  s.at(1).idle_kv = 11;
  s.heartbeat(1);
  received(stored().epoch);
  s.heartbeat(1);
  EXPECT_FALSE(s.told_worker<MayLeave>(0));
  s.heartbeat(1);
  EXPECT_TRUE(s.told_worker<MayLeave>(0));
  EXPECT_EQ(outcomes(), (Outcomes{"moved", "no_room"}));
}

TEST_F(FullReceiver, WhatBecameOfASessionIsToldOnce) {
  s.at(1).idle_kv = 0;
  s.heartbeat(1);
  s.submit("b", "s");
  s.start(0, "b");
  leave();
  for (int i = 0; i < 5; ++i) s.heartbeat(0);
  EXPECT_EQ(outcomes(), Outcomes{}) << "it is looked at again while it runs";
  s.make(0, "b", 8);
  s.end(0, "b");
  s.tell(WorkerUnreachable{s.connection(0)});
  EXPECT_EQ(outcomes(), Outcomes{"no_room"});
}

TEST_F(FullReceiver, OneThatMovesInTheEndHasMoved) {
  s.at(1).idle_kv = 0;
  s.heartbeat(1);
  s.submit("b", "s");
  s.start(0, "b");
  leave();
  s.at(1).idle_kv = 5000;
  s.heartbeat(1);
  s.heartbeat(0);
  ASSERT_TRUE(s.told_worker<HandOver>(0));
  received(stored().epoch);
  s.tell(WorkerUnreachable{s.connection(0)});
  EXPECT_EQ(outcomes(), Outcomes{"moved"});
}

TEST_F(FullReceiver, OfTwoTriesTheLastOneIsTold) {
  full(5000);
  s.at(2).free_kv = 4000;
  s.enroll_with_transfer(2);
  leave();
  s.say(0, HandOverFailed{session(), stored().epoch, "first"});
  EXPECT_EQ(outcomes(), Outcomes{});
  s.say(0, HandOverFailed{session(), stored().epoch, "second"});
  EXPECT_EQ(outcomes(), Outcomes{"giver: second"});
  s.tell(WorkerUnreachable{s.connection(0)});
  EXPECT_EQ(outcomes(), Outcomes{"giver: second"});
}

TEST_F(HandOvers, NobodyIsGivenPagesOfAnotherLayout) {
  s.layout_of_[1] = 8;
  s.rebirth(1);
  s.enroll_with_transfer(1);
  leave();
  EXPECT_FALSE(s.told_worker<HandOver>(0));
}

TEST_F(HandOvers, AReceiverThatDiesIsForgottenAndTheGiverToldToStop) {
  s.submit("b", "s");
  s.start(0, "b");
  leave();
  s.tell(WorkerUnreachable{s.connection(1)});
  EXPECT_TRUE(s.told_worker<StopHandOver>(0));
  s.make(0, "b", 8);
  s.end(0, "b");
  EXPECT_EQ(s.state("b"), JobState::finished);
}

TEST_F(HandOvers, AGiverThatDiesLeavesItsJobsToOthers) {
  leave();
  s.submit("b", "s");
  s.tell(WorkerUnreachable{s.connection(0)});
  ASSERT_TRUE(s.has(1, "b"));
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::drained);
}

TEST_F(HandOvers, WhatTakesTooLongIsGivenUp) {
  leave();
  s.submit("b", "s");
  s.pass_alive(std::chrono::milliseconds(10500), {0, 1});
  EXPECT_TRUE(s.has(1, "b"));
}

TEST_F(HandOvers, ADrainIsAskedUntilTheWorkerSaysThatItLeaves) {
  s.client(Drain{"w0", 0}, "");
  const auto* status = s.told_client<DrainStatus>();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->state, DrainStatus::State::asked);
  EXPECT_EQ(status->incarnation, s.incarnation(0));
  EXPECT_EQ(status->sessions, 1);
  EXPECT_TRUE(s.told_worker<Leave>(0));
  s.heartbeat(0);
  EXPECT_TRUE(s.told_worker<Leave>(0)) << "the first may have been lost";
  leave();
  s.heartbeat(0);
  EXPECT_FALSE(s.told_worker<Leave>(0));
  s.client(Drain{"w0", s.incarnation(0)}, "");
  EXPECT_EQ(s.told_client<DrainStatus>()->state, DrainStatus::State::leaving);
  const uint64_t before = s.incarnation(0);
  s.rebirth(0);
  s.enroll_with_transfer(0);
  s.client(Drain{"w0", before}, "");
  EXPECT_EQ(s.told_client<DrainStatus>()->state, DrainStatus::State::gone);
  EXPECT_FALSE(s.told_worker<Leave>(0)) << "the process that came after it is not meant";
  s.client(Drain{"nobody", 0}, "");
  EXPECT_EQ(s.told_client<DrainStatus>()->state, DrainStatus::State::unknown);
}

TEST_F(HandOvers, WhoSaysThatItGoesIsGoneAtOnce) {
  s.client(Drain{"w0", 0}, "");
  leave();
  s.say(0, Leaving{s.incarnation(0), true});
  s.client(Drain{"w0", s.incarnation(0)}, "");
  EXPECT_EQ(s.told_client<DrainStatus>()->state, DrainStatus::State::gone);
  s.client(List{.what = Listing::workers}, "");
  for (const WorkerInfo& w : s.told_client<Listed>()->workers) {
    if (w.worker == "w0") {
      EXPECT_EQ(w.state, "left");
      EXPECT_EQ(w.running, 0);
    }
  }
  s.submit("b", "s");
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::drained);
}

TEST_F(HandOvers, ATenantMayNotDrainAWorker) {
  s.tell(ClientEvent{ClientId{1}, Drain{"w0", 0}, 0, {}, "acme", false});
  ASSERT_TRUE(s.told_client<Refused>());
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::forbidden);
  EXPECT_FALSE(s.told_worker<Leave>(0));
  s.tell(ClientEvent{ClientId{1}, Drain{"w0", 0}, 0, {}, "acme", true});
  EXPECT_TRUE(s.told_worker<Leave>(0));
}

TEST_F(HandOvers, AResidentOnlyJobTakesWhatWasHandedOver) {
  leave();
  received(stored().epoch);
  JobSpec spec = Scenario::spec("b", "s");
  spec.require_resident = true;
  s.submit(spec);
  EXPECT_TRUE(s.has(1, "b"));
}

TEST_F(HandOvers, TheCostOfLosingAWorkerIsWhatItHolds) {
  for (const Core::WorkerCost& w : s.core().worker_costs()) {
    EXPECT_EQ(w.sessions, w.worker == "w0" ? 1 : 0);
    EXPECT_EQ(w.running_jobs, 0);
  }
}

}  // namespace
}  // namespace limpet::broker
