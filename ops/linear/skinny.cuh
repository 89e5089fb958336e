// 2 … 64 rows of x times a weight on tensor cores, with the fused ends of tail.cuh.
//
// The weight is the tall operand (64 rows a group of four warps), the rows of x the narrow one, so
// a weight is read once and padding costs nothing that matters. A block streams one tile of weight
// rows over its part of k through a ring of shared memory; the blocks of a cluster share k and send
// each pair's sums to the block that ends it, which adds them in order, so bits do not depend on
// timing. A tile holds whole pairs: its upper half are their first rows, its lower half their
// second ones.
//
// Needs warp-group products, clusters, k a multiple of 64 and no less for each part of a split
// (skinny_supports).
//
// Measured on an H200 in chains of Llama-3.1-8B's layers, cold, tails included, as a fraction of
// the read bandwidth of the same run (4.4 TB/s), the best cut of each: 8 rows: qkv 0.80, out 0.73,
// gate/up 0.95, down 0.78, head 0.99; 64 rows: 0.58, 0.50, 0.80, 0.65, 0.91. With sums read from
// the other blocks behind barriers that wait for all writes: 8 rows 0.76, 0.70, 0.89, 0.74, 0.99.
// What is lost at 64 rows: each block reads x from the L2 cache again, and ends late.
#pragma once
#include <algorithm>
#include <vector>

#include "ops/linear/streamed.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
struct SkinnyCut {
  int groups = 2;  // of four warps, 64 weight rows each: 1 or 2
  int split = 4;   // blocks that share k: 1, 2, 4 or 8
  StreamCut stream{};  // where it has a tile: streamed.cuh instead
  bool operator==(const SkinnyCut&) const = default;
};
// Every way of a product of so many rows and of k that this build has; head_dim: of its pairs.
inline std::vector<SkinnyCut> skinny_cuts(int rows, int k, int head_dim) {
  std::vector<SkinnyCut> all;
  for (const int groups : {1, 2}) {
    for (const int split : {1, 2, 4, 8}) {
      if (k / 64 >= 2 * split && (split == 1 || kGpuClusters)) all.push_back({groups, split});
    }
  }
  for (const StreamCut& cut : kStreamCuts) {
    if (streamed_supports(k, head_dim, rows, cut)) all.push_back({1, 1, cut});
  }
  return all;
}

// Groups warpgroups, Columns rows of x (8, 16, 32, 64), Depth stages of 64 elements of k.
template <int Groups, int Columns, int Depth>
struct SkinnyShape {
  static constexpr int threads = Groups * 128, rows = Groups * 64;
  static constexpr int together = Groups == 2 ? 2 : 3;  // blocks of a processor
  static constexpr int weight_bytes = rows * 128, stage = weight_bytes + Columns * 128;
  static constexpr int ahead = kBytesAhead / (together * weight_bytes);  // stages of weights
  static constexpr int pitch = Columns + 2;  // of a weight row's sums, in floats
  static constexpr int ring = Depth * stage, sums = 2 * rows * pitch * 4;  // sent and come
  static constexpr int shared = (ring > sums ? ring : sums) + 1024;  // to align it
  static constexpr int weight_copies = rows * 8 / threads;           // 16 bytes each, a thread
  static constexpr int column_copies = (Columns * 8 + threads - 1) / threads;
};

// Copies of one thread: chunk threadIdx.x % 8 of some rows of the tile and of x.
template <class Shape, int Columns>
struct SkinnyCopies {
  const uint16_t* weight[Shape::weight_copies];
  const uint16_t* x[Shape::column_copies];
  int row, chunk;

