#include "ops/sample/sample.h"
#include "ops/warp.cuh"

namespace limpet::ops {
namespace {

// One block, a thread for each row.
__global__ void __launch_bounds__(kMostAdvanced)
    advance_rows(const DrawnToken* drawn, const int32_t* from, int32_t* ids,
                             int32_t* positions, DrawSpec* draws, int64_t rows,
                             const int32_t* count) {
  const int64_t i = threadIdx.x;
  const bool counts = i < counted_rows(count, rows);
  DrawSpec draw;
  int32_t id = 0, position = 0;
  if (counts) {
    const int32_t r = from[i];
    id = drawn[r].status == DrawStatus::drawn ? drawn[r].token : 0;
    position = positions[r];
    draw = draws[r];
  }
  __syncthreads();
  if (!counts) return;
  ids[i] = id;
  positions[i] = position + 1;
  ++draw.position;
  draws[i] = draw;
}

}  // namespace

void run(const Advance&, GpuContext& gpu, const Args& a) {
  const int64_t rows = a.out[0].cols();
  advance_rows<<<1, static_cast<unsigned>((rows + 63) / 64 * 64), 0, gpu.stream>>>(
      reinterpret_cast<const DrawnToken*>(a.in[0].as<int32_t>()), a.in[1].as<int32_t>(),
      a.out[0].as<int32_t>(), a.out[1].as<int32_t>(),
      reinterpret_cast<DrawSpec*>(a.out[2].as<int32_t>()), rows, a.count);
}

}  // namespace limpet::ops
