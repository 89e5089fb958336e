// A worker as a process: the real core and page tables, a fake device; crashes, hangs, leaves.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tests/sim/tier_memory.h"
#include "tests/sim/world.h"
#include "worker/core.h"

namespace limpet::sim {

class WorkerProcess {
 public:
  using Send = std::function<void(WorkerMessage)>;
  // What is for another worker (ToReceiver, SendPage with its bytes, ToGiver), and who says it.
  using Peers = std::function<void(const worker::Command&, const std::string&)>;

  WorkerProcess(World& world, std::string name, Send send);

  void start();
  void crash(int64_t down_ms);
  void hang(int64_t ms);
  void leave();      // SIGTERM: says so, goes when its jobs have ended or patience has
  void reconnect();  // a new connection to the broker; the core is told
  void arrives(BrokerToWorker message);
  void arrives(worker::FromGiver message);
  void arrives(worker::FromReceiver message);

  bool up() const { return core_ != nullptr; }
  const std::string& name() const { return name_; }
  uint64_t incarnation() const { return incarnation_; }
  uint64_t connection() const { return connection_; }  // grows with each
  worker::Core::Gauges gauges() const { return core_->gauges(); }

  Peers peers;

 private:
  void post(std::function<void()> action);  // now, or when the process turns again
  void tell(const worker::Event& event);
  void carry_out(const worker::Output& out);
  void carry_out(const worker::Tokenize& c);
  void carry_out(const worker::OpenText& c);
  void carry_out(const worker::CloseText& c);
  void carry_out(const worker::CallReceiver&) {}
  void carry_out(const worker::ToReceiver& c) { peers(c, name_); }
  void carry_out(const worker::SendPage& c);
  void carry_out(const worker::ToGiver& c) { peers(c, name_); }
  void carry_out(const worker::StorePage& c);
  void carry_out(const worker::HangUp&) {}
  void carry_out(const worker::MovePages& c);
  void make_copies();
  void write_row(engine::SequenceId sequence, int64_t row, KvRow value);
  void judge_kv(engine::SequenceId sequence, int32_t tenant);
  int32_t tenant_of(JobNumber job) const;  // as a number
  void leave_or_go();
  void plan();
  worker::StepDone run(const worker::Step& step);
  worker::RowResult run_row(const worker::StepRow& row);
  void tick_later();

  World& world_;
  std::string name_;
  Send send_;
  uint64_t incarnation_ = 0;
  uint64_t connection_ = 0;
  std::unique_ptr<engine::KvCache> kv_;
  std::unique_ptr<worker::Core> core_;
  std::vector<KvRow> memory_;  // the pool's
  std::unique_ptr<TierMemory> tiers_;
  std::map<JobNumber, uint64_t> seeds_;
  std::vector<std::function<void()>> held_;
  bool hung_ = false;
  bool stepping_ = false;
  bool leaving_ = false;
  broker::Time tick_at_ = broker::Time::max();
};

}  // namespace limpet::sim
