// What a warp of prefill attention holds (prefill.cuh): its 16 queries, and their online softmax
// (Dao 2023) over tiles of 64 keys.
#pragma once
#include "ops/paged_attention/split_cuts.cuh"

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

// Queries of a tile: rows of a sequence times the heads that share a KV head.
struct PrefillTile {
  int row0, row_end, head, group;  // the first query head, and how many

  __device__ __forceinline__ PrefillTile(const PagedRows& a, int row, int end, int kv_head)
      : row0(row), row_end(end), head(kv_head * (a.heads / a.kv_heads)),
        group(a.heads / a.kv_heads) {}
  __device__ __forceinline__ int row_of(int query) const { return row0 + query / group; }
  __device__ __forceinline__ bool has(int query) const { return row_of(query) < row_end; }
  // Of q and outputs, in heads; some head's where there is no such query.
  __device__ __forceinline__ int64_t at(const PagedRows& a, int query) const {
    return int64_t{has(query) ? row_of(query) : row0} * a.heads + head + query % group;
  }
};
// Rows 16 w + g and + 8 of a warp's 16 queries are this lane's, g = lane / 4.
struct PrefillPlaces {
  int position[2];  // of this lane's two queries; -1: none
  int64_t output[2];

  __device__ __forceinline__ PrefillPlaces(const PagedRows& a, const PrefillTile& tile) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int g = static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = warp * 16 + h * 8 + g;
      position[h] = tile.has(query) ? a.positions[tile.row_of(query)] : -1;
      output[h] = tile.at(a, query);
    }
  }
};
template <int Dim>
struct PrefillQueries {
  using Shape = PrefillShape<Dim>;
  uint4 kept[Shape::keep_q ? Dim / 16 : 1];
  const unsigned char* shared;

  __device__ __forceinline__ void load(const PagedRows& a, const PrefillPlaces& places,
                                       unsigned char* stage) {
    const int lane = static_cast<int>(threadIdx.x) % 32, j = lane % 4;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const uint16_t* const from[2] = {a.q + places.output[0] * Dim, a.q + places.output[1] * Dim};
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

  // Scores become weights, and sums relative to the highest score so far.
  __device__ __forceinline__ void weigh(float (&s)[kPrefillKeys / 8][4],
                                        const PrefillPlaces& places, float scale, int token0,
                                        int window, bool edge) {
    rescale(weights_of(s, places, scale, token0, window, edge));
  }
  __device__ __forceinline__ void rescale(float2 factor) {
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      sums[d][0] *= factor.x, sums[d][1] *= factor.x;
      sums[d][2] *= factor.y, sums[d][3] *= factor.y;
    }
  }
  // The first half of weigh(): gives what the sums are to be multiplied by.
  __device__ __forceinline__ float2 weights_of(float (&s)[kPrefillKeys / 8][4],
                                               const PrefillPlaces& places, float scale,
                                               int token0, int window, bool edge) {
    const int j = static_cast<int>(threadIdx.x) % 4;
    if (edge) {
#pragma unroll
      for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int token = token0 + n * 8 + 2 * j + e % 2, position = places.position[e / 2];
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
    return make_float2(factor[0], factor[1]);
  }
  // The weights of 16 keys as rows of a product.
  static __device__ __forceinline__ uint4 rows_of(const float (&s)[kPrefillKeys / 8][4], int n) {
    return make_uint4(pack_bf16(s[2 * n][0], s[2 * n][1]), pack_bf16(s[2 * n][2], s[2 * n][3]),
                      pack_bf16(s[2 * n + 1][0], s[2 * n + 1][1]),
                      pack_bf16(s[2 * n + 1][2], s[2 * n + 1][3]));
  }
  __device__ __forceinline__ void see(const PrefillQueries<Dim>& q, const PrefillPlaces& places,
                                      const unsigned char* keys, const unsigned char* values,
                                      float scale, int token0, int window, bool edge) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
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
    weigh(s, places, scale, token0, window, edge);
#pragma unroll
    for (int n = 0; n < kPrefillKeys / 16; ++n) {
      const uint4 a = rows_of(s, n);
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        const int row = n * 16 + lane % 16, chunk = 2 * d + lane / 16;
        const uint4 b = load_matrices_transposed(values + Shape::at(row, chunk));
        multiply_16x8x16(sums[2 * d], a.x, a.y, a.z, a.w, b.x, b.y);
        multiply_16x8x16(sums[2 * d + 1], a.x, a.y, a.z, a.w, b.z, b.w);
      }
    }
  }
  __device__ __forceinline__ void write(const PrefillPlaces& places, const PagedRows& a,
                                        const PrefillParts& parts, int part) {
    const int j = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] += shuffle_xor(total[h], 1);
      total[h] += shuffle_xor(total[h], 2);
      if (places.position[h] < 0) continue;
      if (parts.split == 0) {
        const float by = 1.0f / total[h];
        auto* to = reinterpret_cast<uint32_t*>(a.out + places.output[h] * Dim);
#pragma unroll
        for (int d = 0; d < Dim / 8; ++d) {
          to[d * 4 + j] = pack_bf16(sums[d][2 * h] * by, sums[d][2 * h + 1] * by);
        }
        continue;
      }
      const int64_t at = places.output[h] * parts.parts + part;
      auto* to = reinterpret_cast<float2*>(parts.values + at * Dim);
