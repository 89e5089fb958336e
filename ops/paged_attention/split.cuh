// Attention of single rows over their paged KV, as in paged_attention.h, for decode steps.
//
// A row's keys are cut at multiples of kSplitTokens, counted from position 0, whatever the batch
// or the bucket; a block takes one cut of one KV head and the query heads that share it, its warps
// take the cut's pages in turn. So the bits of a row depend on its q and its sequence's KV alone.
// Blocks stay and walk over the cuts of all rows; their warps copy the next pages, of the next cut
// too, while they work on one. The parts of a row are merged by log-sum-exp, in order, by the block
// that finishes the row's last one (Dao et al. 2023).
//
// K and V go from shared memory into the fragments of tensor cores with 16-byte reads: lane j of a
// quad owns 8 elements in a row, for q and K alike, so the order of k does not matter; for the
// weighted values the rows of the product are the elements of V, in an order of our own.
//
// head_dim: a multiple of 16 up to 256; pages of 16 tokens, bf16; at most kSplitRows rows.
//
// Measured on an H100 at 32 query and 8 KV heads of 128, cold, as a fraction of the read bandwidth
// of the same run (3.15 TB/s): 64 sequences of 2048 tokens 0.73, 32 of 4096 0.70, 8 of 4096 0.71,
// 8 of 16384 0.55, one of 8192 0.53; one of 1024 takes 8.0 µs. A warp needs 665 instructions a page
// and issues one in 11.8 cycles, at 12 warps a processor. Cuts of 128 tokens: 0.55 and 6.1 µs.
#pragma once
#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

#ifndef LIMPET_SPLIT_TOKENS
#define LIMPET_SPLIT_TOKENS 256
#endif
constexpr int kSplitTokens = LIMPET_SPLIT_TOKENS, kSplitPages = kSplitTokens / kPageTokens;
constexpr int kSplitRows = 512, kSplitWarps = 4, kSplitHeads = 8;  // heads of one product

struct PagedRows {          // what both attention kernels read and write
  const uint16_t* q;        // bf16 [rows, heads * head_dim], rotated
  uint16_t* out;            // bf16 [rows, heads * head_dim]
  const uint16_t* pool;     // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  const int32_t *positions, *row_sequence, *page_table, *count;
  int rows, heads, kv_heads, layer, layers, max_pages, window;
  float scale;
};
struct SplitSpace {
  float* parts;       // split_parts_bytes()
  unsigned* arrived;  // [rows * head_blocks()]: zero before the first launch, and left zero
  int most;           // parts of a row, split_parts_of()
};
__host__ __device__ inline int head_blocks(int heads, int kv_heads) {
  return kv_heads * ((heads / kv_heads + kSplitHeads - 1) / kSplitHeads);
}
inline int split_parts_of(int max_pages) { return (max_pages + kSplitPages - 1) / kSplitPages; }
inline size_t split_parts_bytes(int rows, int heads, int kv_heads, int head_dim, int max_pages) {
  return size_t{4} * rows * head_blocks(heads, kv_heads) * split_parts_of(max_pages) *
         kSplitHeads * (head_dim + 2);
}

#if LIMPET_GPU_PTX
// What every warp asks again and again: how heads are grouped, and, in shared memory, the rows.
struct RowCuts {
  int rows, group, per_group, blocks;  // heads of a KV head, head blocks of it, head blocks
  int* starts;                         // [rows + 1]: cuts of the rows before each row
  int* last;                           // [rows]: positions

  __device__ RowCuts(const PagedRows& a, unsigned char* memory)
      : rows(static_cast<int>(counted_rows(a.count, a.rows))), group(a.heads / a.kv_heads),
        per_group((group + kSplitHeads - 1) / kSplitHeads),
        blocks(a.kv_heads * per_group),
        starts(reinterpret_cast<int*>(memory)), last(starts + a.rows + 1) {}
  __host__ __device__ static size_t bytes(int rows) {
    return static_cast<size_t>(2 * rows + 4) / 4 * 16;
  }
};

