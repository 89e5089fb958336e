// 2 … 64 rows of x times a weight, as skinny.cuh, with everything brought by the copy engine.
//
// One thread feeds a ring of weights in shared memory (a tile of 128 or 256 rows, 64 of k a stage),
// another one of x; two groups of four warps multiply and give stages back, each ring by barriers
// of its own: nobody waits for the whole block. Half of a processor's shared memory makes a block,
// so that the next kernel's blocks lie beside this one's and have their ring full of weights before
// await_previous() returns; or all of it.
//
// A cluster is `parts` blocks that share k, times `mates` tiles that multiply the same x: each mate
// brings a slice of it to all of them, so that the second-level cache is read once for it. Parts of
// sums go to the block that ends them by bulk copies, and are added in order: bits do not depend on
// timing.
//
// Needs warp-group products, tile maps (gpu_tensor_map.cuh), k a multiple of 64, and tiles that
// hold whole heads (streamed_supports).
//
// Measured as skinny.cuh says: 64 rows: qkv 0.61, out 0.50, gate/up 0.87, down 0.69, head 0.94; 8
// rows: 0.80, 0.70, 0.90, 0.85, 0.98.
#pragma once
#include "ops/gpu_tensor_map.cuh"
#include "ops/linear/skinny_ends.cuh"

namespace limpet::ops {
namespace {

struct StreamCut {
  int tile = 0;    // rows of the weight a block: 128 or 256
  int parts = 1;   // blocks that share k: 1, 2 or 4 with tiles of 128
  int mates = 1;   // tiles that share x: 1, 2 or 4; parts * mates at most 8
  int blocks = 2;  // a processor: 1 or 2
  bool operator==(const StreamCut&) const = default;
};
// Those that were among the fastest of some product of 8 or 64 rows on an H200, of 48.
constexpr StreamCut kStreamCuts[] = {{128, 4, 2, 2}, {128, 4, 1, 2}, {128, 2, 2, 2}, {128, 2, 1, 2},
                                     {128, 2, 1, 1}, {128, 1, 4, 2}, {256, 1, 4, 1}};

struct StreamRings {
  int weights, xs;  // stages
  int mates, blocks;
};
constexpr int kStreamBarriers = 1024;  // bytes for them and the factors of rows
inline StreamRings stream_rings(const StreamCut& cut, int columns) {
  const int room = (cut.blocks == 2 ? 115712 : 232448) - kStreamBarriers;
  const int xs = columns <= 16 ? 8 : columns == 32 || cut.blocks == 1 ? 4 : 512 / cut.tile;
  return {(room - xs * columns * 128) / (cut.tile * 128), xs, cut.mates, cut.blocks};
}
// Whether this cut of a product of so many rows can be. The device: skinny_supports.
inline bool streamed_supports(int k, int head_dim, int rows, const StreamCut& cut) {
  const int columns = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  const StreamRings rings = stream_rings(cut, columns);
  const int sums = 8 * columns * (cut.tile + 4 * cut.parts);  // two of them, if parts > 1
  const bool compiled = cut.tile == 256 ? cut.parts == 1 : cut.parts <= 4;
  return kTileMaps && compiled && k % 64 == 0 && k / 64 >= cut.parts && cut.tile % head_dim == 0 &&
         cut.parts * cut.mates <= 8 && columns / cut.mates >= 8 &&
         rings.weights * cut.tile * 128 * cut.blocks >= kBytesAhead &&
         sums <= rings.weights * cut.tile * 128 + rings.xs * columns * 128;
}

#if LIMPET_GPU_PTX && !defined(LIMPET_GPU_HIP)
// Reps times 64 rows of the weight for each of two groups; Columns rows of x (8, 16, 32, 64).
// After the last stage the memory of the rings holds sums, [Columns][pitch] floats for the share
// of each part, a pair's two together: this block's, then what the other parts sent to its share.
template <int Reps, int Columns, int Parts>
struct StreamShape {
  static constexpr int threads = 256, rows = Reps * 128;  // that multiply
  static constexpr int all_threads = threads + 64;        // two warps more bring weights and x
  static constexpr int weight_bytes = rows * 128, x_bytes = Columns * 128;  // of a stage
  static constexpr int share = rows / Parts, pitch = share + 4;             // in floats
  static constexpr int share_bytes = Columns * pitch * 4;
  static constexpr int sums_bytes = share_bytes * (Parts == 1 ? 1 : 2 * Parts);
};

// Addresses of shared memory.
template <class Shape>
struct StreamPlace {
  uint32_t weights, xs, weight_barriers, x_barriers;  // of a stage: full, empty
  uint32_t room, sent;  // the other parts have room for sums; theirs have come

