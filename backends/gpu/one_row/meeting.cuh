// Where the blocks of a launch wait for each other. What others wrote must be read past the
// first-level cache, which knows nothing of it: __ldcg. Counters are zero before the launch.
#pragma once
#include "backends/gpu/one_row/layers.h"
#include "backends/gpu/one_row/ring.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
// The threads of the block that compute.
__device__ __forceinline__ void block_meets() { ops::sync_some(1, kThreads); }

// All blocks, again and again; by all threads that compute.
struct Meetings {
  uint32_t* arrived;
  uint32_t target = 0;
  __device__ __forceinline__ void meet() {
    block_meets();
    target += gridDim.x;
    if (threadIdx.x == 0) {
      ops::add_release(arrived, 1);
      while (ops::load_acquire(arrived) < target) {
      }
    }
    block_meets();
  }
};
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
