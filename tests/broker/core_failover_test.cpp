// Attempts end, sessions move, nothing old is believed.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

TEST(CoreFailover, ALostWorkersJobGoesOnElsewhereAtTheNextIndex) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 3);
  s.enroll(2);
  s.pass_alive(milliseconds(4000), {2});
  const Dispatch& d = s.held(2, "a").dispatch;
  EXPECT_EQ(d.attempt, Attempt{2});
  EXPECT_EQ(d.epoch, Epoch{2});
  EXPECT_EQ(d.output_tokens, 3);
  EXPECT_EQ(d.prompt_tokens, 3);
  EXPECT_EQ(d.home_reason, Reason::worker_lost);
  EXPECT_TRUE(d.has_transcript);
  s.start(2, "a");
  s.make(2, "a", 5);
  s.end(2, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
  EXPECT_EQ(s.job("a").output.size(), 8u);
}

TEST(CoreFailover, AnOldHomeIsNotBelieved) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  const StepTokens old = s.tokens(1, "a", 0, 1);
  s.enroll(2);
  s.pass_alive(milliseconds(4000), {2});
  s.start(2, "a");
  s.heartbeat(1);  // it was only slow
  EXPECT_NE(s.told_worker<WhoAreYou>(1), nullptr);
  const HeldSession lease = s.at(1).sessions.at(0);
  s.enroll(1);
  const Registered* r = s.told_worker<Registered>(1);
  ASSERT_NE(r, nullptr);
  ASSERT_EQ(r->drop.size(), 1u);
  ASSERT_EQ(r->release.size(), 1u);
  EXPECT_EQ(r->release[0].session, lease.session);
  s.say(1, old);
  EXPECT_TRUE(s.out().append.empty());
  EXPECT_NE(s.told_worker<EndAck>(1), nullptr);
}

TEST(CoreFailover, ANewIncarnationReplacesTheOldAtOnce) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 2);
  const uint64_t old = s.incarnation(1);
  s.rebirth(1);
  s.enroll(1);
  EXPECT_EQ(s.held(1, "a").dispatch.attempt, Attempt{2});
  EXPECT_TRUE(s.held(1, "a").dispatch.has_transcript);
  Register ghost;  // a late copy of the old one's registration
  ghost.worker = "w1";
  ghost.incarnation = old;
  s.say(1, ghost);
  EXPECT_NE(s.told_worker<RegisterRefused>(1), nullptr);
}

TEST(CoreFailover, AGhostOfAnOldIncarnationKeepsTheLivingOneOutOnlyForItsLease) {
  Scenario s;
  const uint64_t old = s.incarnation(1);
  s.rebirth(1);
  s.enroll(1);
  s.restart();  // it does not remember who came after whom
  s.enroll(1);
  Register ghost;
  ghost.worker = "w1";
  ghost.incarnation = old;
  s.tell(WorkerEvent{WorkerId{999}, ghost});
  s.enroll(1);
  EXPECT_NE(s.told_worker<RegisterRefused>(1), nullptr);
  s.enroll(2);
  s.pass_alive(milliseconds(4000), {2});
  s.enroll(1);
  EXPECT_NE(s.told_worker<Registered>(1), nullptr);
}

TEST(CoreFailover, TheSameLifeByANewConnectionKeepsItsJobs) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  Register r;
  r.worker = "w1";
  r.incarnation = s.incarnation(1);
  r.room = {1, 1000, 10000};
  const Dispatch d = s.held(1, "a").dispatch;
  r.sessions = {{d.session, d.epoch, 3}};
  r.jobs = {{d.job, d.attempt, 0, true, false}};
  s.tell(WorkerEvent{WorkerId{177}, r});
  EXPECT_TRUE(s.out().append.empty());
  const auto& to = std::get<ToWorker>(s.out().send.at(0));
  EXPECT_EQ(to.worker, WorkerId{177});
  const auto& answer = std::get<Registered>(to.message);
  ASSERT_EQ(answer.resume.size(), 1u);
  EXPECT_TRUE(answer.release.empty());
  s.heartbeat(1);  // by the old connection
  EXPECT_NE(s.told_worker<WhoAreYou>(1), nullptr);
}

