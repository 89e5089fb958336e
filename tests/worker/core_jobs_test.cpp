#include <gmock/gmock.h>

#include "tests/worker/rig.h"
#include "worker/core.h"

namespace limpet::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Ids = std::vector<Token>;

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Job, StartsSaysItsTokensAndEnds) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.settle();
  const auto started = rig.last<JobStarted>();
  EXPECT_EQ(started.residency, Residency::reprefilled);
  EXPECT_EQ(started.reason, Reason::new_session);
  EXPECT_EQ(started.cached_tokens, 0);
  EXPECT_EQ(started.prefilled_tokens, 3);
  EXPECT_THAT(started.prompt, ElementsAre(5, 6, 7));
  EXPECT_EQ(rig.output_of(1), undisturbed({5, 6, 7}, 1, 4));
  const auto end = rig.last<JobEnded>();
  EXPECT_TRUE(end.ok);
  EXPECT_EQ(end.reason, FinishReason::length);
  EXPECT_EQ(end.output_tokens, 4);
  EXPECT_EQ(end.tail_text, "tail");
  EXPECT_THAT(rig.open, IsEmpty());
}

TEST(Job, EndsWithAnEndToken) {
  Rig rig;
  rig.end_token = undisturbed({5, 6, 7}, 1, 3)[2];
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}, 0, 50));
  rig.settle();
  EXPECT_EQ(rig.last<JobEnded>().reason, FinishReason::stop);
  EXPECT_EQ(rig.output_of(1), undisturbed({5, 6, 7}, 1, 3));
}

TEST(Job, LaterTurnIsResidentButForItsLastToken) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.settle();
  const Ids before = joined({5, 6, 7}, rig.output_of(1));
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.tell(rig.dispatch(2, 1, {9}, 7));
  rig.settle();
  const auto started = rig.last<JobStarted>();
  EXPECT_EQ(started.residency, Residency::resident);
  EXPECT_EQ(started.reason, Reason::none);
  EXPECT_EQ(started.cached_tokens, 6);
  EXPECT_EQ(started.prefilled_tokens, 2);
  EXPECT_EQ(rig.output_of(2), undisturbed(joined(before, {9}), 2, 4));
}

TEST(Job, LongerCopyThanTheTranscriptIsCutBack) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.tell(rig.dispatch(2, 1, {9}, 3));  // the session was rewound to 3 tokens
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().residency, Residency::resident);
  EXPECT_EQ(rig.last<JobStarted>().cached_tokens, 3);
  EXPECT_EQ(rig.output_of(2), undisturbed({5, 6, 7, 9}, 2, 4));
}

TEST(Job, AsksForTheTranscriptThatItLacks) {
  Rig rig;
  Dispatch d = rig.dispatch(3, 1, {9}, 4);
  rig.tell(d);
  EXPECT_EQ(rig.all<NeedTranscript>().size(), 1u);
  rig.now += 100ms;
  rig.give(Tick{});  // asks again, in the rhythm of heartbeats
  EXPECT_EQ(rig.all<NeedTranscript>().size(), 2u);
  EXPECT_FALSE(rig.turn());
  rig.tell(TranscriptReply{JobNumber{3}, Attempt{1}, {1, 2, 3, 4}});
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().reason, Reason::evicted);
  EXPECT_EQ(rig.output_of(3), undisturbed({1, 2, 3, 4, 9}, 3, 4));
}

TEST(Job, TranscriptOfAnotherLengthEndsTheAttempt) {
  Rig rig;
  Dispatch d = rig.dispatch(3, 1, {9}, 4);
  d.has_transcript = true;
  d.transcript = {1, 2, 3};
  rig.tell(d);
  EXPECT_FALSE(rig.last<JobEnded>().ok);
  EXPECT_TRUE(rig.last<JobEnded>().retryable);
}

