// Attention of single rows over their paged KV, as in paged_attention.h, for decode steps.
//
// A row's keys are cut at multiples of cut_tokens(its position), counted from position 0, whatever
// the batch or the bucket; a warp takes one cut of one KV head and the query heads that share it,
// two pages at a time. So the bits of a row depend on its q and its sequence's KV alone. Warps
// never wait for each other: each walks over its own cuts of all rows, copies the next pages, of
// the next cut too, while it works on two, and asks for the next cut's q and pages a cut ahead:
// while rings are full of copies, any other answer of memory takes microseconds. The parts of a
// row are merged by a kernel of their own (merge.cuh).
//
// K goes from shared memory into the fragments of tensor cores with 16-byte reads: lane j of a quad
// owns 8 elements in a row, for q and K alike, so the order of k does not matter.
//
// head_dim: a multiple of 16 up to 256; pages of 16 tokens, bf16; at most kSplitRows rows.
//
// Measured on an H100 at 32 query and 8 KV heads of 128, cold, merges included, as a fraction of
// the read bandwidth of the same run (3.11 TB/s): 64 sequences of 2048 tokens 0.84, 32 of 4096
// 0.86, 8 of 4096 0.81, 8 of 16384 0.88, one of 8192 0.58; one of 1024 takes 6.4 µs.
#pragma once
#include "ops/linear/tail.cuh"
#include "ops/paged_attention/merge.cuh"

namespace limpet::ops {
namespace {

#ifndef LIMPET_SPLIT_TOKENS
#define LIMPET_SPLIT_TOKENS 256
#endif
// Of a cut: of rows from position kShortRow on, and before, where short cuts are sooner done.
constexpr int kSplitTokens = LIMPET_SPLIT_TOKENS, kShortTokens = 128, kShortRow = 1536;
constexpr int kSplitWarps = 4, kSplitDepth = 3;  // of a block; pages of a warp's ring
constexpr int kSplitRows = 512, kSplitHeads = 8;  // heads of one product

struct PagedRows {          // what the attention kernels read and write
  const uint16_t* q;        // bf16 [rows, heads * head_dim], rotated
  uint16_t* out;            // bf16 [rows, heads * head_dim]
  const uint16_t* pool;     // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  const int32_t *positions, *row_sequence, *page_table, *count;
  int rows, heads, kv_heads, layer, layers, max_pages, window;
  float scale;
};
struct SplitSpace {
  float* parts;  // split_parts_bytes()
  int most;      // parts of a row, split_parts_of()
};
// Tokens of a cut, for a row at position `last`.
__host__ __device__ inline int cut_tokens(int last) {
  return last < kShortRow ? kShortTokens : kSplitTokens;
}
__host__ __device__ inline int head_blocks(int heads, int kv_heads) {
  return kv_heads * ((heads / kv_heads + kSplitHeads - 1) / kSplitHeads);
}
inline int split_parts_of(int max_pages) {
  const int tokens = max_pages * kPageTokens;
  return std::max((std::min(tokens, kShortRow) + kShortTokens - 1) / kShortTokens,
                  (tokens + kSplitTokens - 1) / kSplitTokens);
}
inline size_t split_parts_bytes(int rows, int heads, int kv_heads, int head_dim, int max_pages) {
  return size_t{4} * rows * head_blocks(heads, kv_heads) * split_parts_of(max_pages) *
         kSplitHeads * (head_dim + 2);
}

#if LIMPET_GPU_PTX
// What every warp asks again and again: how heads are grouped, and, in shared memory, the cuts.
struct RowCuts {
  int rows, group, per_group, blocks;  // heads of a KV head, head blocks of it, head blocks
  int* starts;                         // [rows + 1]: cuts of the rows before each row

