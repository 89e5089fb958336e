// Shares of tenants: the table and the queue by themselves, and the core under policies.
#include <map>
#include <random>

#include "broker/fair_queue.h"
#include "broker/session_table.h"
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

// Tenants that always wait, with jobs of lengths that only show when they are over; what each has
// had after `rounds` jobs, in tokens.
std::map<std::string, double> served(const TenantPolicies& policies,
                                     const std::map<std::string, int>& longest, int rounds) {
  TenantTable table;
  table.set_policies(policies);
  FairQueue queue;
  std::vector<std::unique_ptr<Session>> sessions;
  std::mt19937 rng(7);
  uint64_t number = 0;
  const auto wait = [&](Session& session) {
    queue.insert(*session.tenant, {0, JobNumber{++number}}, &session);
    table.waits(*session.tenant);
  };
  for (const auto& [name, most] : longest) {
    for (int i = 0; i < 3; ++i) {
      sessions.push_back(std::make_unique<Session>());
      sessions.back()->tenant = &table.of(name);
      wait(*sessions.back());
    }
  }
  std::map<std::string, double> had;
  for (int i = 0; i < rounds; ++i) {
    const FairQueue::First first = queue.first([](const Session&) { return true; });
    Tenant& tenant = *first.session->tenant;
    queue.erase(tenant, first.key);
    table.waits_not(tenant);
    const int most = longest.at(tenant.name);
    const auto tokens = static_cast<int64_t>(1 + rng() % static_cast<unsigned>(most));
    table.begin(tenant, most);
    table.correct(tenant, tokens - most);
    had[tenant.name] += static_cast<double>(tokens);
    wait(*first.session);
  }
  return had;
}

TEST(Tenants, EqualWeightsGetEqualTokensWhateverTheirJobs) {
  const auto had = served({}, {{"long", 900}, {"short", 30}}, 4000);
  EXPECT_NEAR(had.at("long") / had.at("short"), 1.0, 0.05);
}

TEST(Tenants, SharesFollowWeights) {
  TenantPolicies p;
  p.named["big"].weight = 3;
  const auto had = served(p, {{"big", 100}, {"small", 100}}, 4000);
  EXPECT_NEAR(had.at("big") / had.at("small"), 3.0, 0.1);
}

TEST(Tenants, AbsenceIsNeitherPaidForNorPaid) {
  TenantTable table;
  Tenant &steady = table.of("steady"), &guest = table.of("guest");
  table.waits(steady);
  for (int i = 0; i < 100; ++i) table.begin(steady, 50);
  table.waits(guest);
  EXPECT_TRUE(TenantTable::before(guest, steady));  // its turn is next
  table.begin(guest, 120);
  EXPECT_TRUE(TenantTable::before(steady, guest));  // once
}

TEST(Tenants, WithinOneTheMostUrgentIsFirst) {
  TenantTable table;
  FairQueue queue;
  Session low, high, later;
  for (Session* s : {&low, &high, &later}) s->tenant = &table.of("");
  queue.insert(*low.tenant, {0, JobNumber{1}}, &low);
  queue.insert(*later.tenant, {0, JobNumber{3}}, &later);
  queue.insert(*high.tenant, {5, JobNumber{2}}, &high);
  const auto all = [](const Session&) { return true; };
  EXPECT_EQ(queue.first(all).session, &high);
  queue.erase(*high.tenant, {5, JobNumber{2}});
  EXPECT_EQ(queue.first(all).session, &low);
  // None overtakes one of its own tenant that may not go.
  EXPECT_FALSE(queue.first([&](const Session& s) { return &s != &low; }));
}

TEST(TenantCaps, JobsBeyondTheQueueCapAreBusy) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_queued_jobs = 2;
  s.core().set_policies(p);
  for (const char* id : {"a", "b", "c"}) s.submit(id);
  ASSERT_NE(s.told_client<Refused>(), nullptr);
  EXPECT_EQ(s.told_client<Refused>()->code, ErrorCode::busy);
  EXPECT_NE(s.told_client<Refused>()->message.find("tenant"), std::string::npos);
}

TEST(TenantCaps, NoMoreRunningJobsThanTheCap) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_running_jobs = 2;
  s.core().set_policies(p);
  s.at(1).slots = 8;
  s.enroll(1);
  for (const char* id : {"a", "b", "c", "d"}) s.submit(id);
  EXPECT_EQ(s.at(1).jobs.size(), 2u);
  s.run(1, "a");
  EXPECT_TRUE(s.has(1, "c"));
  EXPECT_FALSE(s.has(1, "d"));
  s.core().set_policies({});
  s.heartbeat(1);
  EXPECT_TRUE(s.has(1, "d"));
}

