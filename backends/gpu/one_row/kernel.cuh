// All layers of a decoder for one row, as one kernel: blocks stay on their processors, meet five
// times a layer, and ask for the weights of what comes next meanwhile (ring.cuh).
//
// A kernel for each product loses some microseconds at each border: the memory has nothing to do
// while sums are finished, the next kernel starts and its first bytes are on their way. With a ring
// of 190 KB a processor, 25 MB, five microseconds' worth, are on their way at any time.
#pragma once
#include <algorithm>

#include "backends/gpu/one_row/attention.cuh"
#include "backends/gpu/one_row/product.cuh"

namespace limpet {
namespace one_row {
namespace {

#if LIMPET_GPU_PTX
template <int Dim, int G>
struct Room {  // shared memory beside the ring
  uint64_t barriers[2 * kMostSlots];
  AttentionRoom<Dim, G> attention;  // product sums lie over it
};

template <int Dim>
__device__ __forceinline__ void produce(Ring& ring, const Step& a, int position, const int32_t* table) {
  for (int i = 0; i < a.layers; ++i) {
    const Layer& l = a.layer[i];
    copy_rows(ring, l.qkv, a.hidden, Share((a.heads + 2 * a.kv_heads) * Dim / 2, false));
    copy_cuts<Dim>(ring, a, l, position, table);
    copy_rows(ring, l.out, a.heads * Dim, Share(a.hidden / 2, false));
    copy_rows(ring, l.gate_up, a.hidden, Share(a.inner, false));
    copy_rows(ring, l.down, a.inner, Share(a.hidden / 2, true));
  }
}

template <int Dim, int G>
__global__ void __launch_bounds__(kThreads + 32, 1) run_layers(const __grid_constant__ Step a) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& room = *reinterpret_cast<Room<Dim, G>*>(memory + a.slots * a.slot_bytes);
  Ring ring(memory, room.barriers, a.slots, a.slot_bytes);
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  if (a.count != nullptr && *a.count < 1) return;
  const int position = a.positions[0];
  const int32_t* table = a.page_table + int64_t{a.row_sequence[0]} * a.max_pages;
  if (threadIdx.x >= kThreads) {
    produce<Dim>(ring, a, position, table);
    return;
  }
  auto* sums = reinterpret_cast<float*>(&room.attention);
  uint32_t target = 0;
  const auto all_meet = [&] { meet(a.arrived, target += gridDim.x); };
  for (int i = 0; i < a.layers; ++i) {
    const Layer& l = a.layer[i];
    project(ring, a, l, i, sums);
    all_meet();
    attend<Dim, G>(ring, a, l, i, position, table, room.attention);
    all_meet();
    uint64_t* squares = a.squares + (2 * i + 1) * kSquaresApart;
    add(ring, a, a.attended, a.heads * Dim, {a.x, l.mlp_norm, squares, false}, sums);
    all_meet();
    gate(ring, a, l, i, sums);
    all_meet();
    const bool last = i + 1 == a.layers;
    const float* norm = last ? nullptr : a.layer[i + 1].norm;
    add(ring, a, a.gated, a.inner, {last ? a.result : a.x, norm, squares + kSquaresApart, true},
        sums);
    if (!last) all_meet();
  }
}

// How much of what shared memory has the ring takes; no slots: these shapes don't fit.
template <int Dim, int G>
size_t place_ring(Step& a, int processors, int shared_bytes) {
  const int widest = std::max({a.hidden, a.inner, a.heads * Dim});
  a.slot_bytes = std::max(32 * 1024, (2 * widest + 1023) / 1024 * 1024);
  const int pairs = std::max({a.inner, a.hidden / 2, (a.heads + 2 * a.kv_heads) * Dim / 2});
  const int each = (pairs + processors - 1) / processors;
  const size_t beside = sizeof(Room<Dim, G>::barriers) +
                        std::max(sizeof(AttentionRoom<Dim, G>), size_t{2 * kWarps * 4} * each);
  const int left = shared_bytes - static_cast<int>(beside);
  a.slots = each > kThreads || left < 0 ? 0 : std::min(kMostSlots, left / a.slot_bytes);
  return static_cast<size_t>(a.slots) * a.slot_bytes + beside;
}
constexpr int kFewestSlots = 3;

template <int Dim, int G>
GpuError launch_layers(Step a, int processors, int shared_bytes, GpuStream stream) {
  const size_t shared = place_ring<Dim, G>(a, processors, shared_bytes);
  if (a.slots < kFewestSlots) return LIMPET_GPU(ErrorInvalidValue);
  return gpu_launch_together(run_layers<Dim, G>, dim3(static_cast<unsigned>(processors)), kThreads + 32,
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
  return with_shape(a.head_dim, group, [&]<int Dim, int G>() {
    Step placed = a;
    (void)place_ring<Dim, G>(placed, processors, shared_bytes);
    return placed.slots >= kFewestSlots;
  });
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
