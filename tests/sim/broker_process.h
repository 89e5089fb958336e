// The broker as a process: the real core, a disk that commits, streams to clients, crashes.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tests/sim/turns_judge.h"
#include "tests/sim/world.h"

namespace limpet::sim {

// Who really said a worker's message, whatever it has been made to look like.
struct Origin {
  std::string worker;
  uint64_t incarnation = 0;
  WorkerMessage message;
};

class BrokerProcess {
 public:
  enum class Crash : uint8_t { none, before_commit, after_commit, between_sends };
  using ToClient = std::function<void(broker::ClientId, BrokerToClient)>;
  using ToWorker = std::function<void(broker::WorkerId, BrokerToWorker)>;

  BrokerProcess(World& world, ToClient to_client, ToWorker to_worker);

  void arrives(broker::Event event, std::shared_ptr<const Origin> origin = nullptr);
  void crash_in_next_turn(Crash kind) { crash_ = kind; }
  void stall(int64_t ms);      // SIGSTOP, and later SIGCONT
  void fill_disk(int64_t ms);  // nothing can be written until then
  void set_policies();         // the scene's, which may have changed
  uint64_t life() const { return life_; }  // grows with each restart
  bool up() const { return core_ != nullptr; }
  const ReferenceStore& disk() const { return disk_; }
  broker::Core::Gauges gauges() const { return core_->gauges(); }

  std::function<std::string(broker::ClientId)> tenant_of;  // by its key

 private:
  struct Arrival {
    broker::Event event;
    std::shared_ptr<const Origin> origin;
  };
  // Entries of one event, to be committed and judged together.
  struct Decided {
    size_t begin = 0, end = 0;
    std::shared_ptr<const Origin> origin;
    std::optional<broker::ClientId> client;
  };
  struct Stream {
    JobNumber job{};
    int64_t next = 0;
    bool tokens = true;
  };

  void start();
  void crash();
  void wake_later();
  void turn();
  void commit(const broker::Output& out, const std::vector<Decided>& decided);
  void judge(const JournalEntry& entry, const Origin* origin);
  void judge_tenant(const JournalEntry& entry, const Decided& by);
  void judge_kept(const broker::StartedEntry& e);
  void judge_growth(const broker::TokensAppended& e);
  void note_idle(const JournalEntry& entry);
  void judge_caps(const broker::JobDispatched& e);
  void judge_idle_cap(const broker::JobEndedEntry& e);
  void judge_queue_cap(const std::string& tenant);
  int64_t longest(const ReferenceStore::Job& job) const;
  broker::TenantPolicy policy(const std::string& tenant) const;
  void disk_is_full(const std::vector<broker::Event>& events);
  void judge_source(JobNumber job, const Origin* origin);
  void judge_token(const ReferenceStore::Job& job, std::span<const Token> transcript, Token token);
  void judge_credit();
  void judge_end(const broker::JobEndedEntry& end);
  void send(const broker::Output& out, size_t limit);
  void send_one(const broker::Send& one);
  void feed(broker::ClientId client, const std::string& job_id);
  broker::Event looked_up(broker::Event event);

  World& world_;
  ToClient to_client_;
  ToWorker to_worker_;
  ReferenceStore disk_;
  std::map<SessionNumber, int64_t> idle_since_;  // ms; without jobs, at the home that it had then
  std::map<JobNumber, int64_t> idle_before_;     // how long, when this job came
  TurnsJudge turns_;
  std::unique_ptr<broker::Core> core_;
  std::vector<Arrival> inbox_;
  std::map<std::pair<broker::ClientId, std::string>, Stream> streams_;
  std::map<std::pair<std::string, uint64_t>, int64_t> at_worker_;
  std::map<std::pair<std::string, uint64_t>, int64_t> kv_at_worker_;
  broker::Time wake_at_ = broker::Time::max();
  uint64_t life_ = 0;
  int64_t stalled_until_ = 0, full_until_ = 0;  // ms
  bool turn_due_ = false;
  Crash crash_ = Crash::none;
};

}  // namespace limpet::sim
