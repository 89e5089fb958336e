// The broker as a whole: the loop that feeds the core, makes its decisions durable, and only then
// lets them leave. One thread runs it; another may only stop it.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>

#include "broker/core.h"
#include "broker/metrics.h"
#include "broker/store.h"
#include "broker/streams.h"
#include "broker/zmq_transport.h"

namespace limpet::broker {

struct BrokerOptions {
  ZmqTransport::Options endpoints;
  Store::Options store;
  CoreOptions core;
  Store::Retention retention;  // of jobs that have ended; of sessions: core.retain_sessions
  std::string config{};  // file of what tenants may; empty: none
  const std::atomic<int>* reloads = nullptr;  // whenever it has grown, files are read again
};

class Broker {
 public:
  // Reads the configuration, opens the store, recovers, binds. Throws ConfigError, StoreError,
  // TransportError, keys::KeyError.
  explicit Broker(const BrokerOptions& options);

  // Serves until `stop` is set; looks at it several times a second. Throws StoreError when the
  // store fails: everything answered before is durable, nothing of the failed turn has left but
  // refusals. Throws TransportError when keys can no longer be checked.
  void run(const std::atomic<bool>& stop);

  const Metrics& metrics() const { return metrics_; }
  std::string worker_page() const;  // any thread: as it was a moment ago
  const ZmqTransport& transport() const { return transport_; }
  Store::Counters stored() const { return store_->counters(); }
  bool alive() const;  // any thread: the loop has turned in the last seconds

 private:
  void turn();
  void configure();
  void reload();
  void retire();
  std::chrono::milliseconds wait() const;
  void prepare(Event& event);
  bool refused_listing(const Event& event);
  void commit();
  void refuse_batch(const std::string& why);
  void count_refusal(const std::string& job_id, ErrorCode code);
  void deliver();
  void deliver(ToClient&& m);
  void add_ended(Listed& listed, List list, const std::string* tenant);
  void deliver(ToWorker&& m);
  void note(const Fact& fact);

  std::unique_ptr<Store> store_;
  Core core_;
  ZmqTransport transport_;
  Streams streams_;
  Metrics metrics_;
  std::vector<Event> events_;
  std::unordered_set<ClientId> listing_;  // clients that have asked for a listing in this turn
  Output out_;
  std::vector<std::pair<WorkerId, std::vector<BrokerToWorker>>> to_workers_;
  Now now_;
  Time gauges_at_{}, retired_at_{};
  const Store::Retention flags_retention_;  // unless the configuration says otherwise
  const std::chrono::milliseconds flags_retain_sessions_;
  Store::Retention retention_;
  bool store_full_ = false;  // larger than it may be, and no ended job can go
  mutable std::mutex page_mutex_;
  std::string page_ = "[]\n";  // guarded by page_mutex_
  const std::string config_;
  const std::atomic<int>* reloads_;
  int reloads_seen_ = 0;
  std::atomic<int64_t> last_turn_ms_{0};
};

}  // namespace limpet::broker