  __device__ __forceinline__ SkinnyCopies(const Gemv& g, const ProductInput& in, int pair0,
                                          int last_row, int k0) {
    row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
#pragma unroll
    for (int i = 0; i < Shape::weight_copies; ++i) {
      const int r = row + i * (Shape::threads / 8), p = pair0 + r % (Shape::rows / 2);
      const int output = r < Shape::rows / 2 ? g.pairs.first(p) : g.pairs.second(p);
      weight[i] = g.weight + min(output, g.n - 1) * g.stride + k0 + chunk * 8;
    }
#pragma unroll
    for (int i = 0; i < Shape::column_copies; ++i) {
      const int r = min(row + i * (Shape::threads / 8), last_row);
      x[i] = in.x + r * in.x_stride + k0 + chunk * 8;
    }
  }
  __device__ __forceinline__ void copy_weight(unsigned char* stage, int step) const {
#pragma unroll
    for (int i = 0; i < Shape::weight_copies; ++i) {
      copy_async(stage + swizzled(row + i * (Shape::threads / 8), chunk), weight[i] + step * 64);
    }
  }
  __device__ __forceinline__ void copy_x(unsigned char* stage, int step) const {
#pragma unroll
    for (int i = 0; i < Shape::column_copies; ++i) {
      const int r = row + i * (Shape::threads / 8);
      if (Columns % (Shape::threads / 8) == 0 || r < Columns) {
        copy_async(stage + Shape::weight_bytes + swizzled(r, chunk), x[i] + step * 64);
      }
    }
  }
};

#if LIMPET_GPU_WGMMA
// The ring: products of this block's part of k, `steps` stages of it.
template <class Shape, int Columns, int Depth>
__device__ __forceinline__ void multiply_ring(const SkinnyCopies<Shape, Columns>& copies,
                                              unsigned char* ring, int steps,
                                              float (&sums)[Columns / 8][4]) {
  const int group = static_cast<int>(threadIdx.x) / 128;
  for (int i = 0; i < steps; ++i) {
    await_copies<Depth - 2>();
    publish_to_products();
    await_products<0>();  // of the stage that is filled again below
    __syncthreads();
    const unsigned char* stage = ring + i % Depth * Shape::stage;
    const uint64_t a = tile_descriptor(stage + group * 8192);
    const uint64_t b = tile_descriptor(stage + Shape::weight_bytes);
    begin_products();
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply_async(sums, a + 2 * k, b + 2 * k);
    commit_products();
    const int next = i + Depth - 1;
    if (next < steps) {
      unsigned char* to = ring + next % Depth * Shape::stage;
      copies.copy_weight(to, next);
      copies.copy_x(to, next);
    }
    commit_copies();
  }
  await_products<0>();
  await_copies<0>();
}
#endif

// Sums go to the block that finishes their pairs: [Parts][2 pairs][pitch] floats in its memory, the
// pairs' first rows above their second ones, part by part as the blocks of the cluster sent them.
// Few columns go as they are, two floats at a time; many in bulk, from a copy behind what arrives.
struct SumBarriers {
  uint64_t room;  // the other blocks no longer read their rings, in whose place sums arrive
  uint64_t sent;  // bytes of sums that have arrived here
};
template <class Shape, int Columns, int Parts>
struct SumExchange {
  static constexpr int pairs = Shape::rows / 2 / Parts, part_floats = 2 * pairs * Shape::pitch;
  static constexpr bool bulk = Parts > 1 && Columns > 16;
  static constexpr int bytes = bulk ? (Parts - 1) * part_floats * 4 : Shape::rows * Columns * 4;
  float* sums;  // in the place of the ring
  SumBarriers* barriers;
  int part;

