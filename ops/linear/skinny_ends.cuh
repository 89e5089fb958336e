// The ends of a tile of a few-row product (skinny.cuh, streamed.cuh): its sums lie in shared
// memory, in parts, and leave the chip through tail.cuh.
#pragma once
#include "ops/linear/gemv.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
// Tails of this block's share of the tile's pairs, whose sums the `Parts` blocks of a cluster have
// parts of: Threads threads, for Columns rows of x and Rows rows of the weight. A batch's operands
// are read together, and its parts of a sum, too.
template <Tail T, int Rows, int Threads, int Columns, int Parts>
struct SkinnyEnds {
  static constexpr int pairs = Rows / 2 / Parts;  // of this block
  static constexpr int items = (pairs * Columns + Threads - 1) / Threads;
  static constexpr int batch = items < 4 ? items : 4, batches = items / batch;
  static constexpr bool early = batches <= 2;  // operands fit beside the products
  int share, rows;  // the block's first pair in the tile; true rows
  PairEnd<T> ends[batch];

  __device__ __forceinline__ int item(int base, int j) const {
    return (base * batch + j) * Threads + static_cast<int>(threadIdx.x);
  }
  __device__ __forceinline__ bool there(int base) const {
    return base < batches && base * batch * Threads < rows * pairs;
  }
  __device__ __forceinline__ void load(const Gemv& g, const TailArgs& t, int pair0, int base) {
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int row = item(base, j) / pairs, p = pair0 + share + item(base, j) % pairs;
      const int first = T == Tail::append ? g.pairs.first(p) : 2 * p;
      const int second = T == Tail::append ? g.pairs.second(p) : 2 * p + 1;
      ends[j].load(1.0f, t, g.n, row, first, second, row < rows);
    }
  }
  // factors: of rows; part(row, pair, i): part i of the sums of the share's pair for a row.
  template <class Part>
  __device__ __forceinline__ void finish(const TailArgs& t, const float* factors, int base,
                                         Part part) {
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int row = min(item(base, j) / pairs, Columns - 1), pair = item(base, j) % pairs;
      float2 parts[Parts];
#pragma unroll
      for (int i = 0; i < Parts; ++i) parts[i] = part(row, pair, i);
      float first = 0, second = 0;
#pragma unroll
      for (int i = 0; i < Parts; ++i) first += parts[i].x, second += parts[i].y;
      ends[j].factor = factors[row];
      ends[j].finish(t, first, second, pairs < 32 ? pairs : 32);
    }
  }
};
#endif

}  // namespace
}  // namespace limpet::ops
