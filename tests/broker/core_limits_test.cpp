// Credit, queues, deadlines, and numbers that outlive a restart.
#include "schema/wire.h"
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

TEST(CoreLimits, NoMoreJobsThanSlots) {
  Scenario s;
  s.at(1).slots = 2;
  s.enroll(1);
  for (const char* id : {"a", "b", "c", "d"}) s.submit(id);
  EXPECT_EQ(s.at(1).jobs.size(), 2u);
  s.heartbeat(1);
  EXPECT_EQ(s.at(1).jobs.size(), 2u);
  s.run(1, "a");  // its place is free at once, not at the next heartbeat
  EXPECT_TRUE(s.has(1, "c"));
  EXPECT_FALSE(s.has(1, "d"));
}

TEST(CoreLimits, AnAnnouncementOlderThanADispatchDoesNotCountTwice) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  s.submit("a");
  s.submit("b");
  s.say(1,
        Heartbeat{s.incarnation(1), ++s.at(1).beat, {1, 1000, 1000}, {}});  // sent before "a" came
  EXPECT_FALSE(s.has(1, "b"));
}

TEST(CoreLimits, ACancelledJobKeepsItsSlotUntilTheWorkerLetsGo) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  const Dispatch d = s.held(1, "a").dispatch;
  s.submit("b");
  s.cancel("a");
  EXPECT_FALSE(s.has(1, "b"));
  JobEnded m = ended(d);
  m.reason = FinishReason::cancelled;
  s.say(1, m);
  EXPECT_TRUE(s.has(1, "b"));
}

TEST(CoreLimits, PlacementByRoomThenByJobs) {
  Scenario s;
  s.at(1).free_kv = 6000;
  s.at(2).free_kv = 9000;
  s.at(1).slots = s.at(2).slots = 8;
  s.enroll(1);
  s.enroll(2);
  s.submit("a");
  EXPECT_TRUE(s.has(2, "a"));
  JobSpec big = Scenario::spec("big");
  big.max_tokens = 8500;  // as far as the context goes: 4096 less at 2
  s.submit(big);
  EXPECT_TRUE(s.has(2, "big"));
  s.submit("c");
  EXPECT_TRUE(s.has(1, "c"));
}

JobSpec long_job(const std::string& id, int32_t max_tokens, const std::string& session = "") {
  JobSpec s = Scenario::spec(id, session);
  s.max_tokens = max_tokens;
  return s;
}

TEST(CoreLimits, NoMoreKvThanAWorkerHas) {
  Scenario s;
  s.at(1).slots = 8;
  s.at(1).free_kv = 1000;
  s.enroll(1);
  s.submit(long_job("a", 600));
  s.submit(long_job("b", 600));
  EXPECT_FALSE(s.has(1, "b"));
  s.start(1, "a");
  s.at(1).free_kv = 397;  // it allows for what "a" has and may come to need
  s.heartbeat(1);
  EXPECT_FALSE(s.has(1, "b"));
  s.at(1).idle_kv = 206;  // 603 with what idle sessions would give up
  s.heartbeat(1);
  EXPECT_TRUE(s.has(1, "b"));
  s.submit("c");
  EXPECT_FALSE(s.has(1, "c"));
  s.make(1, "a", 8);
  s.end(1, "a");  // what it had is idle at once, not at the next heartbeat
  EXPECT_TRUE(s.has(1, "c"));
}

TEST(CoreLimits, AWorkerWithoutJobsTakesAnyOne) {
  Scenario s;
  s.at(1).free_kv = 10;
  s.enroll(1);
  s.submit(long_job("a", 600));
  EXPECT_TRUE(s.has(1, "a"));
}

TEST(CoreLimits, WhoWaitsForKvIsNotOvertaken) {
  Scenario s;
  s.at(1).slots = 8;
  s.at(1).free_kv = 1000;
  s.enroll(1);
  s.submit(long_job("first", 8, "big"));
  s.run(1, "first");
  s.submit(long_job("a", 600));
  s.submit(long_job("next", 600, "big"));  // waits at its home
  s.submit("small");                       // would fit
  EXPECT_FALSE(s.has(1, "next"));
  EXPECT_FALSE(s.has(1, "small"));
  s.cancel("next");
  EXPECT_TRUE(s.has(1, "small"));
}

