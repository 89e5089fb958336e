// Attention of many rows of a sequence over its paged KV, as in paged_attention.h, on tensor cores:
// prefill chunks and blocks of tokens to verify.
//
// A block takes kPrefillTile queries: consecutive rows times the query heads that share a KV head,
// so KV is read once for all of them. It walks over tiles of 64 keys with online softmax (Dao
// 2023). Rows of several sequences may meet in a tile; each sequence then takes a walk of its own.
// With `split` keys to a part (a multiple of 64), parts are blocks of their own, merged by
// log-sum-exp in order by merge_prefill; 0: one walk, no merge.
//
// Measured on an H100: 4096 rows of Llama-3.1-8B's heads from position 0, 0.52 ms a layer.
//
// head_dim: a multiple of 16 up to 256; pages of 16 tokens, bf16; heads / kv_heads at most 64.
#pragma once
#include "ops/paged_attention/split.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
constexpr int kPrefillTile = 128, kPrefillWarps = 8, kPrefillKeys = 64;

struct PrefillParts {
  float* values = nullptr;  // f32 [rows, heads, parts, head_dim]
  float* tops = nullptr;    // f32 [rows, heads, parts, 2]: highest score, sum
  int split = 0, parts = 1;
};

template <int Dim>
struct PrefillShape {
  static constexpr int chunks = Dim / 8, tile_bytes = kPrefillKeys * Dim * 2;
  static constexpr bool keep_q = Dim <= 128;  // in registers; else in shared memory
  static constexpr int stages = Dim <= 160 ? 3 : 2;  // of keys and values
  static constexpr int shared = 2 * stages * tile_bytes + (keep_q ? 0 : kPrefillTile * Dim * 2);
  static __device__ __forceinline__ int at(int row, int chunk) {
    return (row * chunks + (chunks % 8 == 0 ? chunk ^ (row & 7) : chunk)) * 16;
  }
};

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

// A warp's 16 queries of the tile: rows 16 w + g and + 8 are this lane's, g = lane / 4.
template <int Dim>
struct PrefillQueries {
  using Shape = PrefillShape<Dim>;
  uint4 kept[Shape::keep_q ? Dim / 16 : 1];
  const unsigned char* shared;
  int position[2];  // of this lane's two queries; -1: none
  int64_t output[2];

  __device__ __forceinline__ void load(const PagedRows& a, int row0, int row_end, int kv_head,
                                       unsigned char* stage) {
    const int group = a.heads / a.kv_heads, lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, j = lane % 4;
    const uint16_t* from[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = warp * 16 + h * 8 + g, row = row0 + query / group;
      const bool there = row < row_end;
      position[h] = there ? a.positions[row] : -1;
      output[h] = (int64_t{there ? row : row0} * a.heads + kv_head * group + query % group);
      from[h] = a.q + output[h] * Dim;
    }
    if constexpr (Shape::keep_q) {
#pragma unroll
      for (int k = 0; k < Dim / 16; ++k) kept[k] = fragment(from, k, j);
    } else {
#pragma unroll 4
      for (int k = 0; k < Dim / 16; ++k) {
        reinterpret_cast<uint4*>(stage)[(warp * (Dim / 16) + k) * 32 + lane] = fragment(from, k, j);
      }
      __syncwarp();
    }
    shared = stage;
  }
  static __device__ __forceinline__ uint4 fragment(const uint16_t* const* from, int k, int j) {
    const auto two = [](const uint16_t* p) { return *reinterpret_cast<const uint32_t*>(p); };
    const int at = k * 16 + 2 * j;
    return make_uint4(two(from[0] + at), two(from[1] + at), two(from[0] + at + 8),
                      two(from[1] + at + 8));
  }
  __device__ __forceinline__ uint4 step(int k) const {
    if constexpr (Shape::keep_q) return kept[k];
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    return reinterpret_cast<const uint4*>(shared)[(warp * (Dim / 16) + k) * 32 + lane];
  }
};

// Online softmax of a warp's 16 queries.
template <int Dim>
struct PrefillSeen {
  using Shape = PrefillShape<Dim>;
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {}, sums[Dim / 8][4] = {};

