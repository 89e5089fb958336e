// The real worker on the embedded model, running against a scripted broker, and what it is asked.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/worker/first_attempt.h"
#include "tests/worker/scripted_broker.h"
#include "worker/worker.h"

namespace limpet::worker {

inline WorkerOptions options_for(const ScriptedBroker& broker, int64_t pages = 256) {
  WorkerOptions o;
  o.broker = broker.endpoint();
  o.name = "w";
  o.incarnation = 7;
  o.engine.model_dir = "models/limpet-tiny";
  o.engine.precision = engine::Precision::f32;
  o.engine.threads = 1;
  o.engine.kv_pages = pages;
  o.token_budget = 64;
  o.prefill_chunk = 16;
  o.grace = std::chrono::milliseconds(2000);
  return o;
}

class Running {
 public:
  explicit Running(const WorkerOptions& options)
      : worker(options), thread_([this] { worker.run(stop_); }) {}
  ~Running() {
    stop_ = 2;
    thread_.join();
  }
  Worker worker;

 private:
  std::atomic<int> stop_{0};
  std::thread thread_;
};

inline Dispatch chat(uint64_t job, uint64_t session, const std::string& text, int64_t base = 0,
                     int32_t max_tokens = 40) {
  auto spec = std::make_shared<JobSpec>();
  spec->messages = {{"user", text}};
  spec->max_tokens = max_tokens;
  return first_attempt(job, session, std::move(spec), base);
}

}  // namespace limpet::worker