// One cut of one row for one block of heads.
struct Cut {
  int row = -1, unit = 0, part = 0, parts = 0;  // unit: row and block of heads; parts of the row
  int kv_head = 0, head = 0, heads = 0;         // the first query head and how many
  int first = 0, last = 0;                            // positions seen
  int page = 0, end = 0;                              // pages of the cut, in the sequence

  Cut() = default;
  __device__ Cut(const PagedRows& a, const RowCuts& of, int item) {
    const int cut = item / of.blocks, block = item - cut * of.blocks;
    if (cut >= of.starts[of.rows]) return;
    kv_head = of.per_group == 1 ? block : block / of.per_group;
    const int within = block - kv_head * of.per_group;
    head = kv_head * of.group + within * kSplitHeads;
    heads = min(kSplitHeads, of.group - within * kSplitHeads);
    int low = 0, high = of.rows;  // starts[low] <= cut < starts[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (of.starts[middle] <= cut ? low : high) = middle;
    }
    row = low, unit = row * of.blocks + block;
    last = of.last[row];
    first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
    part = cut - of.starts[row], parts = of.starts[row + 1] - of.starts[row];
    const int at = first / kSplitTokens + part;
    page = max(first / kPageTokens, at * kSplitPages);
    end = min(last / kPageTokens + 1, (at + 1) * kSplitPages);
  }
};

template <int Dim>
struct SplitShape {
  static constexpr int chunks = Dim / 8, page_bytes = 2 * kPageTokens * Dim * 2;
  static constexpr int depth = Dim <= 64 ? 4 : Dim <= 80 ? 3 : 2;
  static constexpr int together = Dim <= 128 ? 3 : 1;  // blocks of a processor
  static constexpr int ring = kSplitWarps * depth * page_bytes;
  static constexpr int q_steps = (Dim + 31) / 32, blocks128 = (Dim + 127) / 128;
  static constexpr bool turns = chunks % 8 == 0;
  // Byte offset of a 16-byte chunk of a token's K or V, turned so that reads hit all banks.
  static __device__ __forceinline__ int key_at(int token, int chunk) {
    return (token * chunks + (turns ? chunk ^ (token & 1) << 2 : chunk)) * 16;
  }
  static __device__ __forceinline__ int value_at(int token, int chunk) {
    return (token * chunks + (turns ? chunk ^ (token & 6) : chunk)) * 16;
  }
};

// Copies pages ahead into the warp's own ring, in the order in which they are needed.
template <int Dim>
struct PageCopies {
  const PagedRows& a;
  const RowCuts& of;
  const int warp, lane;
  unsigned char* ring;
  Cut cut, following;
  int item, page, entry, next_entry, slot = 0;

  __device__ PageCopies(const PagedRows& args, const RowCuts& cuts, unsigned char* r)
      : a(args), of(cuts), warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32), ring(r), item(blockIdx.x) {
    following = Cut(a, of, item);
    next_entry = table_entry(following);
    open();
  }
  __device__ __forceinline__ int table_entry(const Cut& c) const {
    if (c.row < 0 || c.page / kSplitPages * kSplitPages + lane >= c.end) return 0;
    return a.page_table[int64_t{a.row_sequence[c.row]} * a.max_pages +
                        c.page / kSplitPages * kSplitPages + lane];
  }
  // Takes the next cut that has pages for this warp; its table entries were asked for before.
  __device__ __forceinline__ void open() {
    do {
      cut = following, entry = next_entry;
      page = cut.page / kSplitPages * kSplitPages + warp;
      while (page < cut.page) page += kSplitWarps;
      item += gridDim.x;
      following = cut.row < 0 ? Cut() : Cut(a, of, item);
      next_entry = table_entry(following);
    } while (cut.row >= 0 && page >= cut.end);
  }
  // Whether the next page was complete before this step began.
  __device__ __forceinline__ bool early() const {
    if (cut.row < 0) return true;
    int r = cut.row;
    while (r > 0 && a.row_sequence[r - 1] == a.row_sequence[r]) --r;
    return (page + 1) * kPageTokens <= of.last[r];
  }
  // One page, or nothing when there is none; one group of copies in any case.
  __device__ __forceinline__ void copy() {
    using Shape = SplitShape<Dim>;
    if (cut.row >= 0) {
      const int id = __shfl_sync(~0u, entry, page % kSplitPages);
      unsigned char* keys = ring + slot * Shape::page_bytes;
      unsigned char* values = keys + Shape::page_bytes / 2;
      const uint16_t* k =
          a.pool + pool_row(id, a.layers, a.layer, 0, a.kv_heads, cut.kv_head, 0, Dim);
      const uint16_t* v = k + static_cast<int64_t>(a.kv_heads) * kPageTokens * Dim;
#pragma unroll
      for (int i = 0; i < Shape::chunks / 2; ++i) {
        const int at = i * 32 + lane, token = at / Shape::chunks, chunk = at % Shape::chunks;
        copy_async(keys + Shape::key_at(token, chunk), k + at * 8);
      }
#pragma unroll
      for (int i = 0; i < Shape::chunks / 2; ++i) {
        const int at = i * 32 + lane, token = at / Shape::chunks, chunk = at % Shape::chunks;
        copy_async(values + Shape::value_at(token, chunk), v + at * 8);
      }
      page += kSplitWarps;
      if (page >= cut.end) open();
    }
    commit_copies();
    slot = slot + 1 == Shape::depth ? 0 : slot + 1;
  }
};

