#include "worker/core.h"

#include <gmock/gmock.h>

#include "tests/worker/rig.h"

namespace limpet::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Ids = std::vector<Token>;

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// ---- Fencing ------------------------------------------------------------------------------------

TEST(Fencing, LateDuplicateOfADispatchChangesNothing) {
  Rig rig;
  const Dispatch first = rig.dispatch(1, 1, {5, 6, 7});
  rig.tell(first);
  rig.settle();
  rig.tell(first);  // ended, not acknowledged
  EXPECT_FALSE(rig.turn());
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.tell(first);
  EXPECT_FALSE(rig.turn());
  rig.tell(rig.dispatch(2, 1, {9}, 7));
  rig.tell(first);
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().cached_tokens, 6);
}

TEST(Fencing, OlderJobOfTheLaneThatComesLateChangesNothing) {
  Rig rig;
  rig.tell(rig.dispatch(7, 1, {5, 6, 7}));
  rig.settle();
  rig.tell(EndAck{JobNumber{7}, Attempt{1}});
  Dispatch late = rig.dispatch(5, 1, {});
  late.attempt = Attempt{3};
  late.prompt_tokens = 8;
  late.has_transcript = true;
  late.transcript = Ids(8, 1);
  rig.tell(late);  // it had failed before job 7 was dispatched
  rig.tell(EndAck{JobNumber{5}, Attempt{3}});
  rig.tell(rig.dispatch(9, 1, {9}, 7));
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().residency, Residency::resident);
  EXPECT_EQ(rig.output_of(9),
            undisturbed(joined(joined({5, 6, 7}, undisturbed({5, 6, 7}, 7, 4)), {9}), 9, 4));
}

TEST(Fencing, CancelThatOvertakesItsDispatchWins) {
  Rig rig;
  rig.tell(CancelJob{JobNumber{1}, Attempt{1}});
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  EXPECT_FALSE(rig.turn());
}

TEST(Fencing, NewerAttemptReplacesTheOlder) {
  Rig rig;
  Dispatch d = rig.dispatch(1, 1, {5, 6, 7}, 0, 40);
  rig.tell(d);
  for (int i = 0; i < 4; ++i) rig.turn();
  d.attempt = Attempt{2};
  d.prompt_tokens = 3;
  d.output_tokens = 2;
  rig.tell(d);
  rig.tell(CancelJob{JobNumber{1}, Attempt{1}});  // of the older one
  rig.settle();
  EXPECT_EQ(rig.last<JobEnded>().attempt, Attempt{2});
  EXPECT_EQ(rig.last<JobStarted>().residency, Residency::resident);
  EXPECT_EQ(rig.output_of(1), undisturbed({5, 6, 7}, 1, 40));
}

TEST(Fencing, ReleaseDropsALeaseAndItsRunningJob) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}, 0, 40));
  rig.turn();
  rig.tell(ReleaseSession{SessionNumber{1}, Epoch{0}});  // of an older lease
  EXPECT_TRUE(rig.turn());
  rig.sent.clear();
  rig.tell(ReleaseSession{SessionNumber{1}, Epoch{1}});
  EXPECT_FALSE(rig.turn());
  EXPECT_THAT(rig.sent, IsEmpty());
  EXPECT_EQ(rig.kv.sequences(), 0);
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));  // late
  EXPECT_FALSE(rig.turn());
}

TEST(Fencing, CopyOfAnOlderLeaseIsComparedBeforeItIsTrusted) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7, 8}));
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  Dispatch d = rig.dispatch(2, 1, {9}, 8);
  d.epoch = Epoch{3};  // it was elsewhere meanwhile, and went on from token 4 in another way
  d.home_reason = Reason::start_deadline;
  rig.tell(d);
  EXPECT_EQ(rig.all<NeedTranscript>().size(), 1u);
  const Ids transcript = {5, 6, 7, 8, 1, 1, 1, 1};
  rig.tell(TranscriptReply{JobNumber{2}, Attempt{1}, transcript});
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().cached_tokens, 4);
  EXPECT_EQ(rig.last<JobStarted>().reason, Reason::start_deadline);
  EXPECT_EQ(rig.output_of(2), undisturbed(joined(transcript, {9}), 2, 4));
}