TEST(Job, SecondAttemptGoesOnAtTheNextIndex) {
  const Ids whole = undisturbed({5, 6, 7}, 1, 8);
  Rig rig;
  Dispatch d = rig.dispatch(1, 1, {5, 6, 7}, 0, 8);
  d.attempt = Attempt{2};
  d.home_reason = Reason::worker_lost;
  d.prompt_tokens = 3;
  d.output_tokens = 5;
  d.has_transcript = true;
  d.transcript = joined({5, 6, 7}, Ids(whole.begin(), whole.begin() + 5));
  rig.tell(d);
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().reason, Reason::worker_lost);
  EXPECT_EQ(rig.last<JobStarted>().residency, Residency::reprefilled);
  EXPECT_THAT(rig.last<JobStarted>().prompt, IsEmpty());
  EXPECT_EQ(rig.all<StepTokens>()[0].rows[0].first_index, 5);
  EXPECT_EQ(rig.last<JobEnded>().output_tokens, 8);
  const Ids said = rig.output_of(1);
  EXPECT_EQ(Ids(said.begin() + 5, said.end()), Ids(whole.begin() + 5, whole.end()));
}

TEST(Job, LostBetweenLastTokenAndEndOnlyEnds) {
  const Ids whole = undisturbed({5, 6, 7}, 1, 4);
  for (const bool end_token : {false, true}) {
    Rig rig;
    if (end_token) rig.end_token = whole.back();
    Dispatch d = rig.dispatch(1, 1, {5, 6, 7}, 0, end_token ? 50 : 4);
    d.attempt = Attempt{2};
    d.prompt_tokens = 3;
    d.output_tokens = 4;
    d.has_transcript = true;
    d.transcript = joined({5, 6, 7}, whole);
    rig.tell(d);
    EXPECT_FALSE(rig.turn());
    EXPECT_THAT(rig.all<StepTokens>(), IsEmpty());
    EXPECT_EQ(rig.last<JobEnded>().reason, end_token ? FinishReason::stop : FinishReason::length);
    EXPECT_EQ(rig.last<JobEnded>().output_tokens, 4);
  }
}

TEST(Job, TooLongForTheContextOrThePool) {
  Rig rig({.max_context = 10});
  rig.tell(rig.dispatch(1, 1, Ids(10, 1)));
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::too_long);
  EXPECT_FALSE(rig.last<JobEnded>().retryable);
  rig.tell(rig.dispatch(2, 2, Ids(8, 1), 0, 100));  // room for two
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
  EXPECT_EQ(rig.last<JobEnded>().reason, FinishReason::length);
  EXPECT_EQ(rig.last<JobEnded>().output_tokens, 2);

  Rig small({}, /*pages=*/2);
  small.tell(small.dispatch(1, 1, Ids(8, 1)));
  EXPECT_EQ(small.last<JobEnded>().code, ErrorCode::too_long);
}

TEST(Job, InputThatCannotBeUsedFailsAlone) {
  Rig rig;
  Dispatch d = rig.dispatch(1, 1, {});
  rig.tell(d);  // nothing at all
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::invalid);
  rig.tell(rig.dispatch(2, 2, {kVocab}));
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::invalid);
  auto spec = std::make_shared<JobSpec>();
  spec->text = "the template raises this";
  d = rig.dispatch(3, 3, {1});
  d.spec = spec;
  rig.tell(d);
  EXPECT_EQ(rig.last<JobEnded>().message, "the template raises this");
  rig.tell(rig.dispatch(4, 4, {1, 2}));
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
}

TEST(Job, RequireResident) {
  Rig rig;
  const auto strict = [&](Dispatch d) {
    auto spec = std::make_shared<JobSpec>(*d.spec);
    spec->require_resident = true;
    d.spec = spec;
    return d;
  };
  rig.tell(strict(rig.dispatch(1, 1, {5, 6, 7})));  // a new session is fine
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.tell(strict(rig.dispatch(2, 1, {8}, 7)));
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
  rig.tell(strict(rig.dispatch(3, 2, {8}, 7)));
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::not_resident);
  Dispatch moved = strict(rig.dispatch(4, 3, {8}, 7));
  moved.has_transcript = true;
  moved.transcript = Ids(7, 3);
  rig.tell(moved);
  EXPECT_EQ(rig.last<JobEnded>().code, ErrorCode::not_resident);
  EXPECT_THAT(rig.all<NeedTranscript>(), IsEmpty());
}

