// Prefill attention (prefill.cuh) by warp-group products, for heads of 64 and 128.
//
// Two groups of four warps take 64 queries each and share tiles of 64 keys, which four more warps
// copy ahead; scores, weights and sums stay in registers. The groups wait for tiles, never for each
// other, so that one's softmax runs beside the other's products.
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
  static constexpr int tile_bytes = Dim / 64 * half_bytes, stages = Dim <= 64 ? 8 : 5;
  static constexpr int query_bytes = 2 * tile_bytes;  // 64 queries a group, laid out as keys are
  static constexpr int ring = stages * 2 * tile_bytes, shared = ring + query_bytes + stages * 16;
};

// A ring of tiles: where a role stands in it.
struct GroupRing {
  unsigned char* tiles;
  uint64_t *full, *empty;
  int stage = 0, round = 0;

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
  constexpr int kPages = kPrefillKeys / kPageTokens;
  int pages[kPages], next[kPages];
  const auto ask = [&](int token0) {
#pragma unroll
    for (int p = 0; p < kPages; ++p) {
      next[p] = walk.table[min(token0 + p * kPageTokens, walk.last) / kPageTokens];
    }
  };
  if (walk.begin <= walk.last) ask(walk.begin);
  for (int token0 = walk.begin; token0 <= walk.last; token0 += kPrefillKeys) {
#pragma unroll
    for (int p = 0; p < kPages; ++p) pages[p] = next[p];
    ask(token0 + kPrefillKeys);
    if (!waited && token0 + kPrefillKeys > early) await_previous(), waited = true;
    await_barrier(ring.empty + ring.stage, ring.round ^ 1);
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

// A group's queries into shared memory; those that are not there become zeros.
template <int Dim>
__device__ __forceinline__ void load_queries(const PagedRows& a, const PrefillTile& tile,
                                             unsigned char* to) {
  using Shape = GroupShape<Dim>;
  constexpr int kChunks = Dim / 8;
  const int group = static_cast<int>(threadIdx.x) / 128;
  sync_some(1 + group, 128);  // the products of the queries before have ended
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * kChunks; i += 128) {
    const int query = i / kChunks, chunk = i % kChunks;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (tile.has(group * 64 + query)) {
      v = load_fresh(a.q + tile.at(a, group * 64 + query) * Dim + chunk * 8);
    }
    *reinterpret_cast<uint4*>(to + chunk / 8 * Shape::half_bytes + swizzled(query, chunk % 8)) = v;
  }
  publish_to_products();
  sync_some(1 + group, 128);
}

// One tile, by a group of warps.
template <int Dim>
__device__ __forceinline__ void see_tile(PrefillSeen<Dim>& seen, const PrefillPlaces& places,
                                         const unsigned char* queries, const unsigned char* keys,
                                         float scale, int token0, int window, bool edge) {
  using Shape = GroupShape<Dim>;
  float s[kPrefillKeys / 8][4] = {};
  begin_products();
#pragma unroll
  for (int k = 0; k < Dim / 16; ++k) {
    const int at = k / 4 * Shape::half_bytes;
    multiply_async(s, tile_descriptor(queries + at) + k % 4 * 2,
                   tile_descriptor(keys + at) + k % 4 * 2);
  }
  commit_products();
  await_products<0>();
  seen.weigh(s, places, scale, token0, window, edge);
  uint4 weights[kPrefillKeys / 16];
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 16; ++n) weights[n] = PrefillSeen<Dim>::rows_of(s, n);
  const unsigned char* values = keys + Shape::tile_bytes;
  begin_products();
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 16; ++n) {
    multiply_rows_async(seen.sums, weights[n],
                        columns_descriptor(values + n * 16 * 128, Shape::half_bytes));
  }
  commit_products();
  await_products<0>();
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
  unsigned char* queries = memory + Shape::ring + thread / 128 * Shape::tile_bytes;
  auto* full = reinterpret_cast<uint64_t*>(memory + Shape::ring + Shape::query_bytes);
  GroupRing ring{memory, full, full + Shape::stages};
  if (thread < Shape::stages) {
    init_barrier(ring.full + thread, Shape::copiers);
    init_barrier(ring.empty + thread, kPrefillWarps);
    publish_barriers();
  }
  __syncthreads();
  start_next();
  if (thread >= kPrefillWarps * 32) {
    bool waited = false;
    for_each_run(a, [&](int row, int next) {
      const PrefillWalk walk(a, parts, row, next, part);
      // The sequence's first row in this step, at row 0 or after, has a position of at least:
      const int early = walk.first_position - row;
      copy_walk<Dim>(a, walk, kv_head, early, waited, ring);
    });
    return;
  }
  await_previous();
  const float scale = a.scale * 1.4426950408889634f;
  for_each_run(a, [&](int row, int next) {
    const PrefillWalk walk(a, parts, row, next, part);
    if (walk.begin > walk.last) return;
    const PrefillTile tile(a, row, next, kv_head);
    const PrefillPlaces places(a, tile);
    load_queries<Dim>(a, tile, queries);
    PrefillSeen<Dim> seen;
    for (int token0 = walk.begin; token0 <= walk.last; token0 += kPrefillKeys) {
      await_barrier(ring.full + ring.stage, ring.round);
      publish_to_products();
      see_tile<Dim>(seen, places, queries, memory + ring.stage * 2 * Shape::tile_bytes, scale,
                    token0, a.window, walk.edge(token0, a.window));
      if (thread % 32 == 0) arrive(ring.empty + ring.stage);
      ring.next(Shape::stages);
    }
    seen.write(places, a, parts, part);
  });
#endif
}
#endif

}  // namespace
}  // namespace limpet::ops
