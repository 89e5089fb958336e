// One row of x times a weight, with the fused ends of tail.cuh.
//
// Two designs of the same product; each streams its share of the weight as pairs of rows and holds
// back the tail until all its sums are there. Both start reading weights before the kernel before
// has ended (gpu_isa.cuh).
//   rows:  a warp for each pair, weights in registers, 8 steps ahead; any vendor.
//   bulk:  one thread feeds a ring in shared memory through the copy engine, all warps share k.
// The bits of an output depend on x and its weights alone, in each design.
//
// Measured within a captured Llama-3.1-8B step on an H100 (read bandwidth 3.14 TB/s, fraction of it,
// cold, chained): rows: qkv 0.95, o 0.88, gate/up 0.97, down 0.94; bulk: gate/up 0.99, down 0.96,
// head 0.99.
#pragma once
#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

struct Gemv {
  const uint16_t* weight;  // bf16 [n, k], rows `stride` elements apart, 16-byte aligned
  int64_t stride;
  int n, k;                // k: a multiple of 8
  PairRows pairs;
};
// How a product is cut. The defaults of choose() can be replaced by what a search on the card finds.
struct GemvCut {
  bool bulk = false;
  int blocks_per_processor = 2;
  int next_after = 0;  // percent of the own weights read before the next kernel may start
};

__device__ __forceinline__ void dot_eight(const uint4& w, const uint4& x, float& even, float& odd) {
  even = fmaf(low_bf16(w.x), low_bf16(x.x), even), odd = fmaf(high_bf16(w.x), high_bf16(x.x), odd);
  even = fmaf(low_bf16(w.y), low_bf16(x.y), even), odd = fmaf(high_bf16(w.y), high_bf16(x.y), odd);
  even = fmaf(low_bf16(w.z), low_bf16(x.z), even), odd = fmaf(high_bf16(w.z), high_bf16(x.z), odd);
  even = fmaf(low_bf16(w.w), low_bf16(x.w), even), odd = fmaf(high_bf16(w.w), high_bf16(x.w), odd);
}

// The block's share of the pairs, contiguous and balanced; `next`: from which pair on the next
// kernel may start.
struct PairShare {
  int begin, end, next;
  __device__ PairShare(int pairs, int next_after) {
    const long long b = blockIdx.x, of = gridDim.x;
    begin = static_cast<int>(pairs * b / of), end = static_cast<int>(pairs * (b + 1) / of);
    next = begin + (end - begin) * next_after / 100;
  }
};
inline int share_at_most(int pairs, int blocks) { return (pairs + blocks - 1) / blocks; }

// Tails of the block's pairs, all threads; sum(i, which) is complete.
template <Tail T, class Sum>
__device__ __forceinline__ void finish_pairs(const Gemv& g, const ProductInput& in,
                                             const TailArgs& t, const PairShare& share, Sum sum) {
  if (t.counted() < 1) return;
  const int pairs = share.end - share.begin;
  for (int base = 0; base < pairs; base += static_cast<int>(blockDim.x)) {
    const int i = base + static_cast<int>(threadIdx.x), p = share.begin + i;
    PairEnd<T> end;
    end.load(in, t, g.n, 0, g.pairs.first(p), g.pairs.second(p), i < pairs);
    end.finish(t, end.there ? sum(i, 0) : 0.0f, end.there ? sum(i, 1) : 0.0f, kWarp);
  }
}

// ---- rows
constexpr int kGemvWarps = 8, kGemvAhead = 8;

