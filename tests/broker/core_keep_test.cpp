// How long KV and sessions are kept, what a session may grow to, and what may be given up.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

JobSpec with_terms(const std::string& id, const std::string& session, int64_t keep_alive_ms,
                   int64_t max_tokens = 0) {
  JobSpec s = Scenario::spec(id, session);
  s.keep_alive_ms = keep_alive_ms;
  s.session_max_tokens = max_tokens;
  return s;
}

bool told_break(const Output& out, const std::string& why) {
  for (const Fact& f : out.facts)
    if (f.kind == Fact::Kind::affinity_break && f.detail == why) return true;
  return false;
}

TEST(CoreKeep, IdleKvGoesWhenItsTimeHasPassedAndNotBefore) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", 2000));
  s.run(1, "a");
  s.pass_alive(milliseconds(1500), {1});
  s.submit("b", "chat");  // used again: the time begins anew
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::none);
  s.run(1, "b");
  s.pass_alive(milliseconds(1500), {1});
  EXPECT_EQ(s.session_of("a").home, "w1");
  s.heartbeat(1);
  s.pass(milliseconds(500));
  EXPECT_EQ(s.session_of("a").home, "");
  EXPECT_TRUE(told_break(s.out(), "keep_alive"));
  EXPECT_NE(s.told_worker<ReleaseSession>(1), nullptr);
  s.submit("c", "chat");
  const Dispatch& d = s.held(1, "c").dispatch;
  EXPECT_EQ(d.home_reason, Reason::evicted);  // which is told with the start
  EXPECT_TRUE(d.has_transcript);
  EXPECT_EQ(d.keep_alive_ms, 2000);
}

TEST(CoreKeep, KvOfAJobThatWaitsOrRunsIsKept) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", 500));
  s.start(1, "a");
  s.pass_alive(milliseconds(2000), {1});
  EXPECT_EQ(s.session_of("a").home, "w1");
}

TEST(CoreKeep, ZeroKeepsNothing) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", 0));
  s.submit("b", "chat");
  s.run(1, "a");
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::none);  // it waited already
  s.run(1, "b");
  EXPECT_EQ(s.session_of("a").home, "");
}

TEST(CoreKeep, TheBrokersOwnTimeHoldsWhereASessionSaysNothing) {
  CoreOptions o;
  o.keep_alive = milliseconds(1000);
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "short");
  s.submit(with_terms("b", "long", 60000));
  s.run(1, "a");
  s.run(1, "b");
  s.pass_alive(milliseconds(1250), {1});
  EXPECT_EQ(s.session_of("a").home, "");
  EXPECT_EQ(s.session_of("b").home, "w1");
}

TEST(CoreKeep, TermsOutliveARestart) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", 1000, 40));
  s.run(1, "a");
  s.restart();
  s.enroll(1);
  s.pass_alive(milliseconds(500), {1});
  EXPECT_EQ(s.session_of("a").home, "w1");
  s.client(List{Listing::sessions, 10}, "");
  ASSERT_EQ(s.told_client<Listed>()->sessions.size(), 1u);
  EXPECT_EQ(s.told_client<Listed>()->sessions[0].keep_alive_ms, 1000);
  EXPECT_EQ(s.told_client<Listed>()->sessions[0].max_tokens, 40);
  s.pass_alive(milliseconds(750), {1});
  EXPECT_EQ(s.session_of("a").home, "");
  EXPECT_TRUE(s.at(1).sessions.empty());
}

TEST(CoreKeep, ALaterJobChangesTheTermsThatItNames) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", 1000, 40));
  s.submit(with_terms("b", "chat", -1, 50));
  EXPECT_EQ(s.session_of("a").keep_alive_ms, 1000);
  EXPECT_EQ(s.session_of("a").max_tokens, 50);
  const size_t entries = s.submit(with_terms("c", "chat", 1000)).append.size();
  EXPECT_EQ(entries, 1u);  // nothing new
}

TEST(CoreKeep, TermsNeedASession) {
  Scenario s;
  s.submit(with_terms("a", "", 1000));
  ASSERT_NE(s.told_client<Refused>(), nullptr);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::invalid);
}