  // By all threads, before anything else.
  __device__ __forceinline__ void begin() const {
    if constexpr (Parts == 1) return;
    if (threadIdx.x == 0) {
      init_barrier(&barriers->room, Parts - 1), init_barrier(&barriers->sent, 1);
      publish_barriers();
      expect_bytes(&barriers->sent, bytes);
    }
    __syncwarp();
    cluster_arrive();
  }
  // By all threads, once each has done with the ring.
  __device__ __forceinline__ void exchange(const float (&products)[Columns / 8][4]) const {
    const int to = static_cast<int>(threadIdx.x);
    if constexpr (Parts > 1) cluster_wait();  // barriers of others are there
    __syncthreads();
    if constexpr (Parts > 1) {
      if (to < Parts && to != part) arrive_in_cluster(there(&barriers->room, to));
    }
    if constexpr (!bulk) {
      if constexpr (Parts > 1) await_sent(shared_address(&barriers->room), 0);
      put(products);
      if constexpr (Parts == 1) __syncthreads();
    } else {
      put(products);
      order_before_copies();
      __syncthreads();
      if (to < Parts && to != part) {
        await_sent(shared_address(&barriers->room), 0);
        send_bulk(there(sums + part * part_floats, to),
                  shared_address(sums + (Parts + to) * part_floats), part_floats * 4,
                  there(&barriers->sent, to));
      }
    }
    if constexpr (Parts > 1) await_sent(shared_address(&barriers->sent), 0);
    __syncwarp();
    if constexpr (bulk) cluster_arrive();
  }
  // Before the block ends: what it has sent in bulk has been read.
  __device__ __forceinline__ void end() const {
    if constexpr (bulk) cluster_wait();
  }

 private:
  __device__ __forceinline__ static uint32_t there(const void* here, int block) {
    return address_in_block(shared_address(here), block);
  }
  __device__ __forceinline__ void put(const float (&products)[Columns / 8][4]) const {
    constexpr int half = Shape::rows / 2;
    constexpr bool at_once = Parts > 1 && !bulk;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int r = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4 + e * 8, p = r % half;
      const int at = (r / half * pairs + p % pairs) * Shape::pitch + lane % 4 * 2, to = p / pairs;
      const int slot = Parts == 1 ? 0 : bulk && to != part ? Parts + to : part;
      float* own = sums + slot * part_floats + at;
      const uint32_t other = at_once ? there(own, to) : 0;
      const uint32_t counts = at_once ? there(&barriers->sent, to) : 0;
#pragma unroll
      for (int c = 0; c < Columns / 8; ++c) {
        const float a = products[c][2 * e], b = products[c][2 * e + 1];
        if constexpr (at_once) {
          send_two(other + c * 32, a, b, counts);
        } else {
          *reinterpret_cast<float2*>(own + c * 8) = {a, b};
        }
      }
    }
  }
};

template <Tail T, int Groups, int Columns, int Depth, int Parts>
__global__ void __launch_bounds__(Groups * 128, SkinnyShape<Groups, Columns, Depth>::together)
    skinny(const Gemv g, const ProductInput in, const TailArgs t) {
#if LIMPET_GPU_WGMMA
  using Shape = SkinnyShape<Groups, Columns, Depth>;
  using Exchange = SumExchange<Shape, Columns, Parts>;
  extern __shared__ unsigned char unaligned[];
  unsigned char* ring = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  const int part = blockIdx.x, pair0 = blockIdx.y * (Shape::rows / 2);
  const int stages = g.k / 64, begin = stages * part / Parts;
  const int steps = stages * (part + 1) / Parts - begin;
  __shared__ SumBarriers barriers;
  const Exchange sums{reinterpret_cast<float*>(ring), &barriers, part};
  sums.begin();
  const SkinnyCopies<Shape, Columns> copies(g, in, pair0, t.rows - 1, begin * 64);
  start_next();
  for (int i = 0; i < Depth - 1 && i < steps; ++i) {
    copies.copy_weight(ring + i * Shape::stage, i);
    commit_copies();
    if (i + 1 >= Shape::ahead) await_copies<Shape::ahead - 1>();
  }
  await_previous();
  for (int i = 0; i < Depth - 1; ++i) {
    if (i < steps) copies.copy_x(ring + i * Shape::stage, i);
    commit_copies();
  }
  SkinnyEnds<T, Shape::rows, Shape::threads, Columns, Parts> ends;
  ends.share = ends.pairs * part, ends.rows = t.counted();
  __shared__ float factors[Columns];
  if (const int row = static_cast<int>(threadIdx.x); row < ends.rows) {
    factors[row] = in.factor(row);
  }
  __syncthreads();
  if (ends.early) ends.load(g, t, pair0, 0);
  float products[Columns / 8][4] = {};
  multiply_ring<Shape, Columns, Depth>(copies, ring, steps, products);
  if (!ends.early) ends.load(g, t, pair0, 0);
  sums.exchange(products);
  const auto part_of = [&](int row, int pair, int i) {
    const float* at = sums.sums + i * sums.part_floats + pair * Shape::pitch + row;
    return make_float2(at[0], at[sums.pairs * Shape::pitch]);
  };
#pragma unroll 1
  for (int base = 0; ends.there(base); ++base) {
    if (base > 0) ends.load(g, t, pair0, base);
    ends.finish(t, factors, base, part_of);
  }
  sums.end();
#else
  __trap();  // compiled for a chip without warp-group products; skinny_supports says so
#endif
}