TEST(CoreLimits, WhoWaitsForKvAnywhereHoldsOnlyTheWorkerThatIsNext) {
  Scenario s;
  s.at(1).slots = s.at(2).slots = 8;
  s.at(2).free_kv = 500;
  s.enroll(2);
  s.submit("two", "at2");
  s.run(2, "two");
  s.submit(long_job("z", 100));  // neither is without jobs
  s.at(1).free_kv = 1000;
  s.enroll(1);
  s.submit("one", "at1");
  s.run(1, "one");
  s.submit(long_job("a", 100));
  ASSERT_TRUE(s.has(1, "a"));
  s.submit(long_job("b", 900));  // fits nowhere now; 1 is the next to have enough
  s.submit("x", "at1");
  s.submit("y", "at2");
  s.submit("new");
  EXPECT_FALSE(s.has(1, "b") || s.has(2, "b"));
  EXPECT_FALSE(s.has(1, "x"));
  EXPECT_TRUE(s.has(2, "y"));
  EXPECT_TRUE(s.has(2, "new"));
  s.run(1, "a");
  EXPECT_TRUE(s.has(1, "b"));
}

TEST(CoreLimits, IdleKvGivesWayBeforeAnyoneWaits) {
  Scenario s;
  s.at(1).slots = 8;
  s.at(1).free_kv = 2000;
  s.enroll(1);
  s.submit(long_job("a", 100));
  s.at(2).free_kv = 0;
  s.at(2).idle_kv = 8000;
  s.enroll(2);
  s.submit("small");
  EXPECT_TRUE(s.has(1, "small"));  // as long as there is room that is nobody's
  s.submit(long_job("big", 3000));
  EXPECT_TRUE(s.has(2, "big"));
}

TEST(CoreLimits, KvIsCountedInPages) {
  Scenario s;
  s.at(1).slots = 8;
  s.at(1).page = 16;
  s.at(1).free_kv = 64;
  s.enroll(1);
  for (const char* id : {"a", "b", "c"}) s.submit(long_job(id, 17));  // 20 tokens: two pages
  EXPECT_TRUE(s.has(1, "b"));
  EXPECT_FALSE(s.has(1, "c"));
}

TEST(CoreLimits, AWorkerWithoutPlaceAfterAllIsNotAskedAgainAtOnce) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  JobEnded m = ended(s.held(1, "a").dispatch, false);
  m.retryable = true;
  m.code = ErrorCode::busy;
  s.say(1, m);
  EXPECT_EQ(s.job("a").attempt, Attempt{1});
  EXPECT_EQ(s.job("a").failures, 0);
  s.heartbeat(1);
  EXPECT_EQ(s.job("a").attempt, Attempt{2});
}

TEST(CoreLimits, TiesArePlacedByHomes) {
  Scenario s;
  s.enroll(1);
  for (const char* id : {"a", "b"}) {
    s.submit(id, std::string("s") + id);
    s.run(1, id);
  }
  s.enroll(2);
  s.submit("c", "sc");
  EXPECT_TRUE(s.has(2, "c"));
}

TEST(CoreLimits, AFullQueueAnswersBusy) {
  CoreOptions o;
  o.max_queued_jobs = 3;
  Scenario s(o);
  for (const char* id : {"a", "b", "c", "d"}) s.submit(id);
  ASSERT_NE(s.told_client<Refused>(), nullptr);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::busy);
  EXPECT_GT(s.told_client<Refused>()->retry_after_ms, 0);
  s.submit("a");  // known ids are answered all the same
  EXPECT_NE(s.told_client<Accepted>(), nullptr);
  s.enroll(1);
  s.submit("d");
  EXPECT_NE(s.told_client<Accepted>(), nullptr);
}

TEST(CoreLimits, RetryAfterGrowsWithTheQueue) {
  CoreOptions small, large;
  small.max_queued_jobs = 10;
  large.max_queued_jobs = 1000;
  int64_t waits[2];
  int i = 0;
  for (const CoreOptions& o : {small, large}) {
    Scenario s(o);
    for (size_t n = 0; n <= o.max_queued_jobs; ++n) s.submit("j" + std::to_string(n));
    waits[i++] = s.told_client<Refused>()->retry_after_ms;
  }
  EXPECT_LT(waits[0], waits[1]);
}

TEST(CoreLimits, BodiesAreBoundedTogether) {
  CoreOptions o;
  o.max_queued_bytes = 10000;
  Scenario s(o);
  JobSpec big = Scenario::spec("big");
  big.tokens.assign(5000, 1);
  s.submit(big);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::busy);
}