  __device__ RowCuts(const PagedRows& a, unsigned char* memory)
      : rows(static_cast<int>(counted_rows(a.count, a.rows))), group(a.heads / a.kv_heads),
        per_group((group + kSplitHeads - 1) / kSplitHeads),
        blocks(a.kv_heads * per_group),
        starts(reinterpret_cast<int*>(memory)) {}
  __host__ __device__ static size_t bytes(int rows) {
    return static_cast<size_t>(rows + 4) / 4 * 16;
  }
};

// One cut of one row for one block of heads. Pages go to the warps by twos, counted in the sequence.
struct Cut {
  int row = -1, unit = 0, part = 0, parts = 0;  // unit: row and block of heads; parts of the row
  int kv_head = 0, head = 0, heads = 0;         // the first query head and how many
  int first = 0, last = 0;                      // positions seen
  int page = 0, end = 0;                        // pages of the cut, in the sequence

  Cut() = default;
  // By whole warps.
  __device__ __forceinline__ Cut(const PagedRows& a, const RowCuts& of, int item) {
    const int cut = item / of.blocks, block = item - cut * of.blocks;
    if (cut >= of.starts[of.rows]) return;
    kv_head = of.per_group == 1 ? block : block / of.per_group;
    const int within = block - kv_head * of.per_group;
    head = kv_head * of.group + within * kSplitHeads;
    heads = min(kSplitHeads, of.group - within * kSplitHeads);
    row = 0;
    for (int base = 0; base < of.rows; base += 32) {  // rows whose cuts all come before this one
      const int r = base + static_cast<int>(threadIdx.x) % 32;
      row += __popc(__ballot_sync(~0u, r < of.rows && of.starts[r + 1] <= cut));
    }
    unit = row * of.blocks + block;
    last = a.positions[row];
    first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
    part = cut - of.starts[row], parts = of.starts[row + 1] - of.starts[row];
    const int tokens = cut_tokens(last), at = first / tokens + part, pages = tokens / kPageTokens;
    page = max(first / kPageTokens, at * pages);
    end = min(last / kPageTokens + 1, (at + 1) * pages);
  }
  // A warp's first page (end or beyond: none), and the one after `p`.
  __device__ __forceinline__ int first_page(int warp) const {
    const int two = page / 2, mine = two + ((warp - two) & (kSplitWarps - 1));
    return max(2 * mine, page);
  }
  static __device__ __forceinline__ int next_page(int p) {
    return p % 2 == 0 ? p + 1 : p + 2 * kSplitWarps - 1;
  }
};

template <int Dim>
struct SplitShape {
  static constexpr int chunks = Dim / 8, page_bytes = 2 * kPageTokens * Dim * 2;
  static constexpr int slots = kSplitWarps * kSplitDepth;  // of a block
  static constexpr int ring = slots * page_bytes, shared = ring + slots * 8;  // with barriers
  static constexpr int fit = 220 * 1024 / (shared + 4096);  // blocks of a processor
  static constexpr int together = fit < 1 ? 1 : fit > 4 ? 4 : fit;
  static constexpr int q_steps = (Dim + 31) / 32;
  // Byte offset of a 16-byte chunk of a token's K or V.
  static __device__ __forceinline__ int at(int token, int chunk) {
    return (token * chunks + chunk) * 16;
  }
};

// A warp's ring of pages: slots are filled and read in one order, each with a barrier that counts
// the bytes of its K and V.
struct PageRing {
  unsigned char* pages;
  uint64_t* barriers;
};

// Copies pages ahead into the warp's own ring, in the order in which they are needed.
template <int Dim>
struct PageCopies {
  const PagedRows& a;
  const RowCuts& of;
  const PageRing ring;
  const int lane, warp, stride;
  const int64_t page_elements;
  Cut cut, following;
  const uint16_t* keys = nullptr;  // of page 0, for the cut's head
  int item, page = 0, entry = 0, next_entry, slot = 0;

