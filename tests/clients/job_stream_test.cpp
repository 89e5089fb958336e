#include "clients/cpp/job_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/clients/fake_broker.h"

namespace limpet::client {
namespace {

using test::FakeBroker;
using testing::HasSubstr;

constexpr Millis kAgain{1000};

class JobStreamTest : public testing::Test {
 protected:
  JobStreamTest() { stream_.ask(now_, asked_); }

  static std::shared_ptr<const JobSpec> spec() {
    auto s = std::make_shared<JobSpec>();
    s->job_id = "j";
    return s;
  }
  std::vector<Event> on(BrokerToClient m) {
    std::vector<Event> out;
    stream_.on(now_, std::move(m), out);
    for (const Event& e : out) {
      if (const auto* t = std::get_if<Tokens>(&e)) {
        EXPECT_EQ(t->first_index, static_cast<int64_t>(ids_.size()));
        ids_.insert(ids_.end(), t->ids.begin(), t->ids.end());
        text_ += t->text;
      }
    }
    return out;
  }
  ClientMessage ask() {
    asked_.clear();
    stream_.ask(now_, asked_);
    return asked_.at(0);
  }
  static Finished finished(int64_t tokens) {
    Finished f;
    f.job_id = "j";
    f.usage.output_tokens = tokens;
    return f;
  }

  Time now_{std::chrono::hours(1)};
  JobStream stream_{"j", spec(), 0, kAgain};
  std::vector<ClientMessage> asked_;
  std::vector<Token> ids_;
  std::string text_;
};

TEST_F(JobStreamTest, SubmitsUntilAcceptedThenAttachesFromTheNextIndex) {
  EXPECT_TRUE(std::holds_alternative<Submit>(asked_.at(0)));
  EXPECT_TRUE(std::holds_alternative<Submit>(ask()));
  on(Accepted{"j"});
  on(FakeBroker::chunk("j", 0, 3));
  EXPECT_EQ(std::get<Attach>(ask()).from_index, 3);
}

TEST_F(JobStreamTest, AsksLessAndLessOftenInSilence) {
  std::vector<int64_t> waits;
  for (int i = 0; i < 9; ++i) {
    ask();
    waits.push_back(std::chrono::duration_cast<Millis>(stream_.due() - now_).count());
    now_ = stream_.due();
  }
  EXPECT_LT(waits[0], waits[2]);
  EXPECT_EQ(waits.back(), 60000);
  on(Accepted{"j"});
  EXPECT_EQ(stream_.due(), now_ + kAgain);
}

TEST_F(JobStreamTest, AnswersWithoutNewsDoNotMakeItAskMoreOften) {
  on(Accepted{"j"});
  on(FakeBroker::chunk("j", 0, 3));
  std::vector<int64_t> waits;
  for (int i = 0; i < 9; ++i) {
    ask();
    on(Accepted{"j"});
    on(FakeBroker::chunk("j", 1, 3));
    waits.push_back(std::chrono::duration_cast<Millis>(stream_.due() - now_).count());
    now_ = stream_.due();
  }
  EXPECT_EQ(waits[0], 1000);
  EXPECT_EQ(waits[1], 2000);
  EXPECT_EQ(waits.back(), 60000);
  on(FakeBroker::chunk("j", 3, 4));
  EXPECT_EQ(stream_.due(), now_ + kAgain);
}

TEST_F(JobStreamTest, AcceptedAndAnAttemptAreToldOnce) {
  EXPECT_EQ(on(Accepted{"j"}).size(), 1u);
  EXPECT_EQ(on(Accepted{"j"}).size(), 0u);
  Started s;
  s.attempt = 1;
  EXPECT_EQ(on(s).size(), 1u);
  EXPECT_EQ(on(s).size(), 0u);
  s.attempt = 2;
  EXPECT_EQ(on(s).size(), 1u);
  s.attempt = 1;
  EXPECT_EQ(on(s).size(), 0u);
}

TEST_F(JobStreamTest, RepeatedTokensAreGivenOnce) {
  on(FakeBroker::chunk("j", 0, 4));
  EXPECT_TRUE(on(FakeBroker::chunk("j", 0, 4)).empty());
  EXPECT_EQ(on(FakeBroker::chunk("j", 0, 6)).size(), 1u);
  EXPECT_EQ(on(FakeBroker::chunk("j", 4, 9)).size(), 1u);
  EXPECT_EQ(text_, FakeBroker::text(0, 9));
  EXPECT_EQ(ids_.size(), 9u);
}

TEST_F(JobStreamTest, AGapIsAskedForAndNotGiven) {
  on(FakeBroker::chunk("j", 0, 2));
  EXPECT_TRUE(on(FakeBroker::chunk("j", 5, 7)).empty());
  EXPECT_EQ(stream_.due(), now_);
  on(FakeBroker::chunk("j", 2, 7));
  EXPECT_EQ(text_, FakeBroker::text(0, 7));
}

// However the output is cut and repeated, the follower gets it once.
TEST_F(JobStreamTest, AnyCutsGiveTheSameText) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    stream_ = JobStream("j", spec(), 0, kAgain);
    ids_.clear();
    text_.clear();
    int64_t made = 0, from = 0;
    for (int turn = 0; turn < 4000 && ids_.size() < 60; ++turn) {
      made = std::min<int64_t>(60, made + static_cast<int64_t>(random() % 7));
      const int64_t to = std::min<int64_t>(made, from + 1 + static_cast<int64_t>(random() % 9));
      if (to > from) on(FakeBroker::chunk("j", from, to));
      from = to;
      if (random() % 8 == 0) from = static_cast<int64_t>(random() % 60) % (made + 1);
      if (stream_.due() <= now_) {  // asked again: the broker streams from there
        const ClientMessage m = ask();
        from = std::holds_alternative<Attach>(m) ? std::get<Attach>(m).from_index
                                                 : std::get<Submit>(m).from_index;
        stream_.on(now_, Accepted{"j"}, *std::make_unique<std::vector<Event>>());
      }
    }
    ASSERT_EQ(text_, FakeBroker::text(0, 60)) << "seed " << seed;
    ASSERT_FALSE(stream_.over());
  }
}