TEST(TenantCaps, ResidentKvBeyondTheCapIsTheTenantsOwnLongestIdle) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_resident_tokens = 30;  // a turn here is 3 + 8 tokens
  s.core().set_policies(p);
  s.enroll(1);
  for (const char* id : {"a", "b"}) {
    s.submit(id, std::string("s") + id);
    s.run(1, id);
  }
  s.submit("c", "sc");
  ASSERT_NE(s.told_worker<ReleaseSession>(1), nullptr);
  EXPECT_EQ(s.told_worker<ReleaseSession>(1)->session, s.job("a").accepted.session);
  EXPECT_TRUE(s.session_of("a").home.empty());
  EXPECT_FALSE(s.session_of("b").home.empty());
  EXPECT_TRUE(s.has(1, "c"));
  s.submit("d", "sd");  // b's goes too; c and d are all that may be
  EXPECT_TRUE(s.session_of("b").home.empty());
  EXPECT_TRUE(s.has(1, "d"));
  s.submit("e", "se");
  EXPECT_FALSE(s.has(1, "e"));
  s.run(1, "c");
  EXPECT_TRUE(s.has(1, "e"));
}

TEST(TenantCaps, OneThatExceedsTheCapByItselfRunsAlone) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_resident_tokens = 5;
  s.core().set_policies(p);
  s.at(1).slots = 8;
  s.enroll(1);
  s.submit("a");
  s.submit("b");
  EXPECT_TRUE(s.has(1, "a"));
  EXPECT_FALSE(s.has(1, "b"));
  s.run(1, "a");
  EXPECT_TRUE(s.has(1, "b"));
}

TEST(TenantCaps, WhatExceedsTheCapByItselfIsNotKeptIdle) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_resident_tokens = 12;  // a session's second turn is of 22 tokens
  s.core().set_policies(p);
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  EXPECT_FALSE(s.session_of("a").home.empty());
  s.submit("b", "chat");
  s.run(1, "b");
  EXPECT_TRUE(s.session_of("b").home.empty());
  ASSERT_NE(s.told_worker<ReleaseSession>(1), nullptr);
  EXPECT_EQ(s.told_worker<ReleaseSession>(1)->session, s.job("b").accepted.session);
  EXPECT_EQ(s.session_of("b").reason, Reason::evicted);
}

TEST(TenantCaps, OneWhoseNextTurnBeginsAtOnceKeepsItsKv) {
  Scenario s;
  TenantPolicies p;
  p.standard.max_resident_tokens = 5;
  s.core().set_policies(p);
  s.enroll(1);
  s.submit("a", "chat");
  s.submit("b", "chat");
  s.run(1, "a");
  EXPECT_EQ(s.held(1, "b").dispatch.home_reason, Reason::none);
  s.run(1, "b");
  EXPECT_TRUE(s.session_of("b").home.empty());
}

TEST(TenantCaps, ALowerCapTakesTheLongestIdleWithoutAJob) {
  Scenario s;
  s.enroll(1);
  for (const char* id : {"a", "b", "c"}) {
    s.submit(id, std::string("s") + id);
    s.run(1, id);
  }
  TenantPolicies p;
  p.standard.max_resident_tokens = 25;  // of 33 that are idle
  s.core().set_policies(p);
  EXPECT_LE(s.core().next_deadline(), s.now().mono);
  s.pass(milliseconds(0));
  EXPECT_TRUE(s.session_of("a").home.empty());
  EXPECT_FALSE(s.session_of("b").home.empty());
  EXPECT_FALSE(s.session_of("c").home.empty());
  ASSERT_NE(s.told_worker<ReleaseSession>(1), nullptr);
  EXPECT_GT(s.core().next_deadline(), s.now().mono);
}

TEST(TenantCaps, ALowerCapHoldsForWhatWasResidentBeforeARestart) {
  Scenario s;
  s.enroll(1);
  s.submit("a", "chat");
  s.run(1, "a");
  s.restart();
  TenantPolicies p;
  p.standard.max_resident_tokens = 5;
  s.core().set_policies(p);
  s.enroll(1);
  EXPECT_TRUE(s.session_of("a").home.empty());
  EXPECT_TRUE(s.at(1).sessions.empty());
}

}  // namespace
}  // namespace limpet::broker