TEST(Fencing, UncomparedCopyIsNotKeptWhenItsJobGoes) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7, 8}));
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  Dispatch d = rig.dispatch(2, 1, {9}, 8);
  d.epoch = Epoch{3};
  rig.tell(d);
  rig.tell(CancelJob{JobNumber{2}, Attempt{1}});
  EXPECT_EQ(rig.last<SessionDropped>().epoch, Epoch{3});
  EXPECT_EQ(rig.kv.sequences(), 0);
}

// ---- Pages --------------------------------------------------------------------------------------

TEST(Pages, IdleSessionsGoLongestIdleFirst) {
  Rig rig({}, /*pages=*/8);
  for (uint64_t s = 1; s <= 3; ++s) {
    rig.tell(rig.dispatch(s, s, {static_cast<Token>(s), 6, 7, 8}));
    rig.settle();
    rig.tell(EndAck{JobNumber{s}, Attempt{1}});
  }
  EXPECT_THAT(rig.all<SessionDropped>(), IsEmpty());
  rig.tell(rig.dispatch(9, 9, Ids(12, 9)));
  rig.settle();
  const auto dropped = rig.all<SessionDropped>();
  ASSERT_GE(dropped.size(), 1u);
  EXPECT_EQ(dropped[0].session, SessionNumber{1});
  EXPECT_EQ(dropped[0].reason, Reason::evicted);
  EXPECT_EQ(rig.core->gauges().evictions, std::ssize(dropped));
}

TEST(Pages, YoungestIsPreemptedAndSaysNothingTwice) {
  Rig rig({}, /*pages=*/8);
  rig.tell(rig.dispatch(1, 1, {1, 2, 3, 4}, 0, 24));
  rig.tell(rig.dispatch(2, 2, {5, 6, 7, 8}, 0, 24));
  rig.settle();
  EXPECT_GT(rig.core->gauges().preemptions, 0);
  EXPECT_EQ(rig.all<JobStarted>().size(), 2u);
  for (uint64_t job : {1u, 2u}) {
    int64_t next = 0;
    for (const auto& m : rig.all<StepTokens>()) {
      for (const auto& row : m.rows) {
        if (raw(row.job) != job) continue;
        EXPECT_EQ(row.first_index, next++);
      }
    }
    EXPECT_EQ(next, 24);
  }
  EXPECT_EQ(rig.output_of(1), undisturbed({1, 2, 3, 4}, 1, 24));
  EXPECT_EQ(rig.output_of(2), undisturbed({5, 6, 7, 8}, 2, 24));
  EXPECT_EQ(rig.all<JobEnded>()[0].job, JobNumber{1}) << "the oldest ends first";
}

TEST(Pages, CommonPrefixIsComputedOnce) {
  Rig rig;
  const Ids system = {1, 2, 3, 4, 5, 6, 7, 8};
  rig.tell(rig.dispatch(1, 1, joined(system, {20})));
  rig.settle();
  rig.tell(rig.dispatch(2, 2, joined(system, {30})));
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().cached_tokens, 8);
  EXPECT_EQ(rig.last<JobStarted>().prefilled_tokens, 1);
  EXPECT_EQ(rig.last<JobStarted>().reason, Reason::new_session);
  EXPECT_EQ(rig.output_of(2), undisturbed(joined(system, {30}), 2, 4));
  EXPECT_EQ(rig.core->gauges().resident_kv_tokens, 12 + 12 - 8) << "what is shared counts once";
}

TEST(Pages, EphemeralSessionLeavesNothingButSharedPages) {
  Rig rig;
  Dispatch d = rig.dispatch(1, 1, {1, 2, 3, 4, 5});
  d.ephemeral = true;
  rig.tell(d);
  rig.settle();
  EXPECT_EQ(rig.kv.sequences(), 0);
  EXPECT_EQ(rig.kv.free_pages(), rig.kv.total_pages());
  EXPECT_THAT(rig.all<SessionDropped>(), IsEmpty());
}

