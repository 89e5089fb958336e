// Prefill attention (prefill.cuh) by warp-group products, for heads of 64 and 128.
//
// Two groups of four warps take 64 queries each and share tiles of 64 keys, which four more warps
// copy ahead; queries, scores, weights and sums stay in registers. The groups take turns at the
// products (Shah et al. 2024), but for a walk's first scores: each beside the other's softmax.
#pragma once
#include "ops/gpu_warpgroup.cuh"
#include "ops/paged_attention/prefill_seen.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
template <int Dim>
struct GroupShape {
  static constexpr bool fits = Dim == 64 || Dim == 128;
  static constexpr int copiers = 128, threads = kPrefillWarps * 32 + copiers;
  static constexpr int half_bytes = kPrefillKeys * 128;  // 64 elements of each key or value
  static constexpr int tile_bytes = Dim / 64 * half_bytes, stages = Dim <= 64 ? 12 : 6;
  static constexpr int ring = stages * 2 * tile_bytes, shared = ring + stages * 16;
  static constexpr int ahead = kBytesAhead / (2 * tile_bytes);  // tiles, while the ring fills
  // Of a thread: scores of a tile, weights of the one before, queries, sums.
  static constexpr int registers = 216, copier_registers = 72;
  static constexpr int launched = 65536 / threads / 8 * 8;  // with as many, since it is one block
  static_assert(kPrefillWarps * 32 * registers + copiers * copier_registers <= launched * threads);
};

// A ring of tiles: where a role stands in it.
struct GroupRing {
  unsigned char* tiles;
  uint64_t *full, *empty;
  int stage = 0, round = 0;
  int copied = 0;  // by the copying warps

  __device__ __forceinline__ void next(int stages) {
    if (++stage == stages) stage = 0, round ^= 1;
  }
};

#if LIMPET_GPU_WGMMA
// Tiles of one walk, by the copying warps. A tile whose keys earlier steps appended is asked for
// before the kernels before this one have ended.
template <int Dim>
__device__ __forceinline__ void copy_walk(const PagedRows& a, const PrefillWalk& walk, int kv_head,
                                          int early, bool& waited, GroupRing& ring) {
  using Shape = GroupShape<Dim>;
  constexpr int kChunks = Dim / 8, kRows = Shape::copiers / kChunks;  // rows of one pass
  const int thread = static_cast<int>(threadIdx.x) - kPrefillWarps * 32;
  const int row = thread / kChunks, chunk = thread % kChunks;
  const int64_t page_elements = pool_row(1, a.layers, 0, 0, a.kv_heads, 0, 0, Dim);
  const uint16_t* keys =
      a.pool + pool_row(0, a.layers, a.layer, 0, a.kv_heads, kv_head, row, Dim) + chunk * 8;
  const int64_t to_values = static_cast<int64_t>(a.kv_heads) * kPageTokens * Dim;
  // Entries of the page table, a lane each, asked for 32 pages ahead: what is needed at once takes
  // as long to come as a tile.
  int first = walk.begin / kPageTokens, entries = 0, following = 0;
  const auto entry_of = [&](int page) {
    return walk.table[min(page + thread % 32, walk.last / kPageTokens)];
  };
  if (walk.begin <= walk.last) entries = entry_of(first), following = entry_of(first + 32);
  for (int token0 = walk.begin; token0 <= walk.last; token0 += kPrefillKeys) {
    if (token0 / kPageTokens - first == 32) {
      first += 32, entries = following, following = entry_of(first + 32);
    }
    int pages[kPrefillKeys / kPageTokens];
#pragma unroll
    for (int p = 0; p < kPrefillKeys / kPageTokens; ++p) {
      pages[p] = __shfl_sync(~0u, entries, token0 / kPageTokens - first + p);
    }
    if (!waited && token0 + kPrefillKeys > early) await_previous(), waited = true;
    await_barrier(ring.empty + ring.stage, ring.round ^ 1);
    if (ring.copied >= Shape::ahead && ring.copied < Shape::stages) {
      await_barrier(ring.full + ring.copied - Shape::ahead, 0);
    }
    ++ring.copied;
    unsigned char* to = ring.tiles + ring.stage * 2 * Shape::tile_bytes +
                        chunk / 8 * Shape::half_bytes;
#pragma unroll
    for (int pass = 0; pass < kPrefillKeys / kRows; ++pass) {
      const int token = pass * kRows + row, in_page = pass * kRows % kPageTokens;
      const uint16_t* from = keys + pages[pass * kRows / kPageTokens] * page_elements +
                             static_cast<int64_t>(in_page) * Dim;
      const bool there = token0 + token <= walk.last;
      const int at = swizzled(token, chunk % 8);
      copy_async_or_zero(to + at, from, there);
      copy_async_or_zero(to + Shape::tile_bytes + at, from + to_values, there);
    }
    arrive_when_copied(ring.full + ring.stage);
    ring.next(Shape::stages);
  }
}

// The groups take turns at the tensor cores, so that one's softmax runs beside the other's products
// and not beside its softmax. A group's turn ends when it has asked for its products.
struct GroupTurns {
  static constexpr int threads = kPrefillWarps * 32;
  int group;

