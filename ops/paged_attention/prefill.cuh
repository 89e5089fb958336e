// Attention of many rows of a sequence over its paged KV, as in paged_attention.h, on tensor cores:
// prefill chunks and blocks of tokens to verify.
//
// A block takes kPrefillTile queries: consecutive rows times the query heads that share a KV head,
// so KV is read once for all of them. It walks over tiles of 64 keys with online softmax (Dao
// 2023). Rows of several sequences may meet in a tile; each sequence then takes a walk of its own.
// Heads of 64 and 128 go by warp-group products (prefill_groups.cuh), others by those of one warp.
// With `split` keys to a part (a multiple of 64), parts are blocks of their own, merged by
// log-sum-exp in order by merge_prefill; 0: one walk, no merge.
//
// Measured on an H200, Llama-3.1-8B's heads, µs a layer, merges included, by warp-group products,
// before they overlapped within a group (by those of one warp): 64 rows over 8,192 tokens 34 (48),
// 128 over 8,192 62 (91), 2,048 rows from position 0 106 (150), 4,096 352 (534: 391 against 257
// TFLOP/s). 64 rows over nothing: 9.
//
// head_dim: one of head_sizes.h; pages of 16 tokens, bf16; heads / kv_heads at most 64.
#pragma once
#include "ops/paged_attention/merge.cuh"
#include "ops/paged_attention/prefill_groups.cuh"
#include "ops/paged_attention/split.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
// Keys or values of the 64 positions from `token0` on; those after `last` become zeros.
template <int Dim>
__device__ __forceinline__ void copy_tile(const PagedRows& a, const int32_t* table, int which,
                                          int kv_head, int token0, int last, unsigned char* to) {
  using Shape = PrefillShape<Dim>;
#pragma unroll
  for (int i = 0; i < (kPrefillKeys * Shape::chunks + 255) / 256; ++i) {
    const int at = i * 256 + static_cast<int>(threadIdx.x);
    if (kPrefillKeys * Shape::chunks % 256 != 0 && at >= kPrefillKeys * Shape::chunks) break;
    const int token = at / Shape::chunks, chunk = at % Shape::chunks, position = token0 + token;
    const bool there = position <= last;
    const int page = table[(there ? position : last) / kPageTokens];
    const uint16_t* from =
        a.pool + pool_row(page, a.layers, a.layer, which, a.kv_heads, kv_head,
                          position % kPageTokens, Dim);
    copy_async_or_zero(to + Shape::at(token, chunk), from + chunk * 8, there);
  }
}

// Rows [row0, row_end) of one sequence, one part of its keys.
template <int Dim>
__device__ __forceinline__ void attend_rows(const PagedRows& a, const PrefillParts& parts,
                                            int row0, int row_end, int kv_head, int part,
                                            unsigned char* memory) {
  using Shape = PrefillShape<Dim>;
  const PrefillWalk walk(a, parts, row0, row_end, part);
  const int last = walk.last;
  if (walk.begin > last) return;
  PrefillQueries<Dim> q;
  const PrefillPlaces places(a, PrefillTile(a, row0, row_end, kv_head));
  q.load(a, places, memory + 2 * Shape::stages * Shape::tile_bytes);
  PrefillSeen<Dim> seen;
  const float scale = a.scale * 1.4426950408889634f;
  const auto copy = [&](int token0, int stage) {
    unsigned char* to = memory + stage * 2 * Shape::tile_bytes;
    if (token0 <= last) {
      copy_tile<Dim>(a, walk.table, 0, kv_head, token0, last, to);
      copy_tile<Dim>(a, walk.table, 1, kv_head, token0, last, to + Shape::tile_bytes);
    }
    commit_copies();  // a group in any case, since they are counted
  };
  constexpr int ahead = Shape::stages - 1;
  for (int i = 0; i < ahead; ++i) copy(walk.begin + i * kPrefillKeys, i);
  for (int token0 = walk.begin, stage = 0; token0 <= last; token0 += kPrefillKeys) {
    await_copies<ahead - 1>();
    __syncthreads();
    copy(token0 + ahead * kPrefillKeys, stage == 0 ? ahead : stage - 1);
    const unsigned char* keys = memory + stage * 2 * Shape::tile_bytes;
    seen.see(q, places, keys, keys + Shape::tile_bytes, scale, token0, a.window,
             walk.edge(token0, a.window));
    stage = stage == ahead ? 0 : stage + 1;
  }
  seen.write(places, a, parts, part);
  __syncthreads();
}

