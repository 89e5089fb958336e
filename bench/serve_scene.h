// A worker's core, scheduler and look-ahead on an engine, with jobs that come from within the
// process: all of a worker but its text and its sockets.
#pragma once
#include <map>
#include <optional>
#include <vector>

#include "bench/engine_scene.h"
#include "worker/core.h"
#include "worker/lookahead.h"
#include "worker/tier_mover.h"

namespace limpet::bench {

class Server {
 public:
  struct Limits {
    int32_t jobs = 64, token_budget = 256, prefill_chunk = 128;
    bool split = false;  // as Lookahead takes it
    worker::TierSizes tiers{};
  };
  // What one step was.
  struct StepSeen {
    double seconds = 0;      // since the end of the one before
    int64_t rows = 0;        // token rows
    int64_t sequences = 0;
    int64_t kv_tokens = 0;   // that its rows attend to
    bool decode_only = true;
  };
  struct Ended {
    uint64_t job = 0, session = 0;
  };

  Server(engine::Engine& engine, const Limits& limits);

  // Another turn of the session: so many random tokens, then so many drawn ones.
  uint64_t submit(uint64_t session, int64_t new_tokens, int32_t max_tokens);
  // Runs a step if there is one; else goes on with what moves.
  std::optional<StepSeen> turn();
  std::vector<Ended> take_ended();
  int64_t in_flight() const { return std::ssize(jobs_); }
  // Seconds between the last two tokens of each job that the last step gave one.
  const std::map<uint64_t, double>& gaps() const { return gaps_; }
  bool started(uint64_t job) const;  // it has given its first token, or has ended
  worker::Core::Gauges gauges() const { return core_.gauges(); }
  const std::map<Residency, int64_t>& starts() const { return starts_; }
  const worker::Lookahead& lookahead() const { return lookahead_; }

 private:
  struct Job {
    uint64_t session = 0;
    std::optional<Clock::time_point> last;  // token
  };
  void give(const worker::Event& event);
  void hear();
  void heard(const WorkerMessage& message);
  worker::StepDone run(const worker::Step& step, StepSeen& seen);

  engine::Engine& engine_;
  worker::TierMover mover_;
  worker::Core core_;
  worker::Lookahead lookahead_;
  worker::Output out_;
  std::map<uint64_t, Job> jobs_;
  std::map<uint64_t, std::vector<Token>> transcripts_;  // by session
  std::vector<Ended> ended_;
  std::map<uint64_t, double> gaps_;
  std::map<Residency, int64_t> starts_;
  std::optional<Clock::time_point> step_end_;
  uint64_t last_job_ = 0;
};

}  // namespace limpet::bench