TEST(Pages, IdleSessionsAreBounded) {
  Rig rig({.max_sessions = 2});
  for (uint64_t s = 1; s <= 5; ++s) {
    rig.tell(rig.dispatch(s, s, {static_cast<Token>(s)}));
    rig.settle();
    rig.tell(EndAck{JobNumber{s}, Attempt{1}});
  }
  EXPECT_EQ(rig.core->gauges().sessions, 2);
  EXPECT_EQ(rig.all<SessionDropped>().size(), 3u);
}

// ---- Steps --------------------------------------------------------------------------------------

TEST(Steps, DecodeRowsFirstThenChunksWithinTheBudget) {
  Rig rig({.token_budget = 8, .prefill_chunk = 5});
  rig.tell(rig.dispatch(1, 1, {1, 2, 3}, 0, 30));
  rig.turn();
  rig.tell(rig.dispatch(2, 2, Ids(20, 2)));
  rig.tell(rig.dispatch(3, 3, Ids(20, 3)));
  const Step step = rig.plan();
  ASSERT_EQ(step.rows.size(), 3u);
  EXPECT_EQ(step.rows[0].job, JobNumber{1});
  EXPECT_TRUE(step.rows[0].sample);
  EXPECT_EQ(step.rows[0].position, 4);
  EXPECT_EQ(step.rows[1].tokens.size(), 5u);
  EXPECT_FALSE(step.rows[1].sample);
  EXPECT_EQ(step.rows[2].tokens.size(), 2u);
  rig.give(rig.run(step));
  rig.settle();
  EXPECT_EQ(rig.output_of(3), undisturbed(Ids(20, 3), 3, 4));
}

TEST(Steps, WhatComesDuringAStepIsDecidedAfterIt) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {1, 2, 3}, 0, 30));
  const Step step = rig.plan();
  rig.tell(ReleaseSession{SessionNumber{1}, Epoch{1}});
  rig.tell(rig.dispatch(2, 2, {4, 5}));
  rig.now += 150ms;
  rig.give(Tick{});
  EXPECT_THAT(rig.all<Heartbeat>(), IsEmpty()) << "the loop does not turn";
  rig.give(rig.run(step));
  EXPECT_EQ(rig.all<Heartbeat>().size(), 1u);
  rig.settle();
  EXPECT_EQ(rig.all<JobEnded>().size(), 1u);
  EXPECT_EQ(rig.last<JobEnded>().job, JobNumber{2});
}

// ---- The link -----------------------------------------------------------------------------------

TEST(Broker, RegistersUntilItIsHeard) {
  Rig rig({}, 64, /*connect=*/false);
  EXPECT_EQ(rig.core->next_deadline(), Time::max());
  rig.give(Connected{});
  EXPECT_EQ(rig.all<Register>().size(), 1u);
  EXPECT_EQ(rig.core->next_deadline(), rig.now + 500ms);
  rig.now += 500ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.all<Register>().size(), 2u);
  rig.tell(Registered{.incarnation = 6,
                      .heartbeat_ms = 100,
                      .lease_ms = 1000,
                      .release = {},
                      .resume = {},
                      .drop = {}});
  EXPECT_FALSE(rig.core->registered()) << "meant for an earlier incarnation";
  rig.tell(RegisterRefused{ErrorCode::version, "too new"});
  EXPECT_EQ(rig.core->gauges().refused, "too new");
  rig.now += 5s;
  rig.give(Tick{});
  EXPECT_EQ(rig.all<Register>().size(), 3u);
}

TEST(Broker, RestartIsAnsweredWithAllThatIsHere) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.tell(rig.dispatch(2, 2, {1, 2}, 0, 20));
  for (int i = 0; i < 3; ++i) rig.turn();
  rig.tell(WhoAreYou{});
  const auto hello = rig.last<Register>();
  ASSERT_EQ(hello.sessions.size(), 2u);
  EXPECT_EQ(hello.sessions[0].tokens, 7);
  ASSERT_EQ(hello.jobs.size(), 1u);
  EXPECT_EQ(hello.jobs[0].next_index, 3);
  EXPECT_TRUE(hello.jobs[0].started);
  rig.sent.clear();
  rig.tell(WhoAreYou{});
  rig.turn();
  EXPECT_THAT(rig.sent, IsEmpty()) << "said already, and nothing else before the answer";
  rig.tell(Registered{.incarnation = 7,
                      .heartbeat_ms = 100,
                      .lease_ms = 1000,
                      .release = {{SessionNumber{1}, Epoch{1}, 0}},
                      .resume = {{JobNumber{2}, Attempt{1}, 1}},
                      .drop = {}});
  EXPECT_EQ(rig.last<JobStarted>().job, JobNumber{2});
  const auto again = rig.last<StepTokens>().rows.at(0);
  const Ids want = undisturbed({1, 2}, 2, 20);
  EXPECT_EQ(again.first_index, 1);
  EXPECT_EQ(again.ids, Ids(want.begin() + 1, want.begin() + 4));
  EXPECT_EQ(again.text, std::to_string(want[1]) + " " + std::to_string(want[2]) + " " +
                            std::to_string(want[3]) + " ");
  EXPECT_EQ(rig.core->gauges().sessions, 1);
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
}