TEST(CoreLimits, ABadRequestIsRefused) {
  Scenario s;
  JobSpec bad = Scenario::spec("a");
  bad.max_tokens = -1;
  s.submit(bad);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::invalid);
  EXPECT_TRUE(s.out().append.empty());
}

TEST(CoreLimits, DeadlinesExpireQueuedAndRunningJobs) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  JobSpec a = Scenario::spec("a"), b = Scenario::spec("b");
  a.deadline_ms = b.deadline_ms = 1000;
  s.submit(a);
  s.submit(b);
  EXPECT_EQ(s.held(1, "a").dispatch.deadline_ms, 1000);
  s.start(1, "a");
  s.make(1, "a", 2);
  s.clock().wall -= 3'600'000;  // the wall clock jumps; nothing follows
  s.pass_alive(milliseconds(750), {1});
  EXPECT_EQ(s.state("b"), JobState::queued);
  s.pass_alive(milliseconds(500), {1});
  EXPECT_EQ(s.state("a"), JobState::expired);
  EXPECT_EQ(s.state("b"), JobState::expired);
  EXPECT_EQ(s.job("a").end->usage.output_tokens, 2);
}

TEST(CoreLimits, TokensBeyondMaxTokensAreNotTaken) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  s.make(1, "a", 12);
  EXPECT_EQ(s.job("a").output.size(), 8u);
}

TEST(CoreLimits, MessagesFromNobodyAreAskedWhoTheyAre) {
  Scenario s;
  s.say(7, StepTokens{});
  EXPECT_NE(s.told_worker<WhoAreYou>(7), nullptr);
  s.say(7, Register{});
  EXPECT_NE(s.told_worker<RegisterRefused>(7), nullptr);
}

TEST(CoreLimits, Listings) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.submit("b", "chat");
  s.start(1, "a");
  s.client(List{Listing::jobs, 10}, "");
  EXPECT_EQ(s.told_client<Listed>()->jobs.size(), 2u);
  s.client(List{Listing::jobs, 1}, "");
  EXPECT_EQ(s.told_client<Listed>()->jobs.size(), 1u);
  EXPECT_TRUE(s.told_client<Listed>()->truncated);
  s.client(List{Listing::sessions, 10}, "");
  ASSERT_EQ(s.told_client<Listed>()->sessions.size(), 1u);
  EXPECT_EQ(s.told_client<Listed>()->sessions[0].home, "w1");
  EXPECT_EQ(s.told_client<Listed>()->sessions[0].queued_jobs, 1);
  s.client(List{Listing::workers, 10}, "");
  ASSERT_EQ(s.told_client<Listed>()->workers.size(), 1u);
  EXPECT_EQ(s.told_client<Listed>()->workers[0].sessions, 1);
}

TEST(CoreLimits, AListingFitsAFrameHoweverLongItsNames) {
  CoreOptions o;
  o.max_queued_jobs = 40000;
  Scenario s(o);
  const std::string name(Limits::kName - 8, 'n');
  for (int i = 0; i < 20000; ++i) {
    const std::string id = name + std::to_string(i);
    s.submit(id, id);
  }
  for (const Listing what : {Listing::jobs, Listing::sessions}) {
    s.client(List{what, 65000}, "");
    const Listed* listed = s.told_client<Listed>();
    ASSERT_NE(listed, nullptr);
    EXPECT_TRUE(listed->truncated);
    EXPECT_GT(listed->jobs.size() + listed->sessions.size(), 5000u);
    const BrokerToClient m = *listed;
    EXPECT_LT(wire::encode(std::span(&m, 1)).size(), 6u << 20);
  }
}

TEST(CoreLimits, ALongLaneThatFailsAtOnceIsNoRecursion) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.start(1, "b");
  for (int i = 0; i < 5000; ++i) {
    JobSpec cold = Scenario::spec("cold" + std::to_string(i), "chat");
    cold.require_resident = true;
    s.submit(cold);
  }
  s.enroll(2);
  s.tell(WorkerUnreachable{s.connection(1)});
  s.run(2, "b");
  EXPECT_EQ(s.state("cold0"), JobState::dispatched);  // its home holds the session again
  s.tell(WorkerUnreachable{s.connection(2)});
  s.enroll(3);
  EXPECT_EQ(s.state("cold4999"), JobState::failed);
}

}  // namespace
}  // namespace limpet::broker
