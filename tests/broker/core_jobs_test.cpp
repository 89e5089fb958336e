// Jobs: idempotent, FIFO within a session, ended once, resumed from any index.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

TEST(CoreJobs, EndToEnd) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  ASSERT_NE(s.told_client<Accepted>(), nullptr);
  EXPECT_TRUE(s.told_client<Accepted>()->created);
  const Dispatch& d = s.held(1, "a").dispatch;
  EXPECT_EQ(d.attempt, Attempt{1});
  EXPECT_EQ(d.home_reason, Reason::new_session);
  EXPECT_FALSE(d.has_transcript);
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
  EXPECT_EQ(s.job("a").text, "xxxxxxxx");
  EXPECT_EQ(s.job("a").end->usage, (Usage{3, 0, 8}));
  ASSERT_NE(s.told_worker<EndAck>(1), nullptr);
}

TEST(CoreJobs, NoMoreTokensOfAPromptWereCachedThanItHas) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  JobStarted m = limpet::broker::started(s.held(1, "a").dispatch);
  m.prompt = {1, 2, 3};
  m.cached_tokens = 20;  // as after a hand-over: with output of the attempt before
  s.say(1, m);
  s.make(1, "a", 8);
  s.end(1, "a");
  EXPECT_EQ(s.job("a").end->usage, (Usage{3, 3, 8}));
}

TEST(CoreJobs, ALaterTurnGoesHomeWithoutATranscript) {
  Scenario s;
  s.at(1).free_kv = 100;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.enroll(2);  // has far more room, and yet
  s.submit("b", "chat");
  const Dispatch& d = s.held(1, "b").dispatch;
  EXPECT_EQ(d.home_reason, Reason::none);
  EXPECT_EQ(d.base_tokens, 11);
  EXPECT_FALSE(d.has_transcript);
  EXPECT_EQ(d.epoch, Epoch{1});
}

TEST(CoreJobs, AnIdIsOneJob) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.submit("a");
  EXPECT_FALSE(s.told_client<Accepted>()->created);
  EXPECT_TRUE(s.out().append.empty());
  JobSpec other = Scenario::spec("a");
  other.tokens.push_back(9);
  s.submit(other);
  ASSERT_NE(s.told_client<Refused>(), nullptr);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::conflict);
  s.run(1, "a");
  s.submit("a");  // long over
  EXPECT_EQ(s.told_client<Accepted>()->state, JobState::finished);
  EXPECT_TRUE(std::holds_alternative<StreamOpened>(s.out().send.back()));
}

TEST(CoreJobs, AnIdThatEndedInTheSameTurnIsKnownWithoutTheStore) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.run(1, "a");
  ClientEvent again{ClientId{2}, Submit{std::make_shared<JobSpec>(Scenario::spec("a"))}, 3, {}};
  s.tell(again);
  EXPECT_FALSE(s.told_client<Accepted>()->created);
}

TEST(CoreJobs, AnIdKnownToTheStoreAloneIsAttached) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.run(1, "a");
  s.restart();
  s.submit("a");
  ASSERT_NE(s.told_client<Accepted>(), nullptr);
  EXPECT_FALSE(s.told_client<Accepted>()->created);
  EXPECT_EQ(s.told_client<Accepted>()->state, JobState::finished);
}

TEST(CoreJobs, AttachOpensAStreamFromTheIndexAsked) {
  Scenario s;
  s.client(Attach{"nobody", 0}, "nobody");
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::not_found);
  s.submit("a");
  s.client(Attach{"a", 5}, "a");
  const auto& opened = std::get<StreamOpened>(s.out().send.back());
  EXPECT_EQ(opened.from_index, 5);
  s.client(Attach{"a", -5}, "a");
  EXPECT_EQ(std::get<StreamOpened>(s.out().send.back()).from_index, 0);
}

TEST(CoreJobs, ASessionRunsItsJobsOneByOneInOrder) {
  Scenario s;
  s.at(1).slots = 4;
  s.enroll(1);
  s.submit("a", "chat");
  s.submit("b", "chat");
  s.submit("c", "chat");
  EXPECT_TRUE(s.has(1, "a"));
  EXPECT_FALSE(s.has(1, "b"));
  s.run(1, "a");
  EXPECT_TRUE(s.has(1, "b"));
  EXPECT_FALSE(s.has(1, "c"));
  EXPECT_EQ(s.core().gauges().queued, 1);
}