  __device__ __forceinline__ StreamPlace(uint32_t memory, const StreamRings& rings) {
    weights = memory, xs = memory + rings.weights * Shape::weight_bytes;
    weight_barriers = xs + rings.xs * Shape::x_bytes;
    x_barriers = weight_barriers + rings.weights * 16;
    room = x_barriers + rings.xs * 16, sent = room + 8;
  }
};
struct RingSlot {
  int at = 0, parity = 0;
  __device__ __forceinline__ void next(int depth) {
    if (++at == depth) at = 0, parity ^= 1;
  }
};

#if LIMPET_GPU_WGMMA
// Tiles of 64 columns from `column` on, `steps` of them, into a ring, by one thread.
struct StreamSource {
  const TileMap* map;
  uint32_t ring, barriers, stage_bytes;
  int depth, steps, column, row;
  int issued = 0, ahead = 1 << 30;  // tiles on their way at once, while the ring fills
  RingSlot slot{};

  // blocks: 0, or which of the cluster get it; offset: of this tile in the stage.
  __device__ __forceinline__ void bring(uint32_t blocks, uint32_t offset, bool once) {
    const uint32_t full = barriers + slot.at * 16;
    const uint32_t to = ring + slot.at * stage_bytes + offset;
    if (issued >= ahead && issued < depth) await_barrier(barriers + (issued - ahead) * 16, 0);
    if (issued >= depth) await_barrier(full + 8, slot.parity ^ 1);
    expect_bytes(full, stage_bytes);
    if (once) {
      copy_tile_once(to, map, column, row, full);
    } else if (blocks == 0) {
      copy_tile(to, map, column, row, full);
    } else {
      copy_tile_to(blocks, to, map, column, row, full);
    }
    column += 64, ++issued, slot.next(depth);
  }
};

template <class Shape, int Reps, int Columns>
__device__ __forceinline__ void multiply_stream(const StreamPlace<Shape>& from,
                                                const StreamRings& rings, int steps, int part,
                                                int parts, float (&sums)[Reps][Columns / 8][4]) {
  const int group = static_cast<int>(threadIdx.x) / 128, thread = threadIdx.x % 128;
  const uint32_t mine = from.weights + group * Reps * 8192;
  const uint32_t x_free = rings.mates == 1
                              ? from.x_barriers + 8
                              : address_in_block(from.x_barriers + 8,
                                                 part + min(thread, rings.mates - 1) * parts);
  RingSlot weight, x;
  for (int i = 0; i < steps; ++i) {
    await_barrier(from.weight_barriers + weight.at * 16, weight.parity);
    await_barrier(from.x_barriers + x.at * 16, x.parity);
    const uint64_t a = tile_descriptor(mine + weight.at * Shape::weight_bytes);
    const uint64_t b = tile_descriptor(from.xs + x.at * Shape::x_bytes);
    begin_products();
#pragma unroll
    for (int r = 0; r < Reps; ++r) {
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply_async(sums[r], a + r * 512 + 2 * k, b + 2 * k);
    }
    commit_products();
    await_products<0>();
    if (thread == 0) arrive(from.weight_barriers + weight.at * 16 + 8);
    if (thread < rings.mates) arrive_in_cluster(x_free + x.at * 16);
    weight.next(rings.weights), x.next(rings.xs);
  }
}

// Sums to where the tails read them: the first of a pair's two beside its second, by parts.
template <Tail T, class Shape, int Reps, int Columns>
__device__ __forceinline__ void put_sums(float* to, const Gemv& g, int row0,
                                         const float (&products)[Reps][Columns / 8][4]) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
#pragma unroll
  for (int r = 0; r < 2 * Reps; ++r) {
    int row = (thread / 128 * Reps + r / 2) * 64 + thread / 32 % 4 * 16 + lane / 4 + r % 2 * 8;
    if (T == Tail::append) row = g.pairs.place(row0 + row) - row0;
    float* at = to + row / Shape::share * (Shape::share_bytes / 4) + row % Shape::share;
#pragma unroll
    for (int c = 0; c < Columns / 8; ++c) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        at[(c * 8 + lane % 4 * 2 + e) * Shape::pitch] = products[r / 2][c][r % 2 * 2 + e];
      }
    }
  }
}
// Each part's share of the sums to its block, ordered by barriers that count bytes: what comes in
// lies behind this block's own. All of the block's threads that multiply.
template <class Shape, int Parts>
__device__ __forceinline__ void exchange_sums(const StreamPlace<Shape>& place, int part,
                                              int first_rank) {
  publish_to_products();
  sync_some(1, Shape::threads);
  const int to = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0 && to < Parts && to != part) {
    await_barrier(place.room, 0);
    const uint32_t share = place.weights + to * Shape::share_bytes;
    const uint32_t there = place.weights + (Parts + part) * Shape::share_bytes;
    send_bulk(address_in_block(there, first_rank + to), share, Shape::share_bytes,
                  address_in_block(place.sent, first_rank + to));
  }
  await_sent(place.sent, 0);
}
#endif

