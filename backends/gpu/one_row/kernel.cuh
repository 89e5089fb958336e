// All layers of a decoder for one row, as one kernel: blocks stay on their processors, meet five
// times a layer (meeting.cuh), and ask for the weights of what comes next meanwhile (ring.cuh).
//
// A kernel for each product loses some microseconds at each border: the memory has nothing to do
// while sums are finished, the next kernel starts and its first bytes are on their way. Here the
// ring of 190 KB a processor, 25 MB in all, goes on being filled; on an H200 (4.5 TB/s) for 5.6 us.
//
// Measured on an H200, whole steps after 1,024 tokens, as a fraction of the read bandwidth: 8B
// 0.89, 1B 0.76, 0.6B 0.44; with a kernel for each product 0.805, 0.588 and 0.300. What it took,
// one after the other, at 1B: weights marked as read once, 0.648 to 0.661; blocks of a head's
// own, scores by matrix products and fewer pieces on their way, 0.677 to 0.703; values that
// carry a tag instead of writes that are waited for, 0.713 to 0.756. Tried and worse: such
// values polled for themselves, without a counter (0.46 for 0.64); a word for each block instead
// of the counter (0.57 for 0.70); parts merged by all of a head's blocks (0.597); asking the
// second-level cache for 128 or 256 KB beyond the ring (0.620, 0.612); the first rows of the
// output's weight kept in registers while attention runs (on an H100 0.911 for 0.935 at 8B);
// slots of 16 KB.
#pragma once
#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "backends/gpu/one_row/attention.cuh"
#include "backends/gpu/one_row/product.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
template <int Dim, int G>
struct alignas(16) Room {  // shared memory beside the ring; then the sums of two products
  uint64_t barriers[kMostSlots * (kPieces + 1)];
  AttentionRoom<Dim, G> attention;
};

template <int Dim>
__device__ __forceinline__ void produce(Ring& ring, const Step& a, int position,
                                        const int32_t* table) {
  for (int i = 0; i < a.layers; ++i) {
    const Layer& l = a.layer[i];
    copy_rows(ring, l.qkv, a.hidden, Share((a.heads + 2 * a.kv_heads) * Dim / 2, true));
    copy_cuts<Dim>(ring, a, l, position, table);
    copy_rows(ring, l.out, a.heads * Dim, Share(a.hidden / 2, false));
    copy_rows(ring, l.gate_up, a.hidden, Share(a.inner, true));
    copy_rows(ring, l.down, a.inner, Share(a.hidden / 2, false));
  }
}

template <int Dim, int G>
__global__ void __launch_bounds__(kThreads + 32, 1) run_layers(const __grid_constant__ Step a) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& room = *reinterpret_cast<Room<Dim, G>*>(memory + a.slots * a.slot_bytes);
  Ring ring(memory, room.barriers, a.slots, a.slot_bytes, a.in_flight);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  if (a.count != nullptr && *a.count < 1) return;
  const int position = a.positions[0];
  const int32_t* table = a.page_table + int64_t{a.row_sequence[0]} * a.max_pages;
  if (threadIdx.x >= kThreads) {
    produce<Dim>(ring, a, position, table);
    return;
  }
  // A product's sums may still be read while those of the next are made.
  auto* sums = reinterpret_cast<float*>(&room + 1);
  float* const others = sums + a.sums;
  Meetings all{a.exchange.arrived};
  Residual residual(a);
  residual.embed(a);
  residual.take_norm(a.layer[0].norm);
  residual.give(a, 1);
  for (int i = 0; i < a.layers; ++i) {
    const Layer& l = a.layer[i];
    const Layer* next = i + 1 < a.layers ? &a.layer[i + 1] : nullptr;
    all.meet();
    if (next != nullptr) prefetch_norms(a, *next);
    const uint32_t tag = static_cast<uint32_t>(i) + 1;  // of x: 2 a layer, and one before all
    project(ring, a, l, 2 * tag - 1, tag, sums);
    all.meet();
    attend(ring, a, l, i, position, table, tag, room.attention);
    all.meet();
    residual.add(ring, a, {a.exchange.attended, tag}, a.heads * Dim, l.mlp_norm, 2 * tag, others);
    all.meet();
    gate(ring, a, l, 2 * tag, tag, sums);
    all.meet();
    residual.add(ring, a, {a.exchange.gated, tag}, a.inner,
                 next == nullptr ? nullptr : next->norm, 2 * tag + 1, others);
  }
  residual.finish(a);
}

// Blocks: one a processor, but none without a pair of every product's outputs.
inline int blocks_of(const Step& a, int processors) {
  const int qkv_pairs = (a.heads + 2 * a.kv_heads) * a.head_dim / 2;
  return std::min({processors, a.hidden / 2, a.inner, qkv_pairs});
}