TEST(CoreJobs, HigherPriorityGoesFirstAmongThoseWhoWait) {
  Scenario s;
  JobSpec urgent = Scenario::spec("urgent");
  urgent.priority = 5;
  s.submit("first");
  s.submit("second");
  s.submit(urgent);
  s.at(1).slots = 1;
  s.enroll(1);
  EXPECT_TRUE(s.has(1, "urgent"));
  s.run(1, "urgent");
  EXPECT_TRUE(s.has(1, "first"));
}

TEST(CoreJobs, DuplicatesAndGapsOfTokens) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  s.start(1, "a");
  EXPECT_TRUE(s.out().append.empty());
  s.say(1, s.tokens(1, "a", 0, 2));
  s.say(1, s.tokens(1, "a", 0, 2));
  EXPECT_TRUE(s.out().append.empty());
  s.say(1, s.tokens(1, "a", 4, 1));  // 2 and 3 are missing
  ASSERT_NE(s.told_worker<ResumeJob>(1), nullptr);
  EXPECT_EQ(s.told_worker<ResumeJob>(1)->from_index, 2);
  s.say(1, s.tokens(1, "a", 5, 1));  // asked already
  EXPECT_EQ(s.told_worker<ResumeJob>(1), nullptr);
  s.say(1, s.tokens(1, "a", 2, 4));
  EXPECT_EQ(s.job("a").output, (std::vector<Token>{100, 101, 102, 103, 104, 105}));
}

TEST(CoreJobs, ARowThatIsOnlyPartlyNewIsAskedForAgain) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  s.say(1, s.tokens(1, "a", 0, 2));
  const Dispatch& d = s.held(1, "a").dispatch;
  s.say(1, StepTokens{{{d.job, d.attempt, 1, {101, 102}, "xx", {}}}});
  EXPECT_EQ(s.told_worker<ResumeJob>(1)->from_index, 2);
  EXPECT_EQ(s.job("a").text, "xx");
}

TEST(CoreJobs, AnEndThatOvertakesItsTokensWaitsForThem) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.start(1, "a");
  StepTokens late = s.tokens(1, "a", 0, 8);
  s.held(1, "a").made = 8;
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::running);
  EXPECT_EQ(s.told_worker<ResumeJob>(1)->from_index, 0);
  s.say(1, late);
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST(CoreJobs, AnEndBeforeItsStartWaitsForIt) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::dispatched);
  EXPECT_NE(s.told_worker<ResumeJob>(1), nullptr);
}

TEST(CoreJobs, ALostEndAckIsGivenAgain) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  const Dispatch d = s.held(1, "a").dispatch;
  s.run(1, "a");
  JobEnded again = ended(d);
  again.output_tokens = 8;
  s.say(1, again);
  EXPECT_TRUE(s.out().append.empty());
  EXPECT_NE(s.told_worker<EndAck>(1), nullptr);
}

TEST(CoreJobs, CancelEndsAtOnceAndKeepsWhatIsDurable) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.make(1, "a", 3);
  StepTokens late = s.tokens(1, "a", 3, 1);
  s.cancel("a");
  EXPECT_EQ(s.state("a"), JobState::cancelled);
  EXPECT_NE(s.told_worker<CancelJob>(1), nullptr);
  s.say(1, late);
  EXPECT_TRUE(s.out().append.empty());
  EXPECT_EQ(s.session_of("a").transcript.size(), 6u);
  s.submit("b", "chat");
  EXPECT_EQ(s.held(1, "b").dispatch.base_tokens, 6);
}

TEST(CoreJobs, CancelInTheMiddleOfALane) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.submit("b", "chat");
  s.submit("c", "chat");
  s.start(1, "a");
  s.cancel("b");
  EXPECT_EQ(s.state("b"), JobState::cancelled);
  s.make(1, "a", 8);
  s.end(1, "a");
  EXPECT_TRUE(s.has(1, "c"));
  s.cancel("b");
  EXPECT_EQ(s.told_client<Accepted>()->state, JobState::cancelled);
}

TEST(CoreJobs, AFailedJobLeavesNoTrace) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.start(1, "b");
  s.make(1, "b", 2);
  const Dispatch& d = s.held(1, "b").dispatch;
  JobEnded m = ended(d, false);
  m.code = ErrorCode::worker_error;
  m.message = "its logits are not numbers";
  s.say(1, m);
  EXPECT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.session_of("b").transcript.size(), 11u);
}

