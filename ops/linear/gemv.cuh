// One row of x times a weight, with the fused ends of tail.cuh.
//
// Two designs of the same product; each streams its share of the weight as pairs of rows and holds
// back the tail until all its sums are there. Both start reading weights before the kernel before
// has ended (gpu_isa.cuh).
//   rows:  a warp for each pair, weights in registers, 8 steps ahead; any vendor.
//   bulk:  one thread feeds a ring in shared memory through the copy engine, all warps share k.
// The bits of an output depend on x and its weights alone, in each design.
//
// Measured on an H100 in chains of a model's layers, cold, as a fraction of the read bandwidth of
// the same run (3.15 TB/s), tails included. Llama-3.1-8B: qkv 0.92, out 0.92, gate/up 0.98, down
// 0.97, head 0.98. Llama-3.2-1B: 0.68, 0.60, 0.95, 0.93, 0.97.
#pragma once
#include <algorithm>
#include <vector>

#include "ops/linear/tail.cuh"

namespace limpet::ops {
namespace {

struct Gemv {
  const uint16_t* weight;  // bf16 [n, k], rows `stride` elements apart, 16-byte aligned
  int64_t stride;
  int n, k;                // k: a multiple of 8
  PairRows pairs;
};
// How a product is cut. choose_gemv() can be replaced by what a search on the card finds.
struct GemvCut {
  bool bulk = false;
  int blocks_per_processor = 2;
  int next_after = 0;  // percent of the own weights read before the next kernel may start
};
// Every way of a product of this k that a search may try.
inline std::vector<GemvCut> gemv_cuts(int k) {
  std::vector<GemvCut> all = {{false, 2, 0}, {false, 1, 0}, {false, 2, 50}};
  if (!LIMPET_GPU_PTX || k > 20480) return all;
  for (const GemvCut& bulk : {GemvCut{true, 1, 100}, GemvCut{true, 1, 0}}) all.push_back(bulk);
  if (k > 8192) return all;
  for (const GemvCut& bulk : {GemvCut{true, 2, 100}, GemvCut{true, 2, 0}}) all.push_back(bulk);
  return all;
}

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

// Tails of the block's pairs, all threads. What the first ones need besides the sums is read at
// once, so that it has arrived when the sums have.
template <Tail T>
struct BlockEnds {
  const Gemv& g;
  const ProductInput& in;
  const TailArgs& t;
  const PairShare& share;
  PairEnd<T> first;
  bool counted;
  static constexpr int threads = 8 * kWarp;  // that take part

