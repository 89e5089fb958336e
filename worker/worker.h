// A worker as a whole: the loop that brings the broker's messages to the core, runs the steps that
// it plans on the engine, and sends what it says. One thread runs it; another may only stop it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "worker/core.h"
#include "worker/lookahead.h"
#include "worker/metrics.h"
#include "worker/text_state.h"
#include "worker/tier_mover.h"
#include "worker/transfer_link.h"
#include "worker/zmq_transport.h"

namespace limpet::worker {

struct WorkerOptions {
  std::string broker;            // endpoint of its backend
  keys::Identity identity{};     // needed for a broker on another machine
  std::string name;              // a newer worker of a name replaces the older
  uint64_t incarnation = 0;      // drawn by whoever starts it
  engine::EngineOptions engine;  // max_rows and max_sequences follow from the three below
  int32_t max_jobs = 32;
  int32_t token_budget = 256;
  int32_t prefill_chunk = 128;
  std::chrono::milliseconds grace{5000};  // to hand over and finish what is here when it is stopped
  std::string transfer = "tcp://127.0.0.1:*";  // where workers bring it KV; empty: it takes none
  TierSizes tiers{};  // where KV of idle sessions goes when the device is full
};

class Worker {
 public:
  // Loads the model and compiles its usual shapes. Throws std::runtime_error (the model, the
  // device) or TransportError; what() says what to do.
  explicit Worker(const WorkerOptions& options);
  ~Worker();

  // Serves until `stop` is set or the broker asks it to leave; then hands over or finishes what is
  // here, within the grace, or goes at once when `stop` has been counted up to 2.
  void run(const std::atomic<int>& stop);

  const Metrics& metrics() const { return metrics_; }
  const engine::EngineInfo& info() const { return engine_->info(); }
  bool alive() const;                               // any thread: the loop has turned lately
  bool ready() const { return ready_ && alive(); }  // any thread: registered, shapes warm

 private:
  void turn();
  void leave(const std::atomic<int>& stop);
  std::chrono::milliseconds wait();
  void give(const Event& event);
  void carry_out();
  void carry_out(const Command& command);
  void run_step();
  StepDone compute(const Step& step);
  void sample(const Step& step, const engine::StepResult& result, StepDone& done);
  void add_row(const StepRow& row, const std::function<RowResult()>& sampled, StepDone& done);
  void flush();
  void note();
  void set_metrics(const Core::Gauges& gauges);
  void warm();
  void tell_short_tier() const;

  WorkerOptions options_;
  std::unique_ptr<engine::Engine> engine_;
  Lookahead lookahead_;
  TextModel text_;
  TextStates states_;
  Metrics metrics_;
  TransferLink transfer_;
  TierMover mover_;
  std::unique_ptr<Core> core_;
  ZmqTransport transport_;
  std::vector<Event> arrived_;  // from other workers
  Output out_;
  Time now_{};
  bool busy_ = false;  // the last plan had rows
  bool was_busy_ = false;
  bool stopping_ = false;  // finishes what runs; takes nothing new
  Time gauges_at_{}, unlinked_since_{};
  bool told_unlinked_ = false, was_registered_ = false;
  std::string told_refused_;
  std::atomic<bool> ready_{false};
  std::atomic<int64_t> last_turn_ms_{0};
};

}  // namespace limpet::worker
