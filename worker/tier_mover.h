// Carries out MovePages: brings pages of KV between the device, the host's memory and a file, some
// at a time, beside the steps. Restores go before spills. What an earlier failure leaves undone is
// told, never guessed.
//
// Driven by the thread that drives the engine; poll() never waits.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "worker/tier_disk.h"
#include "worker/tier_event.h"
#include "worker/tiers.h"

namespace limpet::worker {

struct TierSizes {
  int64_t host_bytes = 0;    // rounded down to pages; 0: no tiers
  int64_t disk_bytes = 0;    // 0: none below the host's
  std::string disk_folder{};
  int64_t least_tokens = 200;  // as TierOptions
};

class TierMover {
 public:
  // Takes the host's memory and opens the file. Throws std::runtime_error that says what to do.
  TierMover(engine::Engine& engine, const TierSizes& sizes);
  ~TierMover();

  TierOptions options() const { return options_; }
  void begin(const MovePages& move);
  // Goes on with what has begun, and tells what has ended since the last call.
  std::vector<PagesMoved> poll();
  bool idle() const { return moves_.empty(); }
  bool copying() const;  // something is between the device and the host right now

  struct Counters {
    int64_t spilled = 0, restored_host = 0, restored_disk = 0, demoted = 0;  // bytes
  };
  const Counters& counters() const { return counters_; }
  TierDisk* disk() { return disk_.get(); }

 private:
  struct Move {
    MovePages command;
    size_t begun = 0;   // pages given to the disk, or copied from or to the device
    size_t read = 0;    // of a restore from disk: pages that the disk has brought
    size_t copied = 0;  // pages that are where they should be
    int asked = 0;      // of the disk, without an answer yet
    std::string error;  // no more pages are begun
    std::deque<int32_t> staged;  // of a restore from disk: host pages, in order of their pages
  };
  struct Copying {
    uint64_t number = 0;  // of the engine's
    uint64_t move = 0;
    size_t pages = 0;
    std::vector<int32_t> staged;
  };
  Move* find(uint64_t id);
  void hear_disk();
  void hear_device();
  void go_on(Move& move);
  void copy(Move& move, size_t end);
  void ask_disk(Move& move);
  void copy_staged(Move& move);
  void count(const Move& move, size_t pages);

  engine::Engine& engine_;
  TierOptions options_;
  size_t most_copying_;  // pages between the device and the host
  std::unique_ptr<TierDisk> disk_;
  std::vector<int32_t> staging_;  // free host pages for what comes from disk
  std::deque<Move> moves_;        // restores first
  std::deque<Copying> copying_;
  size_t pages_copying_ = 0;
  Counters counters_;
};

}  // namespace limpet::worker