TEST(Broker, EndIsRepeatedUntilItIsAcknowledged) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.settle();
  EXPECT_EQ(rig.all<JobEnded>().size(), 1u);
  rig.now += 100ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.all<JobEnded>().size(), 2u);
  EXPECT_TRUE(rig.last<Heartbeat>().jobs.at(0).ended);
  rig.tell(ResumeJob{JobNumber{1}, Attempt{1}, 2});
  EXPECT_EQ(rig.last<StepTokens>().rows.at(0).ids.size(), 2u);
  EXPECT_EQ(rig.all<JobEnded>().size(), 3u);
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.now += 100ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.all<JobEnded>().size(), 3u);
  EXPECT_THAT(rig.last<Heartbeat>().jobs, IsEmpty());
}

TEST(Broker, RoomIsToldAnewWhenAJobHasEnded) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  const Time before = rig.core->next_deadline();
  rig.settle();
  EXPECT_LT(rig.core->next_deadline(), before);
  rig.give(Tick{});
  EXPECT_EQ(rig.last<Heartbeat>().room.free_kv_tokens, 62 * 4);
  EXPECT_EQ(rig.all<JobEnded>().size(), 1u);
}

TEST(Broker, CreditIsKept) {
  Rig rig({.max_jobs = 2});
  for (uint64_t j = 1; j <= 3; ++j) rig.tell(rig.dispatch(j, j, {1, 2}));
  EXPECT_EQ(rig.last<JobEnded>().job, JobNumber{3});
  EXPECT_TRUE(rig.last<JobEnded>().retryable);
  rig.now += 100ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.last<Heartbeat>().room.slots, 0);
  rig.settle();
  rig.now += 100ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.last<Heartbeat>().room.slots, 2);
  // Ends that nobody acknowledges fill its memory in the end.
  for (uint64_t j = 4; j < 40; ++j) {
    rig.tell(rig.dispatch(j, j, {1, 2}));
    rig.settle();
  }
  rig.now += 100ms;
  rig.give(Tick{});
  EXPECT_EQ(rig.last<Heartbeat>().room.slots, 0);
  EXPECT_EQ(rig.last<Heartbeat>().jobs.size(), 8u);
}

TEST(Broker, StoppingTakesNoMoreAndFinishesWhatIsHere) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.give(Stop{});
  EXPECT_EQ(rig.last<Leaving>().incarnation, 7u);
  rig.tell(rig.dispatch(2, 2, {5, 6, 7}));
  EXPECT_FALSE(rig.last<JobEnded>().ok);
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
}

TEST(WorkerCore, ACommonPrefixIsSharedWithinATenantAlone) {
  Rig rig;
  const std::vector<Token> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto cached = [&](uint64_t number, const std::string& tenant) {
    Dispatch d = rig.dispatch(number, number, prompt);
    d.tenant = tenant;
    rig.tell(d);
    rig.settle();
    return rig.last<JobStarted>().cached_tokens;
  };
  EXPECT_EQ(cached(1, "acme"), 0);
  EXPECT_EQ(cached(2, "zeta"), 0) << "another tenant's KV";
  EXPECT_EQ(cached(3, ""), 0) << "another tenant's KV";
  EXPECT_EQ(cached(4, "acme"), 8);
  EXPECT_EQ(cached(5, "zeta"), 8);
}

}  // namespace
}  // namespace limpet::worker