// What a warp has seen of a cut: lane 4 g + j knows head g's highest score (in units of log 2) and
// its own share of the sum; sums[8 b + d] are elements 128 b + 8 g + d (and + 64) of heads 2 j and
// 2 j + 1.
template <int Dim>
struct WarpSeen {
  using Shape = SplitShape<Dim>;
  float highest = -INFINITY, total = 0, sums[Shape::blocks128 * 8][4] = {};

  __device__ __forceinline__ void see(const unsigned char* keys, const uint4* q, float scale,
                                      int token0, int first, int last) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    float s[2][4] = {};
#pragma unroll
    for (int c = 0; c < Shape::q_steps; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint4 k = make_uint4(0, 0, 0, 0);
        if (Dim % 32 == 0 || c * 4 + j < Shape::chunks) {
          k = *reinterpret_cast<const uint4*>(keys + Shape::key_at(h * 8 + g, c * 4 + j));
        }
        multiply_16x8x16(s[h], q[c].x, 0, q[c].y, 0, k.x, k.y);
        multiply_16x8x16(s[h], q[c].z, 0, q[c].w, 0, k.z, k.w);
      }
    }
    const bool edge = token0 + kPageTokens - 1 > last || token0 < first;
    if (edge) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = token0 + i / 2 * 8 + 2 * j + i % 2;
        if (token > last || token < first) s[i / 2][i % 2] = -INFINITY;
      }
    }
    float top = fmaxf(fmaxf(s[0][0], s[0][1]), fmaxf(s[1][0], s[1][1])) * scale;
    top = fmaxf(top, shuffle_xor(top, 1));
    top = fmaxf(top, shuffle_xor(top, 2));
    const float now = fmaxf(highest, top), factor = exp2_fast(highest - now);
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i / 2][i % 2] = exp2_fast(fmaf(s[i / 2][i % 2], scale, -now));
    total = total * factor + ((s[0][0] + s[0][1]) + (s[1][0] + s[1][1]));
    highest = now;
    add_values(keys + Shape::page_bytes / 2, pack_bf16(s[0][0], s[0][1]),
               pack_bf16(s[1][0], s[1][1]), factor, edge ? last - token0 : kPageTokens);
  }
  // Values beyond token `most` are cleared: what was never written may be NaN.
  __device__ __forceinline__ void add_values(const unsigned char* values, uint32_t weights0,
                                             uint32_t weights1, float factor, int most) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    const float even = shuffle(factor, 8 * j), odd = shuffle(factor, 8 * j + 4);