  __device__ __forceinline__ BlockEnds(const Gemv& product, const ProductInput& input,
                                       const TailArgs& args, const PairShare& s)
      : g(product), in(input), t(args), share(s), counted(args.counted() > 0) {}
  __device__ __forceinline__ void prepare() {
    if (static_cast<int>(threadIdx.x) < threads) load(first, static_cast<int>(threadIdx.x));
  }
  __device__ __forceinline__ void load(PairEnd<T>& end, int i) const {
    const int p = share.begin + i;
    end.load(in.factor(0), t, g.n, 0, g.pairs.first(p), g.pairs.second(p),
             counted && p < share.end);
  }
  // sum(i, which): the finished sum of the block's pair i.
  template <class Sum>
  __device__ __forceinline__ void finish(Sum sum) {
    int i = static_cast<int>(threadIdx.x);
    if (i >= threads) return;
    for (int base = 0; base < share.end - share.begin; base += threads, i += threads) {
      if (base > 0) load(first, i);
      first.finish(t, first.there ? sum(i, 0) : 0.0f, first.there ? sum(i, 1) : 0.0f, kWarp);
    }
  }
};

// ---- rows
constexpr int kGemvWarps = 8;

// A warp takes Pairs pairs at a time; Ahead steps of all their rows are under way. Steps beyond k
// are zeros that nobody reads.
template <Tail T, int Pairs, int Ahead>
__global__ void __launch_bounds__(kGemvWarps * kWarp, 2)
    gemv_rows(const Gemv g, const ProductInput in, const TailArgs t, int next_after) {
  extern __shared__ __align__(1024) unsigned char memory[];
  constexpr int step = 8 * kWarp;  // elements
  const int steps = (g.k + step * Ahead - 1) / (step * Ahead) * Ahead;
  uint4* x = reinterpret_cast<uint4*>(memory);
  float* sums = reinterpret_cast<float*>(memory + steps * step * 2);  // [pairs][2]
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const PairShare share((g.n + 1) / 2, next_after);
  uint4 ahead[Ahead][2 * Pairs];
  const uint16_t* from[2 * Pairs];
  const auto aim = [&](int pair) {
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      const int p = min(pair + i, share.end - 1), second = g.pairs.second(p);
      from[2 * i] = g.weight + g.pairs.first(p) * g.stride + lane * 8;
      from[2 * i + 1] = g.weight + min(second, g.n - 1) * g.stride + lane * 8;
    }
  };
  const auto load = [&](int slot, int at, bool there) {
#pragma unroll
    for (int i = 0; i < 2 * Pairs; ++i) {
      if (there && at * step + lane * 8 < g.k) ahead[slot][i] = load_weights(from[i] + at * step);
    }
  };
#pragma unroll
  for (int slot = 0; slot < Ahead; ++slot) {
#pragma unroll
    for (int i = 0; i < 2 * Pairs; ++i) ahead[slot][i] = make_uint4(0, 0, 0, 0);
  }
  int pair = share.begin + warp * Pairs;
  aim(pair);
#pragma unroll
  for (int slot = 0; slot < Ahead; ++slot) load(slot, slot, pair < share.end);
  if (next_after == 0) start_next();
  await_previous();
  BlockEnds<T> ends(g, in, t, share);
  ends.prepare();
  for (int i = static_cast<int>(threadIdx.x); i < steps * kWarp; i += kGemvWarps * kWarp) {
    x[i] = i * 8 < g.k ? load_fresh(in.x + i * 8) : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  for (; pair < share.end; pair += kGemvWarps * Pairs) {
    float even[2 * Pairs] = {}, odd[2 * Pairs] = {};
    for (int s = 0; s < steps; s += Ahead) {
      const bool last = s + Ahead >= steps;
      if (last) aim(pair + kGemvWarps * Pairs);
#pragma unroll
      for (int slot = 0; slot < Ahead; ++slot) {
        const uint4 xs = x[(s + slot) * kWarp + lane];
#pragma unroll
        for (int i = 0; i < 2 * Pairs; ++i) dot_eight(ahead[slot][i], xs, even[i], odd[i]);
        load(slot, last ? slot : s + Ahead + slot,
             !last || pair + kGemvWarps * Pairs < share.end);
      }
    }
    if (next_after != 0 && pair + kGemvWarps * Pairs >= share.next) start_next();
#pragma unroll
    for (int i = 0; i < 2 * Pairs; ++i) {
      const float sum = warp_sum(even[i] + odd[i]);
      if (lane == 0 && pair + i / 2 < share.end) sums[(pair - share.begin) * 2 + i] = sum;
    }
  }
  __syncthreads();
  ends.finish([&](int i, int which) { return sums[i * 2 + which]; });
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
  BlockEnds<T> ends(g, in, t, share);
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
    ends.prepare();
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
  ends.finish([&](int i, int which) {
    const float* part = sums + (i * 2 + which) * kGemvWarps;
    float sum = 0;
    for (int w = 0; w < kGemvWarps; ++w) sum += part[w];
    return sum;
  });
}
#endif

// What was fastest within whole steps on an H100, at the shapes of four models, or near it. For the
// head, skinny.cuh is faster with one row, too.
inline GemvCut choose_gemv(int n, int k, int processors) {
  const double per_processor = 2.0 * n * k / processors;
  if (LIMPET_GPU_PTX && k <= 20480 && per_processor > 6e5) return {true, 1, 100};
  const bool in_steps = k % 2048 == 0 || k % 1792 == 0 || k <= 1024;  // of gemv_rows
  if (LIMPET_GPU_PTX && (k == 8192 || (!in_steps && k >= 2048 && k <= 8192))) return {true, 2, 0};
  return {false, k <= 1024 || per_processor < 4e4 ? 1 : 2, 0};
}
// Whether one row goes to skinny.cuh all the same, where the device has it.
inline bool prefers_skinny(int n, int k, int processors) {
  return 2.0 * n * k / processors > 2e6 && k % 64 == 0 && k >= 512;
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
  const int steps = (g.k + 8 * how.warp - 1) / (8 * how.warp);
  const auto sums = static_cast<size_t>(share_at_most((g.n + 1) / 2, blocks)) * 8;
  const dim3 grid(static_cast<unsigned>(blocks));
  const int threads = kGemvWarps * how.warp;
  const auto shared = [&](int ahead) {
    return static_cast<size_t>((steps + ahead - 1) / ahead * ahead) * 16 * how.warp + sums;
  };
  if (steps <= 4) {
    return launch(gemv_rows<T, 2, 4>, grid, threads, 1, shared(4), how, g, in, t, cut.next_after);
  }
  if (steps % 8 == 0 || steps % 7 != 0) {
    return launch(gemv_rows<T, 1, 8>, grid, threads, 1, shared(8), how, g, in, t, cut.next_after);
  }
  return launch(gemv_rows<T, 1, 7>, grid, threads, 1, shared(7), how, g, in, t, cut.next_after);
}

}  // namespace
}  // namespace limpet::ops