TEST(CoreJobs, ARetryableFailureGoesToAnotherWorker) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.enroll(2);
  const Dispatch d = s.held(1, "a").dispatch;
  JobEnded m = ended(d, false);
  m.code = ErrorCode::worker_error;
  m.retryable = true;
  s.say(1, m);
  EXPECT_EQ(s.held(2, "a").dispatch.attempt, Attempt{2});
  EXPECT_EQ(s.held(2, "a").dispatch.epoch, Epoch{2});
}

TEST(CoreJobs, RewindCutsTheSessionFirst) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  JobSpec b = Scenario::spec("b", "chat");
  b.rewind_to = 4;
  s.submit(b);
  EXPECT_EQ(s.held(1, "b").dispatch.base_tokens, 4);
  s.run(1, "b");
  EXPECT_EQ(s.session_of("b").transcript.size(), 15u);
  JobSpec c = Scenario::spec("c", "chat");
  c.rewind_to = 100;
  s.submit(c);
  EXPECT_EQ(s.job("c").end->code, ErrorCode::invalid);
}

TEST(CoreJobs, AJobThatFailsBeforeItStartsHasNotRewound) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  JobSpec b = Scenario::spec("b", "chat");
  b.rewind_to = 4;
  s.submit(b);
  JobEnded wrong = ended(s.held(1, "b").dispatch, false);
  wrong.code = ErrorCode::invalid;
  s.say(1, wrong);
  EXPECT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.session_of("b").transcript.size(), 11u);
  JobSpec c = Scenario::spec("c", "chat");
  c.rewind_to = 4;
  s.submit(c);
  s.cancel("c");
  EXPECT_EQ(s.session_of("c").transcript.size(), 11u);
  s.tell(WorkerUnreachable{s.connection(1)});
  JobSpec d = Scenario::spec("d", "chat");
  d.rewind_to = 4;
  d.require_resident = true;
  s.submit(d);
  s.enroll(2);
  EXPECT_EQ(s.job("d").end->code, ErrorCode::not_resident);
  EXPECT_EQ(s.session_of("d").transcript.size(), 11u);
}

TEST(CoreJobs, ARewindElsewhereIsGivenOnlyWhatItKeeps) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.tell(WorkerUnreachable{s.connection(1)});
  JobSpec b = Scenario::spec("b", "chat");
  b.rewind_to = 4;
  s.submit(b);
  s.enroll(2);
  EXPECT_EQ(s.held(2, "b").dispatch.base_tokens, 4);
  const auto asks_for = [&] {
    for (const Send& send : s.out().send) {
      const auto* to = std::get_if<ToWorker>(&send);
      if (to && to->fill_transcript) return to->keep_tokens;
    }
    return int64_t{-2};
  };
  EXPECT_EQ(asks_for(), 4);
  const Dispatch& d = s.held(2, "b").dispatch;
  s.say(2, NeedTranscript{d.job, d.attempt});
  EXPECT_EQ(asks_for(), 4);
  s.start(2, "b");
  s.say(2, NeedTranscript{d.job, d.attempt});
  EXPECT_EQ(asks_for(), -1);
  EXPECT_EQ(s.session_of("b").transcript.size(), 7u);
}

TEST(CoreJobs, RequireResidentFailsRatherThanStartCold) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  JobSpec warm = Scenario::spec("warm", "chat");
  warm.require_resident = true;
  s.submit(warm);
  s.run(1, "warm");
  EXPECT_EQ(s.state("warm"), JobState::finished);
  s.tell(WorkerUnreachable{s.connection(1)});
  s.enroll(2);
  JobSpec cold = Scenario::spec("cold", "chat");
  cold.require_resident = true;
  s.submit(cold);
  EXPECT_EQ(s.job("cold").end->code, ErrorCode::not_resident);
  s.submit("next", "chat");
  EXPECT_TRUE(s.has(2, "next"));
}