TEST(CoreFailover, ALostDispatchIsFoundByHeartbeats) {
  Scenario s;
  s.enroll(1);
  s.deaf_ = true;
  s.submit("a");
  s.deaf_ = false;
  s.pass_alive(milliseconds(1500), {1});
  EXPECT_EQ(s.held(1, "a").dispatch.attempt, Attempt{2});
}

TEST(CoreFailover, AHeartbeatSentBeforeTheDispatchArrivedProvesNothing) {
  Scenario s;
  s.enroll(1);
  s.heartbeat(1);
  s.submit("a");
  s.say(1, Heartbeat{s.incarnation(1), ++s.at(1).beat, {2, 1000, 1000}, {}});
  EXPECT_TRUE(s.out().append.empty());
  EXPECT_EQ(s.state("a"), JobState::dispatched);
}

TEST(CoreFailover, AHomeThatDoesNotStartLosesTheSession) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.enroll(2);
  s.submit("b", "chat");
  s.pass_alive(milliseconds(5500), {1, 2});
  const Dispatch& d = s.held(2, "b").dispatch;
  EXPECT_EQ(d.home_reason, Reason::start_deadline);
  EXPECT_EQ(d.attempt, Attempt{2});
  EXPECT_EQ(d.epoch, Epoch{2});
}

TEST(CoreFailover, AHomeWithoutRoomLosesTheSessionToOneThatHas) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("long");
  s.start(1, "long");
  s.enroll(2);
  s.submit("b", "chat");
  EXPECT_FALSE(s.has(2, "b"));
  s.pass_alive(milliseconds(5500), {1, 2});
  EXPECT_EQ(s.held(2, "b").dispatch.attempt, Attempt{1});
  EXPECT_EQ(s.held(2, "b").dispatch.home_reason, Reason::start_deadline);
}

TEST(CoreFailover, WithNowhereElseToGoWaitingAtHomeCostsNoAttempt) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.pass_alive(milliseconds(30000), {1});
  EXPECT_EQ(s.held(1, "a").dispatch.attempt, Attempt{1});
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreFailover, WaitingCostsNoAttempt) {
  CoreOptions o;
  o.start_deadline = milliseconds(1000);
  Scenario s(o);
  s.enroll(1);
  s.enroll(2);
  s.submit("a", "chat");
  for (int i = 0; i < 5; ++i) s.pass_alive(milliseconds(1500), {1, 2});  // nobody begins it
  EXPECT_GT(raw(s.job("a").attempt), 3u);
  const int at = s.session_of("a").home == "w1" ? 1 : 2;
  s.run(at, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreFailover, WhatNeverBeganWaitsForLongAndIsNotFailed) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  for (int i = 0; i < 5; ++i) s.pass_alive(milliseconds(61000), {1});
  EXPECT_EQ(s.state("a"), JobState::dispatched);
  EXPECT_EQ(s.job("a").failures, 0);
}

TEST(CoreFailover, ADrainedAttemptIsNotAFailedOne) {
  CoreOptions o;
  o.max_attempts = 2;
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "chat");
  for (int i = 0; i < 4; ++i) {
    s.start(1, "a");
    s.say(1, Leaving{s.incarnation(1)});
    s.rebirth(1);
    s.enroll(1);
  }
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreFailover, ADispatchThatNeverLeftIsNotAFailedAttempt) {
  CoreOptions o;
  o.max_attempts = 2;
  Scenario s(o);
  s.enroll(1);
  s.deaf_ = true;  // the broker dies between its commit and its sends
  s.submit("a", "chat");
  for (int i = 0; i < 4; ++i) {
    s.restart();
    s.enroll(1);
  }
  s.deaf_ = false;
  s.restart();
  s.enroll(1);
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreFailover, TheOneThatFailedIsAvoidedWhileAnotherLives) {
  Scenario s;
  s.at(1).slots = s.at(2).slots = 1;
  s.enroll(2);
  s.submit("busy");
  s.start(2, "busy");
  s.enroll(1);
  s.submit("a", "chat");
  JobEnded m = ended(s.held(1, "a").dispatch, false);
  m.retryable = true;
  m.code = ErrorCode::worker_error;
  s.say(1, m);
  EXPECT_EQ(s.job("a").attempt, Attempt{1});  // 2 is full, and yet
  s.make(2, "busy", 8);
  s.end(2, "busy");
  EXPECT_TRUE(s.has(2, "a"));
}