// Many pieces on their way keep the memory busy through long phases; few let what blocks give each
// other arrive sooner, which short ones spend most of their time on. rings: bytes of all blocks'.
// On an H200, by fractions of the read bandwidth with 5, 6 and 8: 1B (a layer is 5 rings) 0.710,
// 0.707, 0.692; 8B (17 rings) at 4,096 tokens 0.869, 0.890, 0.900.
inline int pieces_in_flight(const Step& a, int64_t rings) {
  const int64_t attention = int64_t{2} * (a.heads + a.kv_heads) * a.head_dim;
  const int64_t layer = 2 * a.hidden * (attention + 3 * a.inner);
  return layer > 8 * rings ? 2 * kPieces : 3 * kPieces / 2;
}

// How much of what shared memory has the ring takes; no slots: these shapes don't fit.
template <int Dim, int G>
size_t place_ring(Step& a, int blocks, int shared_bytes) {
  const int widest = std::max({a.hidden, a.inner, a.heads * Dim});
  const int pairs = std::max({a.inner, a.hidden / 2, (a.heads + 2 * a.kv_heads) * Dim / 2});
  const int each = (pairs + blocks - 1) / blocks;
  a.sums = 2 * kWarps * each;
  const size_t beside = sizeof(Room<Dim, G>) + size_t{2 * sizeof(float)} * a.sums;
  const int left = shared_bytes - static_cast<int>(beside);
  const bool fits = each <= kThreads && (a.hidden / 2 + blocks - 1) / blocks <= 32 && left > 0;
  a.slot_bytes = std::max({32 * 1024, kCut * Dim * 4, (2 * widest + 127) / 128 * 128});
  a.slots = fits ? std::min(kMostSlots, left / a.slot_bytes) : 0;
  a.in_flight = pieces_in_flight(a, int64_t{blocks} * a.slots * a.slot_bytes);
  return static_cast<size_t>(a.slots) * a.slot_bytes + beside;
}
constexpr int kFewestSlots = 3;
static_assert(2 * kPieces <= kFewestSlots * kPieces);  // no more on their way than there are

template <int Dim, int G>
GpuError launch_layers(Step a, int processors, int shared_bytes, GpuStream stream) {
  const int blocks = blocks_of(a, processors);
  const size_t shared = place_ring<Dim, G>(a, blocks, shared_bytes);
  if (a.slots < kFewestSlots) return LIMPET_GPU(ErrorInvalidValue);
  return gpu_launch_together(run_layers<Dim, G>, dim3(static_cast<unsigned>(blocks)), kThreads + 32,
                             shared, stream, a);
}

template <class F>  // f.template operator()<Dim, G>()
auto with_shape(int head_dim, int group, F f) {
  const bool narrow = head_dim == 64;
  if (group <= 2) return narrow ? f.template operator()<64, 2>() : f.template operator()<128, 2>();
  if (group <= 4) return narrow ? f.template operator()<64, 4>() : f.template operator()<128, 4>();
  return narrow ? f.template operator()<64, 8>() : f.template operator()<128, 8>();
}

// shared_bytes: that a block may have, on a device of so many processors.
inline bool supports(const Step& a, int processors, int shared_bytes) {
  const int group = a.heads / a.kv_heads;
  const bool fits = (a.head_dim == 64 || a.head_dim == 128) && group <= kMostGroup &&
                    a.layers <= kMostLayers && a.hidden % 8 == 0 && a.inner % 8 == 0 &&
                    std::max({a.hidden, a.inner, a.heads * a.head_dim}) <= kMostK;
  if (!fits) return false;
  const int blocks = blocks_of(a, processors);
  if (blocks > kMostBlocks || blocks < a.kv_heads) return false;
  return with_shape(a.head_dim, group, [&]<int Dim, int G>() {
    Step placed = a;
    (void)place_ring<Dim, G>(placed, blocks_of(a, processors), shared_bytes);
    return placed.slots >= kFewestSlots;
  });
}
// The exchange in memory of exchange_bytes(), 256-byte aligned, all of which must be zero when the
// launch runs.
inline int64_t place_exchange(Step& a, int processors, std::byte* memory) {
  int64_t bytes = 0;
  const auto take = [&](auto*& to, int64_t n) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(memory + bytes);
    bytes += (n * static_cast<int64_t>(sizeof(*to)) + 255) / 256 * 256;
  };
  const int blocks = blocks_of(a, processors), group = a.heads / a.kv_heads;
  take(a.exchange.arrived, 1), take(a.exchange.made, int64_t{a.layers} * a.kv_heads);
  take(a.exchange.normed, a.hidden), take(a.exchange.squares, blocks);
  take(a.exchange.qkv, int64_t{a.heads + 2 * a.kv_heads} * a.head_dim);
  take(a.exchange.parts, part_words(a.kv_heads, group, a.head_dim, blocks));
  take(a.exchange.attended, int64_t{a.heads} * a.head_dim), take(a.exchange.gated, a.inner);
  return bytes;
}
inline int64_t exchange_bytes(Step a, int processors) {
  return place_exchange(a, processors, nullptr);
}
inline GpuError launch_layers(const Step& a, int processors, int shared_bytes, GpuStream stream) {
  return with_shape(a.head_dim, a.heads / a.kv_heads, [&]<int Dim, int G>() {
    return launch_layers<Dim, G>(a, processors, shared_bytes, stream);
  });
}
#endif

}  // namespace
}  // namespace one_row
}  // namespace limpet