#pragma unroll
    for (int b = 0; b < Shape::blocks128; ++b) {
      uint4 v[4][2];  // tokens 2 j, 2 j + 1, 2 j + 8, 2 j + 9
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int token = 2 * j + i / 2 % 2 + i / 4 * 8, chunk = b * 16 + i % 2 * 8 + g;
        v[i / 2][i % 2] = make_uint4(0, 0, 0, 0);
        if ((Dim % 128 == 0 || chunk < Shape::chunks) && token <= most) {
          v[i / 2][i % 2] =
              *reinterpret_cast<const uint4*>(values + Shape::value_at(token, chunk));
        }
      }
      const uint32_t* words = reinterpret_cast<const uint32_t*>(v);  // [token][half][4]
#pragma unroll
      for (int d = 0; d < 8; ++d) {
        const uint32_t pick = d % 2 ? 0x7632 : 0x5410;
        const auto pair = [&](int t, int half) {
          return __byte_perm(words[t * 8 + half * 4 + d / 2], words[t * 8 + 8 + half * 4 + d / 2],
                             pick);
        };
        float(&o)[4] = sums[b * 8 + d];
        o[0] *= even, o[1] *= odd, o[2] *= even, o[3] *= odd;
        multiply_16x8x16(o, pair(0, 0), pair(0, 1), pair(2, 0), pair(2, 1), weights0, weights1);
      }
    }
  }
  // To values [heads][Dim], highest and total [heads].
  __device__ __forceinline__ void put(float* values, float* tops, float* totals, int heads) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    if (j == 0 && g < heads) tops[g] = highest, totals[g] = total;
#pragma unroll
    for (int i = 0; i < Shape::blocks128 * 4; ++i) {
      const int b = i / 4, half = i / 2 % 2, e = i % 2, head = 2 * j + e;
      const int element = b * 128 + half * 64 + g * 8;
      if (head >= heads || element >= Dim) continue;
      auto* to = reinterpret_cast<float4*>(values + head * Dim + element);
      const float(*s)[4] = sums + b * 8;
      const int k = half * 2 + e;
      to[0] = make_float4(s[0][k], s[1][k], s[2][k], s[3][k]);
      to[1] = make_float4(s[4][k], s[5][k], s[6][k], s[7][k]);
    }
  }
};

// Four elements of a head, merged from parts in their order.
struct Merged {
  float top = -INFINITY, total = 0;
  float4 sum = make_float4(0, 0, 0, 0);

  __device__ __forceinline__ void add(float highest, float share, const float4& v) {
    const float f = highest == -INFINITY ? 0.0f : exp2_fast(highest - top);
    total += f * share;
    sum.x += f * v.x, sum.y += f * v.y, sum.z += f * v.z, sum.w += f * v.w;
  }
  __device__ __forceinline__ void write(uint16_t* to) const {
    const float by = 1.0f / total;
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack_bf16(sum.x * by, sum.y * by), pack_bf16(sum.z * by, sum.w * by));
  }
};

// Where the parts of one row and block of heads lie.
template <int Dim>
struct PartPlace {
  float* parts;
  __device__ __forceinline__ PartPlace(const SplitSpace& space, const Cut& cut)
      : parts(space.parts + int64_t{cut.unit} * space.most * kSplitHeads * (Dim + 2)) {}
  __device__ __forceinline__ float* values(int part) const {
    return parts + part * kSplitHeads * (Dim + 2);
  }
  __device__ __forceinline__ float* top(int part, int head) const {
    return values(part) + kSplitHeads * Dim + head;
  }
  __device__ __forceinline__ float* total(int part, int head) const {
    return values(part) + kSplitHeads * (Dim + 1) + head;
  }
};