TEST(CoreFailover, WhoAvoidsAWorkerHoldsNobodyElseBackThere) {
  Scenario s;
  s.at(1).slots = s.at(2).slots = 1;
  s.enroll(2);
  s.submit("busy");
  s.start(2, "busy");
  s.enroll(1);
  s.submit("home", "at1");
  s.run(1, "home");
  s.submit("a", "chat");
  JobEnded m = ended(s.held(1, "a").dispatch, false);
  m.retryable = true;
  m.code = ErrorCode::worker_error;
  s.say(1, m);  // it waits for 2
  s.submit("next", "at1");
  EXPECT_TRUE(s.has(1, "next"));
  s.run(1, "next");
  s.submit("new");
  EXPECT_TRUE(s.has(1, "new"));
  // Should the other one never have a place, it is thought over.
  s.run(1, "new");
  s.pass_alive(milliseconds(6000), {1, 2});
  EXPECT_TRUE(s.has(1, "a"));
}

TEST(CoreFailover, FailuresAreCountedOverARestart) {
  CoreOptions o;
  o.max_attempts = 2;
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.rebirth(1);
  s.enroll(1);
  s.start(1, "a");
  s.restart();
  s.rebirth(1);
  s.enroll(1);
  EXPECT_EQ(s.state("a"), JobState::failed);
  EXPECT_EQ(s.job("a").end->code, ErrorCode::attempts_exhausted);
}

TEST(CoreFailover, TheShortestStartDeadlineDoesNotStopTime) {
  CoreOptions o;
  o.start_deadline = milliseconds(1);
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "chat");
  s.pass(milliseconds(10));
  EXPECT_EQ(s.state("a"), JobState::dispatched);
}

// A broker to which nobody speaks wakes only when it asks for it.
TEST(CoreFailover, ASilentWorkerIsLostThoughNobodyElseSpeaks) {
  for (const int lease : {300, 600, 1500, 3000}) {
    CoreOptions o;
    o.heartbeat = milliseconds(100);
    o.lease = milliseconds(lease);
    Scenario s(o);
    s.enroll(1);
    s.submit("a", "chat");
    s.start(1, "a");
    const Time silent = s.now().mono;
    while (s.state("a") == JobState::running && s.now().mono - silent < milliseconds(4 * lease)) {
      const Time due = s.core().next_deadline();
      ASSERT_NE(due, Time::max());
      s.pass(std::max(std::chrono::ceil<milliseconds>(due - s.now().mono), milliseconds(1)));
    }
    EXPECT_EQ(s.state("a"), JobState::queued) << lease;
    EXPECT_LT(s.now().mono - silent, milliseconds(2 * lease)) << lease;
  }
}

TEST(CoreFailover, ASessionOfAnotherModelIsTold) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.rebirth(1);
  s.at(1).model = 8;
  s.enroll(1);
  s.submit("b", "chat");
  const Dispatch& d = s.held(1, "b").dispatch;
  EXPECT_EQ(d.home_reason, Reason::model_changed);
  EXPECT_TRUE(d.has_transcript);
}

TEST(CoreFailover, ALostSessionGoesToItsModelFirst) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.at(2).model = 8;
  s.at(2).free_kv = 20000;
  s.at(3).free_kv = 5000;
  s.enroll(2);
  s.enroll(3);
  s.say(1, Leaving{s.incarnation(1)});
  s.restart();  // the model is in the store
  s.enroll(2);
  s.enroll(3);
  s.pass_alive(milliseconds(4000), {2, 3});
  s.submit("b", "chat");
  EXPECT_EQ(s.held(3, "b").dispatch.home_reason, Reason::worker_lost);
}

TEST(CoreFailover, ASilentAttemptEnds) {
  CoreOptions o;
  o.attempt_deadline = milliseconds(10000);
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.enroll(2);
  s.pass_alive(milliseconds(9000), {1, 2});
  s.make(1, "a", 1);  // a sign of life
  s.pass_alive(milliseconds(9000), {1, 2});
  EXPECT_FALSE(s.has(2, "a"));
  s.pass_alive(milliseconds(2000), {1, 2});
  EXPECT_EQ(s.held(2, "a").dispatch.output_tokens, 1);
}