TEST(CoreKeep, ASessionThatAsksForMoreThanAnyWorkerHoldsIsNotOpened) {
  Scenario s;
  s.enroll(1);  // a context of 4096
  s.submit(with_terms("a", "chat", -1, 5000));
  ASSERT_NE(s.told_client<Refused>(), nullptr);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::too_long);
  EXPECT_NE(s.told_client<Refused>()->message.find("4096"), std::string::npos);
  EXPECT_EQ(s.store().find("a"), nullptr);
  s.submit(with_terms("b", "chat", -1, 4096));
  EXPECT_NE(s.told_client<Accepted>(), nullptr);
}

TEST(CoreKeep, ATurnBeyondItsSessionsCapFailsAndLeavesTheSessionAsItWas) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", -1, 14));
  EXPECT_EQ(s.held(1, "a").dispatch.session_max_tokens, 14);
  s.run(1, "a");  // 3 + 8
  s.submit("b", "chat");
  EXPECT_FALSE(s.has(1, "b"));
  ASSERT_EQ(s.state("b"), JobState::failed);
  EXPECT_EQ(s.job("b").end->code, ErrorCode::too_long);
  EXPECT_NE(s.job("b").end->message.find("at most 14 tokens"), std::string::npos);
  EXPECT_NE(s.job("b").end->message.find("14 that it has with this turn's prompt"),
            std::string::npos);
  JobSpec text = Scenario::spec("c", "chat");  // how long a text is, only the worker knows
  text.kind = InputKind::text;
  text.text = "abc";
  text.tokens.clear();
  s.submit(text);
  ASSERT_TRUE(s.has(1, "c"));
  s.start(1, "c");  // 11 + 3
  ASSERT_EQ(s.state("c"), JobState::failed);
  EXPECT_EQ(s.job("c").end->code, ErrorCode::too_long);
  EXPECT_EQ(s.session_of("a").transcript.size(), 11u);
  EXPECT_NE(s.job("c").end->message.find("14 that it has with this turn's prompt"),
            std::string::npos);
  text = with_terms("full", "chat", -1, 11);
  text.kind = InputKind::text;
  text.text = "abc";
  text.tokens.clear();
  s.submit(text);  // there is no room, however long it is
  ASSERT_EQ(s.state("full"), JobState::failed);
  EXPECT_NE(s.job("full").end->message.find("11 that it has before this turn's prompt"),
            std::string::npos);
  s.submit(with_terms("d", "chat", -1, 30));  // raised
  s.run(1, "d");
  EXPECT_EQ(s.state("d"), JobState::finished);
}

TEST(CoreKeep, TokensBeyondTheCapAreNotTaken) {
  Scenario s;
  s.enroll(1);
  s.submit(with_terms("a", "chat", -1, 8));
  s.start(1, "a");
  s.make(1, "a", 5);
  s.make(1, "a", 1);
  EXPECT_EQ(s.session_of("a").transcript.size(), 8u);
}

TEST(CoreKeep, ACappedSessionNeedsNoMoreRoomThanItsCap) {
  Scenario s;
  s.at(1).free_kv = 1000;
  s.at(1).slots = 8;
  s.enroll(1);
  JobSpec a = with_terms("a", "x", -1, 400), b = with_terms("b", "y", -1, 400);
  a.max_tokens = b.max_tokens = 900;
  s.submit(a);
  s.submit(b);
  EXPECT_TRUE(s.has(1, "a") && s.has(1, "b"));
}

TEST(CoreKeep, AReleasedSessionGivesItsKvBackAndKeepsItsTranscript) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.client(Release{"chat"}, "");
  ASSERT_NE(s.told_client<Released>(), nullptr);
  EXPECT_EQ(s.told_client<Released>()->state, SessionState::idle);
  EXPECT_EQ(s.told_client<Released>()->tokens, 11);
  EXPECT_TRUE(told_break(s.out(), "released"));
  EXPECT_TRUE(s.at(1).sessions.empty());
  s.client(Release{"chat"}, "");  // again
  EXPECT_NE(s.told_client<Released>(), nullptr);
  EXPECT_TRUE(s.out().append.empty());
  s.submit("b", "chat");
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::evicted);
  EXPECT_EQ(s.held(1, "b").dispatch.base_tokens, 11);
}

