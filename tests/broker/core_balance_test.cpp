// Bounded stickiness: when a session leaves a home that lives.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

std::string nth(const std::string& name, int i) { return name + std::to_string(i); }

int homes_set(const Output& out) {
  int n = 0;
  for (const JournalEntry& e : out.append) n += std::holds_alternative<HomeSet>(e);
  return n;
}

// Sessions 0 … n-1, each with a turn behind it, at home at worker w.
void settle_at(Scenario& s, int w, int first, int n) {
  for (int i = first; i < first + n; ++i) {
    s.submit(nth("open", i), nth("s", i));
    s.run(w, nth("open", i));
    s.heartbeat(w);
  }
}

TEST(CoreBalance, ThreeMoreWorkersMoveNoSession) {
  Scenario s;
  const int kSessions = 30;
  for (int w = 1; w <= 3; ++w) s.enroll(w);
  for (int i = 0; i < kSessions; ++i) {
    s.submit(nth("open", i), nth("s", i));
    for (int w = 1; w <= 3; ++w)
      if (s.has(w, nth("open", i))) s.run(w, nth("open", i));
    for (int w = 1; w <= 3; ++w) s.heartbeat(w);
  }
  std::vector<std::string> homes;
  for (int i = 0; i < kSessions; ++i) homes.push_back(s.session_of(nth("open", i)).home);
  int moved = 0;
  for (int w = 4; w <= 6; ++w) moved += homes_set(s.enroll(w));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < kSessions; ++i) {
      const std::string id = nth(nth("turn", round) + "-", i);
      moved += homes_set(s.submit(id, nth("s", i)));
      const int home = homes[static_cast<size_t>(i)][1] - '0';
      ASSERT_TRUE(s.has(home, id));
      EXPECT_EQ(s.held(home, id).dispatch.home_reason, Reason::none);
      s.run(home, id);
      for (int w = 1; w <= 6; ++w) moved += homes_set(s.heartbeat(w));
    }
  }
  EXPECT_EQ(moved, 0);
  s.submit("new", "new");  // new sessions go to the new ones
  EXPECT_TRUE(s.has(4, "new") || s.has(5, "new") || s.has(6, "new"));
}

TEST(CoreBalance, ALoadThatCanBeBorneMovesNobody) {
  Scenario s;
  s.at(1).slots = 2;
  s.enroll(1);
  settle_at(s, 1, 0, 4);
  s.enroll(2);
  for (int i = 0; i < 4; ++i) s.submit(nth("turn", i), nth("s", i));  // two run, two wait
  EXPECT_TRUE(s.at(2).jobs.empty());
  s.run(1, "turn0");
  s.run(1, "turn1");
  EXPECT_TRUE(s.has(1, "turn2") && s.has(1, "turn3"));
}

TEST(CoreBalance, AHotWorkerShedsOnlyWhatItMust) {
  Scenario s;
  s.at(1).slots = 2;
  s.at(2).slots = s.at(3).slots = 4;
  s.enroll(1);
  settle_at(s, 1, 0, 8);
  s.enroll(2);
  s.enroll(3);
  // Two run. Two may wait; the fifth and the sixth find two who are idle, and the next in turn go
  // there. Then nobody is idle any more.
  for (int i = 0; i < 8; ++i) s.submit(nth("turn", i), nth("s", i));
  EXPECT_TRUE(s.has(2, "turn2") || s.has(3, "turn2"));
  EXPECT_TRUE(s.has(2, "turn3") || s.has(3, "turn3"));
  EXPECT_EQ(s.at(2).jobs.size(), 1u);
  EXPECT_EQ(s.at(3).jobs.size(), 1u);
  const int to = s.has(2, "turn2") ? 2 : 3;
  const Dispatch& d = s.held(to, "turn2").dispatch;
  EXPECT_EQ(d.home_reason, Reason::start_deadline);  // as it would have come to
  EXPECT_TRUE(d.has_transcript);
  s.run(to, "turn2");  // one is idle again: of four that wait two are too many
  EXPECT_TRUE(s.has(to, "turn4"));
  EXPECT_EQ(s.session_of("turn5").home, "w1");
}

TEST(CoreBalance, TheFactorSaysHowMuchCanBeBorne) {
  for (const double factor : {1.0, 4.0}) {
    CoreOptions o;
    o.balance_factor = factor;
    Scenario s(o);
    s.at(1).slots = 2;
    s.enroll(1);
    settle_at(s, 1, 0, 4);
    s.enroll(2);
    for (int i = 0; i < 4; ++i) s.submit(nth("turn", i), nth("s", i));
    EXPECT_EQ(s.at(2).jobs.size(), factor == 1 ? 1u : 0u);
  }
}

TEST(CoreBalance, WhoWaitsForATenantsCapIsNoLoad) {
  TenantPolicies p;
  p.standard.max_running_jobs = 1;
  Scenario s;
  s.at(1).slots = 8;
  s.core().set_policies(p);
  s.enroll(1);
  settle_at(s, 1, 0, 6);
  for (int i = 0; i < 6; ++i) s.submit(nth("turn", i), nth("s", i));  // one runs
  EXPECT_EQ(s.at(1).jobs.size(), 1u);
  s.enroll(2);
  s.start(1, "turn0");
  s.make(1, "turn0", 8);
  s.heartbeat(2);
  s.end(1, "turn0");
  EXPECT_TRUE(s.has(1, "turn1"));
  EXPECT_TRUE(s.at(2).jobs.empty());
}

TEST(CoreBalance, WhatIsShedIsToldAsSuch) {
  CoreOptions o;
  o.balance_factor = 1;
  Scenario s(o);
  s.at(1).slots = 1;
  s.enroll(1);
  settle_at(s, 1, 0, 2);
  s.enroll(2);
  s.submit("a", "s0");
  const Output& out = s.submit("b", "s1");
  bool told = false;
  for (const Fact& f : out.facts) {
    told = told || (f.kind == Fact::Kind::affinity_break && f.detail == "balance_factor");
  }
  EXPECT_TRUE(told);
  EXPECT_TRUE(s.has(2, "b"));
}

TEST(CoreBalance, WhoMustBeResidentWaits) {
  CoreOptions o;
  o.balance_factor = 1;
  Scenario s(o);
  s.at(1).slots = 1;
  s.enroll(1);
  settle_at(s, 1, 0, 2);
  s.enroll(2);
  s.submit("a", "s0");
  JobSpec b = Scenario::spec("b", "s1");
  b.require_resident = true;
  s.submit(b);
  EXPECT_FALSE(s.has(2, "b"));
  s.run(1, "a");
  EXPECT_TRUE(s.has(1, "b"));
}

TEST(CoreBalance, AfterTheStartDeadlineItGoesElsewhereHoweverLightTheLoad) {
  Scenario s;
  s.at(1).slots = 1;
  s.enroll(1);
  settle_at(s, 1, 0, 2);
  s.enroll(2);
  s.submit("a", "s0");
  s.start(1, "a");
  s.submit("b", "s1");
  s.pass_alive(milliseconds(4750), {1, 2});
  EXPECT_FALSE(s.has(2, "b"));
  s.pass_alive(milliseconds(500), {1, 2});
  EXPECT_TRUE(s.has(2, "b"));
}

}  // namespace
}  // namespace limpet::broker