template <Tail T>
__global__ void __launch_bounds__(kGemvWarps * kWarp, 2)
    gemv_rows(const Gemv g, const ProductInput in, const TailArgs t, int next_after) {
  extern __shared__ __align__(1024) unsigned char memory[];
  uint4* x = reinterpret_cast<uint4*>(memory);
  float* sums = reinterpret_cast<float*>(memory + (g.k * 2 + 15) / 16 * 16);  // [pairs][2]
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const PairShare share((g.n + 1) / 2, next_after);
  const int steps = (g.k + 8 * kWarp - 1) / (8 * kWarp);
  uint4 ahead[kGemvAhead][2];
  int load_pair = share.begin + warp, load_step = 0;
  const uint16_t *w0 = g.weight, *w1 = g.weight;
  const auto aim = [&] {
    if (load_pair >= share.end) return;
    const int second = g.pairs.second(load_pair);
    w0 = g.weight + g.pairs.first(load_pair) * g.stride;
    w1 = g.weight + (second < g.n ? second : g.n - 1) * g.stride;
  };
  const auto load = [&](int slot) {
    const int at = (load_step * kWarp + lane) * 8;
    ahead[slot][0] = ahead[slot][1] = make_uint4(0, 0, 0, 0);
    if (load_pair < share.end && at < g.k) {
      ahead[slot][0] = load_weights(w0 + at);
      ahead[slot][1] = load_weights(w1 + at);
    }
    if (++load_step == steps) load_step = 0, load_pair += kGemvWarps, aim();
  };
  aim();
#pragma unroll
  for (int slot = 0; slot < kGemvAhead; ++slot) load(slot);
  if (next_after == 0) start_next();
  await_previous();
  for (int i = static_cast<int>(threadIdx.x); i < g.k / 8; i += kGemvWarps * kWarp) {
    x[i] = load_fresh(in.x + i * 8);
  }
  __syncthreads();
  float even0 = 0, odd0 = 0, even1 = 0, odd1 = 0;
  int pair = share.begin + warp, step = 0;
  while (pair < share.end) {
#pragma unroll
    for (int slot = 0; slot < kGemvAhead; ++slot) {
      const int at = step * kWarp + lane;
      const uint4 xs = at * 8 < g.k ? x[at] : make_uint4(0, 0, 0, 0);
      dot_eight(ahead[slot][0], xs, even0, odd0);
      dot_eight(ahead[slot][1], xs, even1, odd1);
      load(slot);
      if (++step < steps) continue;
      const float sum0 = warp_sum(even0 + odd0), sum1 = warp_sum(even1 + odd1);
      if (lane == 0 && pair < share.end) {
        sums[(pair - share.begin) * 2] = sum0, sums[(pair - share.begin) * 2 + 1] = sum1;
      }
      even0 = odd0 = even1 = odd1 = 0;
      step = 0, pair += kGemvWarps;
    }
    if (next_after != 0 && load_pair >= share.next) start_next();
  }
  start_next();
  __syncthreads();
  finish_pairs<T>(g, in, t, share, [&](int i, int which) { return sums[i * 2 + which]; });
}

#if LIMPET_GPU_PTX
// ---- bulk: x in registers, warp w has elements (s * warps + w) * 256 + lane * 8 … + 7 for s < S
template <Tail T, int S>
__global__ void __launch_bounds__(kGemvWarps * 32 + 32, 1)
    gemv_bulk(const Gemv g, const ProductInput in, const TailArgs t, int next_after, int batch,
              int depth) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const int row_bytes = g.k * 2, stage = batch * 2 * row_bytes;
  auto* full = reinterpret_cast<uint64_t*>(memory + depth * stage);
  uint64_t* empty = full + depth;
  auto* sums = reinterpret_cast<float*>(empty + depth);  // [pairs][2][warps]
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const PairShare share((g.n + 1) / 2, next_after);
  if (threadIdx.x == 0) {
    for (int s = 0; s < depth; ++s) init_barrier(full + s, 1), init_barrier(empty + s, kGemvWarps);
    publish_barriers();
  }
  __syncthreads();
  if (warp == kGemvWarps) {
    if (next_after == 0) start_next();
    for (int p = share.begin, i = 0; lane == 0 && p < share.end; p += batch, ++i) {
      const int s = i % depth, some = min(batch, share.end - p);
      if (i >= depth) await_barrier(empty + s, (i / depth - 1) & 1);
      expect_bytes(full + s, static_cast<uint32_t>(some * 2 * row_bytes));
      for (int j = 0; j < some; ++j) {
        const int first = g.pairs.first(p + j), second = min(g.pairs.second(p + j), g.n - 1);
        unsigned char* to = memory + s * stage + j * 2 * row_bytes;
        if (second == first + 1 && g.stride == g.k) {
          copy_bulk(to, g.weight + first * g.stride, 2 * row_bytes, full + s);
        } else {
          copy_bulk(to, g.weight + first * g.stride, row_bytes, full + s);
          copy_bulk(to + row_bytes, g.weight + second * g.stride, row_bytes, full + s);
        }
      }
      if (p + batch >= share.next) start_next();
    }
    __syncwarp();
    start_next();
    await_previous();
  } else {
    await_previous();
    uint4 x[S];
#pragma unroll
    for (int s = 0; s < S; ++s) {
      const int at = ((s * kGemvWarps + warp) * 32 + lane) * 8;
      x[s] = at < g.k ? load_fresh(in.x + at) : make_uint4(0, 0, 0, 0);
    }
    for (int p = share.begin, i = 0; p < share.end; p += batch, ++i) {
      const int s0 = i % depth, some = min(batch, share.end - p);
      await_barrier(full + s0, (i / depth) & 1);
      for (int j = 0; j < some; ++j) {
        const unsigned char* row = memory + s0 * stage + j * 2 * row_bytes;
        float even0 = 0, odd0 = 0, even1 = 0, odd1 = 0;
#pragma unroll
        for (int s = 0; s < S; ++s) {
          const int at = ((s * kGemvWarps + warp) * 32 + lane) * 16;
          if (S > 2) keep_packed(x[s]);
          if (at < row_bytes) {
            dot_eight(*reinterpret_cast<const uint4*>(row + at), x[s], even0, odd0);
            dot_eight(*reinterpret_cast<const uint4*>(row + row_bytes + at), x[s], even1, odd1);
          }
        }
        even0 += odd0, even1 += odd1;
        // Half of the warp sums the first output, half the second.
        const bool upper = lane & 16;
        const float mine = upper ? even1 : even0;
        const float sent = shuffle_xor(upper ? even0 : even1, 16);
        float sum = mine + sent;
#pragma unroll
        for (int lanes = 8; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
        if (lane % 16 == 0) {
          sums[((p + j - share.begin) * 2 + lane / 16) * kGemvWarps + warp] = sum;
        }
      }
      __syncwarp();
      if (lane == 0) arrive(empty + s0);
    }
  }
  __syncthreads();
  finish_pairs<T>(g, in, t, share, [&](int i, int which) {
    const float* part = sums + (i * 2 + which) * kGemvWarps;
    float sum = 0;
    for (int w = 0; w < kGemvWarps; ++w) sum += part[w];
    return sum;
  });
}
#endif