TEST(CoreKeep, ARunningSessionIsReleasedWhenItsJobHasEnded) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.start(1, "a");
  s.client(Release{"chat"}, "");
  EXPECT_EQ(s.told_client<Released>()->state, SessionState::running);
  s.make(1, "a", 8);
  EXPECT_EQ(s.session_of("a").home, "w1");
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
  EXPECT_EQ(s.session_of("a").home, "");
}

TEST(CoreKeep, OnlyItsTenantReleasesASession) {
  Scenario s;
  s.enroll(1);
  s.tenant_ = "acme";
  s.submit("a", "chat");
  s.run(1, "a");
  s.tenant_ = "zeta";
  s.client(Release{"chat"}, "");
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::not_found);
  s.client(Release{"chat", "acme"}, "");
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::forbidden);
  s.admin_ = true;
  s.client(Release{"chat", "acme"}, "");
  EXPECT_NE(s.told_client<Released>(), nullptr);
}

TEST(CoreKeep, RequireResidentFailsRatherThanPrefill) {
  Scenario s;
  s.enroll(1);
  JobSpec first = Scenario::spec("a", "chat");
  first.require_resident = true;  // of a new session there is nothing to be had
  s.submit(first);
  s.run(1, "a");
  JobSpec b = Scenario::spec("b", "chat");
  b.require_resident = true;
  s.submit(b);
  s.run(1, "b");
  EXPECT_EQ(s.state("b"), JobState::finished);
  s.client(Release{"chat"}, "");
  JobSpec c = Scenario::spec("c", "chat");
  c.require_resident = true;
  s.submit(c);
  ASSERT_EQ(s.state("c"), JobState::failed);
  EXPECT_EQ(s.job("c").end->code, ErrorCode::not_resident);
}

TEST(CoreKeep, SessionsThatNobodyUsesEndInTheOrderOfTheirLastUse) {
  CoreOptions o;
  o.retain_sessions = milliseconds(10000);
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "first");
  s.run(1, "a");
  s.pass_alive(milliseconds(4000), {1});
  s.submit("b", "second");
  s.run(1, "b");
  s.submit("c", "busy");
  s.start(1, "c");
  s.pass_alive(milliseconds(6250), {1});
  EXPECT_TRUE(s.session_of("a").closed);
  EXPECT_FALSE(s.session_of("b").closed);
  s.restart();  // and the time goes on over a restart
  s.enroll(1);
  s.pass_alive(milliseconds(4000), {1});
  EXPECT_TRUE(s.session_of("b").closed);
  EXPECT_FALSE(s.session_of("c").closed);  // a job is there
  s.submit("d", "first");                  // a new one of the name
  EXPECT_EQ(s.held(1, "d").dispatch.base_tokens, 0);
}

TEST(CoreKeep, ATimeThatNoClockHoldsIsLookedAtAgainLater) {
  CoreOptions o;
  o.retain_sessions = std::chrono::seconds(int64_t{1} << 40);  // as the configuration may say
  Scenario s(o);
  s.enroll(1);
  s.submit("a", "first");
  s.run(1, "a");
  s.pass_alive(milliseconds(1000), {1});
  EXPECT_FALSE(s.session_of("a").closed);
  EXPECT_GT(s.core().next_deadline(), s.now().mono) << "or the broker would turn without a pause";
}

TEST(CoreKeep, AFullStoreEndsTheSessionsThatAreUnusedForLongest) {
  Scenario s;
  s.at(1).slots = 8;
  s.enroll(1);
  for (const char* id : {"a", "b", "c"}) {
    s.submit(id, std::string("s") + id);
    s.run(1, id);
    s.pass(milliseconds(10));
  }
  s.submit("again", "sa");  // used last now
  s.run(1, "again");
  s.submit("on", "sb");
  s.start(1, "on");
  s.tell(CloseUnused{1});
  EXPECT_TRUE(s.session_of("c").closed);
  s.tell(CloseUnused{10});
  EXPECT_TRUE(s.session_of("a").closed);
  EXPECT_FALSE(s.session_of("b").closed);
}

}  // namespace
}  // namespace limpet::broker
