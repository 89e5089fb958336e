#include "clients/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/clients/fake_broker.h"

namespace limpet::client {
namespace {

using test::FakeBroker;
using testing::HasSubstr;
using namespace std::chrono_literals;

JobSpec spec(const std::string& id) {
  JobSpec s;
  s.job_id = id;
  s.messages = {{"user", "hello"}};
  return s;
}

Options options(const FakeBroker& broker, Millis again = 200ms) {
  Options o;
  o.endpoint = broker.endpoint();
  o.ask_again = again;
  return o;
}

struct Seen {
  std::vector<Token> ids;
  std::string text;
  std::optional<Event> last;
  void add(const Event& e) {
    if (const auto* t = std::get_if<Tokens>(&e)) {
      EXPECT_EQ(t->first_index, static_cast<int64_t>(ids.size()));
      ids.insert(ids.end(), t->ids.begin(), t->ids.end());
      text += t->text;
    }
    if (is_last(e)) last = e;
  }
};

Seen follow(Job& job, Millis limit = 20s) {
  Seen seen;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!job.over() && std::chrono::steady_clock::now() < end) {
    if (auto e = job.next(50ms)) seen.add(*e);
  }
  EXPECT_TRUE(seen.last.has_value()) << "job " << job.id() << " has no end";
  return seen;
}

void wait_for(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end) << "waited in vain";
    std::this_thread::sleep_for(2ms);
  }
}

void expect_whole(const Seen& seen, int64_t tokens) {
  EXPECT_EQ(seen.text, FakeBroker::text(0, tokens) + "end");
  EXPECT_EQ(static_cast<int64_t>(seen.ids.size()), tokens);
  EXPECT_TRUE(seen.last && std::holds_alternative<Finished>(*seen.last));
}

TEST(Client, AJobFromSubmitToItsEnd) {
  FakeBroker broker;
  broker.answer_at_once(5);
  Client client(options(broker));
  ASSERT_TRUE(client.wait_connected(5s));
  Job job = client.submit(spec("a"));
  expect_whole(follow(job), 5);
  EXPECT_TRUE(job.over());
  EXPECT_FALSE(job.next(1ms).has_value());
}

TEST(Client, CallbacksGiveTheSameEvents) {
  FakeBroker broker;
  broker.answer_at_once(5);
  Client client(options(broker));
  std::mutex mutex;
  Seen seen;
  Job job = client.submit(spec("a"), [&](const Event& e) {
    std::lock_guard lock(mutex);
    seen.add(e);
  });
  wait_for([&] {
    std::lock_guard lock(mutex);
    return seen.last.has_value();
  });
  expect_whole(seen, 5);
  EXPECT_TRUE(job.over());
}

TEST(Client, ABrokerThatRestartsUnderAStreamLosesAndRepeatsNothing) {
  FakeBroker broker;
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 3);
  std::this_thread::sleep_for(30ms);
  broker.stop();
  broker.make("a", 4);  // made, and told nobody
  broker.start();
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 2);
  broker.finish("a");
  expect_whole(follow(job), 9);
  EXPECT_GE(client.connections(), 2);
  EXPECT_EQ(broker.submits("a"), 1);
}

TEST(Client, ASubmissionWaitsForABrokerThatComesLater) {
  FakeBroker broker;
  broker.answer_at_once(2);
  broker.stop();
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  EXPECT_FALSE(client.wait_connected(50ms));
  broker.start();
  expect_whole(follow(job), 2);
}

TEST(Client, AnAcknowledgementThatIsLostIsAskedForAgain) {
  FakeBroker broker;
  broker.answer_at_once(2);
  int dropped = 0;
  broker.intercept([&](FakeBroker&, const std::string&, const ClientMessage& m) {
    return std::holds_alternative<Submit>(m) && dropped++ < 2;
  });
  Client client(options(broker, 30ms));
  Job job = client.submit(spec("a"));
  expect_whole(follow(job), 2);
  EXPECT_EQ(broker.submits("a"), 3);
}

TEST(Client, AStreamThatTheBrokerForgotIsAskedForAgain) {
  FakeBroker broker;
  Client client(options(broker, 50ms));
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 2);
  broker.forget_streams();
  broker.make("a", 3);
  wait_for([&] { return broker.followed("a"); });
  broker.finish("a");
  expect_whole(follow(job), 5);
}