  __device__ PageCopies(const PagedRows& args, const RowCuts& cuts, const PageRing& r, int first,
                        int step)
      : a(args), of(cuts), ring(r), lane(static_cast<int>(threadIdx.x) % 32),
        warp(static_cast<int>(threadIdx.x) / 32), stride(step),
        page_elements(pool_row(1, a.layers, 0, 0, a.kv_heads, 0, 0, Dim)), item(first) {
    following = Cut(a, of, item);
    next_entry = table_entry(following);
    open();
  }
  __device__ __forceinline__ int table_entry(const Cut& c) const {
    if (c.row < 0 || c.page + lane >= c.end) return 0;
    return a.page_table[int64_t{a.row_sequence[c.row]} * a.max_pages + c.page + lane];
  }
  // Takes the next cut that has pages for this warp; its table entries were asked for before.
  __device__ __forceinline__ void open() {
    do {
      cut = following, entry = next_entry, page = cut.first_page(warp);
      item += stride;
      following = cut.row < 0 ? Cut() : Cut(a, of, item);
      next_entry = table_entry(following);
    } while (cut.row >= 0 && page >= cut.end);
    keys = a.pool + pool_row(0, a.layers, a.layer, 0, a.kv_heads, cut.kv_head, 0, Dim);
  }
  // Whether the next page was complete before this step began.
  __device__ __forceinline__ bool early() const {
    if (cut.row < 0) return true;
    int r = cut.row;
    while (r > 0 && a.row_sequence[r - 1] == a.row_sequence[r]) --r;
    return (page + 1) * kPageTokens <= a.positions[r];
  }
  // One page, or nothing when there is none.
  __device__ __forceinline__ void copy() {
    if (cut.row < 0) return;
    constexpr int kHalf = SplitShape<Dim>::page_bytes / 2;
    const int id = __shfl_sync(~0u, entry, page - cut.page);
    if (lane == 0) {
      unsigned char* to = ring.pages + slot * 2 * kHalf;
      const uint16_t* k = keys + id * page_elements;
      expect_bytes(ring.barriers + slot, 2 * kHalf);
      copy_bulk_once(to, k, kHalf, ring.barriers + slot);
      copy_bulk_once(to + kHalf, k + static_cast<int64_t>(a.kv_heads) * kPageTokens * Dim, kHalf,
                     ring.barriers + slot);
    }
    page = Cut::next_page(page);
    if (page >= cut.end) open();
    if (++slot == kSplitDepth) slot = 0;
  }
};

// Where a part of a row and block of heads lies.
template <int Dim>
struct PartPlace {
  float* values;  // [heads][Dim]
  __device__ __forceinline__ PartPlace(const SplitSpace& space, int unit, int part)
      : values(space.parts + (int64_t{unit} * space.most + part) * kSplitHeads * (Dim + 2)) {}
  __device__ __forceinline__ float* top(int head) const {
    return values + kSplitHeads * Dim + head;
  }
  __device__ __forceinline__ float* total(int head) const {
    return values + kSplitHeads * (Dim + 1) + head;
  }
};

// What the warps of a block have seen of a cut, in shared memory; a row of values is four elements
// longer, so that writes hit all banks.
template <int Dim>
struct BlockParts {
  float* memory;
  int heads;  // of a block of heads, at most

  __device__ __forceinline__ float* values(int warp, int head) const {
    return memory + (warp * heads + head) * (Dim + 4);
  }
  __device__ __forceinline__ float2* top(int warp, int head) const {
    return reinterpret_cast<float2*>(values(warp, head) + Dim);
  }
  static size_t bytes(int heads) { return size_t{4} * kSplitWarps * heads * (Dim + 4); }
};

// What a warp has seen of a cut: lane 4 g + j knows head g's highest score (in units of log 2) and
// its own share of the sum; sums[d] are elements 16 d + g and + 8 of heads 2 j and 2 j + 1.
template <int Dim>
struct WarpSeen {
  using Shape = SplitShape<Dim>;
  float highest = -INFINITY, total = 0, sums[Dim / 16][4] = {};