TEST_F(JobStreamTest, AnotherTokenUnderAGivenIndexIsAContradiction) {
  on(FakeBroker::chunk("j", 0, 4));
  Tokens other = FakeBroker::chunk("j", 2, 6);
  other.ids[1] = 7;
  const auto events = on(other);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_TRUE(std::get<Lost>(events[0]).contradiction);
  EXPECT_TRUE(stream_.over());
  EXPECT_EQ(ids_.size(), 4u);
}

TEST_F(JobStreamTest, AnotherTextUnderAGivenIndexIsAContradiction) {
  on(FakeBroker::chunk("j", 0, 4));
  Tokens other = FakeBroker::chunk("j", 0, 6);
  other.text[1] = 'X';
  EXPECT_TRUE(std::get<Lost>(on(other).at(0)).contradiction);
}

TEST_F(JobStreamTest, AnEndThatHasLessThanWasGivenIsAContradiction) {
  on(FakeBroker::chunk("j", 0, 4));
  EXPECT_TRUE(std::get<Lost>(on(finished(3)).at(0)).contradiction);
}

TEST_F(JobStreamTest, AnEndThatOvertookTokensWaitsForThem) {
  on(Accepted{"j"});
  on(FakeBroker::chunk("j", 0, 4));
  EXPECT_TRUE(on(finished(6)).empty());
  EXPECT_EQ(stream_.due(), now_);
  EXPECT_EQ(std::get<Attach>(ask()).from_index, 4);
  on(FakeBroker::chunk("j", 4, 6));
  EXPECT_TRUE(std::holds_alternative<Finished>(on(finished(6)).at(0)));
}

TEST_F(JobStreamTest, TokensThatNeverComeAreReportedInTheEnd) {
  on(FakeBroker::chunk("j", 0, 4));
  for (int i = 0; i < 50 && !stream_.over(); ++i) on(finished(6));
  EXPECT_TRUE(stream_.over());
}

TEST_F(JobStreamTest, TheTailIsGivenAsText) {
  on(FakeBroker::chunk("j", 0, 1));
  Finished f = finished(1);
  f.tail_text = "tail";
  const auto events = on(f);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(text_, FakeBroker::text(0, 1) + "tail");
  EXPECT_EQ(std::get<Finished>(events[1]).tail_text, "");
}

TEST_F(JobStreamTest, BusyWaitsAsLongAsTold) {
  const auto told = on(Refused{"j", ErrorCode::busy, "full", 700});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(std::get<Busy>(told[0]).message, "full");
  EXPECT_EQ(std::get<Busy>(told[0]).retry_after_ms, 700);
  EXPECT_EQ(stream_.due(), now_ + Millis(700));
  EXPECT_TRUE(std::holds_alternative<Submit>(ask()));
  EXPECT_TRUE(on(Refused{"j", ErrorCode::busy, "", 0}).empty());  // told once
  EXPECT_GT(stream_.due(), now_);  // never at once, whatever is told
}

TEST_F(JobStreamTest, OtherRefusalsEndIt) {
  EXPECT_EQ(std::get<Refused>(on(Refused{"j", ErrorCode::conflict, "", 0}).at(0)).code,
            ErrorCode::conflict);
  EXPECT_TRUE(stream_.over());
  EXPECT_TRUE(on(Accepted{"j"}).empty());
}

TEST_F(JobStreamTest, AnAcceptedJobThatIsForgottenIsAContradiction) {
  on(Accepted{"j"});
  const auto events = on(Refused{"j", ErrorCode::not_found, "", 0});
  EXPECT_TRUE(std::get<Lost>(events.at(0)).contradiction);
}

TEST_F(JobStreamTest, ACancelThatCameTooLateGivesTheOutcome) {
  on(Accepted{"j"});
  stream_.cancel();
  ask();
  EXPECT_EQ(asked_.size(), 2u);
  EXPECT_TRUE(on(Refused{"j", ErrorCode::not_found, "", 0}).empty());
  EXPECT_EQ(stream_.due(), now_);
  ask();
  EXPECT_EQ(asked_.size(), 1u);
}

TEST_F(JobStreamTest, AStreamFromAnIndexBeginsThere) {
  JobStream later("j", nullptr, 5, kAgain);
  std::vector<Event> out;
  later.on(now_, FakeBroker::chunk("j", 5, 8), out);
  later.on(now_, FakeBroker::chunk("j", 5, 9), out);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(std::get<Tokens>(out[0]).first_index, 5);
  EXPECT_EQ(std::get<Tokens>(out[1]).first_index, 8);
  EXPECT_EQ(std::get<Tokens>(out[1]).text, FakeBroker::text(8, 9));
}

}  // namespace
}  // namespace limpet::client
