// The broker dies; a new one goes on from what is stored.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

TEST(CoreRestart, RunningJobsGoOnWhereTheyAre) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 3);
  s.held(1, "a").made = 5;  // two were on their way when the broker died
  s.restart();
  s.heartbeat(1);
  ASSERT_NE(s.told_worker<WhoAreYou>(1), nullptr);
  s.enroll(1);
  const Registered* r = s.told_worker<Registered>(1);
  ASSERT_EQ(r->resume.size(), 1u);
  EXPECT_EQ(r->resume[0].from_index, 3);
  EXPECT_TRUE(r->release.empty());
  s.say(1, s.tokens(1, "a", 3, 5));
  s.held(1, "a").made = 8;
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreRestart, IdleSessionsKeepTheirHomes) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.restart();
  s.enroll(2);  // has room, and is there first
  s.submit("b", "chat");
  EXPECT_FALSE(s.has(2, "b"));
  s.enroll(1);
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::none);
  EXPECT_EQ(s.held(1, "b").dispatch.epoch, Epoch{1});
}

TEST(CoreRestart, HomesThatDoNotComeBackAreLostAfterTheGrace) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.start(1, "b");
  s.make(1, "b", 1);
  s.submit("x", "chat");
  s.restart();
  s.enroll(2);
  EXPECT_TRUE(s.at(2).jobs.empty());
  s.pass_alive(milliseconds(3500), {2});
  const Dispatch& d = s.held(2, "b").dispatch;
  EXPECT_EQ(d.home_reason, Reason::worker_lost);
  EXPECT_EQ(d.output_tokens, 1);
}

TEST(CoreRestart, ADispatchThatNeverLeftIsDoneAgain) {
  Scenario s;
  s.enroll(1);
  s.deaf_ = true;  // durable, but the broker died before it was sent
  s.submit("a", "chat");
  s.deaf_ = false;
  s.restart();
  s.enroll(1);
  EXPECT_EQ(s.held(1, "a").dispatch.attempt, Attempt{2});
}

TEST(CoreRestart, ANewIncarnationAfterTheRestartHoldsNothing) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.start(1, "b");
  s.rebirth(1);
  s.restart();
  s.enroll(1);
  const Dispatch& d = s.held(1, "b").dispatch;
  EXPECT_EQ(d.epoch, Epoch{2});
  EXPECT_EQ(d.home_reason, Reason::worker_lost);
  EXPECT_TRUE(d.has_transcript);
}

TEST(CoreRestart, NumbersNeverRepeat) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.run(1, "a");
  const JobNumber job = s.job("a").accepted.job;
  const SessionNumber session = s.job("a").accepted.session;
  s.restart();
  s.submit("b");
  EXPECT_GT(s.job("b").accepted.job, job);
  EXPECT_GT(s.job("b").accepted.session, session);
}

TEST(CoreRestart, DeadlinesGoOnByTheWallClock) {
  Scenario s;
  JobSpec a = Scenario::spec("a");
  a.deadline_ms = 10000;
  s.submit(a);
  s.clock().wall += 9500;  // while it was down
  s.restart();
  s.pass(milliseconds(400));
  EXPECT_EQ(s.state("a"), JobState::queued);
  s.pass(milliseconds(200));
  EXPECT_EQ(s.state("a"), JobState::expired);
}

TEST(CoreRestart, TimesAreMeasuredFromAcceptanceThroughARestart) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 2);
  s.clock().mono += milliseconds(3000);
  s.clock().wall += 3000;
  s.restart();
  s.enroll(1);
  s.make(1, "a", 6);
  s.end(1, "a");
  const Timings& t = s.job("a").end->timings;
  EXPECT_DOUBLE_EQ(t.queue, 3.0);  // at the latest
  EXPECT_DOUBLE_EQ(t.first_token, 3.0);
  EXPECT_DOUBLE_EQ(t.total, 3.0);
}

TEST(CoreRestart, WhatAnAttemptFoundIsToldAgain) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.restart();
  s.enroll(1);
  JobStarted again = started(s.held(1, "a").dispatch);
  again.residency = Residency::reprefilled;
  s.say(1, again);
  s.make(1, "a", 1);
  bool told = false;
  for (const Fact& f : s.out().facts) {
    if (f.kind != Fact::Kind::first_token) continue;
    told = true;
    EXPECT_EQ(f.residency, Residency::reprefilled);
  }
  EXPECT_TRUE(told);
}

TEST(CoreRestart, LanesKeepTheirOrder) {
  Scenario s;
  for (const char* id : {"a", "b", "c"}) s.submit(id, "chat");
  s.restart();
  s.enroll(1);
  for (const char* id : {"a", "b", "c"}) s.run(1, id);
  EXPECT_EQ(s.state("c"), JobState::finished);
  EXPECT_EQ(s.session_of("c").transcript.size(), 33u);
}

}  // namespace
}  // namespace limpet::broker