// What was fastest within whole steps at 8B's shapes, or near it: with 8 rows on an H200, else on
// an H100. Where it can be timed (backends/gpu/plan/choose.cuh) that is where it begins.
inline SkinnyCut choose_skinny(int rows, int n, int k, int processors) {
  const int tiles = (n + 127) / 128;
  const bool many = tiles >= 4 * processors;
  if (k < 1024 || !kGpuClusters) return {1, 1};
  if (rows == 1) return {1, k >= 4096 ? 4 : 1};
  if (many) return {1, 1};
  if (rows <= 32) return {tiles >= processors / 3 && tiles < processors ? 2 : 1, 4};
  if (tiles >= processors) return {2, 1};
  return {k > 8192 ? 1 : 2, 4};
}

template <Tail T, int Groups, int Columns>
GpuError launch_skinny_shape(const Gemv& g, const ProductInput& in, const TailArgs& t,
                             const SkinnyCut& cut, const Launch& how) {
  const int split = cut.split;
  constexpr int stage = SkinnyShape<Groups, Columns, 2>::stage;
  constexpr int room = (Groups == 2 ? 111 : 73) * 1024;
  constexpr int depth = room / stage < 8 ? room / stage : 8;
  using Shape = SkinnyShape<Groups, Columns, depth>;
  const dim3 grid(static_cast<unsigned>(split),
                  static_cast<unsigned>((g.n + Shape::rows - 1) / Shape::rows));
  if (split != 1 && split != 2 && split != 4 && split != 8) return LIMPET_GPU(ErrorInvalidValue);
  const auto kernel = split == 1   ? skinny<T, Groups, Columns, depth, 1>
                      : split == 2 ? skinny<T, Groups, Columns, depth, 2>
                      : split == 4 ? skinny<T, Groups, Columns, depth, 4>
                                   : skinny<T, Groups, Columns, depth, 8>;
  return launch(kernel, grid, Shape::threads, split, Shape::shared, how, g, in, t);
}

// major, minor: the device's compute capability, for which the kernels must have been compiled.
inline bool skinny_supports(int major, int minor, int rows, int k) {
  return has_warpgroups(major, minor) && rows >= 1 && rows <= 64 && k % 64 == 0 && k >= 64;
}
// t.rows: 1 … 64.
template <Tail T>
GpuError launch_skinny(const Gemv& g, const ProductInput& in, const TailArgs& t, SkinnyCut cut,
                       const Launch& how) {
  if (cut.stream.tile != 0) return launch_streamed<T>(g, in, t, cut.stream, how);
  const int columns = t.rows <= 8 ? 0 : t.rows <= 16 ? 1 : t.rows <= 32 ? 2 : 3;
  if (cut.groups == 2) {
    const auto go = columns == 0   ? launch_skinny_shape<T, 2, 8>
                    : columns == 1 ? launch_skinny_shape<T, 2, 16>
                    : columns == 2 ? launch_skinny_shape<T, 2, 32>
                                   : launch_skinny_shape<T, 2, 64>;
    return go(g, in, t, cut, how);
  }
  const auto go = columns == 0   ? launch_skinny_shape<T, 1, 8>
                  : columns == 1 ? launch_skinny_shape<T, 1, 16>
                  : columns == 2 ? launch_skinny_shape<T, 1, 32>
                                 : launch_skinny_shape<T, 1, 64>;
  return go(g, in, t, cut, how);
}
#endif

}  // namespace
}  // namespace limpet::ops