  // N pages, from token0 on.
  template <int N>
  __device__ __forceinline__ void see(unsigned char* const (&pages)[N], const uint4* q, float scale,
                                      int token0, int first, int last) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    float s[N][2][4] = {};
#pragma unroll
    for (int c = 0; c < Shape::q_steps; ++c) {
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) {
        uint4 k = make_uint4(0, 0, 0, 0);
        if (Dim % 32 == 0 || c * 4 + j < Shape::chunks) {
          k = *reinterpret_cast<const uint4*>(pages[i / 2] +
                                              Shape::at(i % 2 * 8 + g, c * 4 + j));
        }
        multiply_16x8x16(s[i / 2][i % 2], q[c].x, 0, q[c].y, 0, k.x, k.y);
        multiply_16x8x16(s[i / 2][i % 2], q[c].z, 0, q[c].w, 0, k.z, k.w);
      }
    }
    if (token0 + N * kPageTokens - 1 > last || token0 < first) {
#pragma unroll
      for (int i = 0; i < 4 * N; ++i) {
        const int token = token0 + i / 2 * 8 + 2 * j + i % 2;
        if (token > last || token < first) s[i / 4][i / 2 % 2][i % 2] = -INFINITY;
      }
#pragma unroll
      for (int p = 0; p < N; ++p) clear_values(pages[p], last - token0 - p * kPageTokens);
    }
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) top = fmaxf(top, s[i / 4][i / 2 % 2][i % 2]);
    top *= scale;
    top = fmaxf(top, shuffle_xor(top, 1));
    top = fmaxf(top, shuffle_xor(top, 2));
    const float now = fmaxf(highest, top), factor = exp2_fast(highest - now);
    highest = now;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
      float& weight = s[i / 4][i / 2 % 2][i % 2];
      weight = exp2_fast(fmaf(weight, scale, -now));
      sum += weight;
    }
    total = total * factor + sum;
    const float even = shuffle(factor, 8 * j), odd = shuffle(factor, 8 * j + 4);
#pragma unroll
    for (int d = 0; d < Dim / 16; ++d) {
      sums[d][0] *= even, sums[d][1] *= odd, sums[d][2] *= even, sums[d][3] *= odd;
    }
#pragma unroll
    for (int p = 0; p < N; ++p) {
      const uint32_t weights0 = pack_bf16(s[p][0][0], s[p][0][1]);
      const uint32_t weights1 = pack_bf16(s[p][1][0], s[p][1][1]);
      multiply_values(pages[p] + Shape::page_bytes / 2, weights0, weights1);
    }
  }
  // Eight tokens' rows begin at the same bank, or at few. So where the chunks of a row come by
  // fours, a matrix has of tokens 2 j and 2 j + 1 chunk c ^ j instead of c, and lanes put their
  // registers in order.
  __device__ __forceinline__ void multiply_values(const unsigned char* values, uint32_t weights0,
                                                  uint32_t weights1) {
    const int lane = static_cast<int>(threadIdx.x) % 32, j = lane % 4;
    if constexpr (Shape::chunks % 4 == 0) {
      const int token = lane % 8, of = lane / 8 ^ token / 2;
#pragma unroll
      for (int c = 0; c < Shape::chunks; c += 4) {
        const uint4 low = in_order(load_matrices_transposed(values + Shape::at(token, c + of)), j);
        const uint4 high =
            in_order(load_matrices_transposed(values + Shape::at(token + 8, c + of)), j);
        multiply_16x8x16(sums[c / 2], low.x, low.y, high.x, high.y, weights0, weights1);
        multiply_16x8x16(sums[c / 2 + 1], low.z, low.w, high.z, high.w, weights0, weights1);
      }
    } else {
      const int token = lane % 8 + lane / 16 * 8, chunk = lane / 8 % 2;
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        const uint4 v = load_matrices_transposed(values + Shape::at(token, 2 * d + chunk));
        multiply_16x8x16(sums[d], v.x, v.y, v.z, v.w, weights0, weights1);
      }
    }
  }
  // Element i of the result is element i ^ j.
  static __device__ __forceinline__ uint4 in_order(const uint4& v, int j) {
    const bool odd = (j & 1) != 0, upper = (j & 2) != 0;
    const uint32_t x = odd ? v.y : v.x, y = odd ? v.x : v.y;
    const uint32_t z = odd ? v.w : v.z, w = odd ? v.z : v.w;
    return make_uint4(upper ? z : x, upper ? w : y, upper ? x : z, upper ? y : w);
  }
  // Values after token `most` of a page: what was never written may be NaN.
  static __device__ __forceinline__ void clear_values(unsigned char* page, int most) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    auto* values = reinterpret_cast<uint4*>(page + Shape::page_bytes / 2);
    for (int i = (most + 1) * Shape::chunks + lane; i < kPageTokens * Shape::chunks; i += 32) {
      values[i] = make_uint4(0, 0, 0, 0);
    }
    order_before_copies();
    __syncwarp();
  }
  __device__ __forceinline__ void put(const BlockParts<Dim>& parts, int heads) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    if (j == 0 && g < heads) *parts.top(warp, g) = make_float2(highest, total);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (2 * j + e >= heads) continue;
      float* to = parts.values(warp, 2 * j + e) + g;
