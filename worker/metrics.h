// The worker's figures in Prometheus' text format. Counting happens on the worker's thread; text()
// may be called from any.
#pragma once
#include <memory>
#include <string>

#include "engine/engine.h"
#include "worker/core.h"
#include "worker/tier_mover.h"
#include "worker/transfer_link.h"

namespace limpet::worker {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // A step of `rows` token rows took so long. Phase: decode when every row decodes.
  void stepped(bool decode_only, int64_t rows, double seconds);
  void idled(double seconds);     // the device had nothing to do
  void compiled(double seconds);  // shapes compiled, at the start or within a step
  void set(const Core::Gauges& gauges, const engine::KvCache& kv,
           const engine::EngineCounters& counters, const TransferLink::Counters& transfers);

  void set_tiers(const Core::Gauges& gauges, const TierOptions& sizes,
                 const TierMover::Counters& moved);

  std::string text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace limpet::worker