TEST(Job, CancelledInMidStreamIsForgottenAndItsSessionStays) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}, 0, 40));
  for (int i = 0; i < 5; ++i) rig.turn();
  rig.tell(CancelJob{JobNumber{1}, Attempt{1}});
  EXPECT_FALSE(rig.turn());
  EXPECT_THAT(rig.all<JobEnded>(), IsEmpty());
  EXPECT_THAT(rig.open, IsEmpty());
  // Three of its tokens became durable.
  rig.tell(rig.dispatch(2, 1, {9}, 6));
  rig.settle();
  EXPECT_EQ(rig.last<JobStarted>().cached_tokens, 6);
  EXPECT_EQ(rig.output_of(2),
            undisturbed(joined(joined({5, 6, 7}, undisturbed({5, 6, 7}, 1, 3)), {9}), 2, 4));
}

TEST(Job, FailedComputationFailsItAloneAndItsKvIsNotBuiltUpon) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.tell(rig.dispatch(2, 2, {5, 6, 8}));
  StepDone done = rig.run(rig.plan());
  done.rows[0].error = "NaN";
  rig.give(done);
  EXPECT_FALSE(rig.last<JobEnded>().ok);
  EXPECT_TRUE(rig.last<JobEnded>().retryable);
  EXPECT_EQ(rig.last<SessionDropped>().session, SessionNumber{1});
  rig.settle();
  EXPECT_TRUE(rig.last<JobEnded>().ok);
  EXPECT_EQ(rig.last<JobEnded>().job, JobNumber{2});
}

TEST(Job, FailedStepEndsTheAttemptsInIt) {
  Rig rig;
  rig.tell(rig.dispatch(1, 1, {5, 6, 7}));
  rig.tell(rig.dispatch(2, 2, {5, 6, 8}));
  rig.plan();
  rig.give(StepDone{{}, "the device is gone"});
  EXPECT_EQ(rig.all<JobEnded>().size(), 2u);
  EXPECT_FALSE(rig.turn());
}

TEST(Job, RewindThatIsForgottenLeavesACopyThatIsNotBelieved) {
  Rig rig;
  rig.tell(rig.dispatch(1, 7, {1, 2, 3, 4, 5, 6}));
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  const int64_t all = 10;
  Dispatch rewind = rig.dispatch(2, 7, {21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}, 2);
  rig.tell(rewind);
  rig.tell(CancelJob{JobNumber{2}, Attempt{1}});  // before a step
  rig.sent.clear();
  rig.tell(rig.dispatch(3, 7, {9}, all));  // the session goes on from where it was
  EXPECT_EQ(rig.all<NeedTranscript>().size(), 1u);
}

TEST(Core, RoomIsLessWhatStartedJobsMayComeToNeed) {
  Rig rig({}, 16);  // 64 tokens
  rig.tell(rig.dispatch(1, 7, {1, 2, 3, 4, 5, 6}, 0, 30));
  rig.turn();
  rig.now = rig.core->next_deadline();
  rig.give(Tick{});
  const Room busy = rig.last<Heartbeat>().room;
  EXPECT_EQ(busy.free_kv_tokens, 64 - 36);
  EXPECT_EQ(busy.idle_kv_tokens, 0);
  rig.settle();
  rig.tell(EndAck{JobNumber{1}, Attempt{1}});
  rig.now = rig.core->next_deadline();
  rig.give(Tick{});
  const Room idle = rig.last<Heartbeat>().room;
  EXPECT_EQ(idle.free_kv_tokens + idle.idle_kv_tokens, 64);
  EXPECT_GT(idle.idle_kv_tokens, 0);
}

}  // namespace
}  // namespace limpet::worker
