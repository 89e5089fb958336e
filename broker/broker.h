// The broker as a whole: the loop that feeds the core, makes its decisions durable, and only then
// lets them leave. One thread runs it; another may only stop it.
#pragma once
#include <atomic>
#include <memory>
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
  const ZmqTransport& transport() const { return transport_; }
  Store::Counters stored() const { return store_->counters(); }
  bool alive() const;  // any thread: the loop has turned in the last seconds

 private:
  void turn();
  void reload();
  std::chrono::milliseconds wait() const;
  void prepare(Event& event);
  bool refused_listing(const Event& event);
  void commit();
  void refuse_batch(const std::string& why);
  void count_refusal(const std::string& job_id, ErrorCode code);
  void deliver();
  void deliver(ToClient&& m);
  void add_ended(Listed& listed, size_t limit, const std::string* tenant);
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
  Time gauges_at_{};
  const std::string config_;
  const std::atomic<int>* reloads_;
  int reloads_seen_ = 0;
  std::atomic<int64_t> last_turn_ms_{0};
};

}  // namespace limpet::broker