TEST(CoreFailover, AfterMaxAttemptsTheJobFailsWithItsLastReason) {
  Scenario s;
  for (int life = 0; life < 3; ++life) {
    s.enroll(1);
    if (life == 0) s.submit("a", "chat");
    s.start(1, "a");
    s.rebirth(1);
  }
  s.enroll(1);
  EXPECT_EQ(s.state("a"), JobState::failed);
  EXPECT_EQ(s.job("a").end->code, ErrorCode::attempts_exhausted);
  EXPECT_NE(s.job("a").end->message.find("worker_lost"), std::string::npos);
  EXPECT_TRUE(s.session_of("a").transcript.empty());
}

TEST(CoreFailover, AnEvictedSessionGoesWhereThereIsRoom) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.say(1, SessionDropped{s.job("a").accepted.session, Epoch{1}, Reason::evicted});
  EXPECT_TRUE(s.session_of("a").home.empty());
  s.at(2).free_kv = 20000;
  s.enroll(2);
  s.submit("b", "chat");
  EXPECT_EQ(s.held(2, "b").dispatch.home_reason, Reason::evicted);
  EXPECT_TRUE(s.held(2, "b").dispatch.has_transcript);
  s.say(1, SessionDropped{s.job("a").accepted.session, Epoch{1}, Reason::evicted});
  EXPECT_TRUE(s.out().append.empty());
}

TEST(CoreFailover, ADropThatCrossesADispatchChangesNothing) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.say(1, SessionDropped{s.job("a").accepted.session, Epoch{1}, Reason::evicted});
  EXPECT_TRUE(s.out().append.empty());
  const Dispatch& d = s.held(1, "b").dispatch;
  s.say(1, NeedTranscript{d.job, d.attempt});
  EXPECT_NE(s.told_worker<TranscriptReply>(1), nullptr);
  EXPECT_TRUE(std::get<ToWorker>(s.out().send.back()).fill_transcript);
}

TEST(CoreFailover, ALeavingWorkerGetsNoMore) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.say(1, Leaving{s.incarnation(1)});
  s.submit("x");
  EXPECT_FALSE(s.has(1, "x"));
  s.make(1, "a", 8);
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
  s.submit("b", "chat");
  s.enroll(2);
  EXPECT_EQ(s.held(2, "b").dispatch.home_reason, Reason::drained);
}

TEST(CoreFailover, AnAttemptLostBetweenItsLastTokenAndItsEndEndsWithoutANewStart) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 8);
  s.rebirth(1);
  s.enroll(1);
  s.held(1, "a").made = 8;  // what it was given is complete
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreFailover, MissingTokensAreAskedForWhenAHeartbeatShowsThem) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  s.held(1, "a").made = 2;  // both lost
  s.heartbeat(1);
  EXPECT_EQ(s.told_worker<ResumeJob>(1), nullptr);  // they may still be on their way
  s.pass(milliseconds(250));
  s.heartbeat(1);
  ASSERT_NE(s.told_worker<ResumeJob>(1), nullptr);
  EXPECT_EQ(s.told_worker<ResumeJob>(1)->from_index, 0);
}

TEST(CoreFailover, AStallOfTheBrokerLosesNoWorker) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  s.heartbeat(1);
  s.pass(milliseconds(10000));  // its heartbeats wait in our sockets, behind the timer
  EXPECT_EQ(s.state("a"), JobState::running);
  s.heartbeat(1);
  s.pass(milliseconds(600));
  s.heartbeat(1);
  EXPECT_EQ(s.state("a"), JobState::running);
}

TEST(CoreFailover, SessionsOfAWorkerThatLeftAndWentAreDrained) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.say(1, Leaving{s.incarnation(1)});
  EXPECT_EQ(s.core().gauges().workers_ready, 0);
  s.tell(WorkerUnreachable{s.connection(1)});
  s.enroll(2);
  s.submit("b", "chat");
  EXPECT_EQ(s.held(2, "b").dispatch.home_reason, Reason::drained);
}

}  // namespace
}  // namespace limpet::broker