template <Tail T, int Reps, int Columns, int Parts>
__global__ void __launch_bounds__(320, 2)
    streamed(const __grid_constant__ TileMap weight_map, const __grid_constant__ TileMap x_map,
             const Gemv g, const ProductInput in, const TailArgs t, const StreamRings rings) {
#if LIMPET_GPU_WGMMA
  using Shape = StreamShape<Reps, Columns, Parts>;
  extern __shared__ __align__(1024) unsigned char memory[];
  uint32_t base = shared_address(memory);
  asm volatile("" : "+r"(base));  // computed once
  static_assert(kBytesAhead / (2 * Shape::weight_bytes) >= 1);  // a tile on its way, at least
  const StreamPlace<Shape> place(base, rings);
  auto* factors = reinterpret_cast<float*>(memory + (place.sent + 8 - base));
  const int part = blockIdx.x % Parts, mate = blockIdx.x / Parts, mates = rings.mates;
  const int cluster = Parts * mates, thread = static_cast<int>(threadIdx.x);
  const int pair0 = (blockIdx.y * mates + mate) * (Shape::rows / 2);
  const int stages = g.k / 64, begin = stages * part / Parts;
  const int steps = stages * (part + 1) / Parts - begin;
  StreamSource source{&weight_map, place.weights, place.weight_barriers, Shape::weight_bytes,
                      rings.weights, steps, begin * 64, pair0 * 2};
  if (thread == Shape::threads) {
    for (int s = 0; s < rings.weights; ++s) {
      init_barrier(place.weight_barriers + s * 16, 1);
      init_barrier(place.weight_barriers + s * 16 + 8, 2);
    }
    publish_barriers();
    publish_to_products();
    source.ahead = kBytesAhead / (rings.blocks * Shape::weight_bytes);
    while (source.issued < min(source.ahead, steps)) source.bring(0, 0, true);
  } else if (thread == Shape::threads + 32) {
    for (int s = 0; s < rings.xs; ++s) {
      init_barrier(place.x_barriers + s * 16, 1);
      init_barrier(place.x_barriers + s * 16 + 8, 2 * mates);
    }
    init_barrier(place.room, Parts - 1 > 0 ? Parts - 1 : 1), init_barrier(place.sent, 1);
    publish_barriers();
    publish_to_products();
    if (Parts > 1) expect_bytes(place.sent, (Parts - 1) * Shape::share_bytes);
    prefetch_map(&x_map);
  }
  __syncwarp();
  start_next();
  __syncthreads();
  if (cluster > 1) cluster_arrive(), cluster_wait();  // barriers of others are there
  // By whole warps: one that brings weights, which no kernel writes, goes on.
  if (thread / 32 != Shape::threads / 32) await_previous();
  if (thread >= Shape::threads) {
    if (thread == Shape::threads) {
      while (source.issued < steps) source.bring(0, 0, true);
    } else if (thread == Shape::threads + 32) {
      uint32_t blocks = 0;
      for (int m = 0; mates > 1 && m < mates; ++m) blocks |= 1u << (part + m * Parts);
      const int slice = Columns / mates * mate;
      source = {&x_map, place.xs, place.x_barriers, Shape::x_bytes, rings.xs, steps, begin * 64,
                slice};
      while (source.issued < steps) source.bring(blocks, slice * 128, false);
    }
    __syncwarp();
    if (cluster > 1) cluster_arrive(), cluster_wait();
    return;
  }
  SkinnyEnds<T, Shape::rows, Shape::threads, Columns, Parts> ends;
  constexpr bool early = ends.early && Reps == 1;
  ends.share = ends.pairs * part, ends.rows = t.counted();
  const float factor = thread < ends.rows ? in.factor(thread) : 0.0f;  // arrives meanwhile
  if (early) ends.load(g, t, pair0, 0);
  float products[Reps][Columns / 8][4] = {};
  multiply_stream<Shape, Reps, Columns>(place, rings, steps, part, Parts, products);
  if (thread < ends.rows) factors[thread] = factor;
  sync_some(1, Shape::threads);  // no one reads the rings any more
  if (Parts > 1 && thread % 32 == 0 && thread / 32 < Parts && thread / 32 != part) {
    arrive_in_cluster(address_in_block(place.room, mate * Parts + thread / 32));
  }
  auto* sums = reinterpret_cast<float*>(memory);
  put_sums<T, Shape, Reps, Columns>(sums, g, pair0 * 2, products);
  if (!early) ends.load(g, t, pair0, 0);
  if (Parts > 1) {
    exchange_sums<Shape, Parts>(place, part, mate * Parts);
  } else {
    sync_some(1, Shape::threads);
  }
  if (cluster > 1) cluster_arrive();  // what this block awaits from others has come
  const auto part_of = [&](int row, int pair, int i) {
    const float* from = sums + (i == part ? i : Parts + i) * (Shape::share_bytes / 4);
    return *reinterpret_cast<const float2*>(from + row * Shape::pitch + pair * 2);
  };
#pragma unroll 1
  for (int i = 0; ends.there(i); ++i) {
    if (i > 0) ends.load(g, t, pair0, i);
    ends.finish(t, factors, i, part_of);
  }
  if (cluster > 1) cluster_wait();  // what it sent, too
#else
  __trap();  // compiled for a chip without warp-group products; skinny_supports says so
#endif
}