#pragma unroll
      for (int d = 0; d < Dim / 8; ++d) {
        to[d * 4 + j] = make_float2(sums[d][2 * h], sums[d][2 * h + 1]);
      }
      if (j == 0) parts.tops[2 * at] = highest[h], parts.tops[2 * at + 1] = total[h];
    }
  }
};

// The keys of rows [row0, row_end) of one sequence that a part takes: positions begin … last, from
// whole tiles on; none when begin > last.
struct PrefillWalk {
  int begin, last, first_position, last_position;
  const int32_t* table;

  __device__ PrefillWalk(const PagedRows& a, const PrefillParts& parts, int row0, int row_end,
                         int part)
      : last(a.positions[row_end - 1]), first_position(a.positions[row0]), last_position(last),
        table(a.page_table + int64_t{a.row_sequence[row0]} * a.max_pages) {
    begin = a.window > 0 && first_position >= a.window ? first_position - a.window + 1 : 0;
    if (parts.split > 0) {
      begin = max(begin, part * parts.split), last = min(last, (part + 1) * parts.split - 1);
    }
    begin = begin / kPrefillKeys * kPrefillKeys;
  }
  // Whether some key of the tile is hidden from some query.
  __device__ __forceinline__ bool edge(int token0, int window) const {
    return token0 + kPrefillKeys - 1 > first_position ||
           (window > 0 && token0 <= last_position - window) || token0 + kPrefillKeys - 1 > last;
  }
};
// Calls take(row, next) for the runs of rows of one sequence among this block's rows; by whole
// warps.
template <class Take>
__device__ __forceinline__ void for_each_run(const PagedRows& a, const Take& take) {
  const int rows = static_cast<int>(counted_rows(a.count, a.rows));
  const int tile = kPrefillTile / (a.heads / a.kv_heads);
  const int begin = static_cast<int>(gridDim.y - 1 - blockIdx.y) * tile;  // the longest first
  const int end = min(begin + tile, rows);
  for (int row = begin; row < end;) {
    const int sequence = a.row_sequence[row];
    int next = row + 1;
    for (; next < end; next += 32) {
      const int r = next + static_cast<int>(threadIdx.x) % 32;
      const unsigned others = __ballot_sync(~0u, r < end && a.row_sequence[r] != sequence);
      if (others != 0) {
        next += __ffs(static_cast<int>(others)) - 1;
        break;
      }
    }
    next = min(next, end);
    take(row, next);
    row = next;
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
