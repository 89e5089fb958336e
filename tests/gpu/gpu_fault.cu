// Loaded into a worker (LD_PRELOAD) by tests on a real card, it does to the worker's device what a
// faulty kernel, or another program, would do: when the file that LIMPET_GPU_FAULT names appears,
// with `trap` in it a kernel of the same process fails, which the device does not recover from for
// this process; with `take BYTES` all of the device's memory but so many bytes is taken. With
// LIMPET_GPU_LEAVE=BYTES memory is taken before the worker begins.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "ops/gpu.h"

namespace limpet::test {
namespace {

__global__ void fail() {
#if LIMPET_GPU_PTX
  __trap();
#else
  __builtin_trap();
#endif
}

void take_all_but(size_t bytes) {
  size_t free = 0, all = 0;
  for (size_t piece = size_t{1} << 40; piece >= size_t{1} << 16;) {
    if (LIMPET_GPU(MemGetInfo)(&free, &all) != LIMPET_GPU(Success) || free <= bytes) break;
    void* at = nullptr;
    if (piece > free - bytes || LIMPET_GPU(Malloc)(&at, piece) != LIMPET_GPU(Success)) {
      (void)LIMPET_GPU(GetLastError)();
      piece /= 2;  // memory is in pieces, too
    }
  }
  std::fprintf(stderr, "gpu_fault: left %zu bytes\n", free);
}

void wait_for_order(const char* file) {
  std::string order;
  for (;; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
    if (std::ifstream in(file); in >> order) {
      (void)LIMPET_GPU(SetDevice)(0);
      if (size_t bytes = 0; order == "take" && in >> bytes) take_all_but(bytes);
      if (order == "trap") fail<<<1, 1>>>();
      return;
    }
  }
}

const bool begun = [] {
  if (const char* bytes = std::getenv("LIMPET_GPU_LEAVE")) {
    take_all_but(std::strtoull(bytes, nullptr, 10));
  }
  if (const char* file = std::getenv("LIMPET_GPU_FAULT")) {
    std::thread(wait_for_order, file).detach();
  }
  return true;
}();

}  // namespace
}  // namespace limpet::test
