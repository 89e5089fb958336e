// Attention of single rows over their paged KV, as in paged_attention.h, for decode steps.
//
// A row's keys are cut at multiples of cut_tokens(its position), counted from position 0, the last
// cut up to a quarter longer, whatever the bucket or the batch; a block takes one cut of a KV head
// and the query heads that share it, its four warps two pages each in turn, whose sums are added in
// order. So the bits of a row depend on its q and its sequence's KV alone. Each warp copies the
// next pages, of the next cut too, while it works on two, and asks for the next cut's q and pages a
// cut ahead: while rings are full of copies, any other answer of memory takes microseconds. The
// block whose part of a row comes last merges them (split_parts.cuh).
//
// A page of a head is two bulk copies, of keys and values as they lie, marked as read once, so that
// the parts stay in the second-level cache.
//
// head_dim: one of head_sizes.h; pages of 16 tokens, bf16; at most kSplitRows rows.
//
// Measured on an H100 (it reads 3.08 TB/s) at 32 query and 8 KV heads of 128, cold, layer after
// layer, merges included: 64 sequences of 2048 tokens 182 µs a layer (2.95 TB/s), 32 of 4096 183
// (2.93), 8 of 4096 46.8 (2.87), one of 16384 27.9 (2.40), one of 8192 16.6 (2.02). In the same
// calls, with parts merged by a kernel of their own, without the last cut's quarter more and with
// whole rings on their way from the start: 191, 187, 52.6, 28.9, 17.9.
#pragma once
#include "ops/paged_attention/head_sizes.h"
#include "ops/paged_attention/split_seen.cuh"

namespace limpet::ops {
namespace {

#if LIMPET_GPU_PTX
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
  const int lane, warp;
  const int64_t page_elements;
  Cut cut, following;
  const uint16_t* keys = nullptr;  // of page 0, for the cut's head
  CutWalk walk;
  struct Entries {  // of a cut's pages, by lanes: those from the first and from the 33rd on
    int first = 0, more = 0;
  };
  Entries entries, following_entries;
  int page = 0, slot = 0;