// grid: (kv_heads, tiles of rows, parts)
template <int Dim>
__global__ void __launch_bounds__(kPrefillWarps * 32, 1)
    attend_prefill(const PagedRows a, const PrefillParts parts) {
  extern __shared__ __align__(1024) unsigned char memory[];
  start_next();
  await_previous();
  for_each_run(a, [&](int row, int next) {
    attend_rows<Dim>(a, parts, row, next, static_cast<int>(blockIdx.x),
                     static_cast<int>(blockIdx.z), memory);
  });
}

struct PrefillPartsOf {
  const float *parts, *tops;
  int dim;
  __device__ __forceinline__ float2 top(int p) const {
    return __ldcg(reinterpret_cast<const float2*>(tops) + p);
  }
  __device__ __forceinline__ float4 values(int p, int i) const {
    return __ldcg(reinterpret_cast<const float4*>(parts + int64_t{p} * dim) + i);
  }
};
// A warp takes a head of a row.
template <int Dim>
__global__ void merge_prefill(const PagedRows a, const PrefillParts parts) {
  const int unit = static_cast<int>(blockIdx.x) * kMergeLanes + static_cast<int>(threadIdx.x) / 32;
  const int row = unit / a.heads;
  const bool counted = row < counted_rows(a.count, a.rows);
  const int last = counted ? a.positions[row] : 0;
  start_next();
  await_previous();
  if (!counted) return;
  const int first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
  const int64_t at = int64_t{unit} * parts.parts;
  const PrefillPartsOf place{parts.values + at * Dim, parts.tops + at * 2, Dim};
  merge_head<Dim>(place, first / parts.split, last / parts.split + 1,
                        a.out + int64_t{unit} * Dim);
}

inline bool prefill_supports(const PagedRows& a, int head_dim) {
  return has_fast_attention(head_dim) && a.heads / a.kv_heads <= 64;
}
// Keys to a part: enough blocks to fill the device, and a choice that the bucket of the past does
// not change. With 1,024, 64 rows over 8,192 keys were more blocks than processors.
inline int prefill_split(const PagedRows& a, int processors) {
  const int tile = kPrefillTile / (a.heads / a.kv_heads);
  return (a.rows + tile - 1) / tile * a.kv_heads >= processors ? 0 : 1152;
}
inline int prefill_parts(const PagedRows& a, int split) {
  return split == 0 ? 1 : (a.max_pages * kPageTokens + split - 1) / split;
}
inline size_t prefill_parts_bytes(const PagedRows& a, int head_dim, int parts) {
  return size_t{4} * a.rows * a.heads * parts * (head_dim + 2);
}

template <int Dim>
GpuError launch_prefill(const PagedRows& a, const PrefillParts& parts, const Launch& how) {
  const int tile = kPrefillTile / (a.heads / a.kv_heads);
  const dim3 grid(static_cast<unsigned>(a.kv_heads),
                  static_cast<unsigned>((a.rows + tile - 1) / tile),
                  static_cast<unsigned>(parts.parts));
  GpuError error;
  if constexpr (GroupShape<Dim>::fits) {
    error = launch(attend_groups<Dim>, grid, GroupShape<Dim>::threads, 1, GroupShape<Dim>::shared,
                   how, a, parts);
  } else {
    error = launch(attend_prefill<Dim>, grid, kPrefillWarps * 32, 1, PrefillShape<Dim>::shared,
                   how, a, parts);
  }
  if (error != GpuError{} || parts.split == 0) return error;
  const int units = a.rows * a.heads;
  const dim3 blocks(static_cast<unsigned>((units + kMergeLanes - 1) / kMergeLanes));
  return launch(merge_prefill<Dim>, blocks, 32 * kMergeLanes, 1, 0, how, a, parts);
}
inline GpuError launch_prefill(const PagedRows& a, const PrefillParts& parts, int head_dim,
                               const Launch& how) {
  switch (head_dim) {
    case 32: return launch_prefill<32>(a, parts, how);
    case 48: return launch_prefill<48>(a, parts, how);
    case 64: return launch_prefill<64>(a, parts, how);
    case 80: return launch_prefill<80>(a, parts, how);
    case 96: return launch_prefill<96>(a, parts, how);
    case 112: return launch_prefill<112>(a, parts, how);
    case 128: return launch_prefill<128>(a, parts, how);
    case 160: return launch_prefill<160>(a, parts, how);
    case 192: return launch_prefill<192>(a, parts, how);
    case 256: return launch_prefill<256>(a, parts, how);
    default: return LIMPET_GPU(ErrorInvalidValue);
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