TEST(Client, RepetitionsAreNotGiven) {
  FakeBroker broker;
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 4);
  broker.tell("a", FakeBroker::chunk("a", 0, 4));
  broker.tell("a", FakeBroker::chunk("a", 2, 3));
  broker.make("a", 1);
  broker.finish("a");
  broker.tell("a", Finished{});
  expect_whole(follow(job), 5);
}

TEST(Client, AContradictionIsReportedAndNotGiven) {
  FakeBroker broker;
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 4);
  Tokens other = FakeBroker::chunk("a", 3, 5);
  other.ids[0] = 1;
  broker.tell("a", other);
  const Seen seen = follow(job);
  EXPECT_EQ(seen.ids.size(), 4u);
  EXPECT_TRUE(std::get<Lost>(*seen.last).contradiction);
}

TEST(Client, BusyIsTriedAgainAfterTheToldTime) {
  FakeBroker broker;
  broker.answer_at_once(2);
  int refused = 0;
  broker.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    const auto* s = std::get_if<Submit>(&m);
    if (s == nullptr || refused >= 3) return false;
    ++refused;
    b.reply(from, Refused{s->spec->job_id, ErrorCode::busy, "full", 20});
    return true;
  });
  Client client(options(broker, 10s));
  Job job = client.submit(spec("a"));
  expect_whole(follow(job), 2);
  EXPECT_EQ(broker.submits("a"), 4);
}

TEST(Client, RefusalsReachTheirJob) {
  FakeBroker broker;
  broker.answer_at_once(2);
  broker.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage& m) {
    const auto* s = std::get_if<Submit>(&m);
    if (s == nullptr || s->spec->job_id != "b") return false;
    b.reply(from, Refused{"b", ErrorCode::conflict, "another body", 0});
    return true;
  });
  Client client(options(broker));
  Job a = client.submit(spec("a")), b = client.submit(spec("b"));
  EXPECT_EQ(std::get<Refused>(*follow(b).last).code, ErrorCode::conflict);
  expect_whole(follow(a), 2);
}

TEST(Client, WhatIsWrongByItselfIsNotSent) {
  FakeBroker broker;
  Client client(options(broker));
  JobSpec wrong = spec("a");
  wrong.messages.clear();
  Job job = client.submit(wrong);
  const Seen seen = follow(job);
  EXPECT_EQ(std::get<Refused>(*seen.last).code, ErrorCode::invalid);
  EXPECT_EQ(broker.submits("a"), 0);
  Job empty = client.attach("");
  EXPECT_EQ(std::get<Refused>(*follow(empty).last).code, ErrorCode::invalid);
}

TEST(Client, OneIdIsFollowedOnce) {
  FakeBroker broker;
  Client client(options(broker));
  Job first = client.submit(spec("a")), second = client.submit(spec("a"));
  EXPECT_EQ(std::get<Refused>(*follow(second).last).code, ErrorCode::invalid);
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 1);
  broker.finish("a");
  expect_whole(follow(first), 1);
}

TEST(Client, AttachFromAnIndexAndToNothing) {
  FakeBroker broker;
  broker.answer_at_once(6);
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  follow(job);
  Job again = client.attach("a", 4);
  std::string text;
  while (!again.over()) {
    if (auto e = again.next(5s)) {
      if (auto* t = std::get_if<Tokens>(&*e)) text += t->text;
    }
  }
  EXPECT_EQ(text, FakeBroker::text(4, 6) + "end");
  Job nothing = client.attach("unknown");
  EXPECT_EQ(std::get<Refused>(*follow(nothing).last).code, ErrorCode::not_found);
}

TEST(Client, CancelEndsTheJob) {
  FakeBroker broker;
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  broker.make("a", 3);
  job.cancel();
  const Seen seen = follow(job);
  EXPECT_EQ(std::get<Finished>(*seen.last).reason, FinishReason::cancelled);
  EXPECT_EQ(seen.ids.size(), 3u);
}