  __device__ PageCopies(const PagedRows& args, const RowCuts& cuts, const PageRing& r,
                        const CutWalk& w)
      : a(args), of(cuts), ring(r), lane(static_cast<int>(threadIdx.x) % 32),
        warp(static_cast<int>(threadIdx.x) / 32),
        page_elements(pool_row(1, a.layers, 0, 0, a.kv_heads, 0, 0, Dim)), walk(w) {
    following = walk.next(a);
    following_entries = entries_of(following);
    open();
  }
  __device__ __forceinline__ Entries entries_of(const Cut& c) const {
    Entries e;
    if (c.row < 0) return e;
    const int32_t* at = a.page_table + int64_t{of.sequences[c.row]} * a.max_pages + c.page + lane;
    if (c.page + lane < c.end) e.first = at[0];
    if (c.page + lane + 32 < c.end) e.more = at[32];
    return e;
  }
  // Takes the next cut that has pages for this warp; its table entries were asked for before.
  __device__ __forceinline__ void open() {
    do {
      cut = following, entries = following_entries, page = cut.first_page(warp);
      if (cut.row >= 0) following = walk.next(a);
      following_entries = entries_of(following);
    } while (cut.row >= 0 && page >= cut.end);
    keys = a.pool + pool_row(0, a.layers, a.layer, 0, a.kv_heads, cut.kv_head, 0, Dim);
  }
  // Whether the next page was complete before this step began: at most as many rows as come before
  // this one are of its sequence, too.
  __device__ __forceinline__ bool early() const {
    return cut.row < 0 || (page + 1) * kPageTokens <= cut.last - cut.row;
  }
  // One page, or nothing when there is none.
  __device__ __forceinline__ void copy() {
    if (cut.row < 0) return;
    constexpr int kHalf = SplitShape<Dim>::page_bytes / 2;
    const int at = page - cut.page;
    const int id = __shfl_sync(~0u, at < 32 ? entries.first : entries.more, at % 32);
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
  const PageRing ring{memory + warp * kSplitDepth * Shape::page_bytes,
                      barriers + warp * kSplitDepth};
  const int group = a.heads / a.kv_heads;
  const BlockParts<Dim> parts{
      reinterpret_cast<float*>(memory + Shape::shared + RowCuts::bytes(a.rows)),
      min(group, kSplitHeads)};
  CutWalk walk(of, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  PageCopies<Dim> copies(a, of, ring, walk);
  start_next();
  bool waited = false;
#pragma unroll 1
  for (int i = 0; i < kSplitDepth; ++i) {
    // One page on its way a warp (kBytesAhead).
    if (i > 0 && copies.cut.row >= 0) await_barrier(ring.barriers + i - 1, 0);
    if (!waited && !copies.early()) await_previous(), waited = true;
    copies.copy();
  }
  if (!waited) await_previous();

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
    if (++slot == kSplitDepth) slot = 0, round ^= 1;
    return page;
  };
  Cut cut = walk.next(a);
  load_q(cut);
  while (cut.row >= 0) {
#pragma unroll
    for (int i = 0; i < Shape::q_steps; ++i) q[i] = next_q[i];
    const Cut next = walk.next(a);
    load_q(next);
    WarpSeen<Dim> seen;
    for (int page = cut.first_page(warp); page < cut.end;) {
      const bool two = page % 2 == 0 && page + 1 < cut.end;
      if (two) {
        unsigned char* const pages[2] = {next_page(), next_page()};
        seen.see(pages, q, scale, page * kPageTokens, cut.first, cut.last);
      } else {
        unsigned char* const pages[1] = {next_page()};
        seen.see(pages, q, scale, page * kPageTokens, cut.first, cut.last);
      }
      __syncwarp();
#pragma unroll 1
      for (int i = two ? 2 : 1; i > 0; --i) copies.copy();  // the one place: its code is long
      page = (page / 2 + kSplitWarps) * 2;
    }
    const bool announces = threadIdx.x == 0 && cut.parts > 1;
    const uint32_t before = announces ? announce_part(space, cut.unit) : 0;
    seen.put(parts, cut.heads);
    __syncthreads();
    put_cut(a, space, parts, cut);
    const bool last = announces && before + 1 == static_cast<uint32_t>(cut.parts);
    if (__syncthreads_or(last)) merge_parts<Dim>(a, space, cut);
    cut = next;
  }
}

template <int Dim>
GpuError launch_split(const PagedRows& a, const SplitSpace& space, int processors,
                      const Launch& how) {
  using Shape = SplitShape<Dim>;
  static_assert(Shape::shared + RowCuts::bytes(kSplitRows) + BlockParts<Dim>::bytes(kSplitHeads) <=
                227 * 1024);  // of a block, on the chips that this is for
  if (a.rows > kSplitRows) return LIMPET_GPU(ErrorInvalidValue);
  const int64_t most = int64_t{a.rows} * head_blocks(a.heads, a.kv_heads) * space.most;
  const size_t shared = Shape::shared + RowCuts::bytes(a.rows) +
                        BlockParts<Dim>::bytes(std::min(a.heads / a.kv_heads, kSplitHeads));
  // All at once, since each takes an equal share; a block has 1 KB of shared memory besides.
  const auto fit = static_cast<int64_t>(228 * 1024 / (shared + 1024));
  const int64_t blocks = std::min(most, processors * std::min<int64_t>(fit, Shape::together));
  return launch(attend_split<Dim>, dim3(static_cast<unsigned>(blocks)), kSplitWarps * 32, 1, shared,
                how, a, space);
}
inline bool split_supports(const PagedRows& a, int head_dim) {
  return has_fast_attention(head_dim) && a.rows <= kSplitRows;
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
