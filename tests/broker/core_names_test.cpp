// Whose a worker's name is, where workers have keys.
#include "tests/broker/core_scenario.h"

namespace limpet::broker {
namespace {

constexpr int kOther = 50;  // a connection of somebody else

class CoreNames : public testing::Test {
 protected:
  CoreNames() {
    enter(1, s.hello(1), "k1");
    s.submit("a", "chat");
    s.start(1, "a");
    s.make(1, "a", 2);
    newcomer = s.hello(1);
    newcomer.incarnation = 99;
    newcomer.jobs.clear();
    newcomer.sessions.clear();
  }
  void enter(int w, const Register& r, const std::string& key) {
    s.tell(WorkerEvent{s.connection(w), r, key});
  }
  void expect_refused() {
    const auto* refused = s.told_worker<RegisterRefused>(kOther);
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(refused->code, ErrorCode::conflict);
    EXPECT_NE(refused->message.find("w1 is in use by a worker with another key"), std::string::npos)
        << refused->message;
    EXPECT_TRUE(s.out().append.empty());
    EXPECT_TRUE(s.out().facts.empty());
  }

  Scenario s;
  Register newcomer;
};

TEST_F(CoreNames, AnotherKeyDoesNotTakeOneThatIsInUse) {
  enter(kOther, newcomer, "k2");
  expect_refused();
  newcomer.incarnation = s.incarnation(1);  // nor by the claim to be the very same process
  enter(kOther, newcomer, "k2");
  expect_refused();
  s.say(1, Leaving{s.incarnation(1)});  // nor while it hands over
  enter(kOther, newcomer, "k2");
  expect_refused();
  s.make(1, "a", 6);
  EXPECT_EQ(s.held(1, "a").dispatch.attempt, Attempt{1});
  s.end(1, "a");
  EXPECT_EQ(s.state("a"), JobState::finished);
}

TEST_F(CoreNames, UnderTheSameKeyTheNewerProcessTakesItAtOnce) {
  enter(kOther, newcomer, "k1");
  EXPECT_NE(s.told_worker<Registered>(kOther), nullptr);
  EXPECT_TRUE(s.has(kOther, "a"));
}

TEST_F(CoreNames, OneWhoseHolderIsLostOrGoneIsFree) {
  s.enroll(2);
  s.pass_alive(milliseconds(4000), {2});  // silent beyond its lease
  enter(kOther, newcomer, "k2");
  EXPECT_NE(s.told_worker<Registered>(kOther), nullptr);
  enter(1, s.hello(1), "k1");
  const auto* refused = s.told_worker<RegisterRefused>(1);
  ASSERT_NE(refused, nullptr);
  EXPECT_EQ(refused->code, ErrorCode::conflict);
  s.tell(WorkerUnreachable{s.connection(kOther)});
  enter(1, s.hello(1), "k1");
  EXPECT_NE(s.told_worker<Registered>(1), nullptr);
}

}  // namespace
}  // namespace limpet::broker