  __device__ __forceinline__ void see(const PrefillQueries<Dim>& q, const unsigned char* keys,
                                      const unsigned char* values, float scale, int token0,
                                      int window, bool edge) {
    const int lane = static_cast<int>(threadIdx.x) % 32, j = lane % 4;
    float s[kPrefillKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      const uint4 a = q.step(k);
#pragma unroll
      for (int n = 0; n < kPrefillKeys / 16; ++n) {
        const int row = n * 16 + lane % 8 + lane / 16 * 8, chunk = 2 * k + lane / 8 % 2;
        const uint4 b = load_matrices(keys + Shape::at(row, chunk));
        multiply_16x8x16(s[2 * n], a.x, a.y, a.z, a.w, b.x, b.y);
        multiply_16x8x16(s[2 * n + 1], a.x, a.y, a.z, a.w, b.z, b.w);
      }
    }
    if (edge) {
#pragma unroll
      for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int token = token0 + n * 8 + 2 * j + e % 2, position = q.position[e / 2];
          if (token > position || (window > 0 && token <= position - window)) s[n][e] = -INFINITY;
        }
      }
    }
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kPrefillKeys / 8; ++n) {
        top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      }
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      const float now = fmaxf(highest[h], top * scale);
      const float base = now == -INFINITY ? 0.0f : now;
      factor[h] = exp2_fast(highest[h] - base);
      highest[h] = now;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kPrefillKeys / 8; ++n) {
        s[n][2 * h] = exp2_fast(fmaf(s[n][2 * h], scale, -base));
        s[n][2 * h + 1] = exp2_fast(fmaf(s[n][2 * h + 1], scale, -base));
        sum += s[n][2 * h] + s[n][2 * h + 1];
      }
      total[h] = total[h] * factor[h] + sum;
    }
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      sums[d][0] *= factor[0], sums[d][1] *= factor[0];
      sums[d][2] *= factor[1], sums[d][3] *= factor[1];
    }
#pragma unroll
    for (int n = 0; n < kPrefillKeys / 16; ++n) {
      const uint32_t a0 = pack_bf16(s[2 * n][0], s[2 * n][1]);
      const uint32_t a1 = pack_bf16(s[2 * n][2], s[2 * n][3]);
      const uint32_t a2 = pack_bf16(s[2 * n + 1][0], s[2 * n + 1][1]);
      const uint32_t a3 = pack_bf16(s[2 * n + 1][2], s[2 * n + 1][3]);
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        const int row = n * 16 + lane % 16, chunk = 2 * d + lane / 16;
        const uint4 b = load_matrices_transposed(values + Shape::at(row, chunk));
        multiply_16x8x16(sums[2 * d], a0, a1, a2, a3, b.x, b.y);
        multiply_16x8x16(sums[2 * d + 1], a0, a1, a2, a3, b.z, b.w);
      }
    }
  }
  __device__ __forceinline__ void write(const PrefillQueries<Dim>& q, const PagedRows& a,
                                        const PrefillParts& parts, int part) {
    const int j = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += shuffle_xor(total[h], 1);
      total[h] += shuffle_xor(total[h], 2);
      if (q.position[h] < 0) continue;
      if (parts.split == 0) {
        const float by = 1.0f / total[h];
        auto* to = reinterpret_cast<uint32_t*>(a.out + q.output[h] * Dim);
#pragma unroll
        for (int d = 0; d < Dim / 8; ++d) {
          to[d * 4 + j] = pack_bf16(sums[d][2 * h] * by, sums[d][2 * h + 1] * by);
        }
        continue;
      }
      const int64_t at = q.output[h] * parts.parts + part;
      auto* to = reinterpret_cast<float2*>(parts.values + at * Dim);
#pragma unroll
      for (int d = 0; d < Dim / 8; ++d) {
        to[d * 4 + j] = make_float2(sums[d][2 * h], sums[d][2 * h + 1]);
      }
      if (j == 0) parts.tops[2 * at] = highest[h], parts.tops[2 * at + 1] = total[h];
    }
  }
};