// The block's warps' parts of a cut, in shared memory: values [warps][heads][Dim], then tops and
// totals [warps][heads]. They become the row's output, or a part of it.
template <int Dim>
__device__ __forceinline__ void finish_cut(const PagedRows& a, const SplitSpace& space,
                                           const Cut& cut, const float* values) {
  const int heads = cut.heads;
  const float *tops = values + kSplitWarps * heads * Dim, *totals = tops + kSplitWarps * heads;
  const PartPlace<Dim> place(space, cut);
  uint16_t* out = a.out + (int64_t{cut.row} * a.heads + cut.head) * Dim;
  for (int i = static_cast<int>(threadIdx.x) * 4; i < heads * Dim; i += kSplitWarps * 128) {
    const int head = i / Dim;
    Merged all;
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) all.top = fmaxf(all.top, tops[w * heads + head]);
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) {
      all.add(tops[w * heads + head], totals[w * heads + head],
              *reinterpret_cast<const float4*>(values + w * heads * Dim + i));
    }
    if (cut.parts == 1) {
      all.write(out + i);
      continue;
    }
    __stcg(reinterpret_cast<float4*>(place.values(cut.part) + i), all.sum);
    if (i % Dim == 0) {
      __stcg(place.top(cut.part, head), all.top), __stcg(place.total(cut.part, head), all.total);
    }
  }
}
// All parts of a row, in order; by the block that announced the last of them.
template <int Dim>
__device__ __forceinline__ void merge_parts(const PagedRows& a, const SplitSpace& space,
                                            const Cut& cut) {
  __threadfence();
  const int heads = cut.heads;
  const PartPlace<Dim> place(space, cut);
  uint16_t* out = a.out + (int64_t{cut.row} * a.heads + cut.head) * Dim;
  for (int i = static_cast<int>(threadIdx.x) * 4; i < heads * Dim; i += kSplitWarps * 128) {
    const int head = i / Dim;
    Merged all;
#pragma unroll 8
    for (int p = 0; p < cut.parts; ++p) all.top = fmaxf(all.top, __ldcg(place.top(p, head)));
#pragma unroll 8
    for (int p = 0; p < cut.parts; ++p) {
      all.add(__ldcg(place.top(p, head)), __ldcg(place.total(p, head)),
              __ldcg(reinterpret_cast<const float4*>(place.values(p) + i)));
    }
    all.write(out + i);
  }
}

// Announces finished parts late, so that no one waits for memory in between: a cut's part is
// written, at the block's next barrier counted as arrived, and at the one after that, if it was
// its row's last, merged. Thread 0 counts; after_barrier() is for all threads.
template <int Dim>
struct Arrivals {
  const PagedRows& a;
  const SplitSpace& space;
  int* last_flags;  // shared [2]
  Cut written, counted;
  int turn = 0;

  __device__ __forceinline__ void after_barrier(const Cut& now) {
    if (counted.row >= 0 && last_flags[turn ^ 1]) {
      merge_parts<Dim>(a, space, counted);
    }
    counted = written, written = now.parts > 1 ? now : Cut();
    if (counted.row >= 0 && threadIdx.x == 0) {
      unsigned* arrived = space.arrived + counted.unit;
      __threadfence();
      const bool last = atomicAdd(arrived, 1u) == static_cast<unsigned>(counted.parts - 1);
      last_flags[turn] = last;
      if (last) *arrived = 0;
    }
    turn ^= 1;
  }
};

// By the first warp.
__device__ __forceinline__ void count_cuts(const PagedRows& a, const RowCuts& of) {
  if (threadIdx.x >= 32) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int rows = of.rows;
  int before = 0;
  for (int base = 0; base < rows; base += 32) {
    int cuts = 0;
    if (base + lane < rows) {
      const int last = a.positions[base + lane];
      const int first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
      cuts = last / kSplitTokens - first / kSplitTokens + 1;
      of.last[base + lane] = last;
    }
    int sum = cuts;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const int other = __shfl_up_sync(~0u, sum, lanes);
      if (lane >= lanes) sum += other;
    }
    if (base + lane < rows) of.starts[base + lane] = before + sum - cuts;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) of.starts[rows] = before;
}

