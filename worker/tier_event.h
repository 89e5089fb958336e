// Pages of KV that move between the device, the host's memory and the disk. Plain data.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace limpet::worker {

enum class Tier : uint8_t { host, disk };

enum class MoveKind : uint8_t {
  spill,         // device → host
  restore_host,  // host → device
  restore_disk,  // disk → device
  demote         // host → disk
};

struct PageMove {
  int32_t from = 0, to = 0;  // pages of the pool, of the host's memory or of the file
};

// A command. Answered by one PagesMoved, after which nothing reads or writes these pages any more.
// Until then all of them belong to the move.
struct MovePages {
  uint64_t id = 0;
  MoveKind kind{};
  std::vector<PageMove> pages;
};

// The first `good` pages have arrived; of the others nothing is known.
struct PagesMoved {
  uint64_t id = 0;
  int64_t good = 0;
  std::string error;  // why not all have
};

}  // namespace limpet::worker
