// The ring of shared memory through which a block reads all that it needs of weights and KV, phase
// after phase and layer after layer, in an order that producer and consumers both know.
//
// The producer asks for the next slots as soon as they are free, also while the consumers wait for
// other blocks: so memory is busy across the borders of phases. A slot holds whole rows of a
// weight, or the pages of one cut of a KV head. No more pieces of slots than
// `in_flight` are on their way at a time: what blocks give each other goes through the same queues.
#pragma once
#include "ops/gpu_isa.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
constexpr int kWarps = 8;              // that compute; one more copies
constexpr int kThreads = kWarps * 32;  // that compute
constexpr int kMostSlots = 12;
constexpr int kPieces = 4;  // of a slot, each asked for by itself

// Pairs of outputs of one block: equal numbers, and one more for the first blocks, or for the last.
struct Share {
  int begin, end;
  __device__ __forceinline__ Share(int pairs, bool last_have_more) {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    const int each = pairs / blocks, more = pairs % blocks;
    const int before = last_have_more ? max(0, block - (blocks - more)) : min(block, more);
    const bool one_more = last_have_more ? block >= blocks - more : block < more;
    begin = each * block + before, end = begin + each + (one_more ? 1 : 0);
  }
};
// Rows of k elements that a slot takes: a multiple of the rows that are multiplied together.
__host__ __device__ inline int rows_of_slot(int slot_bytes, int k) {
  const int fit = slot_bytes / (2 * k);
  return fit >= 4 ? fit / 4 * 4 : fit;
}

struct Ring {
  unsigned char* memory;
  uint64_t *full, *empty;  // of each piece; of each slot
  int slots, slot_bytes, in_flight;
  int slot = 0, turn = 0;                  // where this thread is
  int asked = 0, late = 0, late_turn = 0;  // producer: the oldest piece that may be on its way

  // in_flight: pieces, at least a slot's, at most those of all slots.
  __device__ __forceinline__ Ring(unsigned char* m, uint64_t* barriers, int n, int bytes,
                                  int flying)
      : memory(m),
        full(barriers),
        empty(barriers + kMostSlots * kPieces),
        slots(n),
        slot_bytes(bytes),
        in_flight(flying) {}
  // By one thread, before a __syncthreads().
  __device__ __forceinline__ void init() const {
    for (int p = 0; p < slots * kPieces; ++p) ops::init_barrier(full + p, 1);
    for (int s = 0; s < slots; ++s) ops::init_barrier(empty + s, kWarps);
    ops::publish_barriers();
  }
  __device__ __forceinline__ unsigned char* here() const { return memory + slot * slot_bytes; }
  __device__ __forceinline__ void advance() {
    if (++slot == slots) slot = 0, ++turn;
  }
  // Producer, one thread: the slot can be filled; then each of its pieces, in order, with so many
  // bytes, perhaps none.
  __device__ __forceinline__ void open() const {
    if (turn > 0) ops::await_barrier(empty + slot, (turn - 1) & 1);
  }
  __device__ __forceinline__ void open_piece(int piece, uint32_t bytes) {
    if (asked++ >= in_flight) {
      ops::await_barrier(full + late, late_turn & 1);
      if (++late == slots * kPieces) late = 0, ++late_turn;
    }
    ops::expect_bytes(full + slot * kPieces + piece, bytes);
  }
  __device__ __forceinline__ void copy(int piece, int at, const void* from, uint32_t bytes) const {
    ops::copy_bulk_once(here() + at, from, bytes, full + slot * kPieces + piece);
  }
  // A consumer's warp: the slot's contents; and it needs them no more.
  __device__ __forceinline__ const unsigned char* take() const {
    static_assert(kPieces == 4);
    ops::await_four(full + slot * kPieces, turn & 1);
    return here();
  }
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) ops::arrive(empty + slot);
    advance();
  }
};

// The producer's part of a product: the block's rows of a weight.
__device__ __forceinline__ void copy_rows(Ring& ring, const uint16_t* weight, int k,
                                          const Share& share) {
  const int rows = rows_of_slot(ring.slot_bytes, k), end = 2 * share.end;
  for (int row = 2 * share.begin; row < end; row += rows) {
    if (threadIdx.x % 32 == 0) {
      const int bytes = min(rows, end - row) * 2 * k, piece = (bytes / kPieces + 127) / 128 * 128;
      const auto* from = reinterpret_cast<const unsigned char*>(weight + int64_t{row} * k);
      ring.open();
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const int at = p * piece, some = max(0, min(piece, bytes - at));
        ring.open_piece(p, static_cast<uint32_t>(some));
        if (some > 0) ring.copy(p, at, from + at, static_cast<uint32_t>(some));
      }
    }
    ring.advance();
  }
  __syncwarp();
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