TEST(CoreJobs, RequireResidentFailsAtOnceWhenTheHomeIsGoneAndNobodyElseIsThere) {
  const auto resident = [](const std::string& id) {
    JobSpec spec = Scenario::spec(id, "chat");
    spec.require_resident = true;
    return spec;
  };
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("other", "talk");  // takes the only place
  for (const char* id : {"b", "c"}) s.submit(resident(id));
  EXPECT_EQ(s.state("b"), JobState::queued);
  s.restart();
  EXPECT_EQ(s.state("b"), JobState::queued) << "its home may come back";
  s.pass(milliseconds(3000));  // home_grace
  for (const char* id : {"b", "c"}) {
    ASSERT_EQ(s.state(id), JobState::failed) << id;
    EXPECT_EQ(s.job(id).end->code, ErrorCode::not_resident);
  }
  EXPECT_NE(s.job("b").end->message.find("worker_lost"), std::string::npos);
  s.submit(resident("d"));
  EXPECT_EQ(s.state("d"), JobState::failed);
  JobSpec fresh = resident("e");
  fresh.session = "new";  // has nothing that could be resident
  s.submit(fresh);
  EXPECT_EQ(s.state("e"), JobState::queued);
}

TEST(CoreJobs, RequireResidentThatHasWaitedLongHearsThatItsHomeIsGone) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("other", "talk");
  s.start(1, "other");
  JobSpec b = Scenario::spec("b", "chat");
  b.require_resident = true;
  s.submit(b);
  s.pass_alive(milliseconds(6000), {1});  // beyond the time to start at home
  EXPECT_EQ(s.state("b"), JobState::queued);
  s.tell(WorkerUnreachable{s.connection(1)});
  s.pass(milliseconds(5000));
  ASSERT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.job("b").end->code, ErrorCode::not_resident);
}

TEST(CoreJobs, AnEphemeralSessionEndsWithItsJob) {
  Scenario s;
  s.enroll(1);
  s.submit("a");
  s.run(1, "a");
  EXPECT_TRUE(s.session_of("a").closed);
  EXPECT_EQ(s.core().gauges().sessions_idle, 0);
}

JobSpec rewinding(const std::string& id, int64_t to) {
  JobSpec s = Scenario::spec(id, "chat");
  s.rewind_to = to;
  return s;
}

TEST(CoreJobs, AFailureUndoesTheRewindToo) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  const auto before = s.session_of("a").transcript;
  s.submit(rewinding("b", 2));
  s.start(1, "b");
  s.make(1, "b", 3);
  s.restart();
  s.enroll(1);
  JobEnded m = ended(s.held(1, "b").dispatch, false);
  s.say(1, m);
  EXPECT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.session_of("a").transcript, before);
  s.submit("c", "chat");
  const Dispatch& d = s.held(1, "c").dispatch;  // its home holds the rewound one
  EXPECT_EQ(d.base_tokens, std::ssize(before));
  EXPECT_TRUE(d.has_transcript);
  EXPECT_EQ(d.home_reason, Reason::rewound);
}

TEST(CoreJobs, ARewindThatEndsBeforeItsStartLeavesNoTraceAtHome) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit(rewinding("b", 2));  // its worker cuts its copy, and puts b's prompt there
  s.cancel("b");
  s.submit("c", "chat");
  const Dispatch& d = s.held(1, "c").dispatch;
  EXPECT_EQ(d.base_tokens, 11);
  EXPECT_TRUE(d.has_transcript);
}

TEST(CoreJobs, ACancelledTurnThatDidNotRewindStaysResident) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.submit("b", "chat");
  s.cancel("b");
  s.submit("c", "chat");
  EXPECT_FALSE(s.held(1, "c").dispatch.has_transcript);
}

// What a turn behind it leaves is not what it found.
TEST(CoreJobs, ATurnThatIsCancelledBehindARunningOneChangesNothing) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  const auto before = s.session_of("a").transcript;
  s.submit("b", "chat");
  s.start(1, "b");
  s.make(1, "b", 3);
  s.submit("c", "chat");
  s.cancel("c");
  s.restart();
  s.enroll(1);
  s.say(1, ended(s.held(1, "b").dispatch, false));
  EXPECT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.session_of("a").transcript, before);
}

TEST(CoreJobs, AnEvictedHomeIsABrokenAffinity) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.say(1, SessionDropped{s.job("a").accepted.session, Epoch{1}, Reason::evicted});
  ASSERT_EQ(s.out().facts.size(), 1u);
  EXPECT_EQ(s.out().facts[0].kind, Fact::Kind::affinity_break);
  EXPECT_EQ(s.out().facts[0].detail, "evicted");
}

}  // namespace
}  // namespace limpet::broker