#pragma unroll
      for (int d = 0; d < Dim / 16; ++d) {
        to[d * 16] = sums[d][e], to[d * 16 + 8] = sums[d][2 + e];
      }
    }
  }
};

// The warps' sums of a cut as the row's output, or as a part of it; by the block.
template <int Dim>
__device__ __forceinline__ void put_cut(const PagedRows& a, const SplitSpace& space,
                                        const BlockParts<Dim>& parts, const Cut& cut) {
  const PartPlace<Dim> place(space, cut.unit, cut.part);
  uint16_t* out = a.out + (int64_t{cut.row} * a.heads + cut.head) * Dim;
  for (int i = static_cast<int>(threadIdx.x); i < cut.heads * Dim / 4; i += kSplitWarps * 32) {
    const int head = i / (Dim / 4), at = i % (Dim / 4);
    Merged all;
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) {
      const float2 top = *parts.top(w, head);
      all.add(top.x, top.y, reinterpret_cast<const float4*>(parts.values(w, head))[at]);
    }
    if (cut.parts == 1) {
      all.write(out + i * 4);
    } else {
      __stcg(reinterpret_cast<float4*>(place.values) + i, all.sum);
      if (at == 0) __stcg(place.top(head), all.top), __stcg(place.total(head), all.total);
    }
  }
}

