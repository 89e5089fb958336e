// A device that has no memory left, a step that fails, a device that is lost: in the engine and in
// a whole worker.
#include "tests/faults/faulty_backend.h"

#include <gmock/gmock.h>

#include <optional>
#include <thread>

#include "backends/backend.h"
#include "engine/engine.h"
#include "tests/worker/running_worker.h"

namespace limpet {
namespace {

using engine::Engine;
using faults::faults;
using testing::HasSubstr;

std::vector<Token> text(int64_t n) {
  std::vector<Token> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + 11) % 380));
  return tokens;
}

std::unique_ptr<Engine> open() {
  engine::EngineOptions o;
  o.model_dir = "models/limpet-tiny";
  o.precision = engine::Precision::f32;
  o.kv_pages = 64;
  o.threads = 1;
  return Engine::open(o);
}

class Faults : public testing::Test {
 protected:
  void SetUp() override { faults().reset(); }
  void TearDown() override { faults().reset(); }
};

TEST_F(Faults, NoMemoryForAShapeIsAStepsErrorAndTheNextOneGoesOn) {
  const auto e = open(), undisturbed = open();
  const auto tokens = text(20);
  const auto s = e->kv().create(0), t = undisturbed->kv().create(0);
  ASSERT_TRUE(e->kv().reserve(s, 20) && undisturbed->kv().reserve(t, 20));
  faults().no_memory_at_compile = faults().compiles + 1;
  const auto refused = e->step({{s, tokens}});
  EXPECT_THAT(refused.error, HasSubstr("out of memory"));
  EXPECT_EQ(e->kv().length(s), 0) << "nothing has advanced";
  const auto done = e->step({{s, tokens}});
  ASSERT_TRUE(done.ok()) << done.error;
  const auto expected = undisturbed->step({{t, tokens}});
  EXPECT_TRUE(std::ranges::equal(done.values, expected.values));
}

TEST_F(Faults, ALostDeviceIsNoStepsError) {
  const auto e = open();
  const auto s = e->kv().create(0);
  ASSERT_TRUE(e->kv().reserve(s, 20));
  faults().lost_at_run = faults().runs + 1;
  const auto tokens = text(20);
  EXPECT_THROW(e->step({{s, tokens}}), DeviceLost);
  EXPECT_THROW(e->step({{s, tokens}}), DeviceLost);
}

worker::WorkerOptions hasty_options(const worker::ScriptedBroker& broker) {
  worker::WorkerOptions o = worker::options_for(broker, 64);
  o.grace = std::chrono::milliseconds(500);
  return o;
}

Dispatch job(uint64_t number) {
  auto spec = std::make_shared<JobSpec>();
  spec->messages = {{"user", "Tell me a story about a fox."}};
  spec->max_tokens = 24;
  spec->ignore_eos = true;
  return worker::first_attempt(number, number, std::move(spec));
}

// A worker on a thread, and what ended it.
class Running {
 public:
  explicit Running(const worker::WorkerOptions& options)
      : worker_(options), thread_([this] {
          try {
            worker_.run(stop_);
          } catch (const std::exception& e) {
            why_ = e.what();
          }
        }) {}
  ~Running() { end(); }
  std::string end() {
    stop_ = 2;
    if (thread_.joinable()) thread_.join();
    return why_;
  }
  std::string wait() {
    thread_.join();
    return why_;
  }

 private:
  worker::Worker worker_;
  std::atomic<int> stop_{0};
  std::string why_;
  std::thread thread_;
};

TEST_F(Faults, AStepThatFailsOnceCostsNoJobAnything) {
  worker::ScriptedBroker broker;
  Running running(hasty_options(broker));
  broker.welcome();
  broker.send(job(1));
  const auto undisturbed = broker.follow(JobNumber{1});
  ASSERT_EQ(undisturbed.ids.size(), 24u);
  faults().no_memory_at_run = faults().runs + 9;
  broker.send(job(2));
  const auto again = broker.follow(JobNumber{2});
  EXPECT_TRUE(again.end.ok);
  EXPECT_EQ(again.ids, undisturbed.ids);
  EXPECT_GT(faults().runs, faults().no_memory_at_run.load());
  EXPECT_EQ(running.end(), "");
}

TEST_F(Faults, ALostDeviceEndsTheWorkerWithItsReason) {
  worker::ScriptedBroker broker;
  Running running(hasty_options(broker));
  broker.welcome();
  faults().lost_at_run = faults().runs + 12;
  broker.send(job(1));
  EXPECT_GT(broker.follow(JobNumber{1}, 5).ids.size(), 0u);
  EXPECT_THAT(running.wait(), HasSubstr("the device has failed"));
}

}  // namespace
}  // namespace limpet
