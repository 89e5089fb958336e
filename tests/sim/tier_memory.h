// A simulated worker's memory below the device: pages in the host's memory and on a disk, which
// moves fill and read after a while, at a moment that nobody knows, and which a disk may damage.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/sim/world.h"
#include "worker/tier_event.h"
#include "worker/tiers.h"

namespace limpet::sim {

class TierMemory {
 public:
  // `pool`: rows of KV by page, the device's.
  TierMemory(World& world, std::string worker, std::vector<KvRow>& pool, int64_t page_tokens);

  worker::TierOptions options() const { return options_; }
  // `over` hears of the end, unless the worker's life is over by then.
  void begin(const worker::MovePages& move, std::function<bool()> lives,
             std::function<void(worker::PagesMoved)> over);
  // The device is about to write this page of the pool.
  void judge_write(int32_t pool_page) const;

 private:
  enum class Place : uint8_t { pool, host, disk };
  static Place from(worker::MoveKind kind);
  static Place to(worker::MoveKind kind);
  std::vector<KvRow>& memory(Place place);
  void use(Place place, int32_t page, int readers);  // below 0: a writer
  int64_t copy(const worker::MovePages& move);       // pages that have arrived

  World& world_;
  std::string worker_;
  std::vector<KvRow>& pool_;
  size_t page_tokens_;
  worker::TierOptions options_;
  std::vector<KvRow> host_, disk_;
  std::map<std::pair<Place, int32_t>, int> used_;  // by moves: readers, or -1 for a writer
};

}  // namespace limpet::sim