// Rows [row0, row_end) of one sequence, one part of its keys.
template <int Dim>
__device__ __forceinline__ void attend_rows(const PagedRows& a, const PrefillParts& parts,
                                            int row0, int row_end, int kv_head, int part,
                                            unsigned char* memory) {
  using Shape = PrefillShape<Dim>;
  const int first_position = a.positions[row0], last_position = a.positions[row_end - 1];
  int begin = a.window > 0 && first_position >= a.window ? first_position - a.window + 1 : 0;
  int last = last_position;
  if (parts.split > 0) {
    begin = max(begin, part * parts.split), last = min(last, (part + 1) * parts.split - 1);
  }
  begin = begin / kPrefillKeys * kPrefillKeys;
  if (begin > last) return;
  const int32_t* table = a.page_table + int64_t{a.row_sequence[row0]} * a.max_pages;
  PrefillQueries<Dim> q;
  q.load(a, row0, row_end, kv_head, memory + 2 * Shape::stages * Shape::tile_bytes);
  PrefillSeen<Dim> seen;
  const float scale = a.scale * 1.4426950408889634f;
  const auto copy = [&](int token0, int stage) {
    unsigned char* to = memory + stage * 2 * Shape::tile_bytes;
    if (token0 <= last) {
      copy_tile<Dim>(a, table, 0, kv_head, token0, last, to);
      copy_tile<Dim>(a, table, 1, kv_head, token0, last, to + Shape::tile_bytes);
    }
    commit_copies();  // a group in any case, since they are counted
  };
  constexpr int ahead = Shape::stages - 1;
  for (int i = 0; i < ahead; ++i) copy(begin + i * kPrefillKeys, i);
  for (int token0 = begin, stage = 0; token0 <= last; token0 += kPrefillKeys) {
    await_copies<ahead - 1>();
    __syncthreads();
    copy(token0 + ahead * kPrefillKeys, stage == 0 ? ahead : stage - 1);
    const unsigned char* keys = memory + stage * 2 * Shape::tile_bytes;
    const bool edge = token0 + kPrefillKeys - 1 > first_position ||
                      (a.window > 0 && token0 <= last_position - a.window) ||
                      token0 + kPrefillKeys - 1 > last;
    seen.see(q, keys, keys + Shape::tile_bytes, scale, token0, a.window, edge);
    stage = stage == ahead ? 0 : stage + 1;
  }
  seen.write(q, a, parts, part);
  __syncthreads();
}

// grid: (kv_heads, tiles of rows, parts)
template <int Dim>
__global__ void __launch_bounds__(kPrefillWarps * 32, 1)
    attend_prefill(const PagedRows a, const PrefillParts parts) {
  extern __shared__ __align__(1024) unsigned char memory[];
  start_next();
  await_previous();
  const int rows = static_cast<int>(counted_rows(a.count, a.rows));
  const int tile = kPrefillTile / (a.heads / a.kv_heads);
  const int begin = static_cast<int>(gridDim.y - 1 - blockIdx.y) * tile;  // the longest first
  const int end = min(begin + tile, rows);
  for (int row = begin; row < end;) {
    int next = row + 1;
    while (next < end && a.row_sequence[next] == a.row_sequence[row]) ++next;
    attend_rows<Dim>(a, parts, row, next, static_cast<int>(blockIdx.x),
                     static_cast<int>(blockIdx.z), memory);
    row = next;
  }
}

// grid: (heads, rows)
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
template <int Dim>
__global__ void merge_prefill(const PagedRows a, const PrefillParts parts) {
  const int head = static_cast<int>(blockIdx.x), row = static_cast<int>(blockIdx.y);
  start_next();
  await_previous();
  if (row >= counted_rows(a.count, a.rows)) return;
  const int last = a.positions[row];
  const int first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
  const int64_t unit = int64_t{row} * a.heads + head;
  merge_head<Dim, 1>(PrefillPartsOf{parts.values + unit * parts.parts * Dim,
                                 parts.tops + unit * parts.parts * 2, Dim},
                  first / parts.split, last / parts.split + 1, a.out + unit * Dim);
}

inline bool prefill_supports(const PagedRows& a, int head_dim) {
  return has_fast_attention(head_dim) && a.heads / a.kv_heads <= 64;
}
// Keys to a part: enough blocks to fill the device, and a choice that the bucket of the past does
// not change.
inline int prefill_split(const PagedRows& a, int processors) {
  const int tile = kPrefillTile / (a.heads / a.kv_heads);
  return (a.rows + tile - 1) / tile * a.kv_heads >= processors ? 0 : 1024;
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
  const GpuError error = launch(attend_prefill<Dim>, grid, kPrefillWarps * 32, 1,
                                PrefillShape<Dim>::shared, how, a, parts);
  if (error != GpuError{} || parts.split == 0) return error;
  const dim3 heads(static_cast<unsigned>(a.heads), static_cast<unsigned>(a.rows));
  return launch(merge_prefill<Dim>, heads, 32 * std::min(parts.parts, kMergeLanes), 1, 0, how, a,
                parts);
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