template <Tail T, int Reps, int Columns, int Parts>
GpuError launch_streamed_shape(const Gemv& g, const ProductInput& in, const TailArgs& t,
                               const StreamCut& cut, const Launch& how) {
  using Shape = StreamShape<Reps, Columns, Parts>;
  const StreamRings rings = stream_rings(cut, Columns);
  const size_t shared = rings.weights * Shape::weight_bytes + rings.xs * Shape::x_bytes +
                        kStreamBarriers;
  TileMap weight, x;
  if (!make_tile_map(&weight, g.weight, g.n, g.k, g.stride, Shape::rows) ||
      !make_tile_map(&x, in.x, t.rows, g.k, in.x_stride, Columns / cut.mates)) {
    return LIMPET_GPU(ErrorInvalidValue);
  }
  const int tiles = (g.n + Shape::rows - 1) / Shape::rows;
  const dim3 grid(static_cast<unsigned>(Parts * cut.mates),
                  static_cast<unsigned>((tiles + cut.mates - 1) / cut.mates));
  return launch(streamed<T, Reps, Columns, Parts>, grid, Shape::all_threads, Parts * cut.mates,
                shared, how, weight, x, g, in, t, rings);
}
template <Tail T, int Reps, int Columns>
GpuError launch_streamed_rows(const Gemv& g, const ProductInput& in, const TailArgs& t,
                              const StreamCut& cut, const Launch& how) {
  if (!streamed_supports(g.k, g.pairs.head_dim, t.rows, cut)) return LIMPET_GPU(ErrorInvalidValue);
  if constexpr (Reps == 1) {
    if (cut.parts == 2) return launch_streamed_shape<T, Reps, Columns, 2>(g, in, t, cut, how);
    if (cut.parts == 4) return launch_streamed_shape<T, Reps, Columns, 4>(g, in, t, cut, how);
  }
  return launch_streamed_shape<T, Reps, Columns, 1>(g, in, t, cut, how);
}

// t.rows: 1 … 64.
template <Tail T>
GpuError launch_streamed(const Gemv& g, const ProductInput& in, const TailArgs& t,
                         const StreamCut& cut, const Launch& how) {
  const int columns = t.rows <= 8 ? 0 : t.rows <= 16 ? 1 : t.rows <= 32 ? 2 : 3;
  if (cut.tile == 256) {
    const auto go = columns == 0   ? launch_streamed_rows<T, 2, 8>
                    : columns == 1 ? launch_streamed_rows<T, 2, 16>
                    : columns == 2 ? launch_streamed_rows<T, 2, 32>
                                   : launch_streamed_rows<T, 2, 64>;
    return go(g, in, t, cut, how);
  }
  const auto go = columns == 0   ? launch_streamed_rows<T, 1, 8>
                  : columns == 1 ? launch_streamed_rows<T, 1, 16>
                  : columns == 2 ? launch_streamed_rows<T, 1, 32>
                                 : launch_streamed_rows<T, 1, 64>;
  return go(g, in, t, cut, how);
}
#else
template <Tail T>
GpuError launch_streamed(const Gemv&, const ProductInput&, const TailArgs&, const StreamCut&,
                         const Launch&) {
  return LIMPET_GPU(ErrorInvalidValue);
}
#endif

}  // namespace
}  // namespace limpet::ops