template <int Dim>
__global__ void __launch_bounds__(kSplitWarps * 32, SplitShape<Dim>::together)
    attend_split(const PagedRows a, const SplitSpace space) {
  using Shape = SplitShape<Dim>;
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ int last_flags[2];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
  const RowCuts of(a, memory + Shape::ring);
  auto* values = reinterpret_cast<float*>(memory + Shape::ring + RowCuts::bytes(a.rows));
  count_cuts(a, of);
  __syncthreads();
  unsigned char* ring = memory + warp * Shape::depth * Shape::page_bytes;
  PageCopies<Dim> copies(a, of, ring);
  int ahead = 0;
  for (; ahead < Shape::depth && copies.early(); ++ahead) copies.copy();
  start_next();
  await_previous();
  for (; ahead < Shape::depth; ++ahead) copies.copy();

  uint4 q[Shape::q_steps];
  const float scale = a.scale * 1.4426950408889634f;
  int slot = 0;
  Arrivals<Dim> arrivals{a, space, last_flags};
  Cut cut(a, of, blockIdx.x);
  const auto load_q = [&](const Cut& c) {
    const uint16_t* from = a.q + (int64_t{c.row} * a.heads + c.head + g) * Dim + j * 8;
    const bool there = g < c.heads;
#pragma unroll
    for (int i = 0; i < Shape::q_steps; ++i) {
      q[i] = make_uint4(0, 0, 0, 0);
      if (there && (Dim % 32 == 0 || i * 4 + j < Shape::chunks)) q[i] = load_fresh(from + i * 32);
    }
  };
  if (cut.row >= 0) load_q(cut);
  for (int item = blockIdx.x; cut.row >= 0;) {
    WarpSeen<Dim> seen;
    int page = cut.page / kSplitPages * kSplitPages + warp;
    while (page < cut.page) page += kSplitWarps;
    for (; page < cut.end; page += kSplitWarps) {
      await_copies<Shape::depth - 1>();
      __syncwarp();
      seen.see(ring + slot * Shape::page_bytes, q, scale, page * kPageTokens, cut.first, cut.last);
      __syncwarp();
      copies.copy();
      slot = slot + 1 == Shape::depth ? 0 : slot + 1;
    }
    item += gridDim.x;
    const Cut next(a, of, item);
    if (next.row >= 0) load_q(next);
    float* tops = values + kSplitWarps * cut.heads * Dim;
    __syncthreads();  // what the cut before left there has been read
    seen.put(values + warp * cut.heads * Dim, tops + warp * cut.heads,
             tops + (kSplitWarps + warp) * cut.heads, cut.heads);
    __syncthreads();
    arrivals.after_barrier(cut);
    finish_cut<Dim>(a, space, cut, values);
    cut = next;
  }
  for (int i = 0; i < 2; ++i) {
    __syncthreads();
    arrivals.after_barrier(Cut());
  }
}

template <int Dim>
GpuError launch_split(const PagedRows& a, const SplitSpace& space, int processors,
                      const Launch& how) {
  using Shape = SplitShape<Dim>;
  const int group = std::min(a.heads / a.kv_heads, kSplitHeads);
  const size_t shared =
      Shape::ring + RowCuts::bytes(a.rows) + size_t{4} * kSplitWarps * group * (Dim + 2);
  const int64_t most = int64_t{a.rows} * head_blocks(a.heads, a.kv_heads) * space.most;
  const auto blocks = std::min<int64_t>(most, int64_t{processors} * Shape::together);
  return launch(attend_split<Dim>, dim3(static_cast<unsigned>(blocks)), kSplitWarps * 32, 1,
                shared, how, a, space);
}
inline bool split_supports(const PagedRows& a, int head_dim) {
  return head_dim % 16 == 0 && head_dim >= 32 && head_dim <= 256 && a.rows <= kSplitRows;
}
inline GpuError launch_split(const PagedRows& a, const SplitSpace& space, int head_dim,
                             int processors, const Launch& how) {
  switch (head_dim) {
    case 32: return launch_split<32>(a, space, processors, how);
    case 48: return launch_split<48>(a, space, processors, how);
    case 64: return launch_split<64>(a, space, processors, how);
    case 80: return launch_split<80>(a, space, processors, how);
    case 96: return launch_split<96>(a, space, processors, how);
    case 112: return launch_split<112>(a, space, processors, how);
    case 128: return launch_split<128>(a, space, processors, how);
    case 160: return launch_split<160>(a, space, processors, how);
    case 192: return launch_split<192>(a, space, processors, how);
    case 256: return launch_split<256>(a, space, processors, how);
    default: return LIMPET_GPU(ErrorInvalidValue);
  }
}
#endif

}  // namespace
}  // namespace limpet::ops
