// How attention of decode rows (split.cuh) is cut: which positions, heads and pages a block takes.
#pragma once
#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

// Of a cut: of rows from position kShortRow on, and before, where short cuts are sooner done.
constexpr int kSplitTokens = 512, kShortTokens = 128, kShortRow = 1536;
constexpr int kSplitWarps = 4, kSplitDepth = 3;  // of a block; pages of a warp's ring
static_assert((kSplitWarps & (kSplitWarps - 1)) == 0);
static_assert(kSplitTokens * 5 / 4 <= 2 * 32 * kPageTokens);  // two pages a lane
constexpr int kSplitRows = 128, kSplitHeads = 8;  // heads of one product

struct PagedRows {          // what the attention kernels read and write
  const uint16_t* q;        // bf16 [rows, heads * head_dim], rotated
  uint16_t* out;            // bf16 [rows, heads * head_dim]
  const uint16_t* pool;     // bf16 [pages, layers, 2, kv_heads, 16, head_dim]
  const int32_t *positions, *row_sequence, *page_table, *count;
  int rows, heads, kv_heads, layer, layers, max_pages, window;
  float scale;
};
// Tokens of a cut, for a row at position `last`.
__host__ __device__ inline int cut_tokens(int last) {
  return last < kShortRow ? kShortTokens : kSplitTokens;
}
// The cut of a position; the last one takes up to a quarter of a cut more: one of few tokens takes
// a block nearly as long to begin and to end. Divisions are by constants, which cost less.
__host__ __device__ inline int last_cut(int last) {
  return last < kShortRow ? (last - kShortTokens / 4) / kShortTokens
                          : (last - kSplitTokens / 4) / kSplitTokens;
}
__device__ __forceinline__ int cut_of(int position, int last) {
  return min(last < kShortRow ? position / kShortTokens : position / kSplitTokens, last_cut(last));
}
__host__ __device__ inline int head_blocks(int heads, int kv_heads) {
  return kv_heads * ((heads / kv_heads + kSplitHeads - 1) / kSplitHeads);
}
inline int split_parts_of(int max_pages) {
  const int tokens = max_pages * kPageTokens;
  return 1 + std::max(last_cut(std::min(tokens, kShortRow) - 1), last_cut(tokens - 1));
}

#if LIMPET_GPU_PTX
// What every warp asks again and again: how heads are grouped, and, in shared memory, the rows'
// cuts and sequences: when a block starts, each load that waits for another one takes a
// microsecond.
//
// The last cut of each row, which may be shorter or longer, comes after all others: blocks that
// take cuts in turn have about as much to read, whatever the rows' lengths, and those that run
// together read the heads of the same pages.
struct RowCuts {
  int rows, group, per_group, blocks;  // heads of a KV head, head blocks of it, head blocks
  int* starts;                         // [rows + 1]: cuts but the last of the rows before each
  uint16_t* sequences;                 // [rows]: there are no more sequences than rows

  __device__ RowCuts(const PagedRows& a, unsigned char* memory)
      : rows(static_cast<int>(counted_rows(a.count, a.rows))), group(a.heads / a.kv_heads),
        per_group((group + kSplitHeads - 1) / kSplitHeads),
        blocks(a.kv_heads * per_group),
        starts(reinterpret_cast<int*>(memory)),
        sequences(reinterpret_cast<uint16_t*>(starts + a.rows + 1)) {}
  __host__ __device__ static constexpr size_t bytes(int rows) {
    return static_cast<size_t>(4 * (rows + 1) + 2 * rows + 15) / 16 * 16;
  }
  __device__ __forceinline__ int all() const { return starts[rows] + rows; }
};

__device__ __forceinline__ int first_seen(const PagedRows& a, int last) {
  return a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
}

// One cut of one row for one block of heads. Pages go to warps by twos, counted in the sequence.
struct Cut {
  int row = -1, unit = 0, part = 0, parts = 0;  // unit: row and block of heads; parts of the row
  int kv_head = 0, head = 0, heads = 0;         // the first query head and how many
  int first = 0, last = 0;                      // positions seen
  int page = 0, end = 0;                        // pages of the cut, in the sequence

  Cut() = default;
  // By whole warps.
  __device__ __forceinline__ Cut(const PagedRows& a, const RowCuts& of, int cut, int block) {
    const int before = of.starts[of.rows];  // cuts that are no row's last
    if (cut >= of.all()) return;
    kv_head = of.per_group == 1 ? block : block / of.per_group;
    const int within = block - kv_head * of.per_group;
    head = kv_head * of.group + within * kSplitHeads;
    heads = min(kSplitHeads, of.group - within * kSplitHeads);
    row = cut >= before ? cut - before : 0;
    for (int base = 0; cut < before && base < of.rows; base += 32) {  // rows that come before it
      const int r = base + static_cast<int>(threadIdx.x) % 32;
      row += __popc(__ballot_sync(~0u, r < of.rows && of.starts[r + 1] <= cut));
    }
    unit = row * of.blocks + block;
    last = a.positions[row];
    first = first_seen(a, last);
    parts = of.starts[row + 1] - of.starts[row] + 1;
    part = cut >= before ? parts - 1 : cut - of.starts[row];
    const int at = cut_of(first, last) + part;
    const int pages = cut_tokens(last) / kPageTokens;
    page = max(first / kPageTokens, at * pages);
    end = at == last_cut(last) ? last / kPageTokens + 1 : (at + 1) * pages;
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

// Goes through the cuts of all blocks of heads, some apart; without divisions, which take longer
// than two pages' scores.
struct CutWalk {
  const RowCuts& of;
  int cut, block, cuts, blocks;  // the next one, and how far it is to the one after

  __device__ CutWalk(const RowCuts& rows, int first, int apart)
      : of(rows), cut(first / of.blocks), block(first % of.blocks), cuts(apart / of.blocks),
        blocks(apart % of.blocks) {}
  __device__ __forceinline__ Cut next(const PagedRows& a) {
    const Cut now(a, of, cut, block);
    cut += cuts, block += blocks;
    if (block >= of.blocks) block -= of.blocks, ++cut;
    return now;
  }
};

// By the first warp.
__device__ __forceinline__ void count_cuts(const PagedRows& a, const RowCuts& of) {
  if (threadIdx.x >= 32) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int rows = of.rows;
  int before = 0;
  for (int base = 0; base < a.rows; base += 32) {
    const bool there = base + lane < a.rows;
    const int last = there ? a.positions[base + lane] : 0;
    const int sequence = there ? a.row_sequence[base + lane] : 0;
    const bool counted = base + lane < rows;
    const int cuts =
        counted ? last_cut(last) - cut_of(first_seen(a, last), last) : 0;
    int sum = cuts;
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const int other = __shfl_up_sync(~0u, sum, lanes);
      if (lane >= lanes) sum += other;
    }
    if (counted) {
      of.starts[base + lane] = before + sum - cuts;
      of.sequences[base + lane] = static_cast<uint16_t>(sequence);
    }
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) of.starts[rows] = before;
}
#endif

}  // namespace
}  // namespace limpet::ops
