// A CPU backend that fails when it is told to. Programs that link it get it for every device that
// they open: it takes the place of backends/make_backend.cpp.
#pragma once
#include <atomic>
#include <cstdint>

namespace limpet::faults {

// Runs and compilations are counted from the start of the program, those of the warm-up included.
struct Faults {
  std::atomic<int64_t> runs{0}, compiles{0};
  std::atomic<int64_t> lost_at_run{0};        // this run, and all later work, throws DeviceLost
  std::atomic<int64_t> no_memory_at_run{0};   // this run throws std::runtime_error
  std::atomic<int64_t> no_memory_at_compile{0};  // this compilation does, and it alone
  std::atomic<bool> lost{false};
  void reset() {
    runs = compiles = lost_at_run = no_memory_at_run = no_memory_at_compile = 0;
    lost = false;
  }
};
Faults& faults();  // the program's

}  // namespace limpet::faults