TEST(Client, AHandleThatGoesDetachesAndCancelsNothing) {
  FakeBroker broker;
  Client client(options(broker));
  {
    Job job = client.submit(spec("a"));
    wait_for([&] { return broker.followed("a"); });
  }
  wait_for([&] { return !broker.followed("a"); });
  EXPECT_FALSE(broker.cancelled("a"));
  broker.make("a", 2);
  Job again = client.attach("a");
  wait_for([&] { return broker.followed("a"); });
  broker.finish("a");
  expect_whole(follow(again), 2);
}

TEST(Client, Listings) {
  FakeBroker broker;
  broker.answer_at_once(2);
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  follow(job);
  const auto answer = client.list(limpet::Listing::jobs, 10, 5s);
  EXPECT_EQ(answer.error, "");
  ASSERT_EQ(answer.listed.jobs.size(), 1u);
  EXPECT_EQ(answer.listed.jobs[0].job_id, "a");
  broker.stop();
  EXPECT_THAT(client.list(limpet::Listing::jobs, 10, 50ms).error, HasSubstr(broker.endpoint()));
}

TEST(Client, GivesUpWhenToldTo) {
  FakeBroker broker;
  broker.stop();
  Options o = options(broker);
  o.give_up = 100ms;
  Client client(o);
  Job job = client.submit(spec("a"));
  EXPECT_FALSE(std::get<Lost>(*follow(job).last).contradiction);
}

TEST(Client, GivesUpOnAPeerThatAcceptsAndNeverAnswers) {
  FakeBroker broker;
  broker.intercept([](FakeBroker&, const std::string&, const ClientMessage&) { return true; });
  Options o = options(broker, 50ms);
  o.give_up = 300ms;
  Client client(o);
  ASSERT_TRUE(client.wait_connected(5s));
  Job job = client.submit(spec("a"));
  const Seen seen = follow(job, 5s);
  ASSERT_TRUE(seen.last && std::holds_alternative<Lost>(*seen.last));
  EXPECT_THAT(std::get<Lost>(*seen.last).message, HasSubstr("is it the clients' port?"));
}

TEST(Client, AJobWithoutNewsIsNotGivenUpWhileTheBrokerAnswers) {
  FakeBroker broker;
  Options o = options(broker, 50ms);
  o.give_up = 300ms;
  Client client(o);
  std::this_thread::sleep_for(500ms);  // nothing was asked: nothing is waited for
  Job job = client.submit(spec("a"));
  wait_for([&] { return broker.followed("a"); });
  std::this_thread::sleep_for(1200ms);
  broker.make("a", 2);
  broker.finish("a");
  expect_whole(follow(job), 2);
}

TEST(Client, AnOldBrokersVersionErrorReachesEveryJob) {
  FakeBroker broker;
  broker.intercept([&](FakeBroker& b, const std::string& from, const ClientMessage&) {
    b.reply(from, Refused{"", ErrorCode::version, "upgrade the older one", 0});
    return true;
  });
  Client client(options(broker));
  Job job = client.submit(spec("a"));
  EXPECT_EQ(std::get<Refused>(*follow(job).last).code, ErrorCode::version);
}

TEST(Client, EndsWithItsJobsOpen) {
  FakeBroker broker;
  std::optional<Job> job;
  {
    Client client(options(broker));
    job = client.submit(spec("a"));
    wait_for([&] { return broker.followed("a"); });
  }
  EXPECT_TRUE(std::holds_alternative<Lost>(*follow(*job).last));
  job->cancel();
}

TEST(Client, AnEndpointThatIsNone) {
  Options o;
  o.endpoint = "nonsense";
  EXPECT_THROW(Client client(o), std::invalid_argument);
}

TEST(Client, ManyJobsOverManyRestarts) {
  FakeBroker broker;
  Client client(options(broker, 100ms));
  std::vector<Job> jobs;
  constexpr int kJobs = 200;
  for (int i = 0; i < kJobs; ++i) jobs.push_back(client.submit(spec("j" + std::to_string(i))));
  wait_for([&] { return broker.jobs() == kJobs; });
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < kJobs; ++i) broker.make(jobs[static_cast<size_t>(i)].id(), 1 + i % 3);
    broker.stop();
    broker.start();
  }
  for (Job& job : jobs) broker.finish(job.id());
  for (int i = 0; i < kJobs; ++i)
    expect_whole(follow(jobs[static_cast<size_t>(i)]), 5 * (1 + i % 3));
}

}  // namespace
}  // namespace limpet::client
