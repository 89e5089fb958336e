// What an operator asks: listings with filters, and failed jobs once more.
#include <gmock/gmock.h>

#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class CoreOperatorTest : public testing::Test {
 protected:
  Scenario s;

  std::vector<std::string> listed(const List& what) {
    s.client(what, "");
    std::vector<std::string> out;
    const Listed* l = s.told_client<Listed>();
    for (const JobInfo& j : l->jobs) out.push_back(j.job_id);
    for (const SessionInfo& i : l->sessions) out.push_back(i.session);
    for (const WorkerInfo& w : l->workers) out.push_back(w.worker);
    return out;
  }
  // The answer of the worker is that this job cannot be done.
  void fail(int w, const std::string& id, bool start = false) {
    if (start) {
      s.start(w, id);
      s.make(w, id, 2);
    }
    JobEnded m = ended(s.held(w, id).dispatch, false);
    m.code = ErrorCode::worker_error;
    m.message = "no memory";
    s.say(w, m);
    ASSERT_EQ(s.state(id), JobState::failed);
  }
  const Retried* retry(const std::string& id, const std::string& tenant = "") {
    const auto* job = s.store().find(id, tenant.empty() ? s.tenant_ : tenant);
    std::optional<StoredJob> stored =
        s.store().find_ended(id, tenant.empty() ? s.tenant_ : tenant);
    if (stored && stored->state == JobState::failed) stored->spec = job->accepted.spec;
    s.tell(ClientEvent{ClientId{1}, Retry{id, tenant}, 0, stored, s.tenant_, s.admin_});
    return s.told_client<Retried>();
  }
  ErrorCode refused() {
    const Refused* r = s.told_client<Refused>();
    return r ? r->code : ErrorCode::none;
  }
};

TEST_F(CoreOperatorTest, ListingsAreOfWhatWasAskedFor) {
  s.admin_ = true;
  s.at(1).slots = 1;
  s.enroll(1);
  s.tenant_ = "acme";
  s.submit("a1", "chat");
  s.submit("a2", "chat");
  s.submit("a3", "talk");
  s.tenant_ = "zeta";
  s.submit("z1", "chat");
  const auto bit = [](auto state) { return 1u << raw(state); };
  EXPECT_THAT(listed({.what = Listing::jobs}), UnorderedElementsAre("a1", "a2", "a3", "z1"));
  EXPECT_THAT(listed({.what = Listing::jobs, .tenant = "zeta"}), ElementsAre("z1"));
  EXPECT_THAT(listed({.what = Listing::jobs, .tenant = "acme", .session = "chat"}),
              UnorderedElementsAre("a1", "a2"));
  EXPECT_THAT(listed({.what = Listing::jobs, .worker = "w1"}), ElementsAre("a1"));
  EXPECT_THAT(listed({.what = Listing::jobs, .states = bit(JobState::dispatched)}),
              ElementsAre("a1"));
  EXPECT_THAT(listed({.what = Listing::jobs, .states = bit(JobState::finished)}), IsEmpty());
  EXPECT_THAT(listed({.what = Listing::sessions, .states = bit(SessionState::running)}),
              ElementsAre("chat"));
  EXPECT_THAT(listed({.what = Listing::sessions, .worker = "w1"}), ElementsAre("chat"));
  EXPECT_THAT(listed({.what = Listing::workers, .worker = "w2"}), IsEmpty());
  EXPECT_THAT(listed({.what = Listing::workers, .worker = "w1"}), ElementsAre("w1"));
}

TEST_F(CoreOperatorTest, AListingOfAnotherTenantIsRefusedNotEmpty) {
  s.tenant_ = "acme";
  s.submit("a", "chat");
  for (const Listing what : {Listing::jobs, Listing::sessions}) {
    s.tenant_ = "zeta";
    s.client(List{.what = what, .tenant = "acme"}, "");
    EXPECT_EQ(s.told_client<Listed>(), nullptr);
    EXPECT_EQ(refused(), ErrorCode::forbidden);
    s.tenant_ = "acme";  // its own may be named
    s.client(List{.what = what, .tenant = "acme"}, "");
    EXPECT_NE(s.told_client<Listed>(), nullptr);
  }
}

TEST_F(CoreOperatorTest, AHomeThatIsGoneIsNotListed) {
  const auto home = [&] {
    s.client(List{.what = Listing::sessions}, "");
    return s.told_client<Listed>()->sessions.at(0).home;
  };
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  EXPECT_EQ(home(), "w1");
  s.restart();
  EXPECT_EQ(home(), "w1");  // it may come back with it
  s.enroll(1);
  EXPECT_EQ(home(), "w1");
  s.tell(WorkerUnreachable{s.connection(1)});
  EXPECT_EQ(home(), "");
  EXPECT_THAT(listed({.what = Listing::sessions, .worker = "w1"}), IsEmpty());
  s.rebirth(1);
  s.enroll(1);
  EXPECT_EQ(home(), "");
}

