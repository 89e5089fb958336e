// Tenants: what one has opened is not there for another.
#include <gmock/gmock.h>

#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

class CoreTenantTest : public testing::Test {
 protected:
  Scenario s;

  void as(const std::string& tenant, bool admin = false) {
    s.tenant_ = tenant;
    s.admin_ = admin;
  }
  ErrorCode refused() {
    const Refused* r = s.told_client<Refused>();
    return r ? r->code : ErrorCode::none;
  }
  std::vector<std::string> listed(Listing what) {
    s.client(List{what, 100}, "");
    const Listed* l = s.told_client<Listed>();
    std::vector<std::string> out;
    for (const JobInfo& j : l->jobs) out.push_back(j.tenant + "/" + j.job_id);
    for (const SessionInfo& i : l->sessions) out.push_back(i.tenant + "/" + i.session);
    return out;
  }
};

TEST_F(CoreTenantTest, TheSameIdAndSessionOfTwoTenantsAreTwoJobsAndTwoSessions) {
  s.enroll(1);
  as("acme");
  s.submit("a", "chat");
  const Dispatch acme = s.held(1, "a").dispatch;
  s.run(1, "a");
  as("zeta");
  JobSpec other = Scenario::spec("a", "chat");
  other.tokens = {7, 7};  // another body under an id that acme has used
  s.submit(other);
  ASSERT_NE(s.told_client<Accepted>(), nullptr);
  EXPECT_TRUE(s.told_client<Accepted>()->created);
  const Dispatch zeta = s.held(1, "a").dispatch;
  EXPECT_NE(zeta.job, acme.job);
  EXPECT_NE(zeta.session, acme.session);
  EXPECT_EQ(zeta.base_tokens, 0) << "begins with acme's transcript";
  EXPECT_EQ(acme.tenant, "acme");
  EXPECT_EQ(zeta.tenant, "zeta");
}

TEST_F(CoreTenantTest, AnothersJobIsNotFoundWhateverItsState) {
  as("acme");
  s.submit("queued");
  s.enroll(1);
  s.submit("ended");
  s.run(1, "ended");
  for (const char* id : {"queued", "ended"}) {
    as("zeta");
    s.client(Attach{id, 0}, id);
    EXPECT_EQ(refused(), ErrorCode::not_found) << id;
    s.client(Cancel{id}, id);
    EXPECT_EQ(refused(), ErrorCode::not_found) << id;
    as("zeta", true);  // an admin sees more in listings, and nothing more
    s.client(Attach{id, 0}, id);
    EXPECT_EQ(refused(), ErrorCode::not_found) << id;
    as("acme");
    s.client(Attach{id, 0}, id);
    EXPECT_EQ(refused(), ErrorCode::none) << id;
  }
  EXPECT_FALSE(is_terminal(s.store().find("queued", "acme")->state));
}

TEST_F(CoreTenantTest, AJobThatOnlyTheStoreRemembersIsItsTenantsAlone) {
  as("acme");
  s.enroll(1);
  s.submit("a");
  s.run(1, "a");
  s.restart();
  s.client(Attach{"a", 0}, "a");
  EXPECT_EQ(refused(), ErrorCode::none);
  as("zeta");
  s.client(Attach{"a", 0}, "a");
  EXPECT_EQ(refused(), ErrorCode::not_found);
}

TEST_F(CoreTenantTest, ListingsShowTheTenantsOwnAndAnAdminAll) {
  as("acme");
  s.submit("a", "chat");
  as("zeta");
  s.submit("z", "chat");
  EXPECT_THAT(listed(Listing::jobs), ElementsAre("zeta/z"));
  EXPECT_THAT(listed(Listing::sessions), ElementsAre("zeta/chat"));
  as("ops", true);
  EXPECT_THAT(listed(Listing::jobs), UnorderedElementsAre("acme/a", "zeta/z"));
  EXPECT_THAT(listed(Listing::sessions), UnorderedElementsAre("acme/chat", "zeta/chat"));
}

TEST_F(CoreTenantTest, ARestartKeepsWhoOwnsWhat) {
  as("acme");
  s.submit("a", "chat");
  as("zeta");
  s.submit("a", "chat");
  s.restart();
  EXPECT_THAT(listed(Listing::jobs), ElementsAre("zeta/a"));
  EXPECT_THAT(listed(Listing::sessions), ElementsAre("zeta/chat"));
  s.client(Cancel{"a"}, "a");
  EXPECT_EQ(s.store().find("a", "zeta")->state, JobState::cancelled);
  EXPECT_EQ(s.store().find("a", "acme")->state, JobState::queued);
}

TEST_F(CoreTenantTest, TheLastPlaceIsForATenantThatHasNothingAtWork) {
  s.at(1).slots = 4;
  s.enroll(1);
  as("loud");
  const auto flood = [&](int from, int to) {
    for (int i = from; i < to; ++i) s.submit("l" + std::to_string(i));
  };
  const auto at_work = [&] { return s.at(1).jobs.size(); };
  flood(0, 20);
  EXPECT_EQ(at_work(), 4u);  // there is nobody else
  as("quiet");
  s.submit("q0");
  EXPECT_FALSE(s.has(1, "q0"));
  as("loud");
  s.run(1, "l0");
  EXPECT_TRUE(s.has(1, "q0"));  // its turn
  as("quiet");
  s.run(1, "q0");
  EXPECT_EQ(at_work(), 3u) << "the last place is taken by who has three already";
  s.heartbeat(1);
  EXPECT_EQ(at_work(), 3u);
  as("loud");
  s.run(1, "l1");  // two places are free: one is taken
  EXPECT_TRUE(s.has(1, "l4"));
  EXPECT_EQ(at_work(), 3u);
  as("quiet");
  s.submit("q1");
  EXPECT_TRUE(s.has(1, "q1")) << "it waits for nobody";
  s.submit("q2");
  EXPECT_FALSE(s.has(1, "q2"));
  as("loud");
  s.run(1, "l2");
  EXPECT_EQ(at_work(), 3u) << "both have jobs at work: the last place waits for a third";
}

TEST_F(CoreTenantTest, AWorkerOfFewPlacesKeepsNoneBack) {
  s.at(1).slots = 3;
  s.enroll(1);
  as("quiet");
  s.submit("q0");
  s.run(1, "q0");
  as("loud");
  for (int i = 0; i < 5; ++i) s.submit("l" + std::to_string(i));
  EXPECT_EQ(s.at(1).jobs.size(), 3u);
}

TEST_F(CoreTenantTest, TheLastPlaceIsNotForOneBeyondItsShare) {
  s.at(1).slots = 4;
  s.enroll(1);
  as("light");
  JobSpec large = Scenario::spec("big", "home");
  large.max_tokens = 500;
  s.submit(large);
  s.start(1, "big");
  s.make(1, "big", 500);
  s.end(1, "big");  // far more than its share
  s.heartbeat(1);
  as("loud");
  for (int i = 0; i < 10; ++i) s.submit("l" + std::to_string(i));
  EXPECT_EQ(s.at(1).jobs.size(), 3u);
  as("light");
  s.submit("more", "home");  // at its home, and elsewhere
  s.submit("other");
  EXPECT_FALSE(s.has(1, "more") || s.has(1, "other"));
  EXPECT_EQ(s.at(1).jobs.size(), 3u);
  as("new");
  s.submit("n");
  EXPECT_TRUE(s.has(1, "n"));
}

}  // namespace
}  // namespace limpet::broker