// By the first warp.
__device__ __forceinline__ void count_cuts(const PagedRows& a, const RowCuts& of) {
  if (threadIdx.x >= 32) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int rows = of.rows;
  int before = 0;
  for (int base = 0; base < a.rows; base += 32) {
    const int last = base + lane < a.rows ? a.positions[base + lane] : 0;
    int cuts = 0;
    if (base + lane < rows) {
      const int first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
      cuts = last / cut_tokens(last) - first / cut_tokens(last) + 1;
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
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, j = lane % 4;
  auto* barriers = reinterpret_cast<uint64_t*>(memory + Shape::ring);
  const RowCuts of(a, memory + Shape::shared);
  if (threadIdx.x < Shape::slots) {
    init_barrier(barriers + threadIdx.x, 1);
    publish_barriers();
  }
  count_cuts(a, of);
  __syncthreads();
  const int stride = static_cast<int>(gridDim.x), depth = kSplitDepth;
  const PageRing ring{memory + warp * depth * Shape::page_bytes, barriers + warp * depth};
  const int group = a.heads / a.kv_heads;
  const BlockParts<Dim> parts{
      reinterpret_cast<float*>(memory + Shape::shared + RowCuts::bytes(a.rows)),
      min(group, kSplitHeads)};
  int item = static_cast<int>(blockIdx.x);
  PageCopies<Dim> copies(a, of, ring, item, stride);
  int ahead = 0;
  for (; ahead < depth && copies.early(); ++ahead) copies.copy();
  start_next();
  await_previous();
  for (; ahead < depth; ++ahead) copies.copy();

  const float scale = a.scale * 1.4426950408889634f;
  uint4 q[Shape::q_steps], next_q[Shape::q_steps];
  const auto load_q = [&](const Cut& c) {
    const uint16_t* from = a.q + (int64_t{c.row} * a.heads + c.head + g) * Dim + j * 8;
    const bool there = c.row >= 0 && g < c.heads;
#pragma unroll
    for (int i = 0; i < Shape::q_steps; ++i) {
      next_q[i] = make_uint4(0, 0, 0, 0);
      if (there && (Dim % 32 == 0 || i * 4 + j < Shape::chunks)) {
        next_q[i] = load_fresh(from + i * 32);
      }
    }
  };
  int slot = 0, round = 0;
  const auto next_page = [&] {  // once it has landed
    await_barrier(ring.barriers + slot, round);
    unsigned char* const page = ring.pages + slot * Shape::page_bytes;
    if (++slot == depth) slot = 0, round ^= 1;
    return page;
  };
  Cut cut(a, of, item);
  load_q(cut);
  while (cut.row >= 0) {
#pragma unroll
    for (int i = 0; i < Shape::q_steps; ++i) q[i] = next_q[i];
    const Cut next(a, of, item += stride);
    load_q(next);
    WarpSeen<Dim> seen;
    for (int page = cut.first_page(warp); page < cut.end;) {
      if (page % 2 == 0 && page + 1 < cut.end) {
        unsigned char* const pages[2] = {next_page(), next_page()};
        seen.see(pages, q, scale, page * kPageTokens, cut.first, cut.last);
        __syncwarp();
        copies.copy(), copies.copy();
      } else {
        unsigned char* const pages[1] = {next_page()};
        seen.see(pages, q, scale, page * kPageTokens, cut.first, cut.last);
        __syncwarp();
        copies.copy();
      }
      page = (page / 2 + kSplitWarps) * 2;
    }
    seen.put(parts, cut.heads);
    __syncthreads();
    put_cut(a, space, parts, cut);
    __syncthreads();
    cut = next;
  }
}

// grid: (heads, rows). A row of one part is complete.
template <int Dim>
struct SplitParts {
  const SplitSpace& space;
  int unit, head;  // of the unit
  __device__ __forceinline__ float2 top(int p) const {
    const PartPlace<Dim> place(space, unit, p);
    return make_float2(__ldcg(place.top(head)), __ldcg(place.total(head)));
  }
  __device__ __forceinline__ float4 values(int p, int i) const {
    const PartPlace<Dim> place(space, unit, p);
    return __ldcg(reinterpret_cast<const float4*>(place.values + head * Dim) + i);
  }
};
template <int Dim, int Lanes>
__global__ void merge_split(const PagedRows a, const SplitSpace space) {
  const int head = static_cast<int>(blockIdx.x), row = static_cast<int>(blockIdx.y);
  const bool counted = row < counted_rows(a.count, a.rows);
  const int last = counted ? a.positions[row] : 0;
  const int first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
  const int parts = last / cut_tokens(last) - first / cut_tokens(last) + 1;
  const int group = a.heads / a.kv_heads, kv_head = head / group, within = head - kv_head * group;
  const int per_group = (group + kSplitHeads - 1) / kSplitHeads;
  const int unit = (row * a.kv_heads + kv_head) * per_group + within / kSplitHeads;
  start_next();
  await_previous();
  if (parts == 1) return;
  merge_head<Dim, Lanes>(SplitParts<Dim>{space, unit, within % kSplitHeads}, 0, parts,
                  a.out + (int64_t{row} * a.heads + head) * Dim);
}

template <int Dim>
GpuError launch_split(const PagedRows& a, const SplitSpace& space, int processors,
                      const Launch& how) {
  using Shape = SplitShape<Dim>;
  const int64_t most = int64_t{a.rows} * head_blocks(a.heads, a.kv_heads) * space.most;
  const auto blocks = std::min<int64_t>(most, int64_t{processors} * Shape::together);
  const size_t shared = Shape::shared + RowCuts::bytes(a.rows) +
                        BlockParts<Dim>::bytes(std::min(a.heads / a.kv_heads, kSplitHeads));
  const GpuError error = launch(attend_split<Dim>, dim3(static_cast<unsigned>(blocks)),
                                kSplitWarps * 32, 1, shared, how, a, space);
  if (error != GpuError{} || space.most == 1) return error;
  const dim3 grid(static_cast<unsigned>(a.heads), static_cast<unsigned>(a.rows));
  if (a.rows * a.heads >= 4 * processors) {
    return launch(merge_split<Dim, 4>, grid, 32 * kMergeLanes / 4, 1, 0, how, a, space);
  }
  return launch(merge_split<Dim, 1>, grid, 32 * std::min(space.most, kMergeLanes), 1, 0, how, a,
                space);
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