  __device__ __forceinline__ explicit GroupTurns(int g) : group(g) {
    if (group == 1) pass();  // the first group comes first
  }
  __device__ __forceinline__ void take() const { sync_some(1 + group, threads); }
  __device__ __forceinline__ void pass() const { arrive_some(2 - group, threads); }
  // After the last turn: what the second group has passed on is taken.
  __device__ __forceinline__ void end() const {
    if (group == 0) take();
  }
};

// The walk of a group of warps: in a turn, the scores of the next tile and the values of this one.
template <int Dim>
__device__ __forceinline__ void see_walk(PrefillSeen<Dim>& seen, const uint4 (&q)[Dim / 16],
                                         const PrefillPlaces& places, const PrefillWalk& walk,
                                         float scale, int window, const GroupTurns& turns,
                                         GroupRing& ring) {
  using Shape = GroupShape<Dim>;
  const auto await_tile = [&] {
    await_barrier(ring.full + ring.stage, ring.round);
    publish_to_products();
  };
  float s[kPrefillKeys / 8][4];
  const auto begin_scores = [&] {  // of the tile that has come
    const unsigned char* keys = ring.tiles + ring.stage * 2 * Shape::tile_bytes;
#pragma unroll
    for (int n = 0; n < kPrefillKeys / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
    begin_products();
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      multiply_rows_async<Operand::rows>(
          s, q[k], tile_descriptor(keys + k / 4 * Shape::half_bytes) + k % 4 * 2);
    }
    commit_products();
  };
  uint4 weights[kPrefillKeys / 16];
  const auto keep_weights = [&] {
#pragma unroll
    for (int n = 0; n < kPrefillKeys / 16; ++n) weights[n] = PrefillSeen<Dim>::rows_of(s, n);
  };
  const auto begin_values = [&](int stage) {
    const unsigned char* values = ring.tiles + stage * 2 * Shape::tile_bytes + Shape::tile_bytes;
    begin_products();
#pragma unroll
    for (int n = 0; n < kPrefillKeys / 16; ++n) {
      multiply_rows_async<Operand::columns>(
          seen.sums, weights[n], columns_descriptor(values + n * 16 * 128, Shape::half_bytes));
    }
    commit_products();
  };
  const auto give_back = [&](int stage) {
    if (threadIdx.x % 32 == 0) arrive(ring.empty + stage);
  };
  await_tile();
  begin_scores();
  await_products<0>();
  seen.weights_of(s, places, scale, walk.begin, window, walk.edge(walk.begin, window));
  keep_weights();
  // No branch around a product or its wait: the compiler would wait for each one by itself.
#pragma unroll 1
  for (int next = walk.begin + kPrefillKeys; next <= walk.last; next += kPrefillKeys) {
    const int stage = ring.stage;
    ring.next(Shape::stages);
    await_tile();
    turns.take();
    begin_scores();
    begin_values(stage);
    turns.pass();
    await_products<1>();  // the scores
    const float2 factor =
        seen.weights_of(s, places, scale, next, window, walk.edge(next, window));
    await_products<0>();
    give_back(stage);
    seen.rescale(factor);
    keep_weights();
  }
  turns.take();
  begin_values(ring.stage);
  turns.pass();
  await_products<0>();
  give_back(ring.stage);
  ring.next(Shape::stages);
}
#endif

// grid: (kv_heads, tiles of rows, parts)
template <int Dim>
__global__ void __launch_bounds__(GroupShape<Dim>::threads, 1)
    attend_groups(const PagedRows a, const PrefillParts parts) {
#if LIMPET_GPU_WGMMA
  using Shape = GroupShape<Dim>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const int thread = static_cast<int>(threadIdx.x), kv_head = static_cast<int>(blockIdx.x);
  const int part = static_cast<int>(blockIdx.z);
  auto* full = reinterpret_cast<uint64_t*>(memory + Shape::ring);
  GroupRing ring{memory, full, full + Shape::stages};
  if (thread < Shape::stages) {
    init_barrier(ring.full + thread, Shape::copiers);
    init_barrier(ring.empty + thread, kPrefillWarps);
    publish_barriers();
  }
  __syncthreads();
  start_next();
  if (thread >= kPrefillWarps * 32) {
    leave_registers<Shape::copier_registers>();
    bool waited = false;
    for_each_run(a, [&](int row, int next) {
      const PrefillWalk walk(a, parts, row, next, part);
      // The sequence's first row in this step, at row 0 or after, has a position of at least:
      const int early = walk.first_position - row;
      copy_walk<Dim>(a, walk, kv_head, early, waited, ring);
    });
    return;
  }
  take_registers<Shape::registers>();
  const GroupTurns turns(thread / 128);
  bool waited = false;
  const float scale = a.scale * 1.4426950408889634f;
  for_each_run(a, [&](int row, int next) {
    const PrefillWalk walk(a, parts, row, next, part);
    if (walk.begin > walk.last) return;
    const PrefillPlaces places(a, PrefillTile(a, row, next, kv_head));
    if (!waited) await_previous(), waited = true;  // for queries alone
    const uint16_t* const from[2] = {a.q + places.output[0] * Dim, a.q + places.output[1] * Dim};
    uint4 q[Dim / 16];
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) q[k] = PrefillQueries<Dim>::fragment(from, k, thread % 4);
    PrefillSeen<Dim> seen;
    see_walk<Dim>(seen, q, places, walk, scale, a.window, turns, ring);
    seen.write(places, a, parts, part);
  });
  turns.end();
  if (!waited) await_previous();
#endif
}
#endif

}  // namespace
}  // namespace limpet::ops