inline GemvCut choose_gemv(int n, int k, int processors) {
  const double per_processor = 2.0 * n * k / processors;
  if (LIMPET_GPU_PTX && per_processor > 600e3) return {true, 1, 100};
  return {false, 2, 0};
}

#if LIMPET_GPU_PTX
template <Tail T, int S>
GpuError launch_bulk(const Gemv& g, const ProductInput& in, const TailArgs& t, const GemvCut& cut,
                     int processors, const Launch& how) {
  const int blocks = processors * cut.blocks_per_processor, row_bytes = g.k * 2;
  const int sums = share_at_most((g.n + 1) / 2, blocks) * 2 * kGemvWarps * 4;
  const int batch = row_bytes >= 16384 ? 1 : std::max(1, 16384 / (2 * row_bytes));
  const int room = 226 * 1024 / cut.blocks_per_processor - 2048 - sums;
  const int depth = std::min(room / (batch * 2 * row_bytes + 16), 12);
  if (depth < 2) return LIMPET_GPU(ErrorInvalidValue);
  const size_t shared = static_cast<size_t>(depth) * (batch * 2 * row_bytes + 16) + sums;
  return launch(gemv_bulk<T, S>, dim3(static_cast<unsigned>(blocks)), kGemvWarps * 32 + 32, 1,
                shared, how, g, in, t, cut.next_after, batch, depth);
}
#endif

// k at most 10 * 2048 for bulk; else rows serves.
template <Tail T>
GpuError launch_gemv(const Gemv& g, const ProductInput& in, const TailArgs& t, GemvCut cut,
                     int processors, const Launch& how) {
#if LIMPET_GPU_PTX
  if (cut.bulk && g.k <= 20480) {
    const int s = (g.k + 2047) / 2048;
    const auto bulk = s <= 1   ? launch_bulk<T, 1>
                      : s <= 2 ? launch_bulk<T, 2>
                      : s <= 4 ? launch_bulk<T, 4>
                      : s <= 7 ? launch_bulk<T, 7>
                               : launch_bulk<T, 10>;
    return bulk(g, in, t, cut, processors, how);
  }
#endif
  const int blocks = processors * cut.blocks_per_processor;
  const size_t shared = static_cast<size_t>((g.k * 2 + 15) / 16 * 16) +
                        static_cast<size_t>(share_at_most((g.n + 1) / 2, blocks)) * 8;
  return launch(gemv_rows<T>, dim3(static_cast<unsigned>(blocks)), kGemvWarps * kWarp, 1, shared,
                how, g, in, t, cut.next_after);
}

}  // namespace
}  // namespace limpet::ops