TEST_F(CoreOperatorTest, SessionsThatWereUsedLately) {
  s.enroll(1);
  s.submit("a", "old");
  s.run(1, "a");
  s.pass_alive(milliseconds(5000), {1});
  s.submit("b", "young");
  s.run(1, "b");
  EXPECT_THAT(listed({.what = Listing::sessions, .since = s.now().wall - 1000}),
              ElementsAre("young"));
  EXPECT_THAT(listed({.what = Listing::sessions, .since = s.now().wall - 9000}),
              UnorderedElementsAre("old", "young"));
}

TEST_F(CoreOperatorTest, AFailedJobIsDoneAgainUnderItsIdAndComesLastInItsLane) {
  s.enroll(1);
  s.submit("a", "chat");
  s.submit("b", "chat");
  fail(1, "a", true);
  const JobNumber before = s.job("a").accepted.job;
  const Retried* again = retry("a");
  ASSERT_NE(again, nullptr);
  EXPECT_TRUE(again->again);
  EXPECT_EQ(s.state("a"), JobState::queued);
  EXPECT_GT(s.job("a").accepted.job, before);
  s.run(1, "b");  // was accepted before
  const Dispatch& d = s.held(1, "a").dispatch;
  EXPECT_EQ(d.base_tokens, 11);
  EXPECT_EQ(d.output_tokens, 0);  // what the failed one had made was cut off with its failure
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST_F(CoreOperatorTest, ARetryOfAnythingElseChangesNothing) {
  s.enroll(1);
  s.submit("a", "chat");
  fail(1, "a");
  EXPECT_TRUE(retry("a")->again);
  const Retried* second = retry("a");  // said twice
  EXPECT_FALSE(second->again);
  EXPECT_EQ(second->state, JobState::dispatched);
  EXPECT_TRUE(s.out().append.empty());
  s.run(1, "a");
  EXPECT_EQ(retry("a")->state, JobState::finished);
  EXPECT_TRUE(s.out().append.empty());
  EXPECT_EQ(retry("nobody"), nullptr);
  EXPECT_EQ(refused(), ErrorCode::not_found);
}

TEST_F(CoreOperatorTest, ItMayFailAndBeDoneAgainAsOftenAsOneLikes) {
  s.enroll(1);
  s.submit("a");  // with a session of its own, which has ended with it
  for (int i = 0; i < 3; ++i) {
    fail(1, "a");
    ASSERT_TRUE(retry("a")->again);
  }
  s.restart();
  s.enroll(1);
  s.run(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
  EXPECT_FALSE(retry("a")->again);
  s.submit("a");  // attaches to what it has become
  EXPECT_FALSE(s.told_client<Accepted>()->created);
  EXPECT_EQ(s.told_client<Accepted>()->state, JobState::finished);
}

TEST_F(CoreOperatorTest, OnlyItsOwnerOrAnAdminRetriesAJob) {
  s.enroll(1);
  s.tenant_ = "acme";
  s.submit("a");
  JobEnded m = ended(s.held(1, "a").dispatch, false);
  m.code = ErrorCode::worker_error;
  s.say(1, m);
  s.tenant_ = "zeta";
  EXPECT_EQ(retry("a"), nullptr);
  EXPECT_EQ(refused(), ErrorCode::not_found);
  EXPECT_EQ(retry("a", "acme"), nullptr);
  EXPECT_EQ(refused(), ErrorCode::forbidden);
  s.admin_ = true;
  const Retried* again = retry("a", "acme");
  ASSERT_NE(again, nullptr);
  EXPECT_TRUE(again->again);
  EXPECT_EQ(s.store().find("a", "acme")->state, JobState::dispatched);
}

TEST_F(CoreOperatorTest, ARetryIsHeldToTheCaps) {
  TenantPolicies p;
  p.standard.max_queued_jobs = 1;
  s.core().set_policies(p);
  s.enroll(1);
  s.submit("a");
  fail(1, "a");
  s.say(1, Leaving{s.incarnation(1)});
  s.submit("b");
  EXPECT_EQ(retry("a"), nullptr);
  EXPECT_EQ(refused(), ErrorCode::busy);
  EXPECT_EQ(s.state("a"), JobState::failed);
}

}  // namespace
}  // namespace limpet::broker
