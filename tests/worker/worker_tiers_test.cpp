// The real worker with a pool that holds one session at a time: the others wait below, and their
// turns answer as if they had never left.
#include <gmock/gmock.h>

#include "tests/worker/running_worker.h"

namespace limpet::worker {
namespace {

using testing::HasSubstr;

struct Told {
  std::vector<std::string> texts;
  std::vector<Residency> later;  // of second turns
  std::string metrics;
};

// Six sessions of two turns each: first all first turns, then all second ones.
Told six_sessions(int64_t pages, const TierSizes& tiers) {
  ScriptedBroker broker;
  WorkerOptions o = options_for(broker, pages);
  o.tiers = tiers;
  Running running(o);
  broker.welcome();
  const char* names[] = {"Ada", "Bob", "Carol", "Dan", "Eve", "Frank"};
  Told told;
  std::vector<int64_t> so_far;
  uint64_t job = 0;
  int64_t decoded = 0;
  for (uint64_t s = 1; s <= 6; ++s) {
    broker.send(chat(++job, s, std::string("My name is ") + names[s - 1] + ".", 0));
    const auto reply = broker.follow(JobNumber{job});
    so_far.push_back(std::ssize(reply.started.prompt) + std::ssize(reply.ids));
    told.texts.push_back(reply.text);
    decoded += std::ssize(reply.ids) - 1;  // the first one is its prompt's
  }
  for (uint64_t s = 1; s <= 6; ++s) {
    broker.send(chat(++job, s, "What is my name?", so_far[s - 1]));
    const auto reply = broker.follow(JobNumber{job});
    told.texts.push_back(reply.text);
    decoded += std::ssize(reply.ids) - 1;  // the first one is its prompt's
    told.later.push_back(reply.started.residency);
    EXPECT_EQ(reply.started.cached_tokens, so_far[s - 1] - 1) << s;
  }
  // Figures are set now and then: those after the last turn are there once all of it is counted.
  const std::string all = "limpet_worker_tokens_total{phase=\"decode\"} " + std::to_string(decoded);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  do {
    broker.next<Heartbeat>();
    told.metrics = running.worker.metrics().text();
  } while (told.metrics.find(all + "\n") == std::string::npos &&
           std::chrono::steady_clock::now() < end);
  return told;
}

int64_t page_bytes() {
  engine::EngineOptions o;
  o.model_dir = "models/limpet-tiny";
  o.precision = engine::Precision::f32;
  return engine::Engine::open(o)->info().page_bytes;
}

TEST(WorkerTiers, TurnsOnRestoredKvAnswerAsOnResidentKv) {
  const Told roomy = six_sessions(256, {});
  EXPECT_THAT(roomy.texts[6], HasSubstr("Ada"));
  EXPECT_THAT(roomy.later, testing::Each(Residency::resident));

  const int64_t page = page_bytes();
  // A session takes two to five pages: the pool of six holds one, or two at best.
  const Told host = six_sessions(6, {.host_bytes = 64 * page, .disk_bytes = 0, .disk_folder = {},
                                     .least_tokens = 1});
  EXPECT_EQ(host.texts, roomy.texts);
  EXPECT_GE(std::ranges::count(host.later, Residency::restored), 4);
  EXPECT_THAT(host.metrics, HasSubstr("limpet_worker_kv_restores_total{"));
  EXPECT_THAT(host.metrics, HasSubstr("limpet_worker_sessions{tier=\"host\"} "));

  // Below it a host tier as small, and the rest on disk.
  const Told disk =
      six_sessions(6, {.host_bytes = 6 * page, .disk_bytes = 64 * page,
                       .disk_folder = testing::TempDir(), .least_tokens = 1});
  EXPECT_EQ(disk.texts, roomy.texts);
  EXPECT_GE(std::ranges::count(disk.later, Residency::restored), 4);
  EXPECT_THAT(disk.metrics, testing::ContainsRegex(
                                "kv_moved_bytes_total.direction=\"from_disk\". [1-9]"));
}

}  // namespace
}  // namespace limpet::worker
