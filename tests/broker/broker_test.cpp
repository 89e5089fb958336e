// The whole broker as a process, with a worker double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "bench/broker_scene.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

using bench::BrokerProcess;
using bench::LoadClient;
using bench::WorkerDouble;

LoadClient::Job job_of(int64_t i) {
  return {bench::job_name(i), "session-" + std::to_string(i % 20)};
}

BrokerToClient ask(bench::Link& link, const ClientMessage& message) {
  link.send(wire::encode(std::span(&message, 1)));
  std::string frame;
  std::vector<BrokerToClient> got;
  if (link.wait(60000) && link.receive(frame)) wire::decode(std::as_bytes(std::span(frame)), got);
  return got.empty() ? BrokerToClient{Refused{"", ErrorCode::internal, "no answer", 0}} : got[0];
}

Submit submit(const std::string& id, const std::string& text) {
  auto spec = std::make_shared<JobSpec>();
  spec->job_id = id;
  spec->kind = InputKind::text;
  spec->text = text;
  return {std::move(spec), true, 0};
}

TEST(Broker, ServesJobsAndListsThem) {
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = 8});
  LoadClient client(broker.frontend());
  client.run(500, 64, 8, job_of);
  EXPECT_EQ(client.tokens_seen, 4000);

  bench::Link link(broker.frontend());
  const auto jobs = std::get<Listed>(ask(link, List{Listing::jobs, 100}));
  ASSERT_EQ(jobs.jobs.size(), 100u);
  EXPECT_TRUE(jobs.truncated);
  EXPECT_EQ(jobs.jobs[0].state, JobState::finished);
  EXPECT_EQ(jobs.jobs[0].worker, "double");
  EXPECT_EQ(jobs.jobs[0].output_tokens, 8);
  EXPECT_EQ(std::get<Listed>(ask(link, List{Listing::sessions, 100})).sessions.size(), 20u);
  EXPECT_EQ(std::get<Listed>(ask(link, List{Listing::workers, 100})).workers.size(), 1u);
}

TEST(Broker, AListingOfLongNamesIsCutAndOnlyOneIsMadeAtATime) {
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = 1});
  LoadClient client(broker.frontend());
  const std::string name(Limits::kName - 8, 'n');
  client.run(16000, 2000, 1, [&](int64_t i) {
    return LoadClient::Job{name + std::to_string(i), "s" + name + std::to_string(i % 50)};
  });
  bench::Link link(broker.frontend());
  const auto listed = std::get<Listed>(ask(link, List{Listing::jobs, 65000}));
  EXPECT_TRUE(listed.truncated);
  EXPECT_GT(listed.jobs.size(), 4000u);

  const int64_t before = broker.peak_resident_bytes();
  const std::vector<ClientMessage> flood(2000, List{Listing::jobs, 65000});
  link.send(wire::encode(flood));
  std::vector<BrokerToClient> got;
  for (std::string frame; got.size() < flood.size() && link.wait(60000);) {
    while (link.receive(frame)) wire::decode(std::as_bytes(std::span(frame)), got);
  }
  ASSERT_EQ(got.size(), flood.size());
  EXPECT_TRUE(std::holds_alternative<Listed>(got[0]));
  EXPECT_EQ(std::get<Refused>(got[1]).code, ErrorCode::busy);
  EXPECT_LT(broker.peak_resident_bytes() - before, 64 << 20);
}

TEST(Broker, KeepsAllThroughKillsAndKnowsItsJobsAgain) {
  BrokerProcess broker;
  WorkerDouble worker(broker.backend(), {.tokens = 8});
  {
    LoadClient client(broker.frontend());
    client.run(200, 64, 8, job_of);
  }
  broker.kill_and_restart();
  bench::Link link(broker.frontend());
  // The same id with another body is another job; the first one is there still.
  EXPECT_EQ(std::get<Refused>(ask(link, submit(bench::job_name(3), "other"))).code,
            ErrorCode::conflict);
  const auto accepted = std::get<Accepted>(ask(link, Attach{bench::job_name(3), 0}));
  EXPECT_FALSE(accepted.created);
  EXPECT_EQ(accepted.state, JobState::finished);
  LoadClient client(broker.frontend());
  client.run(200, 64, 8, [](int64_t i) { return job_of(i + 1000); });
}

TEST(Broker, WhenTheDiskIsFullNothingIsAcknowledged) {
  BrokerProcess broker;
  bench::Link link(broker.frontend());
  ASSERT_TRUE(std::holds_alternative<Accepted>(ask(link, submit("first", "hello"))));
  struct rlimit tight {64 << 10, 64 << 10};
  ASSERT_EQ(prlimit(broker.pid(), RLIMIT_FSIZE, &tight, nullptr), 0);
  const auto refused = ask(link, submit("second", std::string(100000, 'x')));
  ASSERT_TRUE(std::holds_alternative<Refused>(refused));
  EXPECT_EQ(std::get<Refused>(refused).code, ErrorCode::storage);
  EXPECT_EQ(broker.wait_for_exit(), 1);
  broker.kill_and_restart();
  EXPECT_EQ(std::get<Accepted>(ask(link, Attach{"first", 0})).state, JobState::queued);
  EXPECT_EQ(std::get<Refused>(ask(link, Attach{"second", 0})).code, ErrorCode::not_found);
}

}  // namespace
}  // namespace limpet::broker
